"""What is known of a task beside its record: what people did with it, what it came from, what else failed so."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from boilerd.broker.audit import AuditEntry
from boilerd.broker.operation_record import Operation
from boilerd.broker.traces import Traces, Trail
from boilerd.broker.views import TaskDetail
from boilerd.errors import FailureNotFoundError, TaskNotFoundError
from boilerd.tasks.cron import entry_of_tick
from boilerd.tasks.task import TaskState
from boilerd.web.pages.bulk import WORDS, set_of
from boilerd.web.permissions import Permission
from boilerd.web.visit import Visit

#: What is new in the audit of one task is read for polls at most so often.
FRESH_S = 4.0
#: And all of it so often, as entries that were found make way: of 10,000 in 67 commands.
TRAIL_S = 300.0
#: Other tasks of a failure group that are shown.
MOST_EQUALS = 10
#: Operations among which one is looked for that a task was selected for, and how many others are told.
_OPERATIONS, _OTHERS = 200, 5


def traces_of(visit: Visit, task_id: str, queue: str = "", since: datetime | None = None) -> Traces:
    """What the audit knows of it."""
    asked = task_id, queue, since

    def read() -> Traces:
        trail = visit.sharing(("trail", *asked), TRAIL_S, lambda: Trail(*asked))
        return visit.inspector.traces(*asked, trail=trail)

    return visit.sharing(("traces", *asked), FRESH_S, read, with_polls=True)


def deeds_of(visit: Visit, entries: Sequence[AuditEntry]) -> list[dict[str, Any]]:
    """What was done, and by whom, for those who may see the audit."""
    is_told = visit.may(Permission.AUDIT)
    return [
        {
            "at": entry.at, "what": entry.what, "outcome": entry.outcome,
            "operation": entry.on.get("operation", ""),
            **({"user": entry.user, "host": entry.host, "via": entry.via} if is_told else {}),
        }
        for entry in entries
    ]  # fmt: skip


def lineage(visit: Visit, task: TaskDetail, traces: Traces) -> dict[str, Any]:
    """What it came from, and what came of it."""
    return {
        "cron": entry_of_tick(task.id),
        "copies": traces.copies,
        "dependents": visit.inspector.dependents(task.id),
    }


def equals_of(visit: Visit, task: TaskDetail) -> list[dict[str, Any]]:
    """Other tasks of its type that failed in the same way."""
    if not task.fingerprint:
        return []
    try:
        ids = visit.inspector.failure(task.fingerprint).task_ids
    except FailureNotFoundError:
        return []
    others = [each for each in visit.inspector.tasks_of(ids) if each.id != task.id and each.type == task.type]
    return [
        {"id": each.id, "state": each.state or each.rq_status, "failed_at": each.last_failed_at}
        for each in others[:MOST_EQUALS]
    ]


def next_of(task: TaskDetail) -> dict[str, Any] | None:
    """What will happen to it next by itself, and when; None: nothing that is known."""
    if task.state in {TaskState.SCHEDULED, TaskState.RETRY} and task.next_run_at:
        return {"says": "is due" if task.state is TaskState.SCHEDULED else "is tried again", "at": task.next_run_at}
    if task.state is TaskState.ACTIVE and task.started_at and task.timeout_s:
        times_out = task.started_at + timedelta(seconds=task.timeout_s)
        if task.deadline and task.deadline < times_out:
            return {"says": "is interrupted at its deadline", "at": task.deadline}
        return {"says": "is interrupted at its timeout", "at": times_out}
    if task.state is TaskState.PENDING and task.deadline:
        return {"says": "is archived if no worker has begun it", "at": task.deadline}
    if task.expires_at:
        return {"says": "is deleted", "at": task.expires_at}
    return None


def gone(visit: Visit, task_id: str, error: TaskNotFoundError) -> dict[str, Any]:
    """What is known of a task without a record."""
    return {
        "id": task_id,
        "error": str(error),
        "status": 404,
        "completed": visit.trying(lambda: _completed(visit, task_id)),
        "known": visit.trying(lambda: _known(visit, task_id)),
        "operations": visit.trying(lambda: _operations(visit, task_id)),
        "remembered_s": visit.trying(lambda: visit.inspector.remembered_s(task_id)),
    }


def _completed(visit: Visit, task_id: str) -> dict[str, Any]:
    try:
        return {"reasons": visit.inspector.explain(task_id).reasons}
    except TaskNotFoundError:
        return {"reasons": []}


def _known(visit: Visit, task_id: str) -> dict[str, Any]:
    found = traces_of(visit, task_id)
    return {"deeds": deeds_of(visit, found.deeds), "copies": found.copies}


def _operations(visit: Visit, task_id: str) -> dict[str, Any]:
    """The operations that it was selected for, and the last others after which tasks are gone."""
    found = visit.inspector.operations.latest(_OPERATIONS)
    others = [each for each in found if each.order.what in {"delete", "cancel"} and not each.order.task_ids]
    return {
        "selected": [_row(visit, each) for each in found if task_id in each.order.task_ids],
        "others": [_row(visit, each) for each in others if each.tally.done][:_OTHERS],
    }


def _row(visit: Visit, found: Operation) -> dict[str, Any]:
    said = set_of(found.order, shows_payloads=visit.may(Permission.VIEW_PAYLOAD))
    return {"id": found.id, "about": f"{WORDS[found.order.what]}: {said}", "at": found.created_at}

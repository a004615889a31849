"""One task: why it does not run, or what became of it, and what can be done with it."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from boilerd.broker.circumstances import Server
from boilerd.broker.explanation import ReasonKind
from boilerd.broker.states import ALLOWED
from boilerd.broker.traces import Pause, Traces
from boilerd.broker.views import TaskDetail
from boilerd.errors import TaskNotFoundError
from boilerd.tasks.task import TaskState
from boilerd.web.links import Links
from boilerd.web.moments import moment
from boilerd.web.page import PAGES, Data, Done, Missing, action, page
from boilerd.web.pages.queues import pause_of
from boilerd.web.permissions import Permission
from boilerd.web.task_story import deeds_of, equals_of, gone, lineage, next_of, traces_of
from boilerd.web.timeline import MOST_ATTEMPTS, timeline
from boilerd.web.tracebacks import shown_attempts
from boilerd.web.visit import Visit

#: Action → what is asked, and what is said when it is done.
_WORDS = {
    Permission.RUN: ("Run this task now?", "will run as soon as a worker is free"),
    Permission.ARCHIVE: ("Archive this task? It can be run later.", "is archived"),
    Permission.CANCEL: ("Cancel this task? One that waits is deleted, one that runs is interrupted.", "is cancelled"),
    Permission.DELETE: ("Delete this task for ever?", "is deleted"),
}
#: How long a task is shown as it was read for whoever may see the same, but after an action.
FRESH_S = 1.0
#: What is known beside its record is read at most so often while that is as it was: most of what a page takes.
BESIDE_FRESH_S = 4.0
#: So are the workers of a queue, which say why its tasks wait; they tell of themselves every 5 s.
SERVERS_FRESH_S = 4.0
#: Pauses of its queue that the timeline has, the last ones: each is two spans of it.
MOST_PAUSES = 10
#: The states in which a task waits.
_WAITING = frozenset({TaskState.PENDING, TaskState.SCHEDULED, TaskState.RETRY})


@page("/tasks/{id}", needs=Permission.VIEW, title="Task", fresh_s=FRESH_S)
def task(visit: Visit) -> Data | Missing:
    """The task as a whole; or what is known of one that is gone."""
    task_id = visit.path["id"]
    try:
        found = _whole(visit, visit.inspector.task(task_id))
        if found["why"].get("state", found["task"].state) is not found["task"].state:  # it went on meanwhile
            found = _whole(visit, visit.inspector.task(task_id))
    except TaskNotFoundError as error:
        return Missing(gone(visit, task_id, error), "task_gone.html")
    return found


def _whole(visit: Visit, found: TaskDetail) -> dict[str, Any]:
    task_id = found.id
    known = visit.trying(lambda: traces_of(visit, task_id, found.queue, found.created_at))
    traces = known if isinstance(known, Traces) else Traces()
    runs = max(0, found.runs - len(found.attempts) - (found.state is TaskState.ACTIVE))
    pauses = _named(visit, traces.pauses[-MOST_PAUSES:])
    moments = found.enqueued_at, found.next_run_at, found.started_at, found.ended_at
    place = found.queue, found.state, found.rq_status, *moments
    beside = visit.sharing(
        ("beside task", task_id, *place), BESIDE_FRESH_S, lambda: _beside(visit, found, traces), with_polls=True
    )
    return {
        "task": found,
        **beside,
        "actions": [what for what in _WORDS if visit.may(what) and _is_allowed(what, found)],
        "changes": _changes(visit, found),
        "timeline": timeline(found, visit.snapshot().at, pauses),
        "more_pauses": len(traces.pauses) - len(pauses),
        "next": next_of(found),
        "file": f"{_path(task_id)}.json",
        "deeds": deeds_of(visit, traces.deeds),
        "put_back": runs if len(found.attempts) < MOST_ATTEMPTS else 0,
        "attempts": shown_attempts(found.attempts),
        "has": [kind for kind in ("types", "failures", "workers") if _has_page(visit, kind)],
    }


def _beside(visit: Visit, found: TaskDetail, traces: Traces) -> dict[str, Any]:
    """What is known of it beside its record, for all who may see the task."""
    return {
        "why": visit.trying(lambda: _why(visit, found)),
        "lineage": visit.trying(lambda: lineage(visit, found, traces)),
        "equals": visit.trying(lambda: equals_of(visit, found)),
        "holders": visit.trying(lambda: visit.inspector.key_holders(found.unique_key, found.concurrency_key)),
    }


def _why(visit: Visit, found: TaskDetail) -> dict[str, Any]:
    """Why it does not run, and what was said of it where its queue is paused."""

    def share(queue: str, read: Callable[[], Sequence[Server]]) -> Sequence[Server]:
        return visit.sharing(("servers", queue), SERVERS_FRESH_S, read)

    told = visit.inspector.explain(found.id, sharing=share)
    is_paused = any(reason.kind is ReasonKind.PAUSED for reason in told.reasons)
    return {
        "state": told.state,
        "reasons": told.reasons,
        "pause": pause_of(visit, "queue", found.queue) if is_paused else None,
    }


def _named(visit: Visit, pauses: Sequence[Pause]) -> list[Pause]:
    """The pauses, without who it was where the person may not see the audit."""
    return [each if visit.may(Permission.AUDIT) else replace(each, user="") for each in pauses]


def _has_page(visit: Visit, kind: str) -> bool:
    """Whether there is a page about one of them, or of all; workers are shown to those who see all queues."""
    is_there = any(each.path.startswith((f"/{kind}/{{",)) or each.path == f"/{kind}" for each in PAGES)
    return is_there and (kind != "workers" or visit.who.queues is None)


def _changes(visit: Visit, found: TaskDetail) -> list[str]:
    """The last parts of the addresses where the task, or a copy of it, is changed."""
    if not visit.may(Permission.EDIT):
        return []
    copies = ("edit",) if found.is_readable else ()
    return [*(("reschedule", "move") if found.state in _WAITING else ()), *copies]


def _is_allowed(what: Permission, found: TaskDetail) -> bool:
    if what is Permission.CANCEL:
        return found.state not in {TaskState.COMPLETED, TaskState.ARCHIVED, None}
    return any(found.state in states for name, states in ALLOWED.items() if name == what.value)


def _about(visit: Visit, what: Permission) -> Data:
    """What the page says that asks before it."""
    found = visit.inspector.task(visit.path["id"])
    question, _ = _WORDS[what]
    return {
        "question": question,
        "facts": _facts(found),
        "is_allowed": _is_allowed(what, found),
        "back": _path(found.id),
    }


def _facts(found: TaskDetail) -> list[list[object]]:
    return [["Task", found.id], ["Type", found.type], ["Queue", found.queue], ["State", found.state or ""]]


def _act(visit: Visit, what: Permission) -> Done:
    task_id = visit.path["id"]
    found = visit.inspector.task(task_id)
    if getattr(visit.inspector, what)(task_id) is False:
        what_it_is = "had ended before" if found.state else f"is {found.rq_status}, as RQ has it, and stays so"
        return Done(f"task {task_id} {what_it_is}", to=_path(task_id))
    is_gone = what is Permission.DELETE or (what is Permission.CANCEL and found.state is not TaskState.ACTIVE)
    says = f"task {task_id} {_WORDS[what][1]}"
    if is_gone:
        return Done(says, to="/tasks", query={"queue": found.queue, "state": found.state or ""})
    return Done(says, to=_path(task_id))


def _path(task_id: str) -> str:
    return Links().to("tasks", task_id)


for _what in _WORDS:
    action(
        f"/tasks/{{id}}/{_what}",
        needs=_what,
        title=_what.capitalize(),
        about=functools.partial(_about, what=_what),
    )(functools.partial(_act, what=_what))


# --- Another moment, another queue


def _ask(visit: Visit, field: dict[str, Any]) -> Data:
    found = visit.inspector.task(visit.path["id"])
    return {
        "facts": _facts(found), "is_allowed": found.state in _WAITING, "back": _path(found.id), "field": field,
    }  # fmt: skip


def _about_reschedule(visit: Visit) -> Data:
    return _ask(
        visit,
        {
            "name": "when", "label": "When", "value": "", "options": [],
            "help": "After a time, such as 2h, or at a moment in UTC, such as 2026-01-31T14:00. It waits until then.",
        },
    )  # fmt: skip


@action(
    "/tasks/{id}/reschedule",
    needs=Permission.EDIT,
    title="Reschedule",
    about=_about_reschedule,
    template="task_change.html",
)
def reschedule(visit: Visit) -> Done:
    """Have it run at another moment."""
    task_id = visit.path["id"]
    at = moment("when", visit.given("when"))
    visit.inspector.reschedule(task_id, at)
    return Done(f"task {task_id} waits for its new moment", to=_path(task_id))


def _about_move(visit: Visit) -> Data:
    names = [queue.name for queue in visit.snapshot().overview.queues]
    said = "Workers of that queue must know its type. It stands at the end of those that wait there."
    return _ask(visit, {"name": "to", "label": "Queue", "value": "", "options": names, "help": said})


@action("/tasks/{id}/move", needs=Permission.EDIT, title="Move", about=_about_move, template="task_change.html")
def move(visit: Visit) -> Done:
    """Have it wait in another queue."""
    task_id, queue = visit.path["id"], visit.given("to")
    visit.inspector.move(task_id, queue)
    return Done(f"task {task_id} waits in queue {queue} now", to=_path(task_id))

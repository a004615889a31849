"""Operations: what was ordered, how far it is, and what can be done with it."""

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from boilerd.broker.operation_record import Operation, OperationState, Order
from boilerd.tasks.task import TaskState
from boilerd.web.links import Links
from boilerd.web.page import Data, Done, action, page
from boilerd.web.pages.bulk import NEEDS, WORDS, again_of, back_of, destroys, set_of
from boilerd.web.permissions import Permission
from boilerd.web.refusal import Refusal
from boilerd.web.visit import Visit

SIZE, MOST_SIZE = 50, 1000
#: How long the list is shown as it was read; what somebody does here is seen at once.
FRESH_S = 2.0
#: Why a task was left alone, for people; another word is its state.
_REASONS = {"unknown": "is gone", "locked": "another task holds its unique lock", "ended": "has ended"}


@page(
    "/operations", needs=Permission.VIEW, title="Operations", menu=80, rows="operations", of_shared=True,
    quotes_payloads=True,
)  # fmt: skip
def operations(visit: Visit) -> Data:
    """Those that were ordered last."""
    size = visit.number("size", SIZE, most=MOST_SIZE)
    # Of whoever has queues of their own it depends on their name, too, which tasks that were named are theirs.
    name = "" if visit.who.queues is None else visit.who.name
    latest = visit.sharing(("operations", size, name), FRESH_S, lambda: visit.inspector.operations.latest(size))
    return {"operations": [_row(visit, found) for found in latest], "size": size}


@page("/operations/{operation}", needs=Permission.VIEW, title="Operation", quotes_payloads=True)
def operation(visit: Visit) -> Data:
    """One of them."""
    found = visit.inspector.operations.one(visit.path["operation"])
    is_seen = _may_see(visit, found.order)
    return {
        "operation": _row(visit, found), "actions": _actions(visit, found),
        "tasks": _tasks_of(found) if is_seen else "",
        "again": again_of(found.order) if is_seen and visit.may(NEEDS[found.order.what]) else "",
    }  # fmt: skip


def _tasks_of(found: Operation) -> str:
    """The page that shows its tasks where they were, or are once it is done; empty: none shows them."""
    order = found.order
    if order.task_ids:
        return Links().to("tasks", order.task_ids[0]) if len(order.task_ids) == 1 else ""
    if found.state is not OperationState.DONE or order.is_of_group:
        return back_of(order)
    if destroys(order):
        return ""
    queue, state = order.value if order.what == "move" else order.queue, _state_after(order)
    sought = order.sought()
    # What the search says of queue and state counts before what the address says; and it was now that this happened.
    is_other = sought and (sought.queue not in {"", queue} or sought.state not in {None, state} or sought.until)
    return "" if is_other else back_of(replace(order, queue=queue, state=state))


def _state_after(order: Order) -> TaskState | None:
    """The state of its tasks once it is done; None: any."""
    if order.what == "reschedule" and order.state is TaskState.PENDING:
        return TaskState.SCHEDULED
    return {"run": TaskState.PENDING, "archive": TaskState.ARCHIVED}.get(order.what, order.state)


def _may_see(visit: Visit, order: Order) -> bool:
    """Whether the person may know what it looks for, and so work on it."""
    return not (order.search and order.sees_payloads) or visit.may(Permission.VIEW_PAYLOAD)


def _goal(order: Order) -> str | datetime:
    """Where its tasks go, or when they are due then."""
    if order.due_s is None:
        return order.value
    with suppress(ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(order.due_s, UTC)
    return ""


def _row(visit: Visit, found: Operation) -> dict[str, Any]:
    order, tally = found.order, found.tally
    return {
        "id": found.id,
        "what": order.what,
        "about": f"{WORDS[order.what]}: {set_of(order, shows_payloads=visit.may(Permission.VIEW_PAYLOAD))}",
        "to": _goal(order),
        "queue": order.queue,
        "state": found.state,
        "is_gone": found.is_gone,
        "user": found.user,
        "host": found.host,
        "via": found.via,
        "created_at": found.created_at,
        "starts_at": found.starts_at,
        "began_at": found.began_at,
        "beat_at": found.beat_at,
        "ended_at": found.ended_at,
        "total": found.total,
        "seen": tally.seen,
        "done": tally.done,
        "skipped": [
            {"why": _REASONS.get(why, f"it is {why}"), "count": count} for why, count in sorted(tally.skipped.items())
        ],
        "speed": round(found.speed, 1),
        "why": found.why,
    }


def _actions(visit: Visit, found: Operation) -> list[str]:
    """What this person can do with it now."""
    if not visit.may(Permission.RUN):
        return []
    if found.can_continue:
        halted = ["stop"] if found.is_gone else []
        may = visit.may(NEEDS[found.order.what]) and _may_see(visit, found.order)
        return [*(["continue"] if may else []), *halted]
    return {OperationState.WAITING: ["undo"], OperationState.RUNNING: ["stop"]}.get(found.state, [])


@action("/operations/{operation}/undo", needs=Permission.RUN, title="Undo")
def undo(visit: Visit) -> Done:
    """Let it not begin."""
    operation_id = visit.path["operation"]
    visit.inspector.operations.undo(operation_id)
    return Done("it is undone: nothing was changed", to=_path(operation_id))


@action("/operations/{operation}/stop", needs=Permission.RUN, title="Stop")
def stop(visit: Visit) -> Done:
    """Have it stop after its chunk."""
    operation_id = visit.path["operation"]
    visit.inspector.operations.stop(operation_id)
    return Done("it stops after the tasks that it is at", to=_path(operation_id))


@action("/operations/{operation}/continue", needs=Permission.RUN, title="Continue")
def go_on(visit: Visit) -> Done:
    """Work here on one that stopped, or that nobody works on any more."""
    operations_ = visit.inspector.operations
    found = operations_.one(visit.path["operation"])
    needs = NEEDS[found.order.what] if _may_see(visit, found.order) else Permission.VIEW_PAYLOAD
    if not visit.may(needs):
        raise Refusal(403, f"{visit.who.name} may not do this; it needs the permission {needs}")
    visit.operators.check_free()
    sees = visit.seen if found.order.sees_payloads else visit.seen_by_all
    visit.operators.start(operations_, *operations_.take(found.id), sees)
    return Done("it goes on", to=_path(found.id))


def _path(operation_id: str) -> str:
    return Links().to("operations", operation_id)

"""Actions with many tasks: selected ones, all that a list shows, all of a state. Each becomes an operation."""

import functools
from typing import Any

from boilerd.broker.operation_record import Deed, Order
from boilerd.broker.operations import Preview, allowed
from boilerd.tasks.task import TaskState
from boilerd.web.links import Links
from boilerd.web.page import Data, Done, action
from boilerd.web.permissions import Permission
from boilerd.web.refusal import Refusal
from boilerd.web.visit import QueryError, Visit

#: Tasks that can be selected by name.
MOST_SELECTED = 150
#: With more tasks than that, whoever wants it types the name of the queue.
MANY = 1000
#: What deletes waits for so long, in which it can be undone.
UNDO_S = 10.0
DEEDS: dict[Permission, Deed] = {
    Permission.RUN: "run", Permission.ARCHIVE: "archive", Permission.DELETE: "delete", Permission.CANCEL: "cancel"
}  # fmt: skip
#: What each does, for the question.
WORDS: dict[Deed, str] = {
    "run": "Run now",
    "archive": "Archive",
    "delete": "Delete for ever",
    "cancel": "Cancel (what waits is deleted, what runs is interrupted)",
}
#: What of a list's query chooses tasks, and what only says how they are shown.
_CHOOSES = frozenset({"queue", "state", "type", "fingerprint", "id"})
_SHOWS = frozenset({"page", "size", "sort", "told", "seal"})


def order_of(visit: Visit, deed: Deed) -> Order:
    """What the query asks for; raises QueryError where it chooses by something that no operation can choose by."""
    for name in sorted({*visit.query} - _CHOOSES - _SHOWS):
        # To leave it out would take more tasks than the list has shown.
        raise QueryError(f"{name}: no operation chooses tasks by it; use {', '.join(sorted(_CHOOSES))}")
    if ids := [*dict.fromkeys(visit.queries.get("id", ()))]:
        if len(ids) > MOST_SELECTED:
            raise QueryError(f"id: {len(ids):,} tasks are more than {MOST_SELECTED}; select fewer, or all that match")
        return Order(deed, task_ids=tuple(ids))
    queue = visit.word("queue")
    if not queue:
        raise QueryError("queue: name one, or name tasks by id")
    if visit.word("type").endswith("*"):  # a list takes it for what types begin with
        raise QueryError("type: an operation is for one type; write its whole name")
    return Order(deed, queue, _state(visit), visit.word("type"), visit.word("fingerprint"))


def _state(visit: Visit) -> TaskState:
    """The state that is meant, which has to be said: a list without one shows tasks of all states."""
    return TaskState(visit.word("state", of=[*map(str, TaskState)]))


def bulk_actions(visit: Visit, state: TaskState) -> list[Deed]:
    """What this person can do with tasks in this state."""
    return [deed for needs, deed in DEEDS.items() if visit.may(needs) and state in allowed(deed)]


def set_of(order: Order) -> str:
    """The tasks of an order, as words."""
    if order.task_ids:
        return f"{len(order.task_ids):,} selected task{'s' if len(order.task_ids) > 1 else ''}"
    if order.task_type and not order.queue:
        return f"all {order.state} tasks of type {order.task_type}, of all queues"
    if not order.queue:
        return f"all tasks of failure group {order.fingerprint} that are archived or wait for a retry"
    of_type = f" of type {order.task_type}" if order.task_type else ""
    of_group = f" of failure group {order.fingerprint}" if order.fingerprint else ""
    return f"all {order.state} tasks of queue {order.queue}{of_type}{of_group}"


def count_of(found: Preview) -> str:
    """How many there are, and how that is known."""
    if found.is_exact:
        return f"{found.found:,}, counted now"
    return f"{found.found:,} among the first {found.looked:,} of {found.total:,} that were looked at"


def about(visit: Visit, order: Order) -> Data:
    """What the page says that asks before an operation."""
    found = visit.inspector.operations.preview(order)
    return {
        "what": order.what,
        "question": f"{WORDS[order.what]}: {set_of(order)}",
        "count": found.found,
        "counted": count_of(found),
        "of": found.most,
        "sample": found.sample,  # whole, as what is secret in a payload is hidden in the error that quotes it
        "to_type": word_to_type(order, found),
        "is_allowed": bool(found.found) or not found.is_exact,
        "undo_s": UNDO_S if destroys(order) else 0,
        "back": back_of(order),
    }


def act(visit: Visit, order: Order) -> Done:
    """Order the operation, and work on it here."""
    operations = visit.inspector.operations
    visit.operators.check_free()
    found = operations.preview(order)
    if found.is_exact and not found.found:
        raise Refusal(409, f"there are none: {set_of(order)}")
    wanted = word_to_type(order, found)
    if wanted and visit.given("name") != wanted:
        raise QueryError(f"name: write {wanted} for {order.what} of {set_of(order)}, {count_of(found)}")
    given = visit.given("of")
    most = int(given) if given.isascii() and given.isdecimal() and len(given) < 12 else 0
    operation, runner = operations.begin(order, most=most or None, undo_s=UNDO_S if destroys(order) else 0.0)
    visit.operators.start(operations, operation, runner)
    says = f"{order.what} of {set_of(order)} has been ordered"
    return Done(says, to=Links().to("operations", operation.id), data={"operation": operation.id})


def destroys(order: Order) -> bool:
    """Whether tasks are gone after it."""
    return order.what in {"delete", "cancel"}


def word_to_type(order: Order, found: Preview) -> str:
    """What has to be typed before it is done; empty: nothing."""
    is_purge = order.what == "delete" and order.is_whole
    at_most = found.found + found.total - found.looked
    return (order.queue or order.fingerprint or order.task_type) if is_purge or at_most > MANY else ""


def back_of(order: Order) -> str:
    """The page that shows its tasks."""
    if order.task_type and not order.queue:
        return Links().to("types", order.task_type)
    if not order.queue:
        return Links().to("failures", order.fingerprint) if order.fingerprint else "/tasks"
    return Links().to("tasks", queue=order.queue, state=order.state, type=order.task_type)


def _ordered(visit: Visit, deed: Deed) -> Order:
    order = order_of(visit, deed)
    if order.queue:
        visit.inspector.queue(order.queue)  # of a misspelt name there would be none
    if deed == "delete" and order.is_whole and not visit.may(Permission.PURGE):
        raise Refusal(403, f"{visit.who.name} may not delete all of a state; it needs the permission purge")
    return order


def _purge_order(visit: Visit) -> Order:
    visit.inspector.queue(visit.path["queue"])
    return Order("delete", visit.path["queue"], _state(visit))


def _declare(path: str, needs: Permission, title: str, make: Any) -> None:
    action(path, needs=needs, title=title, about=lambda visit: about(visit, make(visit)), template="bulk.html")(
        lambda visit: act(visit, make(visit))
    )


for _permission, _deed in DEEDS.items():
    _declare(f"/bulk/{_deed}", _permission, _deed.capitalize(), functools.partial(_ordered, deed=_deed))
_declare("/queues/{queue}/purge", Permission.PURGE, "Purge", _purge_order)

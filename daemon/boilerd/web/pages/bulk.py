"""Actions with many tasks: selected ones, all that a list shows, all of a state. Each becomes an operation."""

import functools
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from boilerd.broker.operation_record import Deed, Order
from boilerd.broker.operations import Preview, allowed
from boilerd.errors import closest
from boilerd.tasks.queues import check_queue
from boilerd.tasks.task import TaskState
from boilerd.web.filter_words import words_of
from boilerd.web.links import Links
from boilerd.web.moments import moment
from boilerd.web.page import Data, Done, action
from boilerd.web.parameters import OF_BROWSERS
from boilerd.web.permissions import Permission
from boilerd.web.refusal import Refusal
from boilerd.web.task_query import FILTERS, chosen, filter_of, typed
from boilerd.web.visit import QueryError, Visit

#: Tasks that can be selected by name.
MOST_SELECTED = 150
#: With more tasks than that, whoever wants it types the name of the queue.
MANY = 1000
#: What deletes waits for so long, in which it can be undone.
UNDO_S = 10.0
#: What can be done with many → the permission for it.
NEEDS: dict[Deed, Permission] = {
    "run": Permission.RUN, "archive": Permission.ARCHIVE, "cancel": Permission.CANCEL,
    "reschedule": Permission.EDIT, "move": Permission.EDIT, "delete": Permission.DELETE,
}  # fmt: skip
#: What each does, for the question.
WORDS: dict[Deed, str] = {
    "run": "Run now",
    "archive": "Archive",
    "delete": "Delete for ever",
    "cancel": "Cancel (what waits is deleted, what runs is interrupted)",
    "reschedule": "Reschedule",
    "move": "Move to another queue",
}


@dataclass(frozen=True, slots=True)
class Field:
    """What is asked for beside the question."""

    name: str
    label: str
    help: str


FIELDS: Mapping[Deed, Field] = {
    "reschedule": Field("when", "When", "After a time, such as 2h, or at a moment in UTC, such as 2026-01-31T14:00."),
    "move": Field("to", "Queue", "Workers of that queue must know their types."),
}
#: What of a list's query chooses tasks, and what only says how they are shown.
_CHOOSES = frozenset({"fingerprint", "id", *FILTERS})
_SHOWS = frozenset({"page", "size", "sort", "way", *OF_BROWSERS})


def order_of(visit: Visit, deed: Deed) -> Order:
    """What the query asks for; raises QueryError where no operation chooses so, Refusal where it names none."""
    for name in sorted({*visit.query} - _CHOOSES - _SHOWS):
        # To leave it out would take more tasks than the list has shown.
        hint = f"; did you mean {close}?" if (close := closest(name, _CHOOSES)) else ";"
        raise QueryError(f"{name}: no operation chooses tasks by it{hint} use {', '.join(sorted(_CHOOSES))}")
    if not _CHOOSES & {*visit.query}:
        raise Refusal(
            400,
            "no task is named; tick some in the list, and then say what is to be done with them. A program names tasks"
            " by id, or a queue and a state, or says what they have",
            "No task is ticked",
        )
    value = _value(visit, deed)
    if ids := [*dict.fromkeys(visit.queries.get("id", ()))]:
        if len(ids) > MOST_SELECTED:
            raise QueryError(f"id: {len(ids):,} tasks are more than {MOST_SELECTED}; select fewer, or all that match")
        return Order(deed, task_ids=tuple(ids), value=value)
    found, (queue, state) = filter_of(visit), chosen(visit)
    queue, state = found.queue or queue, found.state or state
    fingerprint = visit.word("fingerprint")
    if not found.chooses:
        if not queue:
            raise QueryError("queue: name one, or name tasks by id, or say what they have")
        return Order(deed, queue, state or _state(visit), fingerprint=fingerprint, value=value)
    return Order(
        deed, queue, state, "", fingerprint,
        search=typed(visit), as_of=_as_of(visit), sees_payloads=visit.may(Permission.VIEW_PAYLOAD), value=value,
    )  # fmt: skip


def _state(visit: Visit) -> TaskState:
    """The state that is meant, which has to be said: a list without one shows tasks of all states."""
    return TaskState(visit.word("state", of=[*map(str, TaskState)]))


def _as_of(visit: Visit) -> float:
    """The moment from which ``after:2h`` counts back: that of the page which has asked."""
    given = visit.given("as_of")
    if not given:
        return visit.snapshot().at.timestamp()
    if re.fullmatch(r"\d{1,10}(\.\d{1,9})?", given) is None:
        raise QueryError("as_of: no moment in seconds; send what the page before had, or leave it out")
    return float(given)


def _value(visit: Visit, deed: Deed) -> str:
    """In which queue, or when; empty: it is not said yet."""
    given = visit.given(FIELDS[deed].name) if deed in FIELDS else ""
    if not given:
        return ""
    if deed == "move":
        return check_queue(given)
    at = moment("when", given)
    try:
        return repr((visit.snapshot().at + at if isinstance(at, timedelta) else at).timestamp())
    except OverflowError:
        raise QueryError("when: too far away; use 2h, or 2026-01-31T14:00, which is in UTC") from None


def bulk_actions(visit: Visit, state: TaskState | None) -> list[Deed]:
    """What this person can do with tasks in this state; None: in any."""
    return [deed for deed, needs in NEEDS.items() if visit.may(needs) and (state is None or state in allowed(deed))]


def set_of(order: Order, *, shows_payloads: bool = True) -> str:
    """The tasks of an order, as words; what a search looks for in payloads is for those who may see them."""
    if order.task_ids:
        return f"{len(order.task_ids):,} selected task{'s' if len(order.task_ids) > 1 else ''}"
    if order.is_of_group:
        return f"all tasks of failure group {order.fingerprint} that are archived or wait for a retry"
    of_state = f" {order.state}" if order.state else ""
    of_queue = f" of queue {order.queue}" if order.queue else " of all queues"
    of_type = f" of type {order.task_type}" if order.task_type else ""
    of_group = f" of failure group {order.fingerprint}" if order.fingerprint else ""
    found = order.sought()
    is_told = found is None or shows_payloads or not order.sees_payloads
    of_search = "" if found is None else f" {words_of(found)}" if is_told else " that a search in payloads finds"
    return f"all{of_state} tasks{of_queue}{of_type}{of_group}{of_search}"


def count_of(found: Preview) -> str:
    """How many there are, and how that is known."""
    if found.is_exact:
        return f"{found.found:,}, counted now"
    return f"at least {found.found:,}: looked at the first {found.looked:,} of {found.total:,}"


def about(visit: Visit, order: Order) -> Data:
    """What the page says that asks before an operation."""
    found = visit.inspector.operations.preview(order, sees=visit.seen)
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
        "as_of": repr(order.as_of) if order.as_of else "",
        "problems": _left_out(visit, order),
        "field": _field(visit, order),
    }


def _left_out(visit: Visit, order: Order) -> list[str]:
    """What is wrong with keys of queues through which a search goes: a key of another kind counts as empty."""
    if order.queue or not order.search:
        return []
    queues = [queue.detail.counts for queue in visit.snapshot().overview.queues]
    return [f"queue {counts.name}: {counts.problem}" for counts in queues if counts.problem]


def _field(visit: Visit, order: Order) -> Data | None:
    """What the page asks for beside it."""
    if order.what not in FIELDS:
        return None
    queues = [queue.name for queue in visit.snapshot().overview.queues] if order.what == "move" else []
    return {**asdict(FIELDS[order.what]), "options": queues}


def act(visit: Visit, order: Order) -> Done:
    """Order the operation, and work on it here."""
    operations = visit.inspector.operations
    visit.operators.check_free()
    if order.what in FIELDS and not order.value:
        raise QueryError(f"{FIELDS[order.what].name}: say it; {FIELDS[order.what].help}")
    found = operations.preview(order, sees=visit.seen)
    if found.is_exact and not found.found:
        raise Refusal(409, f"there are none: {set_of(order)}")
    wanted = word_to_type(order, found)
    if wanted and visit.given("name") != wanted:
        raise QueryError(f"name: write {wanted} for {order.what} of {set_of(order)}, {count_of(found)}")
    given = visit.given("of")
    most = int(given) if given.isascii() and given.isdecimal() and len(given) < 12 else 0
    operation, runner = operations.begin(order, most=most or None, undo_s=UNDO_S if destroys(order) else 0.0)
    visit.operators.start(operations, operation, runner, visit.seen)
    says = f"{order.what} of {set_of(order)} has been ordered"
    return Done(says, to=Links().to("operations", operation.id), data={"operation": operation.id})


def destroys(order: Order) -> bool:
    """Whether tasks are gone after it."""
    return order.what in {"delete", "cancel"}


def word_to_type(order: Order, found: Preview) -> str:
    """What has to be typed before it is done; empty: nothing."""
    is_purge = order.what == "delete" and order.is_whole
    at_most = found.found + found.total - found.looked
    whole = order.queue or order.fingerprint or "all queues"
    return whole if is_purge or at_most > MANY else ""


def back_of(order: Order) -> str:
    """The page that shows its tasks."""
    if order.is_of_group:
        return Links().to("failures", order.fingerprint)
    return Links().to("tasks", queue=order.queue, state=order.state, type=order.task_type, q=order.search)


def again_of(order: Order) -> str:
    """The page that asks before the same is done with what it means by now."""
    if order.task_ids:
        return Links().to("bulk", order.what, id=tuple(order.task_ids))
    if order.is_of_group:
        return Links().to("failures", order.fingerprint, order.what)
    return Links().to(
        "bulk", order.what, queue=order.queue, state=order.state, type=order.task_type,
        fingerprint=order.fingerprint, q=order.search,
    )  # fmt: skip


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


for _deed, _permission in NEEDS.items():
    _declare(f"/bulk/{_deed}", _permission, _deed.capitalize(), functools.partial(_ordered, deed=_deed))
_declare("/queues/{queue}/purge", Permission.PURGE, "Purge", _purge_order)

"""The tasks: a queue's in a state, part by part, or those that somebody looks for."""

import re
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from boilerd.broker.constants import MOST_NEAR
from boilerd.broker.task_filter import TaskFilter
from boilerd.broker.views import QueueInfo, TaskDetail
from boilerd.errors import InvalidTaskError, TaskNotFoundError
from boilerd.tasks.task import TaskState
from boilerd.web.links import Links
from boilerd.web.ordering import most_exported
from boilerd.web.page import Data, Elsewhere, page
from boilerd.web.pages.bulk import bulk_actions
from boilerd.web.pages.queues import marks_of
from boilerd.web.permissions import Permission
from boilerd.web.task_query import FILTERS, PARTS, chosen, escaped, filter_of, meant, typed
from boilerd.web.visit import MOST_PAGES, Visit

SIZE, MOST_SIZE = 50, 500
#: How many tasks are looked at for one page, and for how long.
LOOKS, WITHIN_S = 5000, 0.15
#: Somebody who wants more looks at so many at once, for as much longer.
MORE_LOOKS = 50_000
#: State → what its list shows beside ID, type and moment.
COLUMNS: Mapping[TaskState | None, Sequence[str]] = {
    TaskState.PENDING: ("retried", "key", "payload"),
    TaskState.ACTIVE: ("worker", "timeout", "retried", "payload"),
    TaskState.SCHEDULED: ("key", "payload"),
    TaskState.RETRY: ("retried", "worker", "payload", "error"),
    TaskState.ARCHIVED: ("retried", "worker", "deleted", "payload", "error"),
    TaskState.COMPLETED: ("took", "worker", "deleted", "payload"),
    None: ("retried", "worker", "payload", "error"),
}
#: State → the field with the moment that a list shows, and what it is called.
MOMENTS = {
    TaskState.PENDING: ("enqueued_at", "Waits since"),
    TaskState.ACTIVE: ("started_at", "Started"),
    TaskState.SCHEDULED: ("next_run_at", "Due"),
    TaskState.RETRY: ("next_run_at", "Due"),
    TaskState.ARCHIVED: ("last_failed_at", "Failed"),
    TaskState.COMPLETED: ("ended_at", "Completed"),
}


def export(visit: Visit) -> Generator[Sequence[TaskDetail]]:
    """All tasks that the same query shows, or as many as it says, up to 100,000."""
    queue, state = chosen(visit)
    most = most_exported(visit)
    return visit.inspector.export(
        filter_of(visit), queue=queue or None, state=state, most=most, search=typed(visit), sees=visit.seen
    )


@page("/tasks", needs=Permission.VIEW, title="Tasks", menu=30, rows="tasks", stream=export)
def tasks(visit: Visit) -> Data | Elsewhere:
    """A part of a list, or what a search has found; an ID leads to its task."""
    sought, size, number = typed(visit), visit.number("size", SIZE, most=MOST_SIZE), visit.number("page", 1)
    if sought == meant(visit, "q") and _is_task(visit, sought):
        return Elsewhere(Links().to("tasks", sought))
    overviews = {queue.name: queue for queue in visit.snapshot().overview.queues}
    counts = {name: queue.detail.counts for name, queue in overviews.items()}
    found = filter_of(visit)
    queue, state = chosen(visit)
    queue, state = found.queue or queue, found.state or state
    if not (queue or state or found.chooses):
        queue = "default" if "default" in counts or not counts else min(counts)
    if state is None and not found.chooses:
        state = TaskState.PENDING
    # A queue that nobody ever used is nothing wrong before it is asked for by its name.
    is_known = queue in counts or "queue" in visit.query or bool(found.queue) or not queue
    part: dict[str, Any] = {
        "tasks": (),
        "looked_at": 0,
        "more": "",
        "is_cut": False,
        "note": "",
        "next_page": 0,
        "took_ms": 0,
    }
    if is_known:
        part |= _part(visit, found, queue, state, size=size, number=number)
    field, heading = MOMENTS[state] if state else ("", "When")
    return {
        "queue": queue,
        "queues": sorted({*counts, queue} - {""}),
        "state": state or "",
        "states": [*map(str, TaskState)],
        "counts": _counts(counts, queue),
        "queue_marks": marks_of(overviews[queue]) if queue in overviews else None,
        "columns": COLUMNS[state],
        "order": {"by": visit.word("sort"), "way": visit.word("way", "up", of=["up", "down"]), "is_part": True},
        "maybe_id": sought if not part["tasks"] and _could_be_id(sought) else "",
        "more_looks": MORE_LOOKS,
        "typed": meant(visit, "q"),
        **_fields(visit),
        "is_search": found.chooses,
        "narrowed": _narrowed(visit, found),
        "filters": {name: visit.word(name) for name in FILTERS if visit.word(name)},
        "moment_field": field,
        "moment_fields": {str(each): name for each, (name, _) in MOMENTS.items()},
        "moment_heading": heading,
        "can_walk": bool(queue and state) and not found.chooses,
        "page": number,
        "bulk_actions": bulk_actions(visit, state),
        **part,
        "tasks": _in_order(visit, part["tasks"], field),
    }


def _counts(counts: Mapping[str, QueueInfo], queue: str) -> dict[str, int] | None:
    """How many tasks of the queue, or of all, are in each state; scheduled ones and those to be retried together."""
    some = [counts[queue]] if queue in counts else [] if queue else [*counts.values()]
    states = ("pending", "active", "scheduled", "archived", "completed")
    return {name: sum(getattr(each, name) for each in some) for name in states} if some else None


def _narrowed(visit: Visit, found: TaskFilter) -> list[str]:
    """What beside the search box keeps a search from tasks that this person may see: a queue, a state."""
    queue, state = chosen(visit)
    is_queue = bool(queue) and not found.queue and visit.who.queues is None
    return ["queue"] * is_queue + ["state"] * (state is not None and not found.state)


def _fields(visit: Visit) -> dict[str, Any]:
    """What the fields of the form for a search hold, and whether with escapes."""
    sought = {name: meant(visit, name) for name in ("q", *PARTS)}
    is_escaped = not all(text.isprintable() for text in sought.values())
    fields = {name: escaped(text) if is_escaped else text for name, text in sought.items() if text}
    return {"fields": fields, "is_escaped": is_escaped}


def _in_order(visit: Visit, rows: Sequence[TaskDetail], moment: str) -> Sequence[TaskDetail]:
    """The rows of this part by a column, where the query names one; what has nothing there comes last."""
    values: dict[str, Callable[[TaskDetail], Any]] = {
        "id": lambda row: row.id,
        "type": lambda row: row.type,
        "moment": lambda row: getattr(row, moment or "created_at"),
        "retried": lambda row: row.retried,
        "worker": lambda row: row.worker,
        "timeout": lambda row: row.timeout_s,
        "deleted": lambda row: row.expires_at,
    }
    by = visit.word("sort", of=["", *values])
    if not by:
        return rows
    known = [row for row in rows if values[by](row) is not None]
    is_down = visit.word("way", "up", of=["up", "down"]) == "down"
    return [*sorted(known, key=values[by], reverse=is_down), *(row for row in rows if values[by](row) is None)]


def _part(
    visit: Visit, found: TaskFilter, queue: str, state: TaskState | None, *, size: int, number: int
) -> Mapping[str, Any]:
    """What the page shows of the list, and where it goes on."""
    if number > 1 and queue and state and not found.chooses:
        rows = visit.inspector.tasks(queue, state, page=number, size=size, looks=LOOKS, is_whole=False)
        is_more = len(rows) == size and number < MOST_PAGES
        return {"tasks": rows, "next_page": number + 1 if is_more else 0}
    place, note = _place(visit, queue, state, size)
    looks, began_s = visit.number("looks", LOOKS, most=MORE_LOOKS), time.monotonic()
    shown = visit.inspector.search(
        found, queue=queue or None, state=state, size=size, looks=max(looks, size),
        within_s=WITHIN_S * max(1.0, looks / LOOKS), after=place, sees=visit.seen, is_whole=False,
    )  # fmt: skip
    is_cut = bool(shown.after) and len(shown.tasks) < size
    # A list that renews itself is unchanged, however long it took.
    took_ms = round(1000 * (time.monotonic() - began_s)) if found.chooses or is_cut else 0
    return {
        "tasks": shown.tasks, "looked_at": shown.looked, "more": shown.after, "is_cut": is_cut, "note": note,
        "took_ms": took_ms,
    }  # fmt: skip


def _place(visit: Visit, queue: str, state: TaskState | None, size: int) -> tuple[str, str]:
    """Where the part begins, and what there is to say of that."""
    if queue and state and visit.word("last"):
        return visit.inspector.last_place(queue, state, size), ""
    if queue and state is TaskState.PENDING and (task_id := visit.word("around")):
        place = visit.inspector.place_around(queue, task_id, size)
        far = f"This task is not among the first or last {MOST_NEAR:,} that wait; this is the beginning."
        return place, "" if place else far
    return visit.word("place"), ""


def _could_be_id(text: str) -> bool:
    """Whether somebody may have typed the ID of a task that is gone."""
    return bool(text) and len(text.split()) == 1 and re.fullmatch(r"[\w.:-]{1,255}", text) is not None


def _is_task(visit: Visit, text: str) -> bool:
    if not text or len(text.split()) > 1:
        return False
    try:
        visit.inspector.task(text)
    except (TaskNotFoundError, InvalidTaskError):
        return False
    return True

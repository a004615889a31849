"""The tasks: a queue's in a state, part by part, or those that somebody looks for."""

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from boilerd.broker.task_filter import TaskFilter
from boilerd.broker.views import TaskDetail
from boilerd.errors import InvalidTaskError, TaskNotFoundError
from boilerd.tasks.task import TaskState
from boilerd.web.links import Links
from boilerd.web.page import Data, Elsewhere, page
from boilerd.web.pages.bulk import bulk_actions
from boilerd.web.permissions import Permission
from boilerd.web.task_query import FILTERS, PARTS, chosen, filter_of, typed
from boilerd.web.visit import MOST_PAGES, Visit

SIZE, MOST_SIZE = 50, 500
#: How many tasks are looked at for one page, and for how long.
LOOKS, WITHIN_S = 5000, 0.15
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
    """All tasks that the same query shows, up to 100,000."""
    queue, state = chosen(visit)
    return visit.inspector.export(
        filter_of(visit), queue=queue or None, state=state, search=typed(visit), sees=visit.seen
    )


@page("/tasks", needs=Permission.VIEW, title="Tasks", menu=30, rows="tasks", stream=export)
def tasks(visit: Visit) -> Data | Elsewhere:
    """A part of a list, or what a search has found; an ID leads to its task."""
    sought, size, number = typed(visit), visit.number("size", SIZE, most=MOST_SIZE), visit.number("page", 1)
    if sought == visit.word("q") and _is_task(visit, sought):
        return Elsewhere(Links().to("tasks", sought))
    counts = {queue.name: queue.detail.counts for queue in visit.snapshot().overview.queues}
    found = filter_of(visit)
    queue, state = chosen(visit)
    queue, state = found.queue or queue, found.state or state
    if not (queue or state or found.chooses):
        queue = "default" if "default" in counts or not counts else min(counts)
    if state is None and not found.chooses:
        state = TaskState.PENDING
    # A queue that nobody ever used is nothing wrong before it is asked for by its name.
    is_known = queue in counts or "queue" in visit.query or bool(found.queue) or not queue
    part = {"tasks": (), "looked_at": 0, "more": "", "is_cut": False, "note": "", "next_page": 0}
    if is_known:
        part |= _part(visit, found, queue, state, size=size, number=number)
    filters = {name: visit.word(name) for name in FILTERS if visit.word(name)}
    field, heading = MOMENTS[state] if state else ("", "When")
    return {
        "queue": queue,
        "queues": sorted({*counts, queue} - {""}),
        "state": state or "",
        "states": [*map(str, TaskState)],
        "counts": counts.get(queue),
        "typed": visit.word("q"),
        "is_search": found.chooses,
        "filters": filters,
        "without": {name: {other: text for other, text in filters.items() if other != name} for name in filters},
        "parts_kept": {name: visit.word(name) for name in PARTS if visit.word(name)},
        "moment_field": field,
        "moment_fields": {str(each): name for each, (name, _) in MOMENTS.items()},
        "moment_heading": heading,
        "can_walk": bool(queue and state) and not found.chooses,
        "page": number,
        "bulk_actions": bulk_actions(visit, state),
        **part,
    }


def _part(
    visit: Visit, found: TaskFilter, queue: str, state: TaskState | None, *, size: int, number: int
) -> Mapping[str, Any]:
    """What the page shows of the list, and where it goes on."""
    if number > 1 and queue and state and not found.chooses:
        rows = visit.inspector.tasks(queue, state, page=number, size=size, looks=LOOKS)
        is_more = len(rows) == size and number < MOST_PAGES
        return {"tasks": rows, "next_page": number + 1 if is_more else 0}
    place, note = _place(visit, queue, state, size)
    shown = visit.inspector.search(
        found, queue=queue or None, state=state, size=size, looks=max(LOOKS, size), within_s=WITHIN_S, after=place,
        sees=visit.seen,
    )  # fmt: skip
    is_cut = bool(shown.after) and len(shown.tasks) < size
    return {
        "tasks": shown.tasks, "looked_at": shown.looked, "more": shown.after, "is_cut": is_cut, "note": note,
    }  # fmt: skip


def _place(visit: Visit, queue: str, state: TaskState | None, size: int) -> tuple[str, str]:
    """Where the part begins, and what there is to say of that."""
    if queue and state and visit.word("last"):
        return visit.inspector.last_place(queue, state, size), ""
    if queue and state is TaskState.PENDING and (task_id := visit.word("around")):
        place = visit.inspector.place_around(queue, task_id, size)
        return (
            place,
            "" if place else "This task is not among the first or last 50,000 that wait; this is the beginning.",
        )
    return visit.word("place"), ""


def _is_task(visit: Visit, text: str) -> bool:
    if not text or len(text.split()) > 1:
        return False
    try:
        visit.inspector.task(text)
    except (TaskNotFoundError, InvalidTaskError):
        return False
    return True

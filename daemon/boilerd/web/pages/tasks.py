"""The tasks of a queue in a state."""

from boilerd.broker.views import TaskDetail
from boilerd.tasks.task import TaskState
from boilerd.web.page import Data, page
from boilerd.web.pages.bulk import bulk_actions
from boilerd.web.permissions import Permission
from boilerd.web.visit import Visit

SIZE, MOST_SIZE = 50, 500
#: How many scheduled and retried tasks are looked at to tell the ones from the others.
LOOKS = 5000
#: State → the field with the moment that a list shows, and what it is called.
MOMENTS = {
    TaskState.PENDING: ("enqueued_at", "Waits since"),
    TaskState.ACTIVE: ("started_at", "Started"),
    TaskState.SCHEDULED: ("next_run_at", "Due"),
    TaskState.RETRY: ("next_run_at", "Due"),
    TaskState.ARCHIVED: ("last_failed_at", "Failed"),
    TaskState.COMPLETED: ("ended_at", "Completed"),
}


@page("/tasks", needs=Permission.VIEW, title="Tasks", menu=30, rows="tasks")
def tasks(visit: Visit) -> Data:
    """A page of a list, the next task first."""
    overview = visit.snapshot().overview
    counts = {queue.name: queue.detail.counts for queue in overview.queues}
    name = visit.word("queue", "default" if "default" in counts or not counts else min(counts))
    state = TaskState(visit.word("state", "pending", of=[*map(str, TaskState)]))
    number, size = visit.number("page", 1), visit.number("size", SIZE, most=MOST_SIZE)
    found: list[TaskDetail] = []
    if name in counts or visit.query.get("queue"):
        found = visit.inspector.tasks(name, state, page=number, size=size, looks=LOOKS)
    field, heading = MOMENTS[state]
    return {
        "queue": name,
        "queues": sorted({*counts, name}),
        "state": state,
        "states": [*map(str, TaskState)],
        "counts": counts.get(name),
        "tasks": found,
        "moment_field": field,
        "moment_heading": heading,
        "page": number,
        "has_more": len(found) == size,
        "bulk_actions": bulk_actions(visit, state),
        "looked_at": LOOKS if state in {TaskState.SCHEDULED, TaskState.RETRY} else 0,
    }

"""Look at queues, tasks and workers, and intervene: Asynq's Inspector.

Long queues and registries are read and changed in chunks, so that Redis is never kept from others for more than a few
milliseconds.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import redis

from boilerd.broker.broker import Broker
from boilerd.broker.connection import connect
from boilerd.broker.inspection import Inspection, Member
from boilerd.broker.states import ALLOWED, Action
from boilerd.broker.views import Attempt, CompletedTask, Day, QueueDetail, QueueInfo, TaskDetail, WorkerInfo
from boilerd.errors import DuplicateTaskError, QueueNotFoundError, TaskStateError
from boilerd.tasks.queues import check_queue
from boilerd.tasks.task import TaskState, no_such_task

#: Tasks in one step of a bulk action: Redis is busy with it for about a millisecond.
CHUNK = 100
#: Tasks of a state whose size is measured, to estimate the memory of all.
SAMPLE = 20
#: Answers for a task that has left its place: the action was done with it, or it is in another state by now.
_LEFT = frozenset({"done", *TaskState})


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a bulk action has come.

    Attributes:
        done: Tasks that the action was done with.
        seen: Tasks looked at.
        total: Tasks that were there when it began.
    """

    done: int
    seen: int
    total: int


class Inspector:
    """Reads what the broker holds, and does what a person asks.

    It takes the same connections as `Client`. Every method raises BrokerError if Redis does not answer, or refuses.
    """

    def __init__(self, connection: redis.Redis) -> None:
        self._broker = Broker(connection)
        self._inspection = Inspection(connection)

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """An inspector of the Redis at `url`; options as `Client.from_url` has them."""
        return cls(connect(url, **options))

    # --- Queues

    def queues(self, known: Iterable[str] = ()) -> list[QueueInfo]:
        """Every queue that was ever used, and those in `known`, by name; two round trips."""
        return self._inspection.counts(sorted(self._inspection.queue_names().union(known)))

    def queue(self, name: str) -> QueueDetail:
        """One queue.

        Raises:
            QueueNotFoundError: It was never used.
        """
        self._check_used(name)
        (counts,) = self._inspection.counts([name])
        oldest = self._inspection.members(name, TaskState.PENDING, 0, 1)
        if (
            oldest and oldest[0][1] is None
        ):  # it waits for a worker; one that waits for its concurrency key may be older
            oldest += self._inspection.aside(name, 0, 1)
        max_active, max_length = self._inspection.limits(name)
        (today,) = self.history(name, 1)
        return QueueDetail(counts, self._latency_s(oldest), self._memory_bytes(counts), max_active, max_length, today)

    def history(self, name: str, days: int = 90) -> list[Day]:
        """Processed and failed tasks of each of the last days, today first; 90 are kept."""
        today = datetime.fromtimestamp(self._broker.now(), UTC).date()
        return self._inspection.days(name, [today - timedelta(days=back) for back in range(days)])

    def pause(self, name: str) -> bool:
        """Let no worker claim from the queue; True if it was not paused before."""
        return self._inspection.pause(check_queue(name))

    def resume(self, name: str) -> bool:
        """Let workers claim from the queue again; True if it was paused."""
        was_paused = self._inspection.resume(check_queue(name))
        self._broker.ring(name)
        return was_paused

    def is_suspended(self) -> bool:
        """True if `rq suspend` holds the claims of all workers, ours as well."""
        return self._inspection.is_suspended()

    def has_workers(self, queue: str) -> bool:
        """True if any worker, of whatever host, works on the queue."""
        return self._inspection.has_workers(queue)

    # --- Tasks

    def tasks(self, queue: str, state: TaskState, *, page: int = 1, size: int = 30) -> list[TaskDetail]:
        """A page of the queue's tasks in a state, in the order in which their turn comes (completed and
        archived ones: in which they expire; pending ones that wait for a concurrency key stand at the end).

        Args:
            queue: Its name.
            state: Retried tasks stand among the scheduled ones, so that all of those are read up to the page.
            page: From 1.
            size: Tasks of a page.

        Raises:
            QueueNotFoundError: It was never used.
            ValueError: There is no such page.
        """  # noqa: D205 - one sentence
        if page < 1 or size < 1:
            raise ValueError(f"page {page} of size {size}: both begin at 1")
        self._check_used(queue)
        if state in {TaskState.SCHEDULED, TaskState.RETRY}:
            return list(_page(self._scheduled_or_retried(queue, state), page, size))
        return self._inspection.details(self._inspection.members(queue, state, (page - 1) * size, size))

    def recent(self, queue: str, size: int = 30) -> list[CompletedTask]:
        """The tasks of the queue that completed last, latest first, also those that were not kept; up to 1,000.

        Raises:
            QueueNotFoundError: It was never used.
        """
        self._check_used(queue)
        return self._inspection.completed(queue, size)

    def task(self, task_id: str) -> TaskDetail:
        """One task with its attempts.

        Raises:
            TaskNotFoundError: There is no task with this ID, or it was deleted.
        """
        found = self._inspection.task(task_id)
        if found is None:
            raise no_such_task(task_id)
        return found

    def run(self, task_id: str) -> None:
        """Make a scheduled, retried or archived task pending now.

        Raises:
            TaskNotFoundError: There is no such task.
            TaskStateError: It is in another state.
            DuplicateTaskError: It is archived, and another task holds its unique lock by now.
        """
        self._act("run", task_id)

    def archive(self, task_id: str) -> None:
        """Set a waiting task aside; raises TaskNotFoundError, TaskStateError."""
        self._act("archive", task_id)

    def delete(self, task_id: str) -> None:
        """Delete a task that does not run; raises TaskNotFoundError, TaskStateError."""
        self._act("delete", task_id)

    def bulk(self, action: Action, queue: str, state: TaskState, task_type: str | None = None) -> Iterator[Progress]:
        """Do the action with all tasks of the queue that are in the state now, and of the type if one is given.

        Works while one iterates, chunk by chunk; tasks that come meanwhile are left alone.

        Raises:
            TaskStateError: The action cannot be done in that state.
            QueueNotFoundError: The queue was never used.
        """
        if state not in ALLOWED[action]:
            raise TaskStateError(f"{state} tasks", state, action, ALLOWED[action])
        self._check_used(queue)
        total = self._inspection.length(queue, state)
        done = seen = start = 0
        while seen < total and (found := self._inspection.members(queue, state, start, min(CHUNK, total - seen))):
            answers = self._broker.act(action, self._chosen(found, state, task_type))
            done += answers.count("done")
            seen += len(found)
            # The next chunk begins behind those that stay: not chosen, without a record, in a state of RQ's own.
            start += len(found) - sum(answer in _LEFT for answer in answers)
            yield Progress(done, seen, total)

    # --- Workers and the broker

    def workers(self) -> list[WorkerInfo]:
        """All workers, by name, with the task that each runs."""
        return self._inspection.workers()

    def broker(self) -> dict[str, Any]:
        """``server uptime_s clients memory_bytes peak_memory_bytes`` of Redis or Valkey."""
        return self._inspection.server()

    def last_ticks(self) -> dict[str, float]:
        """Name of each periodic task → its last tick, in seconds since 1970."""
        return self._broker.last_ticks()

    # --- Helpers

    def _check_used(self, name: str) -> None:
        if not self._inspection.is_used(name):
            check_queue(name)  # after the look: queues of plain RQ may have names that ours may not
            raise QueueNotFoundError(name, [queue.name for queue in self.queues()])

    def _latency_s(self, oldest: Sequence[Member]) -> float:
        if not oldest:
            return 0.0
        moments = [task.enqueued_at.timestamp() for task in self._inspection.details(oldest) if task.enqueued_at]
        return max(0.0, self._broker.now() - min(moments)) if moments else 0.0

    def _memory_bytes(self, counts: QueueInfo) -> int:
        """The memory of the queue's tasks, estimated from the first ones of each state."""
        lengths = {
            TaskState.PENDING: counts.pending, TaskState.SCHEDULED: counts.scheduled,
            TaskState.COMPLETED: counts.completed, TaskState.ARCHIVED: counts.archived,
        }  # fmt: skip
        total = 0.0
        for state, length in lengths.items():
            sample = self._inspection.members(counts.name, state, 0, SAMPLE) if length else []
            sizes = self._inspection.sizes_bytes(sample)
            total += sum(sizes) / len(sizes) * length if sizes else 0
        return int(total)

    def _scheduled_or_retried(self, queue: str, state: TaskState) -> Iterator[TaskDetail]:
        """The tasks in one of these two states, which stand in one registry."""
        start = 0
        while found := self._inspection.members(queue, state, start, CHUNK):
            yield from (task for task in self._inspection.details(found) if task.state is state)
            start += len(found)

    def _chosen(self, found: Sequence[Member], state: TaskState, task_type: str | None) -> list[str]:
        """The IDs of those in the state, and of the type if one is given."""
        if task_type is None and state not in {TaskState.SCHEDULED, TaskState.RETRY}:
            return [task_id for task_id, _ in found]
        details = self._inspection.details(found)
        return [task.id for task in details if task.state is state and task_type in {None, task.type}]

    def _act(self, action: Action, task_id: str) -> None:
        (answer,) = self._broker.act(action, [task_id])
        if answer == "unknown":
            raise no_such_task(task_id)
        if answer.startswith("locked "):
            raise DuplicateTaskError(answer.removeprefix("locked "))
        if answer != "done":
            raise TaskStateError(f"task {task_id}", answer, action, ALLOWED[action])


def _page(tasks: Iterator[TaskDetail], page: int, size: int) -> Iterator[TaskDetail]:
    for number, task in enumerate(tasks):
        if number >= page * size:
            return
        if number >= (page - 1) * size:
            yield task


__all__ = [
    "Action",
    "Attempt",
    "CompletedTask",
    "Day",
    "Inspector",
    "Progress",
    "QueueDetail",
    "QueueInfo",
    "TaskDetail",
    "WorkerInfo",
]

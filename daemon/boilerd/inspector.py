"""Look at queues, tasks and workers, and intervene: Asynq's Inspector.

Whatever may be long is read and changed in batches, so that Redis is never kept from others
for more than a few milliseconds.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Self

import redis

from boilerd.broker import keys, server_check
from boilerd.broker.broker import Broker
from boilerd.broker.connection import connect, raw, text, translated
from boilerd.broker.states import ALLOWED, REGISTRIES, Action
from boilerd.broker.views import (
    Attempt,
    CompletedTask,
    Day,
    QueueDetail,
    QueueInfo,
    TaskDetail,
    WorkerInfo,
    to_attempt,
    to_completed,
    to_task,
    to_worker,
)  # fmt: skip
from boilerd.errors import QueueNotFoundError, TaskStateError
from boilerd.tasks.queues import check_queue
from boilerd.tasks.task import TaskState, no_such_task

#: Tasks in one step of a bulk operation: Redis is busy with it for about a millisecond.
BATCH = 100
#: Of so many tasks the size is measured, to estimate the queue's.
SAMPLE = 20


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a bulk operation has come.

    Attributes:
        done: Tasks it was done with.
        seen: Tasks looked at.
        total: Tasks that were there when it began.
    """

    done: int
    seen: int
    total: int


class Inspector:
    """Reads what the broker holds, and does what a person asks.

    Connections are refused as by `Client`. Every method raises BrokerError where Redis does not answer, or refuses.
    """

    def __init__(self, connection: redis.Redis) -> None:
        self._connection: Any = connection  # whose answers redis-py cannot type
        self._broker = Broker(connection)

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """Of the Redis at `url`; options as `Client.from_url` has them."""
        return cls(connect(url, **options))

    # --- Queues

    def queues(self, known: Iterable[str] = ()) -> list[QueueInfo]:
        """Every queue that was ever used, and those in `known`, by name; two round trips."""
        with translated():
            prefix = keys.queue("")
            used = {text(key).removeprefix(prefix) for key in self._connection.smembers(keys.QUEUES)}
            return self._counts(sorted(used | set(known)))

    def queue(self, name: str) -> QueueDetail:
        """One queue.

        Raises:
            QueueNotFoundError: It was never used.
        """
        with translated():
            self._check_known(name)
            (counts,) = self._counts([name])
            first = self._connection.lindex(keys.queue(name), 0)
            limits = self._connection.hmget(keys.LIMITS, f"{name}:max_active", f"{name}:max_length")
        (today,) = self.history(name, 1)
        return QueueDetail(
            counts, self._latency_s(first), self._memory(counts), int(limits[0] or 0), int(limits[1] or 0), today
        )

    def history(self, name: str, days: int = 90) -> list[Day]:
        """Processed and failed tasks of each of the last days, today first; 90 are kept."""
        today = datetime.fromtimestamp(self._broker.now(), UTC).date()
        wanted = [today - timedelta(days=back) for back in range(days)]
        with translated(), self._connection.pipeline(transaction=False) as pipeline:
            for day in wanted:
                pipeline.hmget(keys.stats(name, (day - date(1970, 1, 1)).days), "processed", "failed")
            found = pipeline.execute()
        return [Day(day, int(done or 0), int(failed or 0)) for day, (done, failed) in zip(wanted, found, strict=True)]

    def pause(self, name: str) -> bool:
        """Let no worker claim from the queue; whether it was not paused before."""
        with translated():
            return bool(self._connection.sadd(keys.PAUSED, check_queue(name)))

    def resume(self, name: str) -> bool:
        """Let workers claim from it again; whether it was paused."""
        with translated():
            was_paused = bool(self._connection.srem(keys.PAUSED, check_queue(name)))
        self._broker.ring(name)
        return was_paused

    def is_suspended(self) -> bool:
        """Whether `rq suspend` holds the claims of all workers, ours as well."""
        with translated():
            return bool(self._connection.exists(keys.SUSPENDED))

    def has_workers(self, queue: str) -> bool:
        """Whether any worker, of whatever host, works on the queue."""
        with translated():
            names = [text(name) for name in self._connection.smembers(f"{keys.WORKERS}:{queue}")]
            # The set keeps the names of daemons that were killed; their records expire.
            return bool(names) and bool(self._connection.exists(*names))

    # --- Tasks

    def tasks(self, queue: str, state: TaskState, *, page: int = 1, size: int = 30) -> list[TaskDetail]:
        """A page of the queue's tasks in a state, in the order in which their turn comes (completed and
        archived ones: in which they expire).

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
        with translated():
            self._check_known(queue)
        if state in {TaskState.SCHEDULED, TaskState.RETRY}:
            return list(_page(self._of_state(queue, state), page, size))
        return self._details(self._members(queue, state, (page - 1) * size, size))

    def recent(self, queue: str, size: int = 30) -> list[CompletedTask]:
        """The tasks of the queue that completed last, latest first, also those that were not kept; up to 1,000.

        Raises:
            QueueNotFoundError: It was never used.
        """
        with translated():
            self._check_known(queue)
            notes = self._connection.lrange(keys.completed(queue), 0, size - 1)
        return [found for note in notes if (found := to_completed(note))]

    def task(self, task_id: str) -> TaskDetail:
        """One task with its attempts.

        Raises:
            TaskNotFoundError: There is none with this ID, or no more.
        """
        with translated():
            stream = self._connection.xrange(raw(keys.results(task_id)))
            attempts = [to_attempt(fields) for _, fields in stream]
            fields = self._connection.hgetall(raw(keys.job(task_id)))
            if not fields:
                raise no_such_task(task_id)
            detail = to_task(task_id, fields, None, attempts)
            kind = REGISTRIES.get(detail.state) if detail.state else None
            score = self._connection.zscore(keys.registry(kind, detail.queue), raw(task_id)) if kind else None
        return to_task(task_id, fields, score, attempts)

    def run(self, task_id: str) -> None:
        """Make a scheduled, retried or archived task pending now; raises TaskNotFoundError, TaskStateError."""
        self._act("run", task_id)

    def archive(self, task_id: str) -> None:
        """Set a task aside that waits; raises TaskNotFoundError, TaskStateError."""
        self._act("archive", task_id)

    def delete(self, task_id: str) -> None:
        """Delete a task that does not run; raises TaskNotFoundError, TaskStateError."""
        self._act("delete", task_id)

    def bulk(self, action: Action, queue: str, state: TaskState, task_type: str | None = None) -> Iterator[Progress]:
        """Do it with all tasks of the queue that are in that state now, and of that type if one is given.

        Works while one iterates, step by step; tasks that come meanwhile are left alone.

        Raises:
            TaskStateError: It cannot be done in that state.
            QueueNotFoundError: It was never used.
        """
        if state not in ALLOWED[action]:
            raise TaskStateError(f"{state} tasks", state, action, ALLOWED[action])
        with translated():
            self._check_known(queue)
        total = self._length(queue, state)
        done = seen = passed = 0
        while seen < total and (found := self._members(queue, state, passed, min(BATCH, total - seen))):
            chosen = [task_id for task_id, _ in found]
            if task_type is not None or state in {TaskState.SCHEDULED, TaskState.RETRY}:
                chosen = [
                    task.id for task in self._details(found)
                    if task.state is state and task_type in {None, task.type}
                ]  # fmt: skip
            answers = self._broker.act(action, chosen)
            done += answers.count("done")
            seen += len(found)
            # What stays in its place, as jobs in a state of RQ's own; all else has gone elsewhere, by us or a worker.
            passed += len(found) - len(chosen) + sum(answer not in {"done", *TaskState} for answer in answers)
            yield Progress(done, seen, total)

    # --- Workers and the broker

    def workers(self) -> list[WorkerInfo]:
        """All workers, by name, with what they run."""
        with translated():
            names = sorted(self._connection.smembers(keys.WORKERS))
            with self._connection.pipeline(transaction=False) as pipeline:
                for name in names:
                    pipeline.hgetall(name)
                    pipeline.smembers(name + b":executions")
                answers = pipeline.execute(raise_on_error=False)
            prefix = keys.worker("")
            records = [
                (text(name).removeprefix(prefix), record, next(iter(held), b""))
                for name, record, held in zip(names, answers[::2], answers[1::2], strict=True)
                if isinstance(record, dict) and record and isinstance(held, set)
            ]
            with self._connection.pipeline(transaction=False) as pipeline:
                for _, _, pair in records:
                    pipeline.hgetall(raw(keys.execution(text(pair))))
                    pipeline.hget(raw(keys.job(text(pair).rpartition(":")[0])), "task_type")
                held_now = pipeline.execute(raise_on_error=False)
        return [
            to_worker(name, record, held_now[2 * n] or {}, text(held_now[2 * n + 1] or b""))
            for n, (name, record, _) in enumerate(records)
        ]

    def broker(self) -> dict[str, Any]:
        """``version uptime_s clients memory_bytes peak_memory_bytes`` of Redis or Valkey."""
        version = server_check.check(self._connection)
        with translated():
            info = self._connection.info()
        return {
            "server": version, "uptime_s": info["uptime_in_seconds"], "clients": info["connected_clients"],
            "memory_bytes": info["used_memory"], "peak_memory_bytes": info["used_memory_peak"],
        }  # fmt: skip

    def last_ticks(self) -> dict[str, float]:
        """Name of each periodic task → its last tick, in seconds since 1970."""
        return self._broker.last_ticks()

    # --- Helpers

    def _counts(self, names: Sequence[str]) -> list[QueueInfo]:
        with self._connection.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.llen(keys.queue(name))
                pipeline.zcard(keys.wip(name))
                for kind in ("scheduled", "finished", "failed"):
                    pipeline.zcard(keys.registry(kind, name))
                pipeline.sismember(keys.PAUSED, name)
            answers = pipeline.execute()
        rows = [answers[i : i + 6] for i in range(0, len(answers), 6)]
        return [
            QueueInfo(name, pending, active, scheduled, completed, archived, bool(is_paused))
            for name, (pending, active, scheduled, completed, archived, is_paused) in zip(names, rows, strict=True)
        ]

    def _check_known(self, name: str) -> None:
        if not self._connection.sismember(keys.QUEUES, keys.queue(name)):
            check_queue(name)  # after the look: those of plain RQ may have other names than ours
            raise QueueNotFoundError(name, [queue.name for queue in self.queues()])

    def _latency_s(self, first: bytes | None) -> float:
        if first is None:
            return 0.0
        enqueued_at = self._details([(text(first), None)])[0].enqueued_at
        return max(0.0, self._broker.now() - enqueued_at.timestamp()) if enqueued_at else 0.0

    def _memory(self, counts: QueueInfo) -> int:
        """From the first tasks of each state."""
        lengths = {
            TaskState.PENDING: counts.pending, TaskState.SCHEDULED: counts.scheduled,
            TaskState.COMPLETED: counts.completed, TaskState.ARCHIVED: counts.archived,
        }  # fmt: skip
        total = 0.0
        for state, length in lengths.items():
            sample = self._members(counts.name, state, 0, SAMPLE) if length else []
            with translated(), self._connection.pipeline(transaction=False) as pipeline:
                for task_id, _ in sample:
                    pipeline.memory_usage(raw(keys.job(task_id)), samples=0)  # all fields: one of them is large
                sizes = [size or 0 for size in pipeline.execute()]
            total += sum(sizes) / len(sizes) * length if sizes else 0
        return int(total)

    def _length(self, queue: str, state: TaskState) -> int:
        with translated():
            if state is TaskState.PENDING:
                return int(self._connection.llen(keys.queue(queue)))
            return int(self._connection.zcard(keys.registry(REGISTRIES[state], queue)))

    def _members(self, queue: str, state: TaskState, start: int, count: int) -> list[tuple[str, float | None]]:
        """IDs, and scores where the state has some; retried tasks stand among the scheduled ones."""
        stop = start + count - 1
        with translated():
            if state is TaskState.PENDING:
                return [(text(task_id), None) for task_id in self._connection.lrange(keys.queue(queue), start, stop)]
            if state is TaskState.ACTIVE:
                pairs = self._connection.zrange(keys.wip(queue), start, stop)
                return [(text(pair).rpartition(":")[0], None) for pair in pairs]
            scored = self._connection.zrange(keys.registry(REGISTRIES[state], queue), start, stop, withscores=True)
        return [(text(task_id), score) for task_id, score in scored]

    def _of_state(self, queue: str, state: TaskState) -> Iterator[TaskDetail]:
        """Scheduled tasks that never failed, or those that did: they stand in one registry."""
        start = 0
        while found := self._members(queue, state, start, BATCH):
            yield from (task for task in self._details(found) if task.state is state)
            start += len(found)

    def _details(self, members: Sequence[tuple[str, float | None]]) -> list[TaskDetail]:
        with translated(), self._connection.pipeline(transaction=False) as pipeline:
            for task_id, _ in members:
                pipeline.hgetall(raw(keys.job(task_id)))
            records = pipeline.execute(raise_on_error=False)
        return [
            to_task(task_id, record if isinstance(record, dict) else {}, score, ())
            for (task_id, score), record in zip(members, records, strict=True)
        ]

    def _act(self, action: Action, task_id: str) -> None:
        (answer,) = self._broker.act(action, [task_id])
        if answer == "unknown":
            raise no_such_task(task_id)
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

"""Read queues, tasks and workers from RQ's layout for people, and pause queues.

Each method is one round trip unless it says otherwise, and raises BrokerError if Redis does not answer, or refuses.
"""

from collections.abc import Sequence
from datetime import date
from typing import Any

import redis

from boilerd.broker import keys, server_check
from boilerd.broker.connection import raw, text
from boilerd.broker.refusals import translated
from boilerd.broker.states import REGISTRIES
from boilerd.broker.views import (
    CompletedTask,
    Day,
    QueueInfo,
    TaskDetail,
    WorkerInfo,
    to_attempt,
    to_completed,
    to_task,
    to_worker,
)  # fmt: skip
from boilerd.tasks.task import TaskState

#: A task's ID and its score, which says when the task is due or expires; None: its state has no score.
Member = tuple[str, float | None]


class Inspection:
    """The part of an Inspector that knows keys and commands."""

    def __init__(self, connection: redis.Redis) -> None:
        self._connection: Any = connection  # whose answers redis-py cannot type

    # --- Queues

    def queue_names(self) -> set[str]:
        """The names of all queues that were ever used."""
        prefix = keys.queue("")
        with translated():
            return {text(key).removeprefix(prefix) for key in self._connection.smembers(keys.QUEUES)}

    def is_used(self, queue: str) -> bool:
        """True if the queue was ever used."""
        with translated():
            return bool(self._connection.sismember(keys.QUEUES, keys.queue(queue)))

    def counts(self, queues: Sequence[str]) -> list[QueueInfo]:
        """How many tasks of each queue are in each state."""
        with translated(), self._connection.pipeline(transaction=False) as pipeline:
            for name in queues:
                pipeline.llen(keys.queue(name))
                pipeline.zcard(keys.wip(name))
                for kind in ("scheduled", "finished", "failed"):
                    pipeline.zcard(keys.registry(kind, name))
                pipeline.sismember(keys.PAUSED, name)
            answers = pipeline.execute()
        rows = [answers[i : i + 6] for i in range(0, len(answers), 6)]
        return [
            QueueInfo(name, pending, active, scheduled, completed, archived, bool(is_paused))
            for name, (pending, active, scheduled, completed, archived, is_paused) in zip(queues, rows, strict=True)
        ]

    def limits(self, queue: str) -> tuple[int, int]:
        """The queue's `max_active` and `max_length`; 0: none."""
        with translated():
            active, length = self._connection.hmget(keys.LIMITS, f"{queue}:max_active", f"{queue}:max_length")
        return int(active or 0), int(length or 0)

    def days(self, queue: str, days: Sequence[date]) -> list[Day]:
        """Processed and failed tasks of the queue on each of these days."""
        with translated(), self._connection.pipeline(transaction=False) as pipeline:
            for day in days:
                pipeline.hmget(keys.stats(queue, (day - date(1970, 1, 1)).days), "processed", "failed")
            found = pipeline.execute()
        return [Day(day, int(done or 0), int(failed or 0)) for day, (done, failed) in zip(days, found, strict=True)]

    def pause(self, queue: str) -> bool:
        """Let no worker claim from the queue; True if it was not paused before."""
        with translated():
            return bool(self._connection.sadd(keys.PAUSED, queue))

    def resume(self, queue: str) -> bool:
        """Let workers claim from the queue again; True if it was paused. The caller wakes them."""
        with translated():
            return bool(self._connection.srem(keys.PAUSED, queue))

    def has_workers(self, queue: str) -> bool:
        """True if any worker, of whatever host, works on the queue; two round trips."""
        with translated():
            names = [text(name) for name in self._connection.smembers(f"{keys.WORKERS}:{queue}")]
            # The set keeps the names of daemons that were killed; their records expire.
            return bool(names) and bool(self._connection.exists(*names))

    # --- Tasks

    def length(self, queue: str, state: TaskState) -> int:
        """How many tasks of the queue are in the state; scheduled and retried ones are counted together."""
        with translated():
            if state is TaskState.PENDING:
                return int(self._connection.llen(keys.queue(queue)))
            return int(self._connection.zcard(keys.registry(REGISTRIES[state], queue)))

    def members(self, queue: str, state: TaskState, start: int, count: int) -> list[Member]:
        """Tasks of the queue in the state, from place `start`; scheduled and retried ones stand in one registry."""
        stop = start + count - 1
        with translated():
            if state is TaskState.PENDING:
                return [(text(task_id), None) for task_id in self._connection.lrange(keys.queue(queue), start, stop)]
            if state is TaskState.ACTIVE:
                pairs = self._connection.zrange(keys.wip(queue), start, stop)
                return [(text(pair).rpartition(":")[0], None) for pair in pairs]
            scored = self._connection.zrange(keys.registry(REGISTRIES[state], queue), start, stop, withscores=True)
        return [(text(task_id), score) for task_id, score in scored]

    def details(self, members: Sequence[Member]) -> list[TaskDetail]:
        """Each task without its attempts."""
        with translated(), self._connection.pipeline(transaction=False) as pipeline:
            for task_id, _ in members:
                pipeline.hgetall(raw(keys.job(task_id)))
            records = pipeline.execute(raise_on_error=False)
        return [
            to_task(task_id, record if isinstance(record, dict) else {}, score, ())
            for (task_id, score), record in zip(members, records, strict=True)
        ]

    def sizes_bytes(self, members: Sequence[Member]) -> list[int]:
        """The memory that each task's record takes."""
        with translated(), self._connection.pipeline(transaction=False) as pipeline:
            for task_id, _ in members:
                pipeline.memory_usage(raw(keys.job(task_id)), samples=0)  # all fields: one of them is large
            return [size or 0 for size in pipeline.execute()]

    def task(self, task_id: str) -> TaskDetail | None:
        """One task with its attempts, None: there is no such task; up to three round trips."""
        with translated():
            stream = self._connection.xrange(raw(keys.results(task_id)))
            attempts = [to_attempt(fields) for _, fields in stream]
            fields = self._connection.hgetall(raw(keys.job(task_id)))
            if not fields:
                return None
            detail = to_task(task_id, fields, None, attempts)
            kind = REGISTRIES.get(detail.state) if detail.state else None
            score = self._connection.zscore(keys.registry(kind, detail.queue), raw(task_id)) if kind else None
        return to_task(task_id, fields, score, attempts)

    def completed(self, queue: str, size: int) -> list[CompletedTask]:
        """The tasks of the queue that completed last, latest first, also those that were not kept."""
        with translated():
            notes = self._connection.lrange(keys.completed(queue), 0, size - 1)
        return [found for note in notes if (found := to_completed(note))]

    # --- Workers and the server

    def is_suspended(self) -> bool:
        """True if `rq suspend` holds the claims of all workers."""
        with translated():
            return bool(self._connection.exists(keys.SUSPENDED))

    def workers(self) -> list[WorkerInfo]:
        """All registered workers, by name, with the task that each runs; three round trips."""
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
                # A key of another kind may stand there, and its answer is an error.
                running = [None if isinstance(r, Exception) else r for r in pipeline.execute(raise_on_error=False)]
        return [
            to_worker(name, record, execution or {}, text(task_type or b""))
            for (name, record, _), execution, task_type in zip(records, running[::2], running[1::2], strict=True)
        ]

    def server(self) -> dict[str, Any]:
        """``version uptime_s clients memory_bytes peak_memory_bytes`` of Redis or Valkey; checks it as at a start.

        All but the first are None where Redis does not tell.
        """
        version = server_check.check(self._connection)
        info = server_check.server_info(self._connection)
        return {
            "server": version, "uptime_s": info.get("uptime_in_seconds"), "clients": info.get("connected_clients"),
            "memory_bytes": info.get("used_memory"), "peak_memory_bytes": info.get("used_memory_peak"),
        }  # fmt: skip

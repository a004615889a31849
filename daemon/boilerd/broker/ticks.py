"""The history of a periodic task: its last ticks, as tick.lua noted them, and what became of their tasks."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import redis

from boilerd.broker import keys
from boilerd.broker.connection import raw, text
from boilerd.broker.inspection import sound
from boilerd.broker.refusals import expecting, translated
from boilerd.broker.states import STATE_OF
from boilerd.broker.views import CompletedTask, to_completed
from boilerd.tasks.task import TaskState

#: Queues whose last completed tasks are looked through: an entry has one, unless it was changed.
MOST_QUEUES = 3


class _Note(msgspec.Struct, frozen=True):
    """A tick as tick.lua notes it."""

    tick: float
    at: float = 0.0
    missed: int = 0
    why: str | None = None
    id: str = ""
    queue: str = ""


@dataclass(frozen=True, slots=True)
class TickInfo:
    """A tick of a periodic task that a daemon took.

    Attributes:
        due_at: The moment that the entry's line names.
        taken_at: When its task was enqueued, or it was passed over.
        missed: How many ticks were missed between the one before and this one.
        skipped: Why it has no task; empty: it has one.
        task_id: The ID of its task; empty: it has none.
        state: Where the task is; None: it is gone, as one that completed is after a while, or that somebody deleted; or
            its state is one of RQ's own.
        ended_at: When the task ended, where that is known.
    """

    due_at: datetime | None
    taken_at: datetime | None
    missed: int = 0
    skipped: str = ""
    task_id: str = ""
    queue: str = ""
    state: TaskState | None = None
    ended_at: datetime | None = None


def read_history(connection: redis.Redis, name: str, size: int) -> list[TickInfo]:
    """The last ticks of a periodic task, latest first; up to three round trips."""
    key = keys.ticks(name)
    reader: Any = connection  # redis-py's types take no bytes
    with expecting("list", key):
        notes = reader.lrange(raw(key), 0, size - 1)
    return _with_tasks(reader, [tick for note in notes if (tick := _to_tick(note))])


def _with_tasks(reader: Any, ticks: Sequence[TickInfo]) -> list[TickInfo]:
    """The ticks with what became of their tasks."""
    with translated(), reader.pipeline(transaction=False) as pipeline:
        for tick in ticks:
            pipeline.hmget(raw(keys.job(tick.task_id)), "status", "last_failed_at", "ended_at")
        records = sound(pipeline.execute(raise_on_error=False))
    found = [_as_recorded(tick, record or [None] * 3) for tick, record in zip(ticks, records, strict=True)]
    gone = [tick for tick in found if tick.task_id and tick.state is None]
    completed = _completed(reader, list(dict.fromkeys(tick.queue for tick in gone))[:MOST_QUEUES])
    return [
        replace(tick, state=TaskState.COMPLETED, ended_at=completed[tick.task_id].ended_at)
        if tick in gone and tick.task_id in completed else tick
        for tick in found
    ]  # fmt: skip


def _as_recorded(tick: TickInfo, record: Sequence[bytes | None]) -> TickInfo:
    """The tick with the state of its task, by the record of that."""
    status, last_failed_at, ended_at = (text(value or b"") for value in record)
    state: TaskState | None = STATE_OF.get(status)
    if state is TaskState.SCHEDULED and last_failed_at:
        state = TaskState.RETRY
    has_ended = state in {TaskState.COMPLETED, TaskState.ARCHIVED}
    return replace(tick, state=state, ended_at=_time(ended_at) if has_ended else None)


def _completed(reader: Any, queues: Sequence[str]) -> Mapping[str, CompletedTask]:
    """The last completed tasks of these queues, by their IDs."""
    if not queues:
        return {}
    with translated(), reader.pipeline(transaction=False) as pipeline:
        for queue in queues:
            pipeline.lrange(raw(keys.completed(queue)), 0, -1)
        lists = sound(pipeline.execute(raise_on_error=False))
    found = (to_completed(note) for notes in lists for note in notes or ())
    return {task.id: task for task in found if task}


def _to_tick(note: bytes) -> TickInfo | None:
    with suppress(ValueError, RecursionError, msgspec.ValidationError):
        told = msgspec.convert(json.loads(text(note)), _Note)
        due_at, taken_at = _moment(told.tick), _moment(told.at)
        return TickInfo(due_at, taken_at, told.missed, told.why or "", told.id, told.queue)
    return None


def _moment(seconds: float) -> datetime | None:
    with suppress(ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(seconds, UTC)
    return None


def _time(value: str) -> datetime | None:
    with suppress(ValueError):
        moment = datetime.fromisoformat(value)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return None

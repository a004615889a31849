"""The history of a periodic task: its last ticks, as tick.lua noted them, and what became of their tasks."""

import json
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import redis

from boilerd.broker import keys
from boilerd.broker.connection import raw, text
from boilerd.broker.refusals import expecting, sound, translated
from boilerd.broker.states import REGISTRIES, STATE_OF
from boilerd.broker.view_reader import to_completed
from boilerd.broker.views import CompletedTask
from boilerd.tasks.task import TaskState

#: Queues whose last completed tasks are looked through: an entry has one, unless it was changed.
MOST_QUEUES = 3
#: The same, where the histories of many entries are read, and IDs in one command: it takes Redis 0.2 ms.
MOST_QUEUES_OF_MANY, _IDS = 8, 500


#: What is read of the record of a task.
_FIELDS = ("status", "last_failed_at", "ended_at", "started_at")


class _Note(msgspec.Struct, frozen=True, gc=False):
    """A tick as tick.lua notes it."""

    tick: float
    at: float = 0.0
    missed: int = 0
    why: str | None = None
    id: str = ""
    queue: str = ""


class _Fate(NamedTuple):
    """What became of a tick's task; see `TickInfo`."""

    state: TaskState | None = None
    ended_at: datetime | None = None
    started_at: datetime | None = None


_UNKNOWN = _Fate()
_decoder = msgspec.json.Decoder(_Note)


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
        started_at: When its last attempt began, where that is known.
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
    started_at: datetime | None = None

    @property
    def outcome(self) -> str:
        """In a word, what became of it: ``skipped``, a state of its task, or ``gone``."""
        return str(self.state) if self.state else "gone" if self.task_id else "skipped"

    @property
    def late_s(self) -> float | None:
        """How long after it was due it was taken."""
        if self.due_at is None or self.taken_at is None:
            return None
        return max(0.0, (self.taken_at - self.due_at).total_seconds())


def read_history(connection: redis.Redis, name: str, size: int) -> list[TickInfo]:
    """The last ticks of a periodic task, latest first; up to three round trips."""
    key = keys.ticks(name)
    reader: Any = connection  # redis-py's types take no bytes
    with expecting("list", key):
        notes = reader.lrange(raw(key), 0, size - 1)
    return _with_tasks(reader, [_to_info(tick, _UNKNOWN) for note in notes if (tick := _to_note(note))])


def read_histories(connection: redis.Redis, names: Sequence[str], size: int) -> dict[str, list[TickInfo]]:
    """The last ticks of each of these periodic tasks, latest first; two commands for each, and some for each queue.

    Where tasks are is told by the registries of their queues, and of the last tick of each by its record as well: of an
    earlier one whose task still waits or runs, it is not known.
    """
    reader: Any = connection
    with translated(), reader.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.lrange(raw(keys.ticks(name)), 0, size - 1)
        notes = sound(pipeline.execute(raise_on_error=False))
    found = {
        name: [tick for note in told or () if (tick := _to_note(note))] for name, told in zip(names, notes, strict=True)
    }
    lasts = [_to_info(ticks[0], _UNKNOWN) for ticks in found.values() if ticks and ticks[0].id]
    fates = _ended(reader, [tick for ticks in found.values() for tick in ticks if tick.id])
    fates |= {tick.task_id: _fate_of(tick) for tick in _with_records(reader, lasts) if tick.state}
    return {name: [_to_info(tick, fates.get(tick.id, _UNKNOWN)) for tick in ticks] for name, ticks in found.items()}


def _ended(reader: Any, ticks: Sequence[_Note]) -> dict[str, _Fate]:
    """What became of those tasks that have ended, by their IDs, as far as the registries of their queues tell."""
    by_queue: dict[str, list[str]] = {}
    for tick in ticks:
        by_queue.setdefault(tick.queue, []).append(tick.id)
    asked = [
        (queue, state, several[first : first + _IDS])
        for queue, several in by_queue.items()
        for first in range(0, len(several), _IDS)
        for state in (TaskState.ARCHIVED, TaskState.COMPLETED)
    ]
    with translated(), reader.pipeline(transaction=False) as pipeline:
        for queue, state, several in asked:
            pipeline.zmscore(raw(keys.registry(REGISTRIES[state], queue)), [raw(task_id) for task_id in several])
        answers = sound(pipeline.execute(raise_on_error=False))
    found = {
        task_id: _Fate(state)
        for (_, state, several), scores in zip(asked, answers, strict=True)
        for task_id, score in zip(several, scores or (), strict=False)
        if score is not None
    }
    gone = {tick.id: tick.queue for tick in ticks if tick.id not in found}
    completed = _completed(reader, list(dict.fromkeys(gone.values()))[:MOST_QUEUES_OF_MANY], only=gone)
    return found | {
        task_id: _Fate(TaskState.COMPLETED, task.ended_at, task.started_at) for task_id, task in completed.items()
    }


def _fate_of(tick: TickInfo) -> _Fate:
    return _Fate(tick.state, tick.ended_at, tick.started_at)


def _with_records(reader: Any, ticks: Sequence[TickInfo]) -> list[TickInfo]:
    """The ticks with the states of their tasks, by the records of these."""
    with translated(), reader.pipeline(transaction=False) as pipeline:
        for tick in ticks:
            pipeline.hmget(raw(keys.job(tick.task_id)), *_FIELDS)
        records = sound(pipeline.execute(raise_on_error=False))
    return [_as_recorded(tick, record or [None] * len(_FIELDS)) for tick, record in zip(ticks, records, strict=True)]


def _with_tasks(reader: Any, ticks: Sequence[TickInfo]) -> list[TickInfo]:
    """The ticks with what became of their tasks."""
    found = _with_records(reader, ticks)
    gone = [tick for tick in found if tick.task_id and tick.state is None]
    completed = _completed(reader, list(dict.fromkeys(tick.queue for tick in gone))[:MOST_QUEUES])
    return [
        _as_completed(tick, completed[tick.task_id])
        if tick in gone and tick.task_id in completed else tick
        for tick in found
    ]  # fmt: skip


def _as_recorded(tick: TickInfo, record: Sequence[bytes | None]) -> TickInfo:
    """The tick with the state of its task, by the record of that."""
    status, last_failed_at, ended_at, started_at = (text(value or b"") for value in record)
    state: TaskState | None = STATE_OF.get(status)
    if state is TaskState.SCHEDULED and last_failed_at:
        state = TaskState.RETRY
    has_ended = state in {TaskState.COMPLETED, TaskState.ARCHIVED}
    return replace(tick, state=state, ended_at=_time(ended_at) if has_ended else None, started_at=_time(started_at))


def _as_completed(tick: TickInfo, task: CompletedTask) -> TickInfo:
    return replace(tick, state=TaskState.COMPLETED, ended_at=task.ended_at, started_at=task.started_at)


def _completed(reader: Any, queues: Sequence[str], only: Container[str] | None = None) -> Mapping[str, CompletedTask]:
    """The last completed tasks of these queues, by their IDs; or of these tasks alone."""
    if not queues:
        return {}
    with translated(), reader.pipeline(transaction=False) as pipeline:
        for queue in queues:
            pipeline.lrange(raw(keys.completed(queue)), 0, -1)
        lists = sound(pipeline.execute(raise_on_error=False))
    notes = (note for notes in lists for note in notes or ())
    found = (to_completed(note) for note in notes if only is None or _id_in(note) in only)
    return {task.id: task for task in found if task}


def _id_in(note: bytes) -> str:
    """The ID that a note begins with, as ending.lua writes it; of thousands, most need no more."""
    parts = note.split(b'"', 4)
    if len(parts) > 4 and b"\\" not in parts[3]:
        return text(parts[3])
    found = to_completed(note)
    return found.id if found else ""


def _to_note(note: bytes) -> _Note | None:
    try:
        return _decoder.decode(note)
    except (ValueError, RecursionError):  # msgspec's errors are of these
        pass
    with suppress(ValueError, RecursionError):  # bytes that are no text, or an endless time
        found = msgspec.convert(json.loads(text(note)), _Note)
        raw(found.id + found.queue)  # what is no name of a key is no note of ours
        return found
    return None


def _to_info(tick: _Note, task: _Fate) -> TickInfo:
    """The tick with what is known of its task; there may be thousands of them."""
    return TickInfo(
        _moment(tick.tick), _moment(tick.at), tick.missed, tick.why or "", tick.id, tick.queue, task.state,
        task.ended_at, task.started_at,
    )  # fmt: skip


def _moment(seconds: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _time(value: str) -> datetime | None:
    with suppress(ValueError):
        moment = datetime.fromisoformat(value)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return None

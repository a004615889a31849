"""The concurrency keys in use, and the unique locks that are held: nothing in Redis lists either.

Keys are found by the tasks that run or wait, locks by a search among all keys that stops after so many and says where.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import redis

from boilerd.broker import keys
from boilerd.broker.connection import raw, text
from boilerd.broker.refusals import sound, translated
from boilerd.broker.view_reader import to_count

#: Tasks that are looked at for their keys, of all queues together: those that run, and those that have waited longest;
#: and how many of a queue at least.
MOST_TASKS, LEAST_OF_QUEUE = 1000, 5
#: Keys that are told of, those with most tasks.
MOST_KEYS = 200
#: Keys of Redis's in one step of a search for locks, and how many steps one call makes: each step is less than 1 ms.
SCANNED, STEPS = 500, 40
#: Tasks of one key that are told of.
MOST_OF_KEY = 50
#: Records in one pipeline.
_CHUNK = 200


@dataclass(frozen=True, slots=True)
class ConcurrencyKey:
    """A concurrency key in use.

    Attributes:
        limit: How many of its tasks run at once, by the option of one of them.
        running: How many run.
        waiting: How many wait for a share of it.
        waits_since: Since when the first of them does.
        task_id: One of its tasks.
    """

    key: str
    limit: int
    running: int
    waiting: int
    waits_since: datetime | None
    task_id: str


@dataclass(frozen=True, slots=True)
class KeysFound:
    """The concurrency keys of the tasks that were looked at.

    Attributes:
        keys: Those with most waiting tasks first.
        looked: How many tasks were looked at.
        is_all: Whether these were all that run or wait for a key.
    """

    keys: Sequence[ConcurrencyKey]
    looked: int
    is_all: bool


@dataclass(frozen=True, slots=True)
class Lock:
    """A unique lock.

    Attributes:
        digest: Of the payload that it stands for.
        task_id: The task that holds it.
        ends_at: When it ends by itself; None: it does not.
        lasts: Whether it outlives its task, as `unique_until` says.
    """

    queue: str
    type: str
    digest: str
    task_id: str
    ends_at: datetime | None
    lasts: bool


@dataclass(frozen=True, slots=True)
class Refusals:
    """How many enqueues a limit has refused.

    Attributes:
        why: ``full``, as so many waited as `max_length` allows; or ``unique``, as another task had its lock.
        this_hour: In the hour of the clock that goes on.
        last_hour: In the one before.
    """

    queue: str
    why: str
    this_hour: int
    last_hour: int


@dataclass(frozen=True, slots=True)
class KeyTasks:
    """The tasks of a concurrency key, 50 of each kind at most: those that run, and those that have waited longest.

    Attributes:
        running: Their IDs.
        waiting: ID of each → since when it waits.
    """

    key: str
    running: Sequence[str]
    waiting: Mapping[str, datetime | None]


@dataclass(frozen=True, slots=True)
class LocksFound:
    """What a search for locks has found.

    Attributes:
        locks: In no order.
        looked: How many keys of Redis's were looked at.
        after: Where to go on; empty: all were looked at.
    """

    locks: Sequence[Lock] = field(default_factory=list)
    looked: int = 0
    after: str = ""


def read_keys(connection: redis.Redis, queues: Sequence[str]) -> KeysFound:
    """The concurrency keys of these queues' tasks; a round trip for about 200 tasks and keys."""
    found, is_all = _task_ids(connection, queues)
    limits: dict[str, tuple[int, str]] = {}
    for task_id, (key, limit) in zip(found, _fields(connection, found), strict=True):
        if key:
            limits.setdefault(text(key), (to_count(limit) or 1, task_id))
    told = _counted(connection, limits)
    told.sort(key=lambda each: (-each.waiting, -each.running, each.key))
    return KeysFound(told[:MOST_KEYS], len(found), is_all and len(told) <= MOST_KEYS)


def read_key(connection: redis.Redis, key: str) -> KeyTasks:
    """The tasks of one key; a round trip."""
    asked: Any = connection
    with translated(), asked.pipeline(transaction=False) as pipeline:
        pipeline.zrange(raw(keys.running(key)), 0, MOST_OF_KEY - 1)
        pipeline.zrange(raw(keys.waiting(key)), 0, MOST_OF_KEY - 1, withscores=True)
        running, waiting = sound(pipeline.execute(raise_on_error=False))
    found = {text(task_id): _moment(score) for task_id, score in waiting or ()}
    return KeyTasks(key, [text(task_id) for task_id in running or ()], found)


def read_lock(connection: redis.Redis, queue: str, task_type: str, digest: str) -> Lock | None:
    """One lock; None: it is free. Two round trips."""
    found = _locks(connection, [raw(keys.unique(queue, task_type, digest))], _now(connection))
    return found[0] if found else None


def read_refusals(connection: redis.Redis) -> list[Refusals]:
    """What enqueues were refused in this hour of the clock and the one before, most first; two round trips."""
    asked: Any = connection
    hour = int(_now(connection) // 3600)
    with translated(), asked.pipeline(transaction=False) as pipeline:
        for number in (hour, hour - 1):
            pipeline.hgetall(raw(keys.refused(number)))
        this, last = sound(pipeline.execute(raise_on_error=False))
    names = {name for found in (this, last) for name in found or ()}
    rows = [
        Refusals(queue, why, to_count((this or {}).get(name)), to_count((last or {}).get(name)))
        for name in names
        for why, _, queue in [text(name).partition(" ")]
    ]
    return sorted(rows, key=lambda row: (-row.this_hour - row.last_hour, row.queue, row.why))


def find_locks(connection: redis.Redis, queue: str, task_type: str, after: str = "") -> LocksFound:
    """The unique locks of a queue or a type, or of all, a part of the keys at a time; a type may end with ``*``."""
    asked: Any = connection
    pattern = keys.unique(_glob(queue) if queue else "*", f"{_glob(task_type.removesuffix('*'))}*", "*")
    cursor, names, looked = int(after or 0), [], 0
    for _ in range(STEPS):
        with translated():
            cursor, part = asked.scan(cursor, match=raw(pattern), count=SCANNED)
        names += part
        looked += SCANNED
        if cursor == 0:
            break
    # Types have colons, at which the pattern cannot tell where one ends.
    found = [lock for lock in _locks(asked, names, _now(connection)) if _is_of_type(lock, task_type)]
    return LocksFound(found, looked, str(cursor) if cursor else "")


def _task_ids(connection: redis.Redis, queues: Sequence[str]) -> tuple[list[str], bool]:
    asked: Any = connection
    found: dict[str, None] = {}
    most, is_all = max(LEAST_OF_QUEUE, MOST_TASKS // (2 * max(1, len(queues)))), True
    for chunk in _chunks(queues):
        with translated(), asked.pipeline(transaction=False) as pipeline:
            for queue in chunk:
                pipeline.zrange(raw(keys.wip(queue)), 0, most - 1)
                pipeline.zrange(raw(keys.aside(queue)), 0, most - 1)
            answers = sound(pipeline.execute(raise_on_error=False))
        is_all = is_all and all(len(answer or ()) < most for answer in answers)
        found |= {text(pair).rpartition(":")[0]: None for pairs in answers[::2] for pair in pairs or ()}
        found |= {text(task_id): None for ids in answers[1::2] for task_id in ids or ()}
    return [*found], is_all


def _fields(connection: redis.Redis, task_ids: Sequence[str]) -> list[Sequence[bytes | None]]:
    """Concurrency key and limit of each task."""
    asked: Any = connection
    found: list[Sequence[bytes | None]] = []
    for chunk in _chunks(task_ids):
        with translated(), asked.pipeline(transaction=False) as pipeline:
            for task_id in chunk:
                pipeline.hmget(raw(keys.job(task_id)), "concurrency_key", "concurrency_limit")
            found += [answer or (None, None) for answer in sound(pipeline.execute(raise_on_error=False))]
    return found


def _counted(connection: redis.Redis, limits: Mapping[str, tuple[int, str]]) -> list[ConcurrencyKey]:
    asked: Any = connection
    found = []
    for chunk in _chunks([*limits]):
        with translated(), asked.pipeline(transaction=False) as pipeline:
            for key in chunk:
                pipeline.zcard(raw(keys.running(key)))
                pipeline.zcard(raw(keys.waiting(key)))
                pipeline.zrange(raw(keys.waiting(key)), 0, 0, withscores=True)
            answers = sound(pipeline.execute(raise_on_error=False))
        for key, running, waiting, first in zip(chunk, answers[::3], answers[1::3], answers[2::3], strict=True):
            limit, task_id = limits[key]
            since = _moment(first[0][1]) if first else None
            found.append(ConcurrencyKey(key, limit, running or 0, waiting or 0, since, task_id))
    return found


def _locks(asked: Any, names: Sequence[bytes], now_s: float) -> list[Lock]:
    found = []
    for chunk in _chunks(list(dict.fromkeys(names))):
        with translated(), asked.pipeline(transaction=False) as pipeline:
            for name in chunk:
                pipeline.get(name)
                pipeline.pttl(name)
            answers = sound(pipeline.execute(raise_on_error=False))
        for name, holder, left_ms in zip(chunk, answers[::2], answers[1::2], strict=True):
            if holder:
                found.append(_to_lock(text(name), text(holder), left_ms or 0, now_s))
    return found


def _to_lock(name: str, holder: str, left_ms: int, now_s: float) -> Lock:
    # A queue's name has no colon, a type's may.
    queue, _, rest = name.removeprefix(keys.unique("", "", "").rstrip(":") + ":").partition(":")
    task_type, _, digest = rest.rpartition(":")
    ends_at = _moment(now_s + left_ms / 1000) if left_ms > 0 else None
    return Lock(queue, task_type, digest, holder.removeprefix("ttl:"), ends_at, holder.startswith("ttl:"))


def _is_of_type(lock: Lock, wanted: str) -> bool:
    return wanted in {"", lock.type} or (wanted.endswith("*") and lock.type.startswith(wanted[:-1]))


def _glob(name: str) -> str:
    """A name that stands for itself in a pattern of SCAN."""
    return "".join(f"\\{char}" if char in "*?[]^\\-" else char for char in name)


def _chunks(members: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (members[start : start + _CHUNK] for start in range(0, len(members), _CHUNK))


def _now(connection: redis.Redis) -> float:
    with translated():
        seconds, micros = connection.time()
    return float(seconds) + float(micros) / 1e6


def _moment(seconds: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(round(seconds), UTC)
    except (ValueError, OverflowError, OSError):
        return None

"""Read what Redis shows of all queues, workers and of itself: three round trips, and more for dozens of them.

Only commands that read, and none that takes Redis more than about a millisecond, however many tasks there are.
Members of the daemon's `group` may send all of it (`embedded`).
"""

import time
from collections import Counter
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import redis

from boilerd.broker import keys
from boilerd.broker.append_file import unwritten_in
from boilerd.broker.connection import raw, text
from boilerd.broker.inspection import Inspection, kinds, named_queues, told_misplaced
from boilerd.broker.neighbours import living_until_s
from boilerd.broker.refusals import sound, translated
from boilerd.broker.view_reader import bad_queue
from boilerd.broker.views import QueueDetail, QueueInfo
from boilerd.broker.worker_records import WorkerRecords
from boilerd.errors import MisplacedKeyError

#: Of a memory measured for people one task of each state is enough here, where nobody looks at it.
_SAMPLES = 1
#: What is read of a worker's record.
_WORKER_FIELDS = ("queues", "last_heartbeat", "birthmark", "hostname", "state", "rss")


@dataclass(frozen=True, slots=True)
class QueueOverview:
    """A queue, and what beside its numbers a person should know.

    Attributes:
        is_served: False if it may hold tasks of boilerd's, and no worker that lives works on it, of whatever host.
        aside: How many of its pending tasks wait for a share of their concurrency key.
        first_aside: The ID of the one that has waited longest; empty: none waits.
        aside_s: For how long that has.
        archived_lately: How many tasks came into its archive in the last `constants.LATELY_S`.
        overdue_s: For how long the first of its scheduled tasks has been due; 0: none is.
        workers: How many workers that live work on it, of whatever host.
    """

    detail: QueueDetail
    is_served: bool = True
    aside: int = 0
    first_aside: str = ""
    aside_s: float = 0.0
    archived_lately: int = 0
    overdue_s: float = 0.0
    workers: int = 0

    @property
    def name(self) -> str:
        """Its name."""
        return self.detail.counts.name


class LivingWorker(msgspec.Struct, frozen=True, gc=False):
    """A worker that lives, as far as numbers of all of them need it.

    Attributes:
        host: The host's name.
        state: RQ's: starting, idle, busy, suspended.
        resident_bytes: Its memory; 0: it does not tell.
        name: Its name.
    """

    host: str
    state: str
    resident_bytes: int = 0
    name: str = ""


class WorkerRead(msgspec.Struct, frozen=True, gc=False):
    """A worker, as its record was read.

    Attributes:
        queues: The names of its queues, with commas between them.
        until_s: Until when it lives, by Redis's clock, if it gives no other sign of life.
    """

    worker: LivingWorker
    queues: bytes
    until_s: float


@dataclass(frozen=True, slots=True)
class Overview:
    """What Redis shows at one moment, or nearly one.

    Attributes:
        clock_ahead_s: By how much this host's clock is ahead of Redis's, beyond what the way there explains.
        queues: By name.
        wrong: A row for each thing that is wrong with the list of queues.
        misplaced: What is wrong with the keys that are no queue's or task's.
        workers: How many workers live, of whatever host.
        crons: How many periodic tasks daemons had, where neither a worker nor a daemon lives.
        unwritten_bytes: How many accepted bytes are not in Redis's file, because its last write failed; 0: it did not.
        memory_share: The part of `maxmemory` that is used; 0: there is no limit, or Redis does not tell.
        living: The workers that live.
        records: Key → what was read of each worker, None: it has no record that can be read; for `read_overview`.
        server: What Redis tells of itself, by its own names; nothing where it does not.
    """

    clock_ahead_s: float = 0.0
    queues: Sequence[QueueOverview] = ()
    wrong: Sequence[QueueInfo] = ()
    misplaced: Sequence[str] = ()
    is_suspended: bool = False
    workers: int = 0
    crons: int = 0
    unwritten_bytes: int = 0
    memory_share: float = 0.0
    living: Sequence[LivingWorker] = ()
    records: Mapping[bytes, WorkerRead | None] = field(default_factory=dict, repr=False, compare=False)
    server: Mapping[str, Any] = field(default_factory=dict)

    @property
    def counts(self) -> list[QueueInfo]:
        """All rows of a table of queues, by name."""
        rows = [*self.wrong, *(queue.detail.counts for queue in self.queues)]
        return sorted(rows, key=lambda queue: queue.name)

    @property
    def unserved(self) -> list[QueueOverview]:
        """Queues with tasks that nobody will claim; none where no worker lives: it is not known who will come."""
        if not self.workers:
            return []
        return [queue for queue in self.queues if not queue.is_served and _has_tasks(queue.detail.counts)]


def read_overview(connection: redis.Redis, known: Iterable[str] = (), before: Overview | None = None) -> Overview:
    """The overview of all queues that were ever used, and those in `known`; raises BrokerError.

    Args:
        connection: The client of Redis.
        known: Names of queues.
        before: That of some seconds ago: workers that were there, who tell how they are every five seconds, and what
            need not be of this moment of queues with which nothing was wrong, are taken from there; None: all is read.
    """
    before_s = time.time()
    found = _ask(connection, _first_questions())
    after_s = time.time()
    seconds, microseconds = found["now"]
    now_s = seconds + microseconds / 1e6
    names, wrong = _names(found)
    names = sorted({*names, *known})
    records = _read_workers(connection, found["workers"] or (), before.records if before else {})
    living = [record for record in records.values() if record and now_s < record.until_s]
    serving = _serving(living)
    unserved = set(map(text, found["served"] or ())) - {*serving}
    info, known = found["info"] or {}, _known(before, now_s)
    return Overview(
        clock_ahead_s=_outside(now_s, before_s, after_s),
        queues=[
            _with_slow(_queue(detail, ends, unserved, serving, now_s), known)
            for detail, ends in _read_queues(connection, names, known)
        ],
        wrong=wrong,
        misplaced=told_misplaced([found[f"kind of {key}"] for key in kinds()]),
        is_suspended=bool(found["suspended"]),
        workers=len(living),
        crons=0 if living else _lost_crons(connection),
        unwritten_bytes=unwritten_in(info),
        memory_share=int(info.get("used_memory", 0)) / (int(info.get("maxmemory", 0)) or float("inf")),
        living=[record.worker for record in living],
        records=records,
        server=info,
    )


def _first_questions() -> dict[str, Sequence[str | int]]:
    return {
        "now": ("TIME",), "queues": ("SMEMBERS", keys.QUEUES), "served": ("SMEMBERS", keys.SERVED),
        "workers": ("SMEMBERS", keys.WORKERS), "suspended": ("EXISTS", keys.SUSPENDED),
        "info": ("INFO", "server", "clients", "memory", "persistence"),
        **{f"kind of {key}": ("TYPE", key) for key in kinds()},
    }  # fmt: skip


def _read_workers(
    connection: redis.Redis, members: Collection[bytes], known: Mapping[bytes, WorkerRead | None]
) -> Mapping[bytes, WorkerRead | None]:
    """Each worker that is registered; those that are known are not read again."""
    if known.keys() == members:
        return known
    new = [member for member in members if member not in known]
    read = WorkerRecords(connection).read(new, _WORKER_FIELDS).items()
    workers = [_worker(key, record) if record and record[0] is not None else None for key, record in read]
    return {**{member: known[member] for member in members if member in known}, **dict(zip(new, workers, strict=True))}


def _lost_crons(connection: redis.Redis) -> int:
    """How many periodic tasks daemons had that are not paused; 0 where a daemon lives."""
    had, paused = ("HKEYS", keys.SCHEDULES), ("HKEYS", keys.CRON_PAUSED)
    found = _ask(connection, {"daemons": ("EXISTS", keys.DAEMONS), "had": had, "paused": paused})
    return 0 if found["daemons"] else len({*(found["had"] or ())} - {*(found["paused"] or ())})


def _known(before: Overview | None, now_s: float) -> Mapping[str, QueueOverview]:
    """Name → each queue of which some need not be read: nothing was wrong with its keys, and the day is the same."""
    today = datetime.fromtimestamp(now_s, UTC).date()
    details = ((queue, queue.detail) for queue in before.queues) if before else ()
    return {queue.name: queue for queue, detail in details if not detail.counts.problem and detail.today.day == today}


def _read_queues(
    connection: redis.Redis, names: Sequence[str], known: Container[str]
) -> Iterator[tuple[QueueDetail, Sequence[Any]]]:
    """Each queue in turn, with what stands at its ends; those that are not known as a whole."""
    inspection = Inspection(connection)
    often = iter(inspection.queue_ends([name for name in names if name in known], 0))
    whole = iter(inspection.queue_ends([name for name in names if name not in known], _SAMPLES))
    return (next(often if name in known else whole) for name in names)


def _with_slow(queue: QueueOverview, known: Mapping[str, QueueOverview]) -> QueueOverview:
    """With what is not read each time, where that is known."""
    if not (was := known.get(queue.name)):
        return queue
    detail = replace(queue.detail, memory_bytes=was.detail.memory_bytes, today=was.detail.today)
    return replace(queue, detail=detail, archived_lately=was.archived_lately, overdue_s=was.overdue_s)


def _ask(connection: Any, commands: Mapping[str, Sequence[str | int]]) -> dict[str, Any]:
    """The answer to each command, in one round trip; None from a key of another kind, and where there is no INFO."""
    with translated(), connection.pipeline(transaction=False) as pipeline:
        for command, *words in commands.values():
            # redis-py's fast path would refuse names that are no UTF-8.
            pipeline.execute_command(command, *(raw(word) if isinstance(word, str) else word for word in words))
        answers = pipeline.execute(raise_on_error=False)
        told = [
            None if words[0] == "INFO" and isinstance(answer, redis.ResponseError) else answer
            for words, answer in zip(commands.values(), answers, strict=True)
        ]
        return dict(zip(commands, sound(told), strict=True))


def _names(found: Mapping[str, Any]) -> tuple[list[str], list[QueueInfo]]:
    """The queues, and what is wrong with their list; without one, those that boilerd's tasks are in."""
    if found["queues"] is not None:
        return named_queues(found["queues"])
    served = sorted(map(text, found["served"] or ()))
    return served, [bad_queue(keys.QUEUES, str(MisplacedKeyError(keys.QUEUES, "set")))]


def _queue(
    detail: QueueDetail, ends: Sequence[Any], unserved: set[str], serving: Mapping[str, int], now_s: float
) -> QueueOverview:
    name = detail.counts.name
    aside, first, waits_since_s, due_s, archived = ends
    aside_s, overdue_s = (max(0.0, now_s - float(since_s or now_s)) for since_s in (waits_since_s, due_s))
    return QueueOverview(
        detail, name not in unserved, aside, text(first), aside_s, archived or 0, overdue_s, serving.get(name, 0)
    )


def _worker(key: str, record: Sequence[bytes | None]) -> WorkerRead:
    queues, *others = record
    heartbeat, birthmark, host, state, resident = (text(value or b"") for value in others)
    size_bytes = int(resident) if resident.isdecimal() and len(resident) < 19 else 0
    worker = LivingWorker(host, state, size_bytes, key.removeprefix(keys.worker("")))
    return WorkerRead(worker, queues or b"", living_until_s(heartbeat, birthmark))


def _serving(living: Iterable[WorkerRead]) -> Counter[str]:
    """Queue → how many workers work on it; hundreds of them may have the same queues."""
    found: Counter[str] = Counter()
    for queues, workers in Counter(record.queues for record in living).items():
        for name in {*text(queues).split(",")}:
            found[name] += workers
    return found


def _outside(moment: float, first: float, last: float) -> float:
    """How far the stretch of time lies after the moment, or, as a negative number, before it; 0: around it."""
    return first - moment if moment < first else last - moment if moment > last else 0.0


def _has_tasks(counts: QueueInfo) -> bool:
    return counts.pending + counts.scheduled > 0

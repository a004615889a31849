"""Read tasks from RQ's layout for people: where they stand, lists of them, and one as a whole.

Round trips and errors are as `inspection` says.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from boilerd.broker import keys
from boilerd.broker.claims import Claim
from boilerd.broker.connection import raw, text
from boilerd.broker.constants import LISTED_FIELDS, MOST_DIGESTED, MOST_LISTED
from boilerd.broker.job_hash import to_claim
from boilerd.broker.refusals import expecting, sound, translated
from boilerd.broker.script_calls import ScriptCalls
from boilerd.broker.states import REGISTRIES
from boilerd.broker.task_rows import Member, TaskRow, made
from boilerd.broker.view_reader import to_attempt, to_completed, to_task
from boilerd.broker.views import CompletedTask, TaskDetail
from boilerd.errors import MisplacedKeyError
from boilerd.tasks.task import TaskState

#: So many bytes of tasks are read at a time where they are read as a whole.
_PORTION = 1024 * 1024
#: Tasks of a list that one script reads, or of which it makes digests: Redis is busy for less than half a millisecond.
AT_ONCE = MOST_DIGESTED
#: Scheduled tasks and retries that one script tells apart: as long.
SIFTED_AT_ONCE = 150
#: No list or set of Redis has more members; of greater places it takes none above 64 bits.
MOST_MEMBERS = 2**32
#: The fields of a record, as listed.lua has them: the small ones stand first.
_FIELDS = tuple(name.encode() for name in LISTED_FIELDS)
#: Tasks that hold a concurrency key, and jobs that wait for one, which are told.
_HOLDERS, _DEPENDENTS = 50, 20


class Sifted(NamedTuple):
    """Tasks of one of the states that share a registry, found among both.

    Attributes:
        looked: How many of both were looked at.
        last: The last one of these; None: the registry ends before.
        found: The tasks of the state.
        is_end: Whether the registry ends with them.
    """

    looked: int = 0
    last: Member | None = None
    found: Sequence[Member] = ()
    is_end: bool = True


class TaskInspection(ScriptCalls):
    """The part of `Inspection` that is about tasks."""

    def length(self, queue: str, state: TaskState) -> int:
        """How many tasks of the queue are in the state; scheduled and retried ones are counted together."""
        key, kind = _place(queue, state)
        with expecting(kind, key):
            length = int(self.connection.llen(raw(key)) if kind == "list" else self.connection.zcard(raw(key)))
        if state is TaskState.PENDING:
            length += self._count_aside(queue)
        return length

    def members(self, queue: str, state: TaskState, start: int, count: int) -> list[Member]:
        """Tasks of the queue in the state, from place `start`; scheduled and retried ones stand in one registry.

        Pending ones that wait for a concurrency key come behind those that do not; for them a second round trip.
        """
        stop = start + count - 1
        if stop >= MOST_MEMBERS:
            return []
        key, kind = _place(queue, state)
        connection: Any = self.connection  # whose answers redis-py cannot type
        with expecting(kind, key):
            if state is TaskState.PENDING:
                return self._pending(queue, start, count)
            scored = connection.zrange(raw(key), start, stop, withscores=True)
        if state is TaskState.ACTIVE:
            return [(text(pair).rpartition(":")[0], None) for pair, _ in scored]
        return [(text(task_id), score) for task_id, score in scored]

    def sift(self, queue: str, state: TaskState, start: int, looks: int, most: int) -> Sifted:
        """Find the scheduled tasks of the queue, or those to be retried, among both.

        Args:
            queue: Its name.
            state: Which of the two.
            start: From which place of the registry on.
            looks: How many to look at; Redis serves nobody else for 1 to 2 µs each.
            most: How many to find at most.
        """
        if start + looks > MOST_MEMBERS:
            return Sifted()
        has_failed = int(state is TaskState.RETRY)
        looked, *rest = self._run("sift", [queue, has_failed, start, looks, most])
        if looked < 0:
            raise MisplacedKeyError(*_place(queue, state))
        is_end, *flat = rest
        members = [(text(task_id), float(score)) for task_id, score in zip(flat[::2], flat[1::2], strict=True)]
        return Sifted(looked, members[0], members[1:], bool(is_end)) if members else Sifted()

    def _pending(self, queue: str, start: int, count: int) -> list[Member]:
        connection: Any = self.connection
        with expecting("list", key := keys.queue(queue)):
            queued = connection.lrange(raw(key), start, start + count - 1)
            found: list[Member] = [(text(task_id), None) for task_id in queued]
            if len(found) == count:
                return found
            # Where some were found, the list ends with them.
            before = 0 if found or not start else max(start - connection.llen(raw(key)), 0)
        return [*found, *self._aside(queue, before, count - len(found))]

    def _aside(self, queue: str, start: int, count: int) -> list[Member]:
        """Tasks of the queue that wait for a concurrency key, those that have waited longest first."""
        connection: Any = self.connection
        with expecting("sorted set", key := keys.aside(queue)):
            found = connection.zrange(raw(key), start, start + count - 1, withscores=True)
        return [(text(task_id), score) for task_id, score in found]

    def _count_aside(self, queue: str) -> int:
        with expecting("sorted set", key := keys.aside(queue)):
            return int(self.connection.zcard(raw(key)))

    def details(self, members: Sequence[Member], *, is_whole: bool = True) -> list[TaskDetail]:
        """Each task without its attempts.

        Args:
            members: The tasks.
            is_whole: False to leave payload, headers and result of a large one where they are; for jobs of plain RQ
                that are large that takes a second round trip.
        """
        rows = [(record, 0) for record in self._records(members)] if is_whole else self._rows(members, "rows")[1]
        return [made(*row) for row in zip(members, rows, strict=True)]

    def listed(self, members: Sequence[Member]) -> tuple[str, Sequence[TaskRow]]:
        """As `Records` says."""
        return self._rows(members, "both")

    def digests(self, members: Sequence[Member]) -> str:
        """As `Records` says; what a large task holds counts by its size."""
        return self._of_list(members, "digests")[0]

    def _rows(self, members: Sequence[Member], wanted: str) -> tuple[str, list[TaskRow]]:
        digests, rows = self._of_list(members, wanted)
        foreign = [place for place, (record, size) in enumerate(rows) if size > MOST_LISTED and _is_foreign(record)]
        for place, record in zip(foreign, self._records([members[each] for each in foreign]), strict=True):
            rows[place] = record, 0
        return digests, rows

    def _of_list(self, members: Sequence[Member], wanted: str) -> tuple[str, list[TaskRow]]:
        """What listed.lua says of them; a round trip for so many of them."""
        digests, rows, start = "", list[TaskRow](), 0
        while start < len(members):
            ids = [raw(task_id) for task_id, _ in members[start : start + AT_ONCE]]
            looked, some, found = self._run("listed", [wanted, *ids])
            digests, start = digests + text(some), start + looked
            rows += [(_as_record(values), size) for size, values in zip(found[::2], found[1::2], strict=True)]
        return digests, rows

    def _records(self, members: Sequence[Member]) -> list[Mapping[bytes, bytes]]:
        """The job hash of each; nothing where there is none."""
        if not members:
            return []
        with translated(), self.connection.pipeline(transaction=False) as pipeline:
            for task_id, _ in members:
                pipeline.hgetall(raw(keys.job(task_id)))
            return [found or {} for found in sound(pipeline.execute(raise_on_error=False))]

    def portions(self, members: Sequence[Member]) -> Iterator[list[tuple[TaskDetail, int]]]:
        """Each task as a whole with the size of its data, a few at a time: together they may not fit into memory."""
        sizes = self._sizes(members)
        start = 0
        while start < len(members):
            stop, total = start + 1, sizes[start]
            while stop < len(members) and total + sizes[stop] <= _PORTION:
                total, stop = total + sizes[stop], stop + 1
            yield [*zip(self.details(members[start:stop]), sizes[start:stop], strict=True)]
            start = stop

    def _sizes(self, members: Sequence[Member]) -> list[int]:
        """How many bytes of each hold its payload and headers; one round trip."""
        with translated(), self.connection.pipeline(transaction=False) as pipeline:
            for task_id, _ in members:
                pipeline.hstrlen(raw(keys.job(task_id)), "data")
            return [size or 0 for size in sound(pipeline.execute(raise_on_error=False))]

    def task(self, task_id: str) -> TaskDetail | None:
        """One task with its attempts, None: there is no such task; up to two round trips."""
        connection: Any = self.connection
        with translated(), connection.pipeline(transaction=False) as pipeline:
            pipeline.xrange(raw(keys.results(task_id)))
            pipeline.hgetall(raw(keys.job(task_id)))
            stream, fields = sound(pipeline.execute(raise_on_error=False))
        if stream is None or fields is None:
            raise MisplacedKeyError(
                *((keys.results(task_id), "stream") if stream is None else (keys.job(task_id), "hash"))
            )
        attempts = [to_attempt(entry) for _, entry in stream]
        if not fields:
            return None
        detail = to_task(task_id, fields, None, attempts)
        if (place := _scored_place(detail)) is None:
            return detail
        with suppress(MisplacedKeyError), expecting("sorted set", place):
            return to_task(task_id, fields, connection.zscore(raw(place), raw(task_id)), attempts)
        return detail

    def key_holders(self, unique_key: str, concurrency_key: str) -> dict[str, list[str]]:
        """``unique`` and ``concurrency`` → the IDs of the tasks that hold these keys; empty: there is none."""
        if not (unique_key or concurrency_key):
            return {"unique": [], "concurrency": []}
        with translated(), self.connection.pipeline(transaction=False) as pipeline:
            pipeline.get(raw(unique_key))
            pipeline.zrange(raw(keys.running(concurrency_key)), 0, _HOLDERS - 1)
            locked, running = sound(pipeline.execute(raise_on_error=False))
        holder = text(locked or b"").removeprefix("ttl:")
        return {
            "unique": [holder] if unique_key and holder else [],
            "concurrency": [text(each) for each in running or ()],
        }

    def dependents(self, task_id: str) -> list[str]:
        """Jobs of plain RQ's that wait for this one, some of them where they are many."""
        connection: Any = self.connection
        key = f"{keys.job(task_id)}:dependents"
        with expecting("set", key):
            return sorted(text(each) for each in connection.srandmember(raw(key), _DEPENDENTS))

    def last_completed(self, queue: str, task_type: str, looks: int) -> TaskDetail | None:
        """The task of this type that completed last and is kept, among the last so many that completed."""
        ids = [done.id for done in self.completed(queue, looks) if done.type == task_type]
        for start in range(0, len(ids), _HOLDERS):
            found = self.details([(task_id, None) for task_id in ids[start : start + _HOLDERS]])
            if kept := next((task for task in found if task.state is TaskState.COMPLETED), None):
                return kept
        return None

    def remembered_s(self, task_id: str) -> float:
        """For how many seconds the option `once` of an enqueue has this ID remembered yet; 0: it is not."""
        connection: Any = self.connection
        with translated():
            left_ms: int = connection.pttl(raw(keys.once(task_id)))
        return max(0.0, left_ms / 1000)

    def as_claimed(self, task_id: str) -> tuple[Claim, str] | None:
        """One task as a worker would get it, with RQ's word for its state; None: there is no such task."""
        connection: Any = self.connection
        with expecting("hash", keys.job(task_id)):
            fields = connection.hgetall(raw(keys.job(task_id)))
        if not fields:
            return None
        queue, status = (text(fields.get(name, b"")) for name in (b"origin", b"status"))
        return to_claim("", task_id, queue, "0", fields), status

    def completed(self, queue: str, size: int) -> list[CompletedTask]:
        """The tasks of the queue that completed last, latest first, also those that were not kept."""
        connection: Any = self.connection
        with expecting("list", keys.completed(queue)):
            notes = connection.lrange(raw(keys.completed(queue)), 0, size - 1)
        return [found for note in notes if (found := to_completed(note))]


def _place(queue: str, state: TaskState) -> tuple[str, str]:
    """The key where the queue's tasks in the state stand, and of what kind it is."""
    if state is TaskState.PENDING:
        return keys.queue(queue), "list"
    return keys.wip(queue) if state is TaskState.ACTIVE else keys.registry(REGISTRIES[state], queue), "sorted set"


def _is_foreign(record: Mapping[bytes, bytes]) -> bool:
    """Whether a job is one of RQ's, which has its type in its data."""
    return b"task_type" not in record


def _as_record(values: Sequence[bytes | None]) -> dict[bytes, bytes]:
    """The fields that are there; of a large task, only small ones were read."""
    return {name: value for name, value in zip(_FIELDS, values, strict=False) if value is not None}


def _scored_place(detail: TaskDetail) -> str | None:
    """The sorted set where the task's score would be; None: it has none."""
    if detail.state is TaskState.PENDING:
        return keys.aside(detail.queue) if detail.concurrency_key else None
    kind = REGISTRIES.get(detail.state) if detail.state else None
    return keys.registry(kind, detail.queue) if kind else None

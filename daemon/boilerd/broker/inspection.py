"""Read queues, tasks and workers from RQ's layout for people, and pause queues.

Each method is one round trip unless it says otherwise, and raises BrokerError if Redis does not answer, or refuses.
A key of another kind, as another program may put it there, is told in the row of what it belongs to, and all other rows
are read; where one thing alone is asked for, it is a MisplacedKeyError.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime
from typing import Any

import redis

from boilerd.broker import keys, server_check
from boilerd.broker.claims import Claim
from boilerd.broker.connection import raw, text
from boilerd.broker.constants import CHUNK, WANTED_TTL_S
from boilerd.broker.job_hash import to_claim
from boilerd.broker.neighbours import Neighbour, is_living, neighbours
from boilerd.broker.refusals import expecting, is_wrong_kind, translated
from boilerd.broker.script_calls import ScriptCalls
from boilerd.broker.states import REGISTRIES
from boilerd.broker.task_rows import MOST_LISTED, TaskRow, TaskRows
from boilerd.broker.view_reader import (
    QUEUE_FIELDS,
    WORKER_FIELDS,
    bad_queue,
    bad_worker,
    to_attempt,
    to_completed,
    to_count,
    to_cron,
    to_queue,
    to_queue_detail,
    to_task,
    to_worker,
)  # fmt: skip
from boilerd.broker.views import CompletedTask, CronInfo, Day, QueueDetail, QueueInfo, TaskDetail, WorkerInfo
from boilerd.errors import BrokerRefusedError, MisplacedKeyError
from boilerd.tasks.task import TaskState

#: A task's ID and its score, which says when the task is due or expires, or since when it waits for a concurrency key;
#: None: its place has no score.
Member = tuple[str, float | None]

#: Of how many tasks of each state the size is measured, to estimate the memory of all; and of all queues together.
_SAMPLE, _SAMPLES = 20, 1000
#: So many bytes of tasks are read at a time where they are read as a whole.
_PORTION = 1024 * 1024
#: Tasks of a list that one script reads: Redis is busy with them for less than half a millisecond.
AT_ONCE = 25
#: No list or set of Redis has more members; of greater places it takes none above 64 bits.
MOST_MEMBERS = 2**32
#: Fields of a job that `to_task` reads, but for those that hold what somebody put into it, of any size.
_SMALL_FIELDS = (
    "status", "origin", "task_type", "description", "timeout", "result_ttl", "deadline", "created_at", "enqueued_at",
    "started_at", "ended_at", "last_error", "last_failed_at", "worker_name", "unique_key", "concurrency_key",
    "concurrency_limit", "number_of_retries", "max_retries", "retries_left", "runs", "progress", "fingerprint",
    "copied_from",
)  # fmt: skip
#: Tasks that hold a concurrency key, and jobs that wait for one, which are told.
_HOLDERS, _DEPENDENTS = 50, 20


class Inspection(ScriptCalls):
    """The part of an Inspector that knows keys and commands."""

    # --- Queues

    def queue_names(self) -> tuple[list[str], list[QueueInfo]]:
        """The names of all queues that were ever used, and a row for each thing that is wrong with their list.

        Without a list these are the queues that boilerd's tasks are in; two round trips then.
        """
        try:
            with expecting("set", keys.QUEUES):
                return named_queues(self.connection.smembers(keys.QUEUES))
        except MisplacedKeyError as error:
            return self._served(), [bad_queue(keys.QUEUES, str(error))]

    def _served(self) -> list[str]:
        with suppress(MisplacedKeyError), expecting("set", keys.SERVED):
            return sorted(map(text, self.connection.smembers(keys.SERVED)))
        return []

    def is_used(self, queue: str) -> bool:
        """True if the queue was ever used."""
        try:
            with expecting("set", keys.QUEUES):
                connection: Any = self.connection  # redis-py's types take no bytes
                return bool(connection.sismember(keys.QUEUES, raw(keys.queue(queue))))
        except MisplacedKeyError:
            return queue in self._served()

    def counts(self, queues: Sequence[str]) -> list[QueueInfo]:
        """How many tasks of each queue are in each state; a round trip for about 140 queues."""
        return [to_queue(name, row) for name, row, _ in self._look(queues, "counts", 0)]

    @contextmanager
    def naming_keys(self, queue: str) -> Iterator[None]:
        """Say which key of the queue is of another kind, where that is why a script was refused."""
        try:
            yield
        except BrokerRefusedError as error:
            if problem := self.counts([queue])[0].problem:
                raise BrokerRefusedError(f"queue {queue}: {problem}") from error
            raise

    def queue_details(self, queues: Sequence[str], most_samples: int = _SAMPLE) -> list[QueueDetail]:
        """Each queue as a whole; a round trip for about 12 queues.

        Args:
            queues: Their names.
            most_samples: Of how many tasks of each state the memory is measured at most.
        """
        samples = max(1, min(most_samples, _SAMPLES // max(len(queues), 1)))
        return [to_queue_detail(name, row, now_s) for name, row, now_s in self._look(queues, "whole", samples)]

    def queue_ends(self, queues: Sequence[str], samples: int) -> list[tuple[QueueDetail, Sequence[Any]]]:
        """The same, each with what stands at the ends of its lists, as look.lua has it; 0 samples: without memory."""
        found = self._look(queues, "ends", samples)
        return [(to_queue_detail(name, row, now_s), row[QUEUE_FIELDS:]) for name, row, now_s in found]

    def _look(self, queues: Sequence[str], told: str, samples: int) -> list[tuple[str, Any, float]]:
        """Each queue with its row, and Redis's time; look.lua says what is in a row."""
        rows: list[tuple[str, Any, float]] = []
        while left := queues[len(rows) : len(rows) + CHUNK]:
            now, found = self._run("look", [told, samples, *left])
            # The script may end before the last name.
            rows += [(name, row, float(now)) for name, row in zip(left, found, strict=False)]
        return rows

    def misplaced(self) -> list[str]:
        """What is wrong with the keys that are no queue's or task's."""
        with translated(), self.connection.pipeline(transaction=False) as pipeline:
            for key in kinds():
                pipeline.type(key)
            return told_misplaced(pipeline.execute())

    def days(self, queue: str, days: Sequence[date]) -> list[Day]:
        """Processed and failed tasks of the queue on each of these days."""
        names = [keys.stats(queue, (day - date(1970, 1, 1)).days) for day in days]
        with translated(), self.connection.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.hmget(raw(name), "processed", "failed", "dropped")
            answers = sound(pipeline.execute(raise_on_error=False))
        return [
            Day(day, 0, 0, str(MisplacedKeyError(name, "hash"))) if found is None
            else Day(day, to_count(found[0]), to_count(found[1]), dropped=to_count(found[2]))
            for day, name, found in zip(days, names, answers, strict=True)
        ]  # fmt: skip

    def pause(self, queue: str) -> bool:
        """Let no worker claim from the queue; True if it was not paused before."""
        with expecting("set", keys.PAUSED):
            return bool(self.connection.sadd(keys.PAUSED, queue))

    def resume(self, queue: str) -> bool:
        """Let workers claim from the queue again; True if it was paused. The caller wakes them."""
        with expecting("set", keys.PAUSED):
            return bool(self.connection.srem(keys.PAUSED, queue))

    def delete_queue(self, queue: str) -> bool:
        """Take a queue out of the lists of queues; False: it holds tasks."""
        return bool(self._run("unlist", [queue]))

    def unlock(self, queue: str, task_type: str, digest: str, task_id: str, *, also_of_living: bool) -> str:
        """Release a unique lock; the answer of unlock.lua."""
        return text(self._run("unlock", [queue, task_type, digest, task_id, int(also_of_living)]))

    def has_workers(self, queue: str) -> bool:
        """True if any worker, of whatever host, works on the queue; two round trips."""
        registry = f"{keys.WORKERS}:{queue}"
        with expecting("set", registry):
            names = list(self.connection.smembers(raw(registry)))
            # The set keeps the names of daemons that were killed; their records expire.
            return bool(names) and bool(self.connection.exists(*names))

    def living(self, but: Container[str] = ()) -> list[Neighbour]:
        """The workers that live, by name, but for those of some daemons."""
        return neighbours(self.connection, but)

    def unserved(self) -> list[str]:
        """Queues that may hold tasks of boilerd's and on which no worker works, of whatever host; three round trips.

        None where no worker lives at all: it is not known who will come.
        """
        names = self._served()
        with translated(), self.connection.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.smembers(raw(f"{keys.WORKERS}:{name}"))
            members = sound(pipeline.execute(raise_on_error=False))
        # The sets keep the names of daemons that were killed; their records expire.
        living = {worker for found in members for worker in found or ()}
        with translated(), self.connection.pipeline(transaction=False) as pipeline:
            for worker in living:
                pipeline.exists(worker)
            dead = {worker for worker, is_there in zip(living, pipeline.execute(), strict=True) if not is_there}
        if living == dead:
            return []
        return [name for name, found in zip(names, members, strict=True) if not set(found or ()) - dead]

    # --- Tasks

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

    def sift(self, queue: str, state: TaskState, start: int, looks: int, most: int) -> tuple[int, list[Member]]:
        """Find the scheduled tasks of the queue, or those to be retried, among both.

        Args:
            queue: Its name.
            state: Which of the two.
            start: From which place of the registry on.
            looks: How many to look at; Redis serves nobody else for about 1 µs each.
            most: How many to find at most.

        Returns:
            How many were looked at, 0 at the end of the registry; and what was found.
        """
        has_failed = int(state is TaskState.RETRY)
        looked, *found = self._run("sift", [queue, has_failed, start, looks, most])
        if looked < 0:
            raise MisplacedKeyError(*_place(queue, state))
        return looked, [(text(task_id), float(score)) for task_id, score in zip(found[::2], found[1::2], strict=True)]

    def _pending(self, queue: str, start: int, count: int) -> list[Member]:
        connection: Any = self.connection
        with expecting("list", key := keys.queue(queue)):
            queued = connection.lrange(raw(key), start, start + count - 1)
            found: list[Member] = [(text(task_id), None) for task_id in queued]
            if len(found) == count:
                return found
            length = connection.llen(raw(key))
        return [*found, *self._aside(queue, max(start - length, 0), count - len(found))]

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
        """Each task without its attempts; as `rows`."""
        return [*self.rows(members, is_whole=is_whole)]

    def rows(self, members: Sequence[Member], *, is_whole: bool = True) -> TaskRows:
        """The same, each of which is made when somebody looks at it.

        Args:
            members: The tasks.
            is_whole: False to leave payload, headers and result of a large one where they are; for jobs of plain RQ
                that are large that takes a second round trip.
        """
        if is_whole:
            return TaskRows(
                [(member, record, 0) for member, record in zip(members, self._records(members), strict=True)]
            )
        rows: list[TaskRow] = []
        for first in range(0, len(members), AT_ONCE):
            rows += self._listed(members[first : first + AT_ONCE])
        foreign = [place for place, (_, record, size) in enumerate(rows) if size and _is_foreign(record)]
        for place, record in zip(foreign, self._records([members[each] for each in foreign]), strict=True):
            rows[place] = members[place], record, 0
        return TaskRows(rows)

    def _listed(self, members: Sequence[Member]) -> list[TaskRow]:
        """Each with its job hash; or, of a large one, its small fields and the size of its data. One round trip."""
        ids = [raw(task_id) for task_id, _ in members]
        found = self._run("listed", [MOST_LISTED, len(_SMALL_FIELDS), *_SMALL_FIELDS, *ids])
        return [
            (member, _as_record(record) if size else dict(zip(record[::2], record[1::2], strict=True)), size)
            for member, size, record in zip(members, found[::2], found[1::2], strict=True)
        ]

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

    def crons(self, ticks: Mapping[str, float], now_s: float) -> list[CronInfo]:
        """The periodic tasks that daemons have, by name; `ticks`: the last of each."""
        connection: Any = self.connection
        with expecting("hash", keys.SCHEDULES):
            found = {text(name): value for name, value in connection.hgetall(keys.SCHEDULES).items()}
        return [to_cron(name, found[name], ticks.get(name), now_s) for name in sorted(found)]

    def paused_crons(self) -> dict[str, datetime]:
        """Name of each periodic task that is paused → since when."""
        connection: Any = self.connection
        with expecting("hash", keys.CRON_PAUSED):
            found = connection.hgetall(keys.CRON_PAUSED)
        return {text(name): since for name, value in found.items() if (since := _moment_of(value))}

    def pause_cron(self, name: str) -> bool:
        """Pause it; False: it was paused."""
        with expecting("hash", keys.CRON_PAUSED):
            seconds, _ = self.connection.time()
            return bool(self.connection.hsetnx(keys.CRON_PAUSED, name, str(seconds)))

    def want_cron(self, name: str) -> None:
        """Have a daemon that has it enqueue its task; those that see it in `WANTED_TTL_S` do."""
        with expecting("hash", keys.CRON_WANTED), self.connection.pipeline() as pipeline:
            pipeline.hset(keys.CRON_WANTED, name, "1")
            pipeline.expire(keys.CRON_WANTED, WANTED_TTL_S)
            pipeline.execute()

    def resume_cron(self, name: str) -> bool:
        """Resume it; False: it was not paused."""
        with expecting("hash", keys.CRON_PAUSED):
            return bool(self.connection.hdel(keys.CRON_PAUSED, name))

    # --- Workers and the server

    def is_suspended(self) -> bool:
        """True if `rq suspend` holds the claims of all workers."""
        with translated():
            return bool(self.connection.exists(keys.SUSPENDED))

    def workers(self) -> list[WorkerInfo]:
        """All registered workers, by name, with the task that each runs; three round trips."""
        connection: Any = self.connection
        try:
            with expecting("set", keys.WORKERS):
                names = sorted(connection.smembers(keys.WORKERS))
        except MisplacedKeyError as error:
            return [bad_worker(keys.WORKERS, str(error))]
        with translated(), self.connection.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.hmget(name, *WORKER_FIELDS)
                pipeline.scard(name + b":executions")
                pipeline.srandmember(name + b":executions")  # one with several slots may hold thousands
            answers = sound(pipeline.execute(raise_on_error=False))
        prefix = keys.worker("")
        rows, records = [], []
        for name, record, held, pair in zip(map(text, names), *(answers[i::3] for i in range(3)), strict=True):
            if record is None or held is None:
                wrong = MisplacedKeyError(*((name, "hash") if record is None else (f"{name}:executions", "set")))
                rows.append(bad_worker(name.removeprefix(prefix), str(wrong)))
            elif any(record):
                fields = {field: value for field, value in zip(WORKER_FIELDS, record, strict=True) if value is not None}
                records.append((name.removeprefix(prefix), fields, text(pair or b""), held))
        return sorted(rows + self._with_tasks(records), key=lambda worker: worker.name)

    def _with_tasks(self, records: Sequence[tuple[str, Any, str, int]]) -> list[WorkerInfo]:
        """The workers of these names and records, each with the task of a claim that it holds, and how many it has."""
        busy = [pair for _, _, pair, _ in records if pair]
        with translated(), self.connection.pipeline(transaction=False) as pipeline:
            pipeline.time()
            for pair in busy:
                pipeline.hmget(raw(keys.execution(pair)), "job_id", "created_at")
                pipeline.hget(raw(keys.job(pair.rpartition(":")[0])), "task_type")
            (now_s, _), *running = sound(pipeline.execute(raise_on_error=False))
        tasks = {
            pair: (attempt or (), kind) for pair, attempt, kind in zip(busy, running[::2], running[1::2], strict=True)
        }
        found = []
        for name, record, pair, held in records:
            attempt, task_type = tasks.get(pair, ((), b""))
            execution = {
                field: value for field, value in zip((b"job_id", b"created_at"), attempt, strict=False) if value
            }
            is_alive = _is_living(record, now_s)
            found.append(to_worker(name, record, execution, text(task_type or b""), held, is_alive=is_alive))
        return found

    def server(self) -> dict[str, Any]:
        """``version uptime_s clients memory_bytes peak_memory_bytes`` of Redis or Valkey; checks it as at a start.

        All but the first are None where Redis does not tell.
        """
        version = server_check.check(self.connection)
        info = server_check.server_info(self.connection)
        return {
            "server": version, "uptime_s": info.get("uptime_in_seconds"), "clients": info.get("connected_clients"),
            "memory_bytes": info.get("used_memory"), "peak_memory_bytes": info.get("used_memory_peak"),
        }  # fmt: skip


def _is_living(record: Mapping[bytes, bytes], now_s: float) -> bool:
    heartbeat, birthmark = (text(record.get(name, b"")) for name in (b"last_heartbeat", b"birthmark"))
    return is_living(heartbeat, birthmark, now_s)


def kinds() -> dict[str, tuple[str, str]]:
    """Keys that are no queue's or task's → Redis's word for their kind, and ours."""
    return {
        keys.QUEUES: ("set", "set"), keys.WORKERS: ("set", "set"), keys.PAUSED: ("set", "set"),
        keys.SERVED: ("set", "set"), keys.LIMITS: ("hash", "hash"), keys.CRON: ("hash", "hash"),
        keys.ALARM: ("list", "list"),
    }  # fmt: skip


def told_misplaced(found: Sequence[bytes | str]) -> list[str]:
    """What is wrong with the keys of `kinds`, of what Redis says to be the kind of each."""
    return [
        str(MisplacedKeyError(key, word))
        for (key, (kind, word)), there in zip(kinds().items(), found, strict=True)
        if text(there) not in {kind, "none"}
    ]


def named_queues(found: Iterable[bytes | str]) -> tuple[list[str], list[QueueInfo]]:
    """The queues that the members of the list of queues name, and a row for each member that names none."""
    members, prefix = sorted(map(text, found)), keys.queue("")
    names = [member.removeprefix(prefix) for member in members if member.startswith(prefix)]
    others = [member for member in members if not member.startswith(prefix)]
    wrong = f"in {keys.QUEUES} names no queue, as {prefix}NAME does, remove it"
    return names, [bad_queue(member, f"member {member} {wrong}") for member in others]


def _place(queue: str, state: TaskState) -> tuple[str, str]:
    """The key where the queue's tasks in the state stand, and of what kind it is."""
    if state is TaskState.PENDING:
        return keys.queue(queue), "list"
    return keys.wip(queue) if state is TaskState.ACTIVE else keys.registry(REGISTRIES[state], queue), "sorted set"


def _moment_of(value: bytes) -> datetime | None:
    """Seconds since 1970; None for a stranger's value."""
    with suppress(ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(float(value), UTC)
    return None


def sound(answers: Sequence[Any]) -> list[Any]:
    """The answers of a pipeline, with None for a key of another kind; raises the first other error."""
    for answer in answers:
        if isinstance(answer, redis.RedisError) and not is_wrong_kind(answer):
            raise answer
    return [None if isinstance(answer, Exception) else answer for answer in answers]


def _is_foreign(record: Mapping[bytes, bytes]) -> bool:
    """Whether a job is one of RQ's, which has its type in its data."""
    return b"task_type" not in record


def _as_record(values: Sequence[bytes | None]) -> dict[bytes, bytes]:
    """The small fields that are there."""
    found = zip(_SMALL_FIELDS, values, strict=True)
    return {name.encode(): value for name, value in found if value is not None}


def _scored_place(detail: TaskDetail) -> str | None:
    """The sorted set where the task's score would be; None: its state has none."""
    if detail.state is TaskState.PENDING:
        return keys.aside(detail.queue)
    kind = REGISTRIES.get(detail.state) if detail.state else None
    return keys.registry(kind, detail.queue) if kind else None

"""Read queues, tasks and workers from RQ's layout for people, and pause queues.

Each method is one round trip unless it says otherwise, and raises BrokerError if Redis does not answer, or refuses.
A key of another kind, as another program may put it there, is told in the row of what it belongs to, and all other rows
are read; where one thing alone is asked for, it is a MisplacedKeyError.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime
from typing import Any

from boilerd.broker import keys, server_check
from boilerd.broker.connection import raw, text
from boilerd.broker.constants import MOST_READS, WANTED_TTL_S
from boilerd.broker.neighbours import Neighbour, is_living, neighbours
from boilerd.broker.refusals import expecting, sound, translated
from boilerd.broker.task_inspection import TaskInspection
from boilerd.broker.view_reader import (
    QUEUE_FIELDS,
    WORKER_FIELDS,
    bad_queue,
    bad_worker,
    to_count,
    to_cron,
    to_queue,
    to_queue_detail,
    to_worker,
)  # fmt: skip
from boilerd.broker.views import CronInfo, Day, QueueDetail, QueueInfo, WorkerInfo
from boilerd.broker.worker_records import WorkerRecords
from boilerd.errors import BrokerRefusedError, MisplacedKeyError

#: Of how many tasks of each state the size is measured, to estimate the memory of all; and of all queues together.
_SAMPLE, _SAMPLES = 20, 1000
#: Commands of look.lua for a queue, and for how many of its keys one more and one for each sample.
_READS, _MEASURED = {"counts": 6, "whole": 11, "ends": 13}, 5


class Inspection(TaskInspection):
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
        """How many tasks of each queue are in each state; a round trip for 21 queues."""
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
        """Each queue as a whole; a round trip for each, and for six where one sample does.

        Args:
            queues: Their names.
            most_samples: Of how many tasks of each state the memory is measured at most.
        """
        samples = max(1, min(most_samples, _SAMPLES // max(len(queues), 1)))
        return [to_queue_detail(name, row, now_s) for name, row, now_s in self._look(queues, "whole", samples)]

    def queue_ends(self, queues: Sequence[str], samples: int) -> list[tuple[QueueDetail, Sequence[Any]]]:
        """The same, each with what stands at the ends of its lists, as look.lua has it.

        Of 0 samples it is without memory, what was done today, what is due, and what came into the archive.
        """
        found = self._look(queues, "ends", samples)
        return [(to_queue_detail(name, row, now_s), row[QUEUE_FIELDS:]) for name, row, now_s in found]

    def _look(self, queues: Sequence[str], told: str, samples: int) -> list[tuple[str, Any, float]]:
        """Each queue with its row, and Redis's time; look.lua says what is in a row."""
        rows: list[tuple[str, Any, float]] = []
        measured = _MEASURED * (1 + samples) if samples else 0
        at_once = max(1, MOST_READS // (_READS[told] + measured))
        while names := queues[len(rows) : len(rows) + at_once]:
            now, found = self._run("look", [told, samples, *names])
            rows += [(name, row, float(now)) for name, row in zip(names, found, strict=True)]
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

    # --- Periodic tasks

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
        """All registered workers, by name, with the task that each runs; two round trips, and more for dozens."""
        connection: Any = self.connection
        try:
            with expecting("set", keys.WORKERS):
                names = sorted(connection.smembers(keys.WORKERS))
        except MisplacedKeyError as error:
            return [bad_worker(keys.WORKERS, str(error))]
        with translated():
            now_s, _ = connection.time()
        reader = WorkerRecords(self.connection)
        rows = []
        for (name, record), run in zip(reader.read(names, WORKER_FIELDS).items(), reader.runs(names), strict=True):
            shown = name.removeprefix(keys.worker(""))
            if record is None or run is None:
                wrong = MisplacedKeyError(*((name, "hash") if record is None else (f"{name}:executions", "set")))
                rows.append(bad_worker(shown, str(wrong)))
            elif any(record):
                fields = dict(zip(WORKER_FIELDS, [text(value or b"") for value in record], strict=True))
                is_alive = is_living(fields["last_heartbeat"], fields["birthmark"], now_s)
                rows.append(to_worker(shown, fields, run, is_alive=is_alive))
        return sorted(rows, key=lambda worker: worker.name)

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


def _moment_of(value: bytes) -> datetime | None:
    """Seconds since 1970; None for a stranger's value."""
    with suppress(ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(float(value), UTC)
    return None

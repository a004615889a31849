"""The part of `Broker` that the scheduler and the daemon's start use: leases, due and expired tasks, ticks."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import redis

from boilerd.broker import keys
from boilerd.broker.claims import Claim, Overdue
from boilerd.broker.connection import raw, text
from boilerd.broker.constants import CHUNK, MOST_TEXT
from boilerd.broker.held_claims import HeldClaims
from boilerd.broker.job_hash import NewTask, describe_task, to_answer, to_claim_of_hash
from boilerd.broker.refusals import expecting, is_wrong_kind
from boilerd.errors import BoilerdError, MisplacedKeyError

if TYPE_CHECKING:  # commands that know no process are spared ctypes
    from boilerd.process.identity import Load

#: The end of the year 9998: no date is later, in any time zone.
LAST_TICK_S = 253370764800.0
#: Workers whose leases one script renews; each may have 32 of them.
MOST_WORKERS = 100
#: Claims in one answer; their hashes may be large.
MOST_EXPIRED = 100
#: Slices of the keys for which tasks wait, in one look: bounds what very many of them cost Redis to 1 % of its time.
MOST_SLICES = 10
#: The cursor of a first slice.
_FIRST = "0"


class SchedulerCalls(HeldClaims):
    """The calls that look after the tasks and workers of all hosts.

    Those that take `queues` look there beside the queues that hold tasks of boilerd's, a slice of them in each
    script, so that Redis serves others between two.
    """

    def __init__(self, connection: redis.Redis) -> None:
        super().__init__(connection)
        self._waiting_cursor = _FIRST

    def extend(
        self,
        workers: Sequence[str],
        running: Mapping[str, tuple[int, int]] | None = None,
        loads: "Mapping[str, Load | None] | None" = None,
    ) -> tuple[list[Overdue], list[str]]:
        """Renew the leases and the presence of live workers.

        Args:
            workers: Their names.
            running: Of those that run a task, its claim: number of the batch and place, as `batch_place` has them.
            loads: What each takes of its host, where that is known.

        Returns:
            The attempts past their timeout or deadline; and the names of the workers whose task still runs although
            it was cancelled, deleted or taken over.
        """
        marks = {worker: f"{number:07x}-{place}" for worker, (number, place) in (running or {}).items()}
        late, gone = [], []
        for first in range(0, len(workers), MOST_WORKERS):
            some = workers[first : first + MOST_WORKERS]
            args = [part for name in some for part in (name, marks.get(name, ""), *load_args((loads or {}).get(name)))]
            overdue, unwanted = self._run("extend", args)
            for worker, pair, late_s, limit_s in overdue:
                task_id, _, execution_id = text(pair).rpartition(":")
                late.append(Overdue(text(worker), task_id, execution_id, float(late_s), float(limit_s)))
            gone += [text(worker) for worker in unwanted]
        return late, gone

    def adopt(self, workers: Sequence[str], queues: Sequence[str]) -> int:
        """Write anew which claims of these queues live workers hold, and renew them; how many.

        Where Redis's clock was put forward by a day or more, nothing else knows of them.
        """
        adopted = 0
        for queue in queues:
            cursor = _FIRST
            while cursor:
                count, following = self._run("adopt", [queue, cursor, *workers])
                adopted += int(count)
                cursor = _next(following)
        return adopted

    def forward(self, queues: Sequence[str] = ()) -> tuple[int, float | None]:
        """Move due tasks to their queues, up to `CHUNK`.

        Returns:
            How many were moved, and the seconds until the next is due (None: no task is scheduled).
        """
        moved, left_s, cursor = 0, [], _FIRST
        while cursor and moved < CHUNK:
            count, left, following = self._run("forward", [CHUNK - moved, cursor, *queues])
            moved += int(count)
            left_s += [float(left)] if left else []
            cursor = _next(following)
        return moved, min(left_s, default=None)

    def wait_for_alarm(self, timeout_s: float) -> bool:
        """Sleep at most `timeout_s`, until a task is scheduled that is due soon; True if one was."""
        with self._translating():
            return self.connection.blpop([keys.ALARM], timeout_s) is not None

    def expired(self, queues: Sequence[str] = ()) -> list[tuple[str, Claim]]:
        """Claims whose lease ran out, up to 100, each behind the name of the worker that had it.

        Tasks that wait for a concurrency key are called before, where that was missed.
        """
        self._call_waiting()
        found: list[Any] = []
        cursor = _FIRST
        while cursor and len(found) < MOST_EXPIRED:
            claims, following = self._run("expired", [MOST_EXPIRED - len(found), cursor, *queues])
            found += claims
            cursor = _next(following)
        return [(text(worker), to_claim_of_hash(*claim)) for worker, *claim in found]

    def _call_waiting(self) -> None:
        """Call tasks that wait for a concurrency key; the next call goes on with the keys that are left."""
        for _ in range(MOST_SLICES):
            following = _next(self._run("waiting", [self._waiting_cursor]))
            self._waiting_cursor = following or _FIRST
            if not following:
                return

    def registered(self) -> dict[str, tuple[str, str]]:
        """Name of each registered worker → birthmarks of its process and of its supervisor's ('': not known)."""
        with self._translating():
            try:
                found = [text(key) for key in self.connection.smembers(keys.WORKERS)]
            except redis.ResponseError as error:  # leases are looked after all the same
                if not is_wrong_kind(error):
                    raise
                return {}
            with self.connection.pipeline(transaction=False) as pipeline:
                for key in found:
                    pipeline.hmget(raw(key), "birthmark", "supervisor")
                marks = pipeline.execute(raise_on_error=False)  # a key may be foreign
        prefix = keys.worker("")
        return {
            key.removeprefix(prefix): (text(pair[0] or b""), text(pair[1] or b""))
            for key, pair in zip(found, marks, strict=True)
            if isinstance(pair, list)
        }

    def forget_worker(self, worker: str) -> None:
        """Take a dead worker out of the registry; its claims must have been settled."""
        self._run("death", [worker])

    def clean(self, queues: Sequence[str] = ()) -> int:
        """Delete completed and archived tasks whose retention is over, up to `CHUNK`; how many.

        The names of workers whose records expired go, too.
        """
        removed, cursor = 0, _FIRST
        while cursor and removed < CHUNK:
            count, following = self._run("janitor", [CHUNK - removed, cursor, *queues])
            removed += int(count)
            cursor = _next(following)
        return removed

    def forget_idle_queues(self, cursor: str) -> str:
        """Look at the next of the queues that schedulers look at, and take those out that hold nothing.

        Args:
            cursor: What the last call returned; ``0``: begin with the first.

        Returns:
            Where to go on; ``0`` after the last.
        """
        return text(self._run("tidy", [cursor, CHUNK]))

    def roll_metrics(self) -> bool:
        """Roll up the metrics of some pairs of queue and type; True if there are more."""
        return bool(self._run("roll", []))

    def tick(
        self, name: str, tick_s: float, task: NewTask | None, *, missed: int = 0, why: str = "passed over"
    ) -> tuple[bool, BoilerdError | None]:
        """Take a tick of a periodic task, store its task (None: pass it over), and note it in the history of its entry.

        Args:
            name: Of the entry.
            tick_s: The tick.
            task: Its task.
            missed: How many ticks before it were missed.
            why: Why it is passed over.

        Returns:
            True if the tick is ours, False if another host had it; and the reason why its task was not stored.
        """
        noted: list[str | bytes | float] = [name, repr(tick_s), missed, why[:MOST_TEXT].encode("utf-8", "replace")]
        is_ours, *answers = self._run("tick", [*noted, *(describe_task(task) if task else ())])
        answer = to_answer(task, answers[0]) if task and answers else None
        return bool(is_ours), answer if isinstance(answer, BoilerdError) else None

    def ticks_since(self, schedules: Mapping[str, str]) -> dict[str, float]:
        """Name of each periodic task → the moment after which its ticks count: the last one, or when it was first seen.

        Args:
            schedules: Name → its schedule as text; with another one, an entry is seen for the first time.
        """
        moments = self._run("since", [part for entry in schedules.items() for part in entry])
        return {name: float(moment) for name, moment in zip(schedules, moments, strict=True)}

    def take_wanted(self, names: Collection[str]) -> list[str]:
        """Those of these periodic tasks that somebody wants to run now, and that no other host has taken."""
        asked: Any = self.connection
        with suppress(MisplacedKeyError), expecting("hash", keys.CRON_WANTED):
            wanted = [text(name) for name in asked.hkeys(keys.CRON_WANTED)]
            return [name for name in wanted if name in names and asked.hdel(keys.CRON_WANTED, name)]
        return []

    def last_ticks(self) -> dict[str, float]:
        """Name of a periodic task → its last tick; none where a foreign key stands, which a tick replaces."""
        with suppress(MisplacedKeyError):
            return self.read_ticks()
        return {}

    def read_ticks(self) -> dict[str, float]:
        """As `last_ticks`, but raises MisplacedKeyError where a foreign key stands there."""
        found = {}
        with expecting("hash", keys.CRON):
            for name, value in self.connection.hgetall(keys.CRON).items():
                with suppress(ValueError):
                    tick = float(value)
                    if 0 <= tick <= LAST_TICK_S:  # any other value is foreign, and no tick
                        found[text(name)] = tick
        return found

    def publish(self, daemon: str, size: int, facts: str | None = None) -> bool:
        """Have Redis keep for `DAEMON_TTL_S` what a daemon tells of itself.

        Args:
            daemon: Its name.
            size: How many characters it tells; all are ASCII.
            facts: What it tells, as JSON; None: what it told before.

        Returns:
            False if that is not there, and must be sent.
        """
        return bool(self._run("publish", [daemon, size, *([] if facts is None else [facts])]))

    def withdraw(self, daemon: str) -> None:
        """Take away what a daemon tells of itself, at its end."""
        with self._translating(), self.connection.pipeline(transaction=False) as pipeline:
            pipeline.delete(keys.daemon(daemon))
            pipeline.zrem(keys.DAEMONS, daemon)
            pipeline.execute(raise_on_error=False)  # what stays, as it is of another kind or not allowed, expires

    def now(self) -> float:
        """Redis's time, in seconds since 1970."""
        with self._translating():
            seconds, micros = self.connection.time()
        return float(seconds) + float(micros) / 1e6

    def count_pending(self, queues: Sequence[str]) -> int:
        """How many tasks wait in these queues."""
        with self._translating(), self.connection.pipeline(transaction=False) as pipeline:
            for name in queues:
                pipeline.llen(keys.queue(name))
                pipeline.zcard(keys.aside(name))
            answers = pipeline.execute(raise_on_error=False)
        return sum(answer for answer in answers if isinstance(answer, int))  # a key may be of another kind

    def count_dropped(self, queues: Sequence[str]) -> dict[str, int]:
        """Queue → how many tasks the limit of its archive has cost today."""
        day = int(self.now() // 86400)
        with self._translating(), self.connection.pipeline(transaction=False) as pipeline:
            for name in queues:
                pipeline.hget(keys.stats(name, day), "dropped")
            answers = pipeline.execute(raise_on_error=False)  # a key may be of another kind
        counts = (_number(text(answer)) if isinstance(answer, bytes) else None for answer in answers)
        return {name: count or 0 for name, count in zip(queues, counts, strict=True)}

    def set_limits(self, limits: Mapping[str, int], queues: Iterable[str] = ()) -> None:
        """Set limits, ``QUEUE:max_active`` and ``QUEUE:max_length`` → how many; and take away all others of `queues`.

        Those of other queues stay. Limits that are set already are not written again: a Redis that is full would
        refuse it.
        """
        self._write_limits(self._wrong_limits(limits, queues))

    def has_limits(self, limits: Mapping[str, int], queues: Iterable[str] = ()) -> bool:
        """Whether these are set already, and no others of `queues`."""
        return not self._wrong_limits(limits, queues)

    def keep_limits(self, limits: Mapping[str, int]) -> dict[str, int]:
        """Set those limits that are missing, as after FLUSHALL; the others that have another value, which they keep."""
        found = {name: _number(value) for name, value in self._limits(limits).items()}
        self._write_limits({name: limits[name] for name, value in found.items() if value is None})
        return {name: value for name, value in found.items() if value is not None and value != limits[name]}

    def _wrong_limits(self, limits: Mapping[str, int], queues: Iterable[str]) -> dict[str, int | None]:
        """The limits to be set, and those to be taken away (None)."""
        names = [f"{queue}:{name}" for queue in queues for name in ("max_active", "max_length")]
        found = self._limits([*limits, *names])
        wanted = {name: limits.get(name) for name in found}
        return {name: limit for name, limit in wanted.items() if found[name] != (None if limit is None else str(limit))}

    def _limits(self, names: Iterable[str]) -> dict[str, str | None]:
        """What Redis has of these limits."""
        names = list(dict.fromkeys(names))
        if not names:
            return {}
        with self._translating():
            try:
                values = self.connection.hmget(keys.LIMITS, names)
            except redis.ResponseError as error:
                if not str(error).startswith("WRONGTYPE"):
                    raise
                values = [None] * len(names)
        return {name: None if value is None else text(value) for name, value in zip(names, values, strict=True)}

    def _write_limits(self, limits: Mapping[str, int | None]) -> None:
        """Set these limits, and take away those that are None."""
        if not limits:
            return
        with self._translating(), self.connection.pipeline() as pipeline:
            if self.connection.type(keys.LIMITS) not in {b"hash", b"none"}:
                pipeline.delete(keys.LIMITS)
            for name, limit in limits.items():
                pipeline.hdel(keys.LIMITS, name) if limit is None else pipeline.hset(keys.LIMITS, name, limit)
            pipeline.execute()


def load_args(load: "Load | None") -> tuple[str, str]:
    """What extend.lua and renew.lua are told of a worker's memory and CPU."""
    return (str(load.rss_bytes), str(load.cpu_ms)) if load else ("", "")


def _next(cursor: bytes) -> str:
    """The cursor of the next slice; empty after the last."""
    return "" if (found := text(cursor)) == _FIRST else found


def _number(value: str | None) -> int | None:
    return int(value) if value and value.isascii() and value.isdecimal() else None

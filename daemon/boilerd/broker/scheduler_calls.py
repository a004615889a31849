"""The part of `Broker` that the scheduler and the daemon's start use: leases, due and expired tasks, ticks."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

import redis

from boilerd.broker import keys
from boilerd.broker.claims import Claim, Overdue
from boilerd.broker.connection import raw, text
from boilerd.broker.constants import CHUNK
from boilerd.broker.job_hash import NewTask, describe_task, to_answer, to_claim_of_hash
from boilerd.broker.refusals import expecting, is_wrong_kind
from boilerd.broker.script_calls import ScriptCalls
from boilerd.errors import BoilerdError, MisplacedKeyError

#: The end of the year 9998: no date is later, in any time zone.
LAST_TICK_S = 253370764800.0


class SchedulerCalls(ScriptCalls):
    """The calls that look after the tasks and workers of all hosts.

    Those that take `queues` look there beside the queues that hold tasks of boilerd's.
    """

    def extend(self, workers: Sequence[str]) -> tuple[list[Overdue], list[str]]:
        """Renew the leases and the presence of live workers.

        Returns:
            The attempts past their timeout or deadline; and the names of the workers whose task still runs although
            it was cancelled, or taken over.
        """
        overdue, unwanted = self._run("extend", workers)
        late = []
        for worker, pair, late_s, limit_s in overdue:
            task_id, _, execution_id = text(pair).rpartition(":")
            late.append(Overdue(text(worker), task_id, execution_id, float(late_s), float(limit_s)))
        return late, [text(worker) for worker in unwanted]

    def adopt(self, workers: Sequence[str], queues: Sequence[str]) -> int:
        """Write anew which claims of these queues live workers hold, and renew them; how many.

        Where Redis's clock was put forward by a day or more, nothing else knows of them.
        """
        return int(self._run("adopt", [str(len(workers)), *workers, *queues]))

    def forward(self, queues: Sequence[str] = ()) -> tuple[int, float | None]:
        """Move due tasks to their queues, up to `CHUNK`.

        Returns:
            How many were moved, and the seconds until the next is due (None: no task is scheduled).
        """
        moved, left = self._run("forward", [CHUNK, *queues])
        return int(moved), float(left) if left else None

    def wait_for_alarm(self, timeout_s: float) -> bool:
        """Sleep at most `timeout_s`, until a task is scheduled that is due soon; True if one was."""
        with self._translating():
            return self.connection.blpop([keys.ALARM], timeout_s) is not None

    def expired(self, queues: Sequence[str] = ()) -> list[tuple[str, Claim]]:
        """Claims whose lease ran out, up to 100, each behind the name of the worker that had it."""
        found = self._run("expired", [100, *queues])
        return [(text(worker), to_claim_of_hash(*claim)) for worker, *claim in found]

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
        return int(self._run("janitor", [CHUNK, *queues]))

    def forget_idle_queues(self, cursor: str) -> str:
        """Look at the next of the queues that schedulers look at, and take those out that hold nothing.

        Args:
            cursor: What the last call returned; ``0``: begin with the first.

        Returns:
            Where to go on; ``0`` after the last.
        """
        return text(self._run("tidy", [cursor, CHUNK]))

    def tick(self, name: str, tick_s: float, task: NewTask | None) -> tuple[bool, BoilerdError | None]:
        """Take a tick of a periodic task and store its task (None: pass it over).

        Returns:
            True if the tick is ours, False if another host had it; and the reason why its task was not stored.
        """
        is_ours, *answers = self._run("tick", [name, repr(tick_s), *(describe_task(task) if task else ())])
        answer = to_answer(task, answers[0]) if task and answers else None
        return bool(is_ours), answer if isinstance(answer, BoilerdError) else None

    def ticks_since(self, schedules: Mapping[str, str]) -> dict[str, float]:
        """Name of each periodic task → the moment after which its ticks count: the last one, or when it was first seen.

        Args:
            schedules: Name → its schedule as text; with another one, an entry is seen for the first time.
        """
        moments = self._run("since", [part for entry in schedules.items() for part in entry])
        return {name: float(moment) for name, moment in zip(schedules, moments, strict=True)}

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
            answers = pipeline.execute(raise_on_error=False)
        return sum(answer for answer in answers if isinstance(answer, int))  # a key may be of another kind

    def set_limits(self, limits: Mapping[str, int]) -> None:
        """Replace the limits of all queues: ``QUEUE:max_active`` and ``QUEUE:max_length`` → how many.

        Limits that are set already are not written again: a Redis that is full would refuse it.
        """
        if self.has_limits(limits):
            return
        with self._translating(), self.connection.pipeline() as pipeline:
            pipeline.delete(keys.LIMITS)
            for name, value in limits.items():
                pipeline.hset(keys.LIMITS, name, value)
            pipeline.execute()

    def has_limits(self, limits: Mapping[str, int]) -> bool:
        """Whether these, and no others, are set already."""
        with self._translating():
            try:
                found = self.connection.hgetall(keys.LIMITS)
            except redis.ResponseError:  # a key of another kind, to be replaced; or a refusal, which a write meets too
                return False
        return {text(name): text(value) for name, value in found.items()} == {n: str(v) for n, v in limits.items()}

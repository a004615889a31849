"""The broker: Redis as boilerd uses it.

With `keys` and `jobs` the only place that knows RQ's layout in Redis. Every change of state
is one Lua script in lua/; this module gives each a name, types and errors of ours.
"""

import base64
import itertools
import json
import os
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
import redis

from boilerd.broker import keys
from boilerd.broker.connection import text
from boilerd.broker.job_hash import (
    CLAIMED_FIELDS,
    Claim,
    Completion,
    Failure,
    NewTask,
    Overdue,
    batch_place,
    job_fields,
    started_at,
    to_claim,
)
from boilerd.broker.refusals import translate
from boilerd.broker.script_connection import ScriptConnection
from boilerd.broker.scripts import scripts
from boilerd.errors import (
    MAX_ERROR_LENGTH,
    BoilerdError,
    BrokerError,
    DuplicateTaskError,
    QueueFullError,
    TaskIdConflictError,
)
from boilerd.process.failpoints import failpoint
from boilerd.tasks.options import UniqueUntil
from boilerd.tasks.retry import Verdict
from boilerd.tasks.task import ARCHIVE_TTL_S, TaskState

#: A claim holds this long without a heartbeat; the scheduler extends it every 5 s.
LEASE_S = 30
#: RQ's own value: a worker that is not heard of for so long is gone from its registry.
WORKER_TTL_S = 420 + 60
#: Asynq's limit of an archive, per queue.
ARCHIVE_LIMIT = 10_000
#: Tasks in one enqueue script: bounds how long Redis serves nobody else, to about 5 ms.
BATCH = 500
#: Bytes of payload with which such a script ends: a larger one keeps Redis from others as well, and takes its memory.
BATCH_BYTES = 8 * 1024 * 1024
#: The end of the year 9998: no date is later, in whatever time zone.
LAST_TICK_S = 253370764800.0
#: Elements of a bell at most, as in common.lua.
MOST_TOKENS = 128
#: Why advance.lua claimed nothing, where that is not for want of tasks.
HOLDS_MORE, LOOK_AGAIN = 1, 2
#: A worker takes at most one more than this part of a queue in one batch: the rest is for the others.
BATCH_PARTS = 16


class Advance(msgspec.Struct, frozen=True):
    """What one call to advance brought.

    Attributes:
        lost: IDs of tasks whose lease was lost, so that their outcome was not written.
        claims: In their order; none when nothing is to be had.
        is_registered: Whether RQ's record of the worker is there.
        holds_more: Whether the worker holds a claim that it did not acknowledge; then nothing
            was claimed.
    """

    lost: list[str]
    claims: list[Claim]
    is_registered: bool = True
    holds_more: bool = False


class Broker:
    """Names, types and errors for the scripts.

    One instance belongs to one process; it holds nothing but the connection. TypeError: that is of another kind.
    """

    def __init__(self, connection: redis.Redis) -> None:
        self.connection = connection
        self._script_connection = ScriptConnection(connection)
        self._scripts = scripts()

    def enqueue(self, tasks: Iterable[NewTask]) -> list[TaskState | BoilerdError]:
        """Store tasks: one round trip for up to 500, or 8 MiB of payloads.

        Returns:
            For each task its state, or why it was not stored: TaskIdConflictError,
            DuplicateTaskError, QueueFullError.

        Raises:
            BrokerUnavailableError: Redis did not answer; the tasks of the last batch may or may not be stored.
        """
        answers: list[TaskState | BoilerdError] = []
        tasks = iter(tasks)
        while batch := _batch(tasks):
            args: list[str | bytes] = []
            for task in batch:
                args += _described(task)
            found = self._call("enqueue", args, answers_soon=len(batch) == 1)
            answers += (_to_answer(task, answer) for task, answer in zip(batch, found, strict=True))
        return answers

    def advance(
        self,
        worker: str,
        queues: Sequence[str],
        completions: Sequence[Completion] = (),
        *,
        limit: int = 1,
        wait_s: float = 0.0,
    ) -> Advance:
        """Acknowledge what ended well and claim the next tasks, in one call.

        Args:
            worker: Name of the worker.
            queues: In the order to try; none: claim nothing.
            completions: What ended well since the last call.
            limit: How many to claim at most; they come from one queue, and several from a long one only.
                0: the worker goes on with what it runs.
            wait_s: Sleep first until a task was enqueued, at most for so long. Redis claims when the bell
                rings, before this process hears of it.
        """
        args: list[str | bytes] = [worker, str(LEASE_S), str(limit), str(BATCH_PARTS), str(len(queues)), *queues]
        args.append(os.urandom(16).hex())
        for done in completions:
            c = done.claim
            args += [c.task_id, c.execution_id, c.queue, str(c.retention_s), c.started, base64.b64encode(done.result)]
            args += [c.task.type if c.task else "", "1" if c.needs_cleanup else "0"]
        wait: list[str | bytes] = []
        if wait_s and queues:
            wait = ["BLPOP", *map(keys.bell, queues), repr(wait_s)]
        lost, claimed, is_registered, why_nothing = self._call("advance", args, wait)
        first_done = len(args) - 8 * len(completions)
        while why_nothing == LOOK_AGAIN:
            # What was acknowledged is; a worker that has the next task to come need not know of those that cannot run.
            _, claimed, is_registered, why_nothing = self._call("advance", args[:first_done])
        claims = [
            to_claim(text(execution_id), text(task_id), text(queue), text(started), _claimed(values))
            for task_id, execution_id, queue, started, values in claimed
        ]
        return Advance([text(task_id) for task_id in lost], claims, bool(is_registered), why_nothing == HOLDS_MORE)

    def acknowledge(self, worker: str, completions: Sequence[Completion]) -> None:
        """Acknowledge what ended well while the worker runs something else; what lost its lease is left alone."""
        self.advance(worker, (), completions, limit=0)

    def register(self, worker: str, queues: Sequence[str], record: Mapping[str, str | int]) -> None:
        """Put the worker into RQ's registry, in place of a predecessor of the same name."""
        fields = itertools.chain.from_iterable(record.items())
        self._run("birth", [worker, WORKER_TTL_S, len(queues), *queues, *fields])

    def expired(self, queues: Sequence[str] = ()) -> list[tuple[str, Claim]]:
        """Claims whose lease ran out, up to 100, and the names of the workers that had them.

        Args:
            queues: Where to look beside the queues that boilerd's tasks were ever in.
        """
        found = []
        for worker, task_id, eid, queue, flat in self._run("expired", [100, *queues]):
            fields = _pairs(flat)
            found.append((text(worker), to_claim(text(eid), text(task_id), text(queue), started_at(fields), fields)))
        return found

    def registered(self) -> dict[str, tuple[str, str]]:
        """Name of each registered worker → the birthmarks of its process and of its supervisor's ('': not known)."""
        with self._talking():
            found = [text(key) for key in self.connection.smembers(keys.WORKERS)]
            with self.connection.pipeline(transaction=False) as pipeline:
                for key in found:
                    pipeline.hmget(key, "birthmark", "supervisor")
                marks = pipeline.execute(raise_on_error=False)  # a stranger may have put anything there
        prefix = keys.worker("")
        return {
            key.removeprefix(prefix): (text(pair[0] or b""), text(pair[1] or b""))
            for key, pair in zip(found, marks, strict=True)
            if isinstance(pair, list)
        }

    def forget_worker(self, worker: str) -> None:
        """Take a dead worker out of the registry; what it held must have been settled."""
        self._run("death", [worker])

    def fail(self, worker: str, claim: Claim, failure: Failure, *, is_taken: bool = False) -> Verdict | None:
        """Record a failed attempt, and do with the task what was decided.

        Args:
            worker: Name of the worker that had the claim.
            claim: What it had.
            failure: What went wrong, and what was decided.
            is_taken: The claim is taken from it, and it may live and not know.

        Returns:
            What was done: archived instead of retried where the task was cancelled meanwhile;
            None: the lease was lost and nothing was written.
        """
        packed = base64.b64encode(zlib.compress(failure.traceback.encode("utf-8", "backslashreplace")))
        # Cut to bytes, but not within a character: it would be no text any more.
        line = failure.error.encode("utf-8", "backslashreplace")[:MAX_ERROR_LENGTH].decode("utf-8", "ignore")
        decision = failure.decision
        args: list[str | bytes | float] = [worker, claim.task_id, claim.execution_id, claim.queue, claim.started]
        args += [line, packed, decision.verdict, decision.delay_s, int(decision.counts), failure.max_retries]
        done = text(self._run("fail", [*args, ARCHIVE_TTL_S, ARCHIVE_LIMIT, int(is_taken), int(failure.is_doubtful)]))
        return Verdict(done) if done else None

    def act(self, action: str, task_ids: Sequence[str]) -> list[str]:
        """Run, archive or delete tasks; for each ``done``, ``unknown``, or the state that forbids it."""
        if not task_ids:
            return []
        return [text(answer) for answer in self._run("act", [action, ARCHIVE_TTL_S, ARCHIVE_LIMIT, *task_ids])]

    def ring(self, queue: str) -> None:
        """Wake all workers that wait for the queue: something changed that they cannot see.

        Where many tasks wait, no enqueue does it; what rings too often is dropped when a worker finds nothing.
        """
        with self._talking(), self.connection.pipeline(transaction=False) as pipeline:
            pipeline.rpush(keys.bell(queue), *["1"] * MOST_TOKENS)
            pipeline.ltrim(keys.bell(queue), 0, MOST_TOKENS - 1)
            pipeline.expire(keys.bell(queue), 300)
            pipeline.execute()

    def release(self, worker: str, *, keep: Collection[str] = (), only: Collection[str] | None = None) -> list[str]:
        """Put what the worker holds back at the heads of the queues, uncounted; their IDs.

        Args:
            worker: Name of the worker.
            keep: Execution IDs that stay with it.
            only: Execution IDs that go back, all others stay.
        """
        args = ["all but", *keep] if only is None else ["only", *only]
        return [text(task_id) for task_id in self._run("release", [worker, *args])]

    def held(self, worker: str) -> list[Claim]:
        """What the worker holds a lease of, oldest first."""
        found = []
        for task_id, execution_id, queue, flat in self._run("held", [worker]):
            fields = _pairs(flat)
            found.append(to_claim(text(execution_id), text(task_id), text(queue), started_at(fields), fields))
        return sorted(found, key=lambda claim: (float(claim.started), batch_place(claim.execution_id)[1]))

    def forward(self, queues: Sequence[str] = ()) -> tuple[int, float | None]:
        """Move due tasks to their queues, up to 500.

        Args:
            queues: Where to look beside the queues that boilerd's tasks were ever in.

        Returns:
            How many were moved, and the seconds until the next is due (None: no task is scheduled).
        """
        moved, left = self._run("forward", [BATCH, *queues])
        return int(moved), float(left) if left else None

    def cancel(self, task_id: str) -> str:
        """Cancel a task; ``deleted``, ``told`` (its worker was), ``ended`` or ``unknown``."""
        command = json.dumps({"command": "stop-job", "job_id": task_id})
        return text(self._run("cancel", [task_id, command]))

    def mark_cancelled(self, task_id: str) -> bool:
        """Note that the running task is to be cancelled; False: it does not run."""
        return bool(self._run("mark", [task_id]))

    def cancellation(self, claim: Claim) -> str:
        """Why a running task is not wanted any more; empty when it is."""
        with self._talking(), self.connection.pipeline(transaction=False) as pipeline:
            pipeline.hget(keys.job(claim.task_id), "cancel_requested")
            pipeline.zscore(keys.wip(claim.queue), f"{claim.task_id}:{claim.execution_id}")
            is_cancelled, lease = pipeline.execute()
        if lease is None:
            return "the lease was lost, the task is not this worker's any more"
        return "cancelled on request" if is_cancelled else ""

    def write_result(self, claim: Claim, result: bytes) -> bool:
        """Show a running task's result so far; False when the lease is lost."""
        return bool(self._run("result", [claim.task_id, claim.execution_id, claim.queue, result]))

    def tick(self, name: str, tick_s: float, task: NewTask | None) -> tuple[bool, BoilerdError | None]:
        """Take a tick of a periodic task and store its task (None: pass it over).

        Returns:
            Whether the tick is ours, False: another host had it; and what kept its task out.
        """
        is_ours, *answers = self._run("tick", [name, repr(tick_s), *(_described(task) if task else ())])
        answer = _to_answer(task, answers[0]) if task and answers else None
        return bool(is_ours), answer if isinstance(answer, BoilerdError) else None

    def last_ticks(self) -> dict[str, float]:
        """Name of a periodic task → its last tick."""
        found = {}
        with self._talking():
            for name, value in self.connection.hgetall(keys.CRON).items():
                with suppress(ValueError):
                    tick = float(value)
                    if 0 <= tick <= LAST_TICK_S:  # what else a stranger wrote is no tick
                        found[text(name)] = tick
        return found

    def now(self) -> float:
        """Redis's time, in seconds since 1970."""
        with self._talking():
            seconds, micros = self.connection.time()
        return float(seconds) + float(micros) / 1e6

    def clean(self, queues: Sequence[str] = ()) -> int:
        """Delete completed and archived tasks that outlived their retention, up to 500; how many.

        The names of workers whose records expired go, too.

        Args:
            queues: Where to look beside the queues that boilerd's tasks were ever in.
        """
        return int(self._run("janitor", [BATCH, *queues]))

    def set_limits(self, limits: Mapping[str, int]) -> None:
        """Replace the limits of all queues: ``QUEUE:max_active`` and ``QUEUE:max_length`` → how many.

        Nothing is written where they are so already: a Redis that is full would refuse it.
        """
        if self.has_limits(limits):
            return
        with self._talking(), self.connection.pipeline() as pipeline:
            pipeline.delete(keys.LIMITS)
            for name, value in limits.items():
                pipeline.hset(keys.LIMITS, name, value)
            pipeline.execute()

    def has_limits(self, limits: Mapping[str, int]) -> bool:
        """Whether these, and no others, are set already."""
        with self._talking():
            try:
                found = self.connection.hgetall(keys.LIMITS)
            except redis.ResponseError:  # a key of another kind, which is to be replaced, or what a write tells as well
                return False
        return {text(name): text(value) for name, value in found.items()} == {n: str(v) for n, v in limits.items()}

    def extend(self, workers: Sequence[str]) -> tuple[list[Overdue], list[str]]:
        """Renew the leases and the presence of live workers.

        Returns:
            The attempts past their timeout or deadline; and the names of the workers whose task
            still runs although it was cancelled, or taken over.
        """
        overdue, unwanted = self._run("extend", [LEASE_S, WORKER_TTL_S, *workers])
        late = []
        for worker, pair, late_s in overdue:
            task_id, _, execution_id = text(pair).rpartition(":")
            late.append(Overdue(text(worker), task_id, execution_id, float(late_s)))
        return late, [text(worker) for worker in unwanted]

    def wait_for_alarm(self, timeout_s: float) -> bool:
        """Sleep until a task was scheduled that is due soon, at most `timeout_s`; whether one was."""
        with self._talking():
            return self.connection.blpop([keys.ALARM], timeout_s) is not None

    def count_pending(self, queues: Sequence[str]) -> int:
        """How many tasks wait in these queues."""
        with self._talking(), self.connection.pipeline(transaction=False) as pipeline:
            for name in queues:
                pipeline.llen(keys.queue(name))
            answers = pipeline.execute(raise_on_error=False)
        return sum(answer for answer in answers if isinstance(answer, int))  # a key may be of another kind

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """Turn redis-py's errors into ours."""
        try:
            yield
        except (redis.RedisError, UnicodeError) as error:
            raise self._translate(error) from error

    def _translate(self, error: redis.RedisError | UnicodeError) -> BrokerError:
        if isinstance(error, redis.exceptions.ReadOnlyError):
            # The primary has become a replica: its name may lead to another server by now.
            self.connection.connection_pool.disconnect()
        return translate(error)

    def _run(self, script: str, args: Sequence[str | bytes | float]) -> Any:
        """Run a script whose arguments need not be text yet."""
        return self._call(script, [part if isinstance(part, str | bytes) else repr(part) for part in args])

    def _call(
        self,
        script: str,
        args: Sequence[str | bytes],
        first: Sequence[str | bytes] = (),
        *,
        answers_soon: bool = False,
    ) -> Any:
        failpoint(f"before-{script}")
        sent = [keys.RQ, keys.OWN, *args]
        try:  # as `_talking`, without a generator for each task
            answer = self._script_connection.ask(self._scripts[script], sent, first, answers_soon=answers_soon)
        except (redis.RedisError, UnicodeError) as error:
            raise self._translate(error) from error
        failpoint(f"after-{script}")
        return answer


def _batch(tasks: Iterator[NewTask]) -> list[NewTask]:
    """The next tasks that one script stores."""
    batch: list[NewTask] = []
    size_bytes = 0
    for task in tasks:
        batch.append(task)
        size_bytes += len(task.payload)
        if size_bytes >= BATCH_BYTES or len(batch) == BATCH:
            break
    return batch


def _described(task: NewTask) -> list[str | bytes]:
    """A task as the scripts take it; see store.lua."""
    options = task.options
    fields = job_fields(task)
    at = "" if options.process_at is None else repr(options.process_at)
    lock = task.unique_key if options.unique_s else ""
    wait = repr(options.process_in_s) if options.process_in_s else "0"
    unique = repr(options.unique_s) if options.unique_s else "0"
    is_lasting = "1" if options.unique_until == UniqueUntil.TTL else "0"
    return [task.id, options.queue, wait, at, lock, unique, is_lasting, str(len(fields)), *fields]


def _claimed(values: Sequence[bytes | None]) -> dict[bytes, bytes]:
    """The fields of a job hash that are there, of those that a claim reads."""
    return {name: value for name, value in zip(CLAIMED_FIELDS, values, strict=False) if value is not None}


def _pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _to_answer(task: NewTask, answer: int | bytes) -> TaskState | BoilerdError:
    """What the enqueue script said of one task."""
    if isinstance(answer, bytes):
        return DuplicateTaskError(text(answer))
    states = {1: TaskState.PENDING, 2: TaskState.SCHEDULED}
    if answer in states:
        return states[answer]
    return TaskIdConflictError(task.id) if answer == 0 else QueueFullError(task.options.queue)

"""The worker: claims tasks and runs them one after the other in its own process.

It is an RQ worker to RQ's tools: registered in ``rq:workers``, with heartbeat, state and
statistics. Its work loop is its own, because RQ's loses a task when it is killed between
taking it off the queue and registering it.
"""

import functools
import logging
import os
import random
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import msgspec
import redis
from rq.job import Job, _current_job
from rq.serializers import JSONSerializer
from rq.worker import BaseWorker
from setproctitle import setproctitle

from boilerd.broker.broker import Broker
from boilerd.broker.claims import Claim, Completion, batch_place
from boilerd.broker.connection import translated
from boilerd.broker.outage import OutageRetry
from boilerd.errors import BrokerError, WorkerDiedError
from boilerd.process.exit_status import DONE, FAILED, OK, RECYCLED, STOPPED_BY_DAEMON, TIMED_OUT, describe_exit
from boilerd.process.failpoints import failpoint
from boilerd.process.identity import birthmark, resident_bytes
from boilerd.process.scoreboard import Scoreboard
from boilerd.process.signals import StopRequest
from boilerd.tasks.queues import ClaimOrder
from boilerd.worker.attempt import AttemptRunner, Completed, Failed, encode_result
from boilerd.worker.prefetch import HOLD_S, SLOW_S, Prefetch
from boilerd.worker.settlement import Rules, refuse, settle

logger = logging.getLogger("boilerd.worker")

#: How often a quiet worker looks whether it shall go on.
QUIET_POLL_S = 0.1
_NOTHING = nullcontext()


@dataclass(frozen=True, slots=True)
class Limits:
    """When a worker ends.

    Attributes:
        drain_s: Longest time that a running task gets after a TERM.
        max_tasks: Tasks until it is replaced by a fresh one; 0: never.
        max_memory: Resident bytes that it may have after a task; 0: any.
        is_burst: Whether it ends when nothing is left to do.
        idle_s: About how long it sleeps when nothing is to do. Tasks of boilerd's clients ring a
            bell; those that plain RQ clients push are found when the next worker of the host
            wakes up: they are out of step.
    """

    drain_s: float = 30.0
    max_tasks: int = 0
    max_memory: int = 0
    is_burst: bool = False
    idle_s: float = 1.0


class Worker(BaseWorker):
    """Claims, runs, acknowledges; until told to stop.

    Made in the supervisor, run in a forked child: memory that only the making touches stays shared.

    Args:
        connection: Not in use yet; of the child alone.
        name: ``host.run.slot``. A respawned worker has its predecessor's name, and first takes
            care of what that one held.
        title: How `ps` shows it, such as ``worker:3``.
        order: Which queues to try for each claim.
        rules: How to run a task, and what becomes of one that failed.
        limits: When to end.
        prefetch: How many tasks to claim at once.
        scoreboard: Where it says that it has booted, and is busy; and learns how its predecessor ended.
        slot: Its cell there.
        address: How Redis knows this host.
    """

    def __init__(
        self,
        connection: redis.Redis,
        *,
        name: str,
        title: str,
        order: ClaimOrder,
        rules: Rules,
        limits: Limits,
        prefetch: Prefetch,
        scoreboard: Scoreboard,
        slot: int,
        address: str,
    ) -> None:
        super().__init__(
            list(order.names),
            name=name,
            connection=connection,
            serializer=JSONSerializer,
            log_job_description=False,
            prepare_for_work=False,  # it would talk to Redis here, where an outage cannot be waited for
        )
        self._broker = Broker(connection)
        self._order = order
        self._rules = rules
        self._limits = limits
        self._prefetch = prefetch
        self.title = title
        self._scoreboard = scoreboard
        self._slot = slot
        self._parent = os.getpid()
        self._outage_retry = OutageRetry(self._pause)
        self._is_unsure = False
        self._is_writing = False
        self._completions: list[Completion] = []
        self._held: deque[Claim] = deque()
        self._held_until_s = 0.0
        self._done = 0
        # Jitter, so that workers that started together are not replaced together.
        self._last_task = limits.max_tasks + random.randint(0, limits.max_tasks // 10)
        self._record = {
            "queues": ",".join(order.names),
            "hostname": socket.gethostname(),
            "ip_address": address,
            "version": self.version,
            "python_version": self.python_version,
            "state": "starting",
            # Tells later whether it is dead, and the claims of its workers without an owner.
            "supervisor": birthmark(),
        }

    def run(self) -> int:
        """Work until told to stop, worn out, or without work in a burst; the exit status."""
        self._execution = AttemptRunner(self._rules.handler)
        self._stop = StopRequest(lambda: self._execution.drain(self._limits.drain_s))
        try:
            self._has_died_in_hooks = self._scoreboard.died_in_hooks(self._slot)
            self._outage_retry.call(self.register_birth)
            # What ends it from now on is no trouble of starting.
            self._scoreboard.mark_booted(self._slot)
            self._outage_retry.call(self._settle_predecessor)
            status = self._loop()
            self._give_back()
            self._outage_retry.call(self._acknowledge)
            self._outage_retry.call(self.register_death)
        except BrokerError as error:
            logger.warning("stopped while the broker is unavailable", extra={"error": str(error)})
            return FAILED
        return status

    def _loop(self) -> int:
        self._show("waiting")
        while not self._stop:
            claim = self._next()
            if claim is not None:
                if not self._perform(claim):
                    return TIMED_OUT
                if self._is_worn_out():
                    return RECYCLED
            elif self._scoreboard.is_quiet:
                self._keep_quiet()
            elif self._limits.is_burst:
                return DONE
            else:
                self._wait()
            self._look_for_parent()
        return OK

    def _next(self) -> Claim | None:
        """The task to run now, claimed but not begun: the next of the batch, else of a new one."""
        while not self._stop and not self._scoreboard.is_quiet:
            if not self._held:
                self._outage_retry.call(self._advance)
            elif time.monotonic() > self._held_until_s:
                self._prefetch.note_late()
                self._give_back()
                continue
            if not self._held:
                return None
            if self._scoreboard.begin(self._slot):
                return self._held.popleft()
            self._held.clear()  # the scheduler gave them back
        return None

    def _give_back(self) -> None:
        """Put the tasks of the batch that have not begun back at the head of their queue."""
        if self._held:
            only = [claim.execution_id for claim in self._held]
            self._held.clear()
            self._outage_retry.call(lambda: self._broker.release(self.name, only=only))

    def _keep_quiet(self) -> None:
        """Claim nothing until told to go on."""
        self._give_back()
        self._outage_retry.call(self._acknowledge)
        self._show("quiet")
        while self._scoreboard.is_quiet and not self._stop:
            self._stop.pause(QUIET_POLL_S)
            self._look_for_parent()
        self._show("waiting")

    def _look_for_parent(self) -> None:
        if os.getppid() != self._parent and not self._stop:
            logger.warning("the supervisor is gone, stopping")
            self._stop.make()

    def _advance(self, *, claims: bool = True, is_busy: bool = False, wait_s: float = 0.0) -> None:
        """Acknowledge what ended and, unless told to stop, claim the next tasks.

        Args:
            claims: Only where nothing is held before.
            is_busy: Whether it goes on with the rest of its batch.
            wait_s: Sleep so long first, until a task comes.
        """
        if self._is_unsure:
            self._give_back_unknown()
        # What the scheduler acknowledged from behind a slow task is sent again all the same.
        was_unsure, self._is_unsure = self._is_unsure or self._scoreboard.is_revoked(self._slot), True
        queues = self._order.draw() if claims and not self._stop else ()
        limit = 0 if is_busy else self._prefetch.limit()
        answer = self._broker.advance(self.name, queues, self._completions, limit=limit, wait_s=wait_s)
        self._is_unsure = answer.holds_more
        self._completions.clear()
        for task_id in () if was_unsure else answer.lost:
            logger.warning("outcome dropped, the lease was lost", extra={"task_id": task_id})
        if not answer.is_registered:
            logger.warning("the broker had forgotten this worker, registering again")
            self.register_birth()
        if answer.claims:
            self._held.extend(answer.claims)
            self._held_until_s = time.monotonic() + HOLD_S
            number, _ = batch_place(answer.claims[0].execution_id)
            self._scoreboard.open_batch(self._slot, number, len(answer.claims))
            if len(answer.claims) > 1:
                # Again and again: the code of a task may have taken it.
                signal.set_wakeup_fd(self._scoreboard.alarm_fds[1], warn_on_full_buffer=False)

    def _acknowledge(self) -> None:
        """Acknowledge what ended, give back what may have been claimed, claim nothing."""
        if self._completions or self._is_unsure:
            self._advance(claims=False)

    def _give_back_unknown(self) -> None:
        """Settle a claim whose answer never came: the last advance may have run on the server.

        It acknowledges and claims in one step. What this worker holds beside its completions and
        the rest of its batch is such a claim: it was not started, and goes back uncounted. The
        completions are sent again in any case, which is harmless where they were taken.
        """
        held = [*self._held, *(done.claim for done in self._completions)]
        self._broker.release(self.name, keep=[claim.execution_id for claim in held])

    def _perform(self, claim: Claim) -> bool:
        """Run the claimed task; False when the shutdown timeout cut it short."""
        task = self._rules.task_of(claim)
        if task is None:
            self._write(functools.partial(refuse, self._broker, self.name, claim))
            self._scoreboard.finish(self._slot)
            return True
        self._show(f"running {task.type} {task.id}")
        self._scoreboard.mark_busy(self._slot, is_busy=True)
        deadline_in_s = task.deadline.timestamp() - float(claim.started) if task.deadline else None
        failpoint("before-handler")
        began_s = time.perf_counter()
        with self._as_rq_job(claim) if claim.function else _NOTHING:
            outcome = self._execution.run(
                task,
                AttemptRuntime(self._broker, claim, self._execution),
                deadline_in_s=deadline_in_s,
                alert_in_s=SLOW_S if self._held or self._completions else None,
            )
        self._prefetch.note(time.perf_counter() - began_s)
        failpoint("after-handler")
        self._scoreboard.mark_busy(self._slot, is_busy=False)
        if not self._held:
            self._show("waiting")
        self._done += 1
        if isinstance(outcome, Completed):
            # A result that nobody can look at is not sent.
            self._completions.append(Completion(claim, encode_result(outcome.result) if claim.retention_s else b""))
            if claim.retention_s and self._held:
                # Nobody else could write it while the next tasks run.
                self._write(functools.partial(self._advance, claims=False, is_busy=True))
        elif isinstance(outcome, Failed):
            # Judged once, however often it takes to write it: the application's hooks are told.
            with self._scoreboard.running_hooks(self._slot):
                failure = self._rules.decide_failure(task, outcome.error, outcome.traceback)
            self._write(functools.partial(settle, self._broker, self.name, claim, failure))
        else:
            self._write(functools.partial(self._release, claim))
            return False
        self._scoreboard.finish(self._slot)
        return True

    @contextmanager
    def _as_rq_job(self, claim: Claim) -> Iterator[None]:
        """Have RQ's ``get_current_job`` answer in a function of plain RQ's; with None where there is none to be had."""
        job = None
        with suppress(Exception):  # anything may stand in the record, and be too much for RQ
            job = Job.fetch(claim.task_id, self.connection, JSONSerializer)
        token = _current_job.set(job)
        try:
            yield
        finally:
            _current_job.reset(token)

    def _write(self, action: Callable[[], None]) -> None:
        """Write an outcome, through an outage if there is one: until it is written, or the drain is over."""
        self._is_writing = True
        self._outage_retry.call(action)
        self._is_writing = False

    def _release(self, claim: Claim) -> None:
        if self._broker.release(self.name, only=[claim.execution_id]):
            fields = {"task_id": claim.task_id, "queue": claim.queue}
            logger.warning("task released, it will run again", extra=fields)

    def _settle_predecessor(self) -> None:
        """Do with what the predecessor held when it died what the scoreboard says about it."""
        status = self._scoreboard.last_exit(self._slot)
        died = None if status == STOPPED_BY_DAEMON else WorkerDiedError(f"worker died: {describe_exit(status)}")
        rules = self._rules.without_hooks() if self._has_died_in_hooks else self._rules
        with self._scoreboard.running_hooks(self._slot):
            rules.settle_dead(self._broker, self.name, self._scoreboard.batch(self._slot), died)
        self._scoreboard.open_batch(self._slot, 0, 0)

    def _wait(self) -> None:
        """Sleep until the bell rings, or for about `idle_s`, then claim; a TERM ends it."""
        timeout_s = self._limits.idle_s * (0.5 + random.random())
        advance = functools.partial(self._advance, wait_s=timeout_s)
        if not self._stop.interruptibly(lambda: self._outage_retry.call(advance)):
            # Redis may have claimed all the same, and the answer be half read.
            self._held.clear()
            self._is_unsure = True

    def _pause(self, seconds: float) -> bool:
        """Sleep during an outage; False: not any longer, the drain leaves no time or there is nothing to save."""
        if os.getppid() != self._parent:
            self._stop.make()
        self._scoreboard.mark_waiting(self._slot, is_waiting=True)
        if self._stop:
            select.select([], [], [], min(seconds, 0.2))
        else:
            self._stop.pause(seconds)
        self._scoreboard.mark_waiting(self._slot, is_waiting=False)
        has_outcome = self._is_writing or bool(self._completions)
        return not self._stop or (has_outcome and self._stop.age_s() < self._limits.drain_s)

    def _is_worn_out(self) -> bool:
        if self._limits.max_tasks and self._done >= self._last_task:
            logger.info("worker recycled", extra={"reason": "max_tasks", "tasks": self._done})
            return True
        if self._limits.max_memory and (resident := resident_bytes()) > self._limits.max_memory:
            logger.info("worker recycled", extra={"reason": "max_memory", "resident_bytes": resident})
            return True
        return False

    def _show(self, doing: str) -> None:
        setproctitle(f"boilerd: {self.title} {doing}")

    def _set_connection(self, connection: redis.Redis) -> redis.Redis:
        """Keep our own timeouts; RQ would wait seven minutes for an answer."""
        return connection

    def register_birth(self) -> None:
        """Appear in RQ's registry, in place of a predecessor that had no time to leave it."""
        self.pid = os.getpid()
        self._broker.register(self.name, self._order.names, {**self._record, "pid": self.pid, "birthmark": birthmark()})

    def register_death(self) -> None:
        """Leave RQ's registry."""
        with translated():
            super().register_death()  # type: ignore[no-untyped-call]


class AttemptRuntime(msgspec.Struct, frozen=True):
    """The claim of the running task, for what its handler may ask; uses the worker's connection.

    A handler runs between two commands of the worker, so the connection is free.
    """

    broker: Broker
    claim: Claim
    execution: AttemptRunner

    def remaining_s(self) -> float:
        """Seconds until the attempt is cut."""
        return self.execution.remaining_s()

    def cancellation(self) -> str:
        """Why it is not wanted any more; empty also when the broker cannot be asked: the heartbeat asks again."""
        try:
            return self.broker.cancellation(self.claim)
        except BrokerError:
            return ""

    def write_result(self, result: Any) -> bool:
        """Show a result so far; False when the lease is lost."""
        return self.broker.write_result(self.claim, encode_result(result))

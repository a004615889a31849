"""The worker: claims tasks one at a time and runs them in its own process.

It is an RQ worker to RQ's tools: registered in ``rq:workers``, with heartbeat, state and
statistics. Its work loop is its own, because RQ's loses a task when it is killed between
taking it off the queue and registering it.
"""

import functools
import logging
import os
import random
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import redis
from rq import worker_registration
from rq.serializers import JSONSerializer
from rq.utils import now
from rq.worker import BaseWorker
from setproctitle import setproctitle

from boilerd.broker import WORKER_TTL_S, Broker, Claim, Completion, translated
from boilerd.errors import BrokerError, WorkerDiedError
from boilerd.execution import Completed, Execution, Failed
from boilerd.exitcodes import FAILED, OK, RECYCLED, TIMED_OUT, describe_exit
from boilerd.logs import log_context
from boilerd.mux import Handler
from boilerd.outage import Patience
from boilerd.queues import ClaimOrder

logger = logging.getLogger("boilerd.worker")

#: About how long an idle worker sleeps. Tasks of boilerd's clients ring a bell; those that plain
#: RQ clients push are found when the next worker wakes up: they are out of step.
IDLE_S = 1.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """When a worker ends.

    Attributes:
        drain_s: Longest time that a running task gets after a TERM.
        max_tasks: Tasks until it is replaced by a fresh one; 0: never.
        max_memory: Resident bytes that it may have after a task; 0: any.
        is_burst: Whether it ends when nothing is left to do.
    """

    drain_s: float = 30.0
    max_tasks: int = 0
    max_memory: int = 0
    is_burst: bool = False


class Drained(BaseException):
    """Raised by the signal handler to end an idle wait."""


class Worker(BaseWorker):
    """Claims, runs, acknowledges; until told to stop.

    Args:
        connection: Of this process alone.
        name: ``host.run.slot``. A respawned worker has its predecessor's name, and first takes
            care of what that one held.
        title: How `ps` shows it, such as ``worker:3``.
        order: Which queues to try for each claim.
        handler: Runs a task: the mux with its middleware.
        limits: When to end.
        last_exit: How the predecessor ended: its exit status, or minus the signal that killed it.
    """

    def __init__(
        self,
        connection: redis.Redis,
        *,
        name: str,
        title: str,
        order: ClaimOrder,
        handler: Handler,
        limits: Limits,
        last_exit: int = 0,
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
        self._execution = Execution(handler)
        self._limits = limits
        self._title = title
        self._last_exit = last_exit
        self._parent = os.getppid()
        self._patience = Patience(self._pause)
        self._drain_until_s: float | None = None
        self._is_interruptible = False
        self._is_unsure = False
        self._completions: list[Completion] = []
        self._done = 0
        # Jitter, so that workers that started together are not replaced together.
        self._last_task = limits.max_tasks + random.randint(0, limits.max_tasks // 10)

    def run(self) -> int:
        """Work until told to stop, worn out, or without work in a burst; the exit status."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._drain)
        try:
            self._patience.call(self.register_birth)
            self._patience.call(self._settle_predecessor)
            status = self._loop()
            self._patience.call(self._acknowledge)
            self._patience.call(self.register_death)
        except Drained:
            return OK
        except BrokerError as error:
            logger.warning("stopped while the broker is unavailable", extra={"error": str(error)})
            return FAILED
        return status

    def _loop(self) -> int:
        self._show("waiting")
        while self._drain_until_s is None:
            claim = self._patience.call(self._advance)
            if claim is not None:
                if not self._perform(claim):
                    return TIMED_OUT
                if self._is_worn_out():
                    return RECYCLED
            elif self._limits.is_burst:
                return OK
            else:
                self._wait()
            if os.getppid() != self._parent:
                logger.warning("the supervisor is gone, stopping")
                return OK
        return OK

    def _advance(self) -> Claim | None:
        """Acknowledge what ended and claim the next task."""
        if self._is_unsure:
            self._find_out()
        self._is_unsure = True
        lost, claim = self._broker.advance(self.name, self._order.draw(), self._completions)
        self._is_unsure = False
        self._forget(lost)
        return claim

    def _acknowledge(self) -> None:
        """Acknowledge what ended, claim nothing."""
        if self._is_unsure:
            self._find_out()
        if self._completions:
            lost, _ = self._broker.advance(self.name, (), self._completions)
            self._forget(lost)

    def _find_out(self) -> None:
        """Whether the last advance ran on the server, although its answer never came.

        It acknowledges and claims in one step. Either the completions are still held: it did
        not run. Or something else is: it did, and that claim goes back, uncounted.
        """
        held = {claim.execution_id for claim in self._broker.held(self.name)}
        mine = {done.claim.execution_id for done in self._completions}
        if held - mine:
            self._broker.release(self.name)
        self._completions = [done for done in self._completions if done.claim.execution_id in held]
        self._is_unsure = False

    def _forget(self, lost: list[str]) -> None:
        for task_id in lost:
            logger.warning("outcome dropped, the lease was lost", extra={"task_id": task_id})
        self._completions.clear()

    def _perform(self, claim: Claim) -> bool:
        """Run the claimed task; False when the shutdown timeout cut it short."""
        if claim.task is None:
            error = f"{type(claim.error).__name__}: {claim.error}"
            with log_context(task_id=claim.task_id, queue=claim.queue):
                logger.error("task refused", extra={"error": error})
            self._fail(claim, error, error)
            return True
        self._show(f"running {claim.task.type} {claim.task_id}")
        outcome = self._execution.run(claim.task)
        self._show("waiting")
        self._done += 1
        if isinstance(outcome, Completed):
            self._completions.append(Completion(claim, outcome.result))
        elif isinstance(outcome, Failed):
            self._fail(claim, outcome.error, outcome.traceback)
        else:
            self._release(claim)
            return False
        return True

    def _fail(self, claim: Claim, error: str, traceback: str) -> None:
        action = functools.partial(self._broker.fail, self.name, claim, error, traceback)
        if not self._patience.call(action):
            logger.warning("outcome dropped, the lease was lost", extra={"task_id": claim.task_id})

    def _release(self, claim: Claim) -> None:
        for task_id in self._patience.call(lambda: self._broker.release(self.name)):
            fields = {"task_id": task_id, "queue": claim.queue}
            logger.warning("task released, it will run again", extra=fields)

    def _settle_predecessor(self) -> None:
        """Count what the predecessor held when it died as failed attempts."""
        for claim in self._broker.held(self.name):
            error = f"{WorkerDiedError.__name__}: worker died: {describe_exit(self._last_exit)}"
            with log_context(task_id=claim.task_id, queue=claim.queue):
                logger.error("task failed", extra={"error": error})
            self._broker.fail(self.name, claim, error, error)

    def _wait(self) -> None:
        """Sleep until the bell rings, at most a second and a half; a TERM ends it."""
        timeout_s = IDLE_S * (0.5 + random.random())
        self._interruptibly(lambda: self._patience.call(lambda: self._broker.wait(self._order.names, timeout_s)))

    def _pause(self, seconds: float) -> bool:
        """Sleep during an outage; False: not any longer."""
        if self._drain_until_s is not None:
            has_outcome = bool(self._completions)
            select.select([], [], [], min(seconds, 0.2))
            return has_outcome and time.monotonic() < self._drain_until_s
        self._interruptibly(lambda: select.select([], [], [], seconds))
        return True

    def _interruptibly(self, action: Callable[[], object]) -> None:
        """Do something that a TERM may end in the middle, whatever it is waiting for."""
        was_interruptible = self._is_interruptible
        try:
            self._is_interruptible = True
            if self._drain_until_s is None:
                action()
            self._is_interruptible = was_interruptible
        except Drained:
            # redis-py closes a connection that was left in the middle of a command.
            self._is_interruptible = False

    def _drain(self, signum: int, frame: object) -> None:
        """Finish the running task, then exit."""
        if self._drain_until_s is not None:
            return
        self._drain_until_s = time.monotonic() + self._limits.drain_s
        self._execution.drain(self._limits.drain_s)
        if self._is_interruptible:
            raise Drained

    def _is_worn_out(self) -> bool:
        if self._limits.max_tasks and self._done >= self._last_task:
            logger.info("worker recycled", extra={"reason": "max_tasks", "tasks": self._done})
            return True
        if self._limits.max_memory and (resident := _resident_bytes()) > self._limits.max_memory:
            logger.info("worker recycled", extra={"reason": "max_memory", "resident_bytes": resident})
            return True
        return False

    def _show(self, doing: str) -> None:
        setproctitle(f"boilerd: {self._title} {doing}")

    def _set_connection(self, connection: redis.Redis) -> redis.Redis:
        """Keep our own timeouts; RQ would wait seven minutes for an answer."""
        return connection

    def register_birth(self) -> None:
        """Appear in RQ's registry, in place of a predecessor that had no time to leave it."""
        with translated():
            self.hostname, self.pid = socket.gethostname(), os.getpid()
            self._set_ip_address(self.connection)
            self.birth_date = self.last_heartbeat = now()
            with self.connection.pipeline() as pipeline:
                pipeline.delete(self.key)
                pipeline.hset(self.key, mapping={**self.serialize(), "state": "starting"})
                worker_registration.register(self, pipeline)
                pipeline.expire(self.key, WORKER_TTL_S)
                pipeline.execute()

    def register_death(self) -> None:
        """Leave RQ's registry."""
        with translated():
            super().register_death()  # type: ignore[no-untyped-call]


def _resident_bytes() -> int:
    """Resident set size now; where /proc is missing, its peak."""
    try:
        with open("/proc/self/statm", "rb") as statm:  # noqa: PTH123 - once a task
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

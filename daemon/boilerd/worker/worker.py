"""The worker: claims tasks and runs them one after the other in its own process.

All of it is made in the supervisor, before the fork; `Worker.run` is the part of the forked child. To RQ's tools it is
an RQ worker (`rq_worker`); its loop is its own (`work_loop`).
"""

import math
from typing import Any

import redis
from setproctitle import setproctitle

from boilerd.broker.broker import Broker
from boilerd.process.forks import leave_to_parent
from boilerd.process.scoreboard import Scoreboard
from boilerd.process.signals import StopRequest
from boilerd.process.surroundings import Surroundings
from boilerd.tasks.life import NO_LIFE, Life, WorkerContext
from boilerd.tasks.mux import Handler
from boilerd.tasks.queues import DEFAULT_POOL, ClaimOrder
from boilerd.tasks.task import DEFAULT_ARCHIVE_LIMIT, Task
from boilerd.worker.attempt import AttemptRunner
from boilerd.worker.guarded_life import GuardedLife
from boilerd.worker.kept_outcomes import KeptOutcomes
from boilerd.worker.limits import Limits
from boilerd.worker.prefetch import Prefetch
from boilerd.worker.rq_worker import RQWorker
from boilerd.worker.settlement import Rules
from boilerd.worker.work_loop import WorkLoop

#: What a worker has for its end that released its task at the end of a drain; it is killed half a second after that.
LEAST_END_S = 0.2


class Worker:
    """A worker as the supervisor makes it, before the fork.

    Memory that only the making touches stays shared with the supervisor, so all is made here. The child sets
    the signal handlers, and works.

    Args:
        connection: A client that has not connected; only the child may use it.
        name: ``host.run.row``. A respawned worker has its predecessor's name, and first settles
            what that one held.
        title: Its name in `ps`, such as ``worker:3``.
        order: Which queues to try for each claim.
        rules: How to run a task, and what to do with one that failed.
        limits: When to end.
        prefetch: How many tasks to claim at once.
        scoreboard: Where it notes that it has booted, and is busy; and learns how its predecessor ended.
        row: Its cells there.
        address: How Redis knows this host.
        kept: Where outcomes go that cannot be written when it has to stop.
        archive_limit: See `Broker`.
        surroundings: What a task finds and leaves; one for all workers, so that they share its memory.
        life: The lifespans in which it works.
        pool: The name of its pool.
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
        row: int,
        address: str,
        kept: KeptOutcomes,
        archive_limit: int = DEFAULT_ARCHIVE_LIMIT,
        surroundings: Surroundings | None = None,
        life: Life = NO_LIFE,
        pool: str = DEFAULT_POOL,
    ) -> None:
        self.title = title
        self._connection = connection
        self._drain_s = limits.drain_s
        broker = Broker(connection, archive_limit=archive_limit)
        handler = rules.middleware(_shown_as_busy(rules.handler, scoreboard, row))
        self._runner = AttemptRunner(handler, surroundings=surroundings, listens=False)
        self._stop = StopRequest(self._on_stop, listens=False)
        context = WorkerContext(name, row, tuple(order.names), pool)
        self._life = GuardedLife(life, context, limits, self._stop, scoreboard)
        self._loop = WorkLoop(
            broker,
            RQWorker(broker, name=name, order=order, address=address, declared=rules.declared, pool=pool),
            self._runner,
            self._stop,
            title=title,
            order=order,
            rules=rules,
            limits=limits,
            prefetch=prefetch,
            scoreboard=scoreboard,
            row=row,
            kept=kept,
            life=self._life,
        )

    def run(self) -> int:
        """In the forked child: work until told to stop, recycled, or without work in a burst; the exit status."""
        self._runner.listen()
        self._stop.listen()
        leave_to_parent(self._leave)
        return self._loop.work()

    def time_left_s(self) -> float:
        """Seconds until the daemon kills this worker for not having ended, of a drain with a little to spare."""
        return max(LEAST_END_S, self._drain_s - self._stop.age_s()) if self._stop else math.inf

    def _on_stop(self) -> None:
        """In the signal handler."""
        self._runner.drain(self._drain_s)
        self._life.on_stop()

    def _leave(self) -> None:
        """In a child that a task forked: leave the connections, which Redis would take for those of a live worker."""
        self._connection.connection_pool.disconnect()
        setproctitle(f"boilerd: {self.title} child")


def _shown_as_busy(handler: Handler, scoreboard: Scoreboard, row: int) -> Handler:
    """The handler, noted on the scoreboard while it runs: it has limits of its own, what is around it must be short."""

    def run(task: Task) -> Any:
        scoreboard.mark_busy(row, is_busy=True)
        try:
            return handler(task)
        finally:
            scoreboard.mark_busy(row, is_busy=False)

    return run

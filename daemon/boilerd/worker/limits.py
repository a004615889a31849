"""The limits at which a worker ends, and whether it has reached those that recycle it."""

import logging
import random
import sys

import msgspec

from boilerd.process.identity import resident_bytes

logger = logging.getLogger("boilerd.worker")


class Limits(msgspec.Struct, frozen=True):
    """When a worker ends.

    Attributes:
        drain_s: Longest time that a running task gets after a TERM.
        max_tasks: Tasks until it is recycled; 0: never.
        max_memory: Resident bytes that it may have after a task; 0: any.
        is_burst: True if it ends when no task waits.
        idle_s: About how long it sleeps when no task waits. Tasks of boilerd's clients ring a
            bell; those that plain RQ clients push are found when the next worker of the host
            wakes up: they are out of step.
        start_s: Longest time that its lifespans may take to enter, all together.
        stop_s: Longest time that they may take to leave.
    """

    drain_s: float = 30.0
    max_tasks: int = 0
    max_memory: int = 0
    is_burst: bool = False
    idle_s: float = 1.0
    start_s: float = 60.0
    stop_s: float = 5.0


class SlotLimits(msgspec.Struct, frozen=True):
    """What a worker with several slots may do.

    Attributes:
        slots: How many tasks it runs at once.
        loop: ``auto``, ``asyncio`` or ``uvloop``; auto is uvloop where it is installed.
        blocked_after_s: A loop that does not get on for so long is told of.
        max_stuck: Stuck tasks in whose place others may run; with more of them the worker retires.
        stuck_s: It also retires when one has been stuck for so long.
        claims_ahead: True if short plain tasks are claimed before a slot is free.
    """

    slots: int = 1
    loop: str = "auto"
    blocked_after_s: float = 1.0
    max_stuck: int = 1
    stuck_s: float = 60.0
    claims_ahead: bool = True


class Recycling:
    """Decides when a worker is recycled.

    Attributes:
        tasks: How many it has run.
    """

    def __init__(self, limits: Limits) -> None:
        self.tasks = 0
        self._limits = limits
        # Jitter, so that workers that started together are not replaced together.
        self._last_task = limits.max_tasks + random.randint(0, limits.max_tasks // 10)

    @property
    def left(self) -> int:
        """How many tasks it may begin until then; a large number where that has no limit."""
        return max(0, self._last_task - self.tasks) if self._limits.max_tasks else sys.maxsize

    def is_due(self, *, looks_at_memory: bool = True) -> bool:
        """Whether the worker is to be replaced by a fresh one now; says why in the log."""
        if self._limits.max_tasks and self.tasks >= self._last_task:
            logger.info("worker recycled", extra={"reason": "max_tasks", "tasks": self.tasks})
            return True
        if not self._limits.max_memory or not looks_at_memory:
            return False
        if (resident := resident_bytes()) > self._limits.max_memory:
            logger.info("worker recycled", extra={"reason": "max_memory", "resident_bytes": resident})
            return True
        return False

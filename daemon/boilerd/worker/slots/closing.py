"""When and how a worker with slots ends: told to stop, worn out, in a burst without work, or with stuck tasks."""

import logging
import math
import os
import signal
import time
from collections.abc import Callable

from boilerd.process.exit_status import DONE, OK, RECYCLED, TIMED_OUT
from boilerd.process.identity import send
from boilerd.process.scoreboard import Scoreboard
from boilerd.process.signals import STOP_SIGNALS
from boilerd.worker.limits import Limits, Recycling, SlotLimits

logger = logging.getLogger("boilerd.worker")

#: A second signal to stop that comes so soon is none: a terminal and a supervisor may send one each.
SECOND_SIGNAL_S = 1.0
#: What the end of a drain interrupts has so long for its `finally` blocks.
GRACE_S = 0.5


class Closing:
    """The keeper's view of the end.

    Args:
        stop_age_s: Seconds since the main thread noted that it was told to stop; 0: it was not.
        limits: When to end.
        slot_limits: What may be stuck.
        scoreboard: Shows that the worker retires.
        row: The worker's cells there.

    Attributes:
        is_stopping: True if the worker was told to stop.
        is_retiring: True if it claims nothing more, and ends when its tasks have.
        ends_s: When what runs is cut off, on the monotonic clock.
        is_cut: True if it was.
        status: The exit status, once it is known: what is left is to be written.
    """

    def __init__(
        self, stop_age_s: Callable[[], float], limits: Limits, slot_limits: SlotLimits, scoreboard: Scoreboard, row: int
    ) -> None:
        self._stop_age_s = stop_age_s
        self._limits = limits
        self._slot_limits = slot_limits
        self._scoreboard = scoreboard
        self._row = row
        self._recycling = Recycling(limits)
        self._stopped_s = math.inf
        self._stuck_since_s: float | None = None
        self._cut_s = math.inf
        self.is_stopping = self.is_retiring = False
        self.ends_s = math.inf
        self.status: int | None = None

    def note_signals(self, signals: bytes, now_s: float) -> None:
        """Note what came, whatever the main thread does; and what it noted where the signal did not come here."""
        for _ in filter(STOP_SIGNALS.__contains__, signals):
            if not self.is_stopping:
                self._stop(now_s)
            elif now_s - self._stopped_s >= SECOND_SIGNAL_S:
                self.ends_s = now_s
        if not self.is_stopping and (age_s := self._stop_age_s()):
            self._stop(now_s - age_s)

    def _stop(self, since_s: float) -> None:
        self.is_stopping = True
        self._stopped_s = since_s
        self.ends_s = min(self.ends_s, since_s + self._limits.drain_s)

    @property
    def may_claim(self) -> bool:
        """False from the moment on at which the end has begun."""
        return not self.is_stopping and not self.is_retiring and self.status is None

    @property
    def is_burst(self) -> bool:
        """True if it ends when no task waits."""
        return self._limits.is_burst

    @property
    def tasks_left(self) -> int:
        """How many tasks it may still begin."""
        return self._recycling.left

    def count(self, tasks: int) -> None:
        """Count tasks that begin; retire where these were the last."""
        self._recycling.tasks += tasks
        if not self.is_retiring and self._recycling.is_due(looks_at_memory=False):
            self._retire()

    def uncount(self, tasks: int) -> None:
        """These begin not after all."""
        self._recycling.tasks -= tasks

    def look(self, now_s: float, stuck: int) -> None:
        """Once a second: retire where it has become too large, or where too much is stuck."""
        if not self.is_retiring and self._recycling.is_due():
            self._retire()
        if not stuck:
            self._stuck_since_s = None
            return
        if self._stuck_since_s is None:
            self._stuck_since_s = now_s
        is_long = now_s - self._stuck_since_s > self._slot_limits.stuck_s
        if (stuck > self._slot_limits.max_stuck or is_long) and not self.is_retiring:
            logger.warning("worker retires, some of its tasks do not end", extra={"stuck": stuck})
            self._retire()
            self.ends_s = min(self.ends_s, now_s + self._limits.drain_s)

    def _retire(self) -> None:
        self.is_retiring = True
        self._scoreboard.retire(self._row)
        send(os.getppid(), signal.SIGCHLD)  # the supervisor looks at once, and forks another

    @property
    def is_cut(self) -> bool:
        """True if what ran was cut off."""
        return self._cut_s < math.inf

    def cuts_now(self, now_s: float) -> bool:
        """True once: when what runs is to be cut off."""
        if self.is_cut or now_s < self.ends_s:
            return False
        self._cut_s = now_s
        return True

    def next_s(self) -> float:
        """When it has to act next."""
        return self._cut_s + GRACE_S if self.is_cut else self.ends_s

    def decide(self, now_s: float, *, is_done: bool, has_found_nothing: bool) -> bool:
        """Decide whether the worker ends now; True once.

        Args:
            now_s: The time.
            is_done: True if nothing runs.
            has_found_nothing: True if the queues are empty, too, and all is written.
        """
        if self.status is not None or not (is_done or now_s >= self._cut_s + GRACE_S):
            return False
        if self.is_stopping:
            self.status = TIMED_OUT if self.is_cut else OK
        elif self.is_retiring:
            self.status = RECYCLED
        elif self._limits.is_burst and has_found_nothing:
            self.status = DONE
        return self.status is not None

    def gives_up(self, *, is_done: bool, has_outcome: bool) -> bool:
        """True if the worker must not wait for the end of an outage any longer, or need not."""
        if not self.is_stopping:
            return False
        return time.monotonic() >= self.ends_s + GRACE_S or (is_done and not has_outcome)

"""Sees to attempts whose limit is over or that are interrupted, until they end: again and again, then they are stuck.

There is no timer for each attempt, which would cost more than a short one does: all are looked at when the first is
due, and once a second.
"""

import asyncio
import logging
import math
import signal
import threading
import time
from collections.abc import Callable

from boilerd.errors import TaskInterrupt, TaskTimeoutError, describe
from boilerd.process.scoreboard import Scoreboard
from boilerd.worker.slots.attempt import SlotAttempt
from boilerd.worker.slots.loop_watch import LoopWatch
from boilerd.worker.slots.stacks import stack_of_task, stack_of_thread
from boilerd.worker.slots.strikes import Strikable

logger = logging.getLogger("boilerd.task")

#: Seconds after its interruption at which an attempt is interrupted once more; at the last one it is stuck.
STEPS_S = (1.0, 2.0, 5.0)
_TOO_LONG = "the attempt took longer than the task's timeout"
#: While the loop is blocked, it is looked so often whether what blocks it is to end.
STRIKE_S = 0.2
#: All attempts are looked at so often, whatever is due.
LOOK_S = 1.0


class Escalation:
    """Interrupts attempts, and goes on with that.

    Args:
        running: All attempts that run.
        watch: Of the loop.
        cancel: Cancels an attempt on the loop; called there.
        loop: It.

    Attributes:
        stuck: Number of attempts that do not end.
        due_s: When to look at all attempts next, on the monotonic clock.
    """

    def __init__(
        self,
        running: dict[SlotAttempt, None],
        watch: LoopWatch,
        *,
        loop: asyncio.AbstractEventLoop,
        scoreboard: Scoreboard,
        row: int,
        cancel: Callable[[SlotAttempt], None],
    ) -> None:
        self._running = running
        self._watch = watch
        self._loop = loop
        self._scoreboard = scoreboard
        self._row = row
        self._cancel = cancel
        #: The loop looks as well, where the keeper is held up.
        self._lock = threading.Lock()
        self._noted_s = math.inf
        self._next_strike_s = 0.0
        self.stuck = 0
        self.due_s = math.inf

    def add(self, attempt: SlotAttempt) -> None:
        """One more runs."""
        ends_s = attempt.ends_s
        if self.due_s == math.inf:
            self.due_s = time.monotonic() + LOOK_S
        self.due_s = min(self.due_s, ends_s)
        if ends_s < self._noted_s:
            self._note_limit(ends_s)

    def put_off(self, attempt: SlotAttempt, late_s: float) -> None:
        """Its handler begins so late: it was held, or the loop blocked. The timeout counts from there, no deadline."""
        if isinstance(attempt.limit, TaskTimeoutError) and attempt.reason is None:
            attempt.ends_s += late_s
            attempt.due_s = attempt.ends_s
            self.due_s = min(self.due_s, attempt.due_s)

    def interrupt(self, attempt: SlotAttempt, reason: TaskInterrupt) -> None:
        """Interrupt it, and see to it from now on; one that is interrupted already, once more."""
        if attempt.reason is None:
            attempt.reason = reason
            attempt.since_s = time.monotonic()
            attempt.due_s = attempt.since_s + STEPS_S[0]
            self.due_s = min(self.due_s, attempt.due_s)
        self._strike(attempt)

    def remove(self, attempt: SlotAttempt) -> None:
        """One has ended, and is not among those that run any more."""
        with self._lock:
            was_stuck = attempt.is_stuck
        if was_stuck:
            attempt.is_stuck = False
            self._count_stuck(-1)
            logger.warning("task has ended after all", extra=attempt.task.log_fields)
        if not self._running:
            self.due_s = math.inf
            self._note_limit(math.inf)

    def look(self) -> None:
        """See to all that are due, unless another thread does."""
        if self._lock.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._lock.release()

    def _look(self) -> None:
        now_s = time.monotonic()
        due_s = now_s + LOOK_S if self._running else math.inf
        limit_s, is_blocked, is_due = math.inf, self._watch.is_blocked, False
        for attempt in list(self._running):
            if attempt.outcome is not None or attempt not in self._running:
                continue
            if attempt.due_s <= now_s:
                self._see_to(attempt, now_s)
            due_s = min(due_s, attempt.due_s)
            if attempt.has_begun and (not attempt.is_told or (is_blocked and attempt.needs_loop)):
                limit_s = min(limit_s, attempt.ends_s)
                is_due |= attempt.reason is not None
        self.due_s = due_s
        if is_blocked and is_due:
            self._strike_loop(now_s)
        if limit_s != self._noted_s:
            self._note_limit(limit_s)

    def _see_to(self, attempt: SlotAttempt, now_s: float) -> None:
        if attempt.reason is None and not attempt.has_begun and isinstance(attempt.limit, TaskTimeoutError):
            attempt.due_s = now_s + LOOK_S  # it has not begun: see `put_off`
            return
        if attempt.reason is None:
            self.interrupt(attempt, attempt.limit or TaskTimeoutError(_TOO_LONG))
            return
        if attempt.needs_loop and self._watch.is_blocked:
            # Its time to clean up begins when the loop goes on.
            attempt.step, attempt.since_s = -1, now_s
        attempt.step += 1
        if attempt.step == len(STEPS_S):
            self._give_up(attempt)
            return
        attempt.due_s = attempt.since_s + STEPS_S[attempt.step]
        self._strike(attempt)

    def _strike(self, attempt: SlotAttempt) -> None:
        place = attempt.place
        if attempt.is_on_loop:
            self._loop.call_soon_threadsafe(self._cancel, attempt)
        elif isinstance(place, Strikable) and attempt.reason:
            place.strike(attempt.reason)
            attempt.is_told = True

    def _strike_loop(self, now_s: float) -> None:
        """Have the main thread look whether the code that it runs is to end: see `SlotRunner`."""
        if now_s >= self._next_strike_s:
            self._next_strike_s = now_s + STRIKE_S
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    def _give_up(self, attempt: SlotAttempt) -> None:
        attempt.due_s = math.inf
        attempt.is_stuck = attempt.is_told = True
        self._count_stuck(1)
        place = attempt.place
        stack = stack_of_task(place) if isinstance(place, asyncio.Task) else ""
        stack = stack_of_thread(place.thread.ident) if isinstance(place, Strikable) else stack
        error = describe(attempt.reason) if attempt.reason else ""
        logger.error("task does not end", extra={**attempt.task.log_fields, "error": error, "stack": stack})

    def _count_stuck(self, more: int) -> None:
        self.stuck += more
        self._scoreboard.note_stuck(self._row, self.stuck)

    def _note_limit(self, limit_s: float) -> None:
        self._noted_s = limit_s
        self._scoreboard.note_limit(self._row, None if limit_s == math.inf else limit_s - time.monotonic())

"""Watches whether the loop gets on: the loop beats, and whoever looks from another thread sees how old a beat is."""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable

from boilerd.process.scoreboard import Scoreboard
from boilerd.worker.slots.attempt import RUNNING, SlotAttempt
from boilerd.worker.slots.stacks import stack_of_thread

logger = logging.getLogger("boilerd.worker")

#: Between two beats.
BEAT_S = 0.25
#: A beat is found too old so often before the log tells of a blocked loop: the whole process may have stood still,
#: or the loop goes on at this moment.
_LOOKS = 2


class LoopWatch:
    """The beats of a loop, while attempts run on it.

    Args:
        loop: Runs in the main thread.
        running: All attempts that run.
        blocked_after_s: A loop that does not get on for so long is told of.
        on_beat: Called on the loop with each beat.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        scoreboard: Scoreboard,
        row: int,
        *,
        running: Iterable[SlotAttempt],
        blocked_after_s: float,
        on_beat: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._scoreboard = scoreboard
        self._row = row
        self._running = running
        self._blocked_after_s = blocked_after_s
        self._on_beat = on_beat
        self._thread = threading.main_thread().ident
        self._beat_s = math.inf  # infinity: nothing runs on the loop
        self._count = 0
        self._is_beating = False
        self._is_told = False
        self._seen: tuple[float, int] = (math.inf, 0)

    # --- On the loop

    def enter(self, count: int) -> None:
        """So many attempts begin on the loop."""
        self._count += count
        if not self._is_beating:
            self._is_beating = True
            self._beat()

    def leave(self) -> None:
        """One of them has ended."""
        self._count -= 1

    def end(self) -> None:
        """The loop has ended, maybe with attempts that do not end: nobody is to wait for a beat."""
        self._beat_s = math.inf
        self._scoreboard.beat_loop(self._row, is_needed=False)

    def _beat(self) -> None:
        if self._is_told:
            self._is_told = False
            logger.warning("event loop goes on", extra={"blocked_s": round(time.monotonic() - self._beat_s, 3)})
        self._on_beat()
        self._is_beating = bool(self._count)
        self._beat_s = time.monotonic() if self._count else math.inf
        self._scoreboard.beat_loop(self._row, is_needed=self._is_beating)
        if self._is_beating:
            self._loop.call_later(BEAT_S, self._beat)

    # --- In another thread

    def expect(self) -> None:
        """Attempts are given to the loop, which may be blocked by what nobody watches."""
        if self._beat_s == math.inf:
            self._beat_s = time.monotonic()
            self._scoreboard.beat_loop(self._row)

    @property
    def is_busy(self) -> bool:
        """True if something is to run on the loop."""
        return self._beat_s != math.inf

    @property
    def is_blocked(self) -> bool:
        """True while something keeps the loop from getting on."""
        return time.monotonic() - self._beat_s > 2 * BEAT_S

    def look(self) -> None:
        """Tell, once, of a loop that is blocked for too long, with the stack of what blocks it."""
        beat_s = self._beat_s
        if time.monotonic() - beat_s < self._blocked_after_s:
            return
        seen_s, looks = self._seen
        self._seen = (beat_s, looks + 1 if beat_s == seen_s else 1)
        if self._is_told or self._seen[1] < _LOOKS:
            return
        attempt, stack = self._attempt(), stack_of_thread(self._thread)
        if self._beat_s == beat_s:  # still
            self._is_told = True
            fields = attempt.task.log_fields if attempt else {}
            logger.warning("event loop blocked", extra={**fields, "stack": stack})

    def _attempt(self) -> SlotAttempt | None:
        """The attempt whose code keeps the loop, as far as another thread can know."""
        task = asyncio.current_task(self._loop)
        context = getattr(task, "get_context", None)
        if context is not None:
            return context().get(RUNNING)  # type: ignore[no-any-return]
        # Python 3.11 does not tell the context of a task; so one that a handler has made has no name here.
        return next((attempt for attempt in list(self._running) if attempt.place is task), None)

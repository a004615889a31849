"""The watch over workers with several slots: kills one that cannot end a task in time, tells of a loop that is blocked.

Such a worker ends its own tasks, in its own threads. Where one of them never returns to Python, or holds the
interpreter's lock, nothing in that process can do it. What this needs stands on the scoreboard: it asks Redis nothing.
"""

import logging
import signal
import time
from collections.abc import Callable

from boilerd.process import debugging
from boilerd.process.identity import is_stopped, send
from boilerd.process.scoreboard import KillReason, Scoreboard
from boilerd.scheduler.heartbeat import KILL_AFTER_S

logger = logging.getLogger("boilerd.scheduler")

#: How often it looks while such a worker runs something, and while none does.
LOOK_EVERY_S, IDLE_LOOK_EVERY_S = 1.0, 2.0
#: A loop that is blocked for so much longer than is told of anyway, and whose worker has not told it.
MORE_S = 1.0
#: A worker that shows no life for so long cannot tell it: as a rule it shows some each second.
SILENT_S = 1.5
#: What of its limit's excess must have been seen: a worker that was stopped with this process gets time to go on.
SEEN_S = KILL_AFTER_S - 1.0
#: After a longer pause between two looks this process was held up, and all others may have been.
LONGEST_PAUSE_S = 5.0


class SlotWatch:
    """Looks at the workers with several slots.

    Args:
        scoreboard: Where they show what they do.
        count: How many rows workers have.
        blocked_after_s: Of a row, after how long a blocked loop is told of.
        child_of: Of a row, what log lines call its worker.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        scoreboard: Scoreboard,
        count: int,
        blocked_after_s: Callable[[int], float] = lambda _: 1.0,
        child_of: Callable[[int], str] = "worker:{}".format,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scoreboard = scoreboard
        self._count = count
        self._blocked_after_s = blocked_after_s
        self._child_of = child_of
        self._clock = clock
        self._looked_s = clock()
        self._late_since_s: dict[int, float] = {}
        self._lives: dict[int, tuple[int, float]] = {}  # row → its sign of life, and since when
        self._told: set[int] = set()

    def look(self) -> float:
        """Look at each; seconds until the next look is due."""
        now_s = self._clock()
        if now_s - self._looked_s > LONGEST_PAUSE_S:
            self._late_since_s.clear()
        self._looked_s = now_s
        rows = [row for row in self._scoreboard.live() if row < self._count and self._scoreboard.slots(row) > 1]
        if debugging.is_on():
            return IDLE_LOOK_EVERY_S
        for row in rows:
            self._tell_blocked(row, now_s)
        return min([IDLE_LOOK_EVERY_S, *(self._end_late(row, now_s) for row in rows)])

    def _end_late(self, row: int, now_s: float) -> float:
        """Kill the worker if a task of it is too far past its limit; seconds until the next look at it."""
        late_s = self._scoreboard.overdue_s(row)
        if late_s <= 0 or is_stopped(pid := self._scoreboard.pid(row)):
            self._late_since_s.pop(row, None)
            return LOOK_EVERY_S if self._scoreboard.running(row) else IDLE_LOOK_EVERY_S
        seen_s = now_s - self._late_since_s.setdefault(row, now_s)
        left_s = max(KILL_AFTER_S - late_s, SEEN_S - seen_s)
        if left_s <= 0 and pid:
            running = self._scoreboard.running(row)
            fields = {"child": self._child_of(row), "running": running, "late_s": round(late_s, 3)}
            logger.error("worker killed, its task ignores the timeout", extra=fields)
            self._scoreboard.note_kill(row, KillReason.LIMIT)
            send(pid, signal.SIGKILL)
            self._late_since_s.pop(row)
        return min(max(left_s, 0.1), LOOK_EVERY_S)

    def _tell_blocked(self, row: int, now_s: float) -> None:
        """Tell once of a loop that is blocked by what keeps the worker's other threads from telling it."""
        age_s = self._scoreboard.loop_age_s(row)
        life, since_s = self._lives.get(row, (-1, now_s))
        if life != (now := self._scoreboard.signs_of_life(row).life):
            life, since_s = self._lives[row] = now, now_s
        limit_s = self._blocked_after_s(row)
        if age_s < limit_s:
            self._told.discard(row)
        elif row not in self._told and age_s > limit_s + MORE_S and now_s - since_s > SILENT_S:
            self._told.add(row)
            if not is_stopped(self._scoreboard.pid(row)):
                fields = {"child": self._child_of(row), "blocked_s": round(age_s, 1)}
                stacks = {"stack": found} if (found := self._scoreboard.stacks_of(row)) else {}
                logger.warning("event loop blocked", extra={**fields, **stacks})

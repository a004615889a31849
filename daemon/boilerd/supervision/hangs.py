"""Finds processes that hang: they neither run a task, nor wait, nor get on.

A task has its own limits, which a worker or the scheduler ends. This is for all between the tasks: a lock that nobody
releases, an exit handler that never returns, a connection that never answers. Whoever hangs cannot tell it. So each
process leaves signs of life on the scoreboard, and here it counts for how long they have been the same.

A process that a signal has stopped hangs as well, but as a rule somebody wanted that. It is left alone for a minute:
its lease ends meanwhile, and others take over its tasks. One that is under a debugger is never ended.
"""

import logging
import signal
import time
from collections.abc import Callable

from boilerd.process import debugging
from boilerd.process.identity import is_stopped, is_traced, send
from boilerd.process.scoreboard import DASHBOARD_ROW, EXPORTER_ROW, SCHEDULER_ROW, KillReason, Scoreboard, SignsOfLife
from boilerd.supervision.groups import DASHBOARD, EXPORTER, SCHEDULER, WORKER

logger = logging.getLogger("boilerd.supervisor")

#: `health` tells of a process without a sign of life for so long. A command to the broker may take 5 s, and an idle
#: worker waits 4.5 s for one.
TOLD_AFTER_S = 8.0
#: It is killed, and replaced, after so long.
KILLED_AFTER_S = 15.0
#: Additional times. Three hooks may take 5 s each. One try may go to several servers where the broker is away. The
#: scheduler has many duties. Whoever stopped a process has a minute.
HOOKS_S, AWAY_S, SCHEDULER_S, STOPPED_S = 20.0, 45.0, 12.0, 45.0
#: A loop that got on so recently lives; it tells it four times a second.
LOOP_LIVES_S = 1.0
#: How often it looks.
LOOK_EVERY_S = 1.0
#: After a longer pause this process was held up, and all others may have been: they get the whole time again.
LONGEST_PAUSE_S = 5.0
#: Those that are no workers, and leave signs of life all the same.
_OTHERS = {SCHEDULER_ROW: SCHEDULER, EXPORTER_ROW: EXPORTER, DASHBOARD_ROW: DASHBOARD}


class HangWatch:
    """Finds and ends processes that hang; the supervisor's loop calls `look` at each round.

    Args:
        scoreboard: Where the processes leave signs of life.
        clock: Seconds that never go back.
        name_of: A row → the name of its worker.

    Attributes:
        hanging: The processes that hung at the last look, such as ``worker:3``.
    """

    def __init__(
        self,
        scoreboard: Scoreboard,
        clock: Callable[[], float] = time.monotonic,
        name_of: Callable[[int], str] = f"{WORKER}:{{}}".format,
    ) -> None:
        self._name_of = name_of
        self._scoreboard = scoreboard
        self._clock = clock
        self._looked_s = clock()
        self._seen: dict[int, tuple[SignsOfLife, float]] = {}  # row → its signs of life, and since when
        self._killed: set[int] = set()
        self.hanging: list[str] = []

    def look(self) -> None:
        """Look at all processes, if it is time."""
        now_s = self._clock()
        if now_s - self._looked_s < LOOK_EVERY_S or debugging.is_on():
            return
        if now_s - self._looked_s > LONGEST_PAUSE_S:
            self._seen.clear()
        self._looked_s = now_s
        rows = [*range(self._scoreboard.rows), *_OTHERS]
        self.hanging = [self._name(row) for row in rows if self._hangs(row, now_s)]

    def _hangs(self, row: int, now_s: float) -> bool:
        signs = self._scoreboard.signs_of_life(row)
        seen, since_s = self._seen.get(row, (None, now_s))
        if signs != seen or self._runs_tasks(row, signs):
            self._seen[row] = signs, now_s
            return False
        silent_s = now_s - since_s
        if silent_s < TOLD_AFTER_S or not signs.pid:
            return False
        if is_traced(signs.pid):
            return False
        is_halted = signs.is_halted or is_stopped(signs.pid)
        more_s = STOPPED_S if is_halted else self._more_s(row, signs)
        if silent_s >= KILLED_AFTER_S + more_s:
            self._kill(row, signs.pid, KillReason.STOPPED if is_halted else KillReason.HUNG)
        # That a signal has stopped it, is told elsewhere.
        return not is_halted and silent_s >= TOLD_AFTER_S + more_s

    def _runs_tasks(self, row: int, signs: SignsOfLife) -> bool:
        """True if it runs tasks, which have limits of their own, and need not leave a sign of life meanwhile.

        One with several slots has a thread for that, the keeper. While its event loop gets on, so must that.
        """
        if not signs.is_busy or signs.is_halted:
            return False
        return not 0 < self._scoreboard.loop_age_s(row) < LOOP_LIVES_S

    def _more_s(self, row: int, signs: SignsOfLife) -> float:
        """How much longer than others this process may be without a sign of life."""
        return max(
            HOOKS_S if signs.in_hooks_since_ms else 0.0,
            AWAY_S if self._scoreboard.is_broker_away else 0.0,
            SCHEDULER_S if row == SCHEDULER_ROW else 0.0,
            float(self._scoreboard.silence_s(row)),
        )

    def _kill(self, row: int, pid: int, reason: KillReason) -> None:
        if pid not in self._killed:  # the kernel may keep one that waits for a disk
            self._killed = {pid, *(self._killed & set(self._scoreboard.live().values()))}
            logger.error(
                "process killed, it hangs", extra={"child": self._name(row), "child_pid": pid, "reason": reason}
            )
            self._scoreboard.note_kill(row, reason)
        send(pid, signal.SIGKILL)

    def _name(self, row: int) -> str:
        return _OTHERS.get(row) or self._name_of(row)

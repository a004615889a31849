"""Tells how many log lines of the daemon's processes were lost, as soon as lines can be written again."""

import logging
import time

from boilerd.process import logs
from boilerd.process.scoreboard import Scoreboard

logger = logging.getLogger("boilerd.supervisor")

#: How often it is told at most: a reader that is always a little too slow gets one line now and then.
TELL_EVERY_S = 5.0


class LostLines:
    """Watches what the processes note on the scoreboard; the supervisor's loop calls `tell`.

    Args:
        scoreboard: Where each process counts the lines that it lost.
    """

    def __init__(self, scoreboard: Scoreboard) -> None:
        self._scoreboard = scoreboard
        self._next_s = 0.0

    def tell(self) -> None:
        """Log how many lines were lost, where there are some and the line can be written."""
        count = self._scoreboard.untold_lines
        if not count or time.monotonic() < self._next_s or not logs.are_ready():
            return
        self._next_s = time.monotonic() + TELL_EVERY_S
        logger.warning("log lines were lost, nobody took them", extra={"lines": count})
        if self._scoreboard.untold_lines == count:  # this one was not
            self._scoreboard.note_told_lines(count)

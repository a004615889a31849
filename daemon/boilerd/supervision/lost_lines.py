"""Tells how many log lines of the daemon's processes were lost, as soon as lines can be written again.

Whether they can shows a line alone: a disk that is full takes all but that. So the line that tells is written again
and again, and nobody counts the loss as told until it was. On stderr it is told once, at the first loss.
"""

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
        self._written = 0  # how many lines were lost when the line that tells was written; 0: it was not
        self._has_cried = False

    def tell(self) -> None:
        """Log how many lines were lost, where there are some and the line can be written."""
        is_ready = logs.are_ready()  # before the count: a file's losses are known now
        count = self._scoreboard.untold_lines
        if not count:
            return
        self._has_cried = self._has_cried or logs.cry_of_losses()
        if is_ready and count == self._written and not logs.losing():
            self._scoreboard.note_told_lines(count)
            self._written, self._has_cried = 0, False
        elif time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + TELL_EVERY_S
            if is_ready:
                self._write(count)

    def _write(self, count: int) -> None:
        """Write the line that tells; where it was written before, only to what lost it."""
        handlers = (logs.losing() if self._written else []) or logs.own_handlers()
        logs.write_to(handlers, logger, logging.WARNING, "log lines were lost, nobody took them", lines=count)
        self._written = self._scoreboard.untold_lines

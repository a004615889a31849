"""Keep lines that strangers can cause from flooding the log: beyond a few in a second they are counted.

A filter that its logger has for the time of a block, so that functions which log for others as well need not know, and
all other lines cost nothing more.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextvars import Context
from threading import get_ident
from types import MappingProxyType

#: Lines of one message in a second that are written: as many as one reads, and enough to show what they are about.
MOST = 10
#: How long lines are counted before the rest is told.
TELL_EVERY_S = 1.0


class Folding(logging.Filter):
    """Folds the lines that are logged inside a ``with`` block of it, by the thread that is in the block.

    What was folded is told with the first such line of a later second, or by `tell`.

    Args:
        logger: Whose lines they are.
        most: Message → how many lines of it in a second are written, where it is not `MOST`.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        logger: logging.Logger,
        clock: Callable[[], float] = time.monotonic,
        *,
        most: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self._logger = logger
        self._clock = clock
        self._most = most
        self._counts: Counter[tuple[int, str]] = Counter()
        self._since_s = -math.inf
        self._inside: set[int] = set()

    def __enter__(self) -> None:
        self._inside.add(get_ident())
        self._logger.addFilter(self)

    def __exit__(self, *exc_info: object) -> None:
        self._inside.discard(get_ident())
        if not self._inside:
            self._logger.removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        if get_ident() not in self._inside:
            return True
        self.tell()
        if not self._counts:
            self._since_s = self._clock()
        line = record.levelno, str(record.msg)
        self._counts[line] += 1
        return self._counts[line] <= self._most.get(line[1], MOST)

    def tell(self, *, is_last: bool = False) -> None:
        """Say how many lines were folded, once the second is over; `is_last`: at once."""
        if not self._counts or (self._clock() - self._since_s < TELL_EVERY_S and not is_last):
            return
        counts, self._counts = self._counts, Counter()
        for (level, message), count in counts.items():
            if (folded := count - self._most.get(message, MOST)) > 0:
                words = "%s: and %s more like it", message, f"{folded:,}"
                # Without the context, which is that of another task by now.
                Context().run(self._logger.log, level, *words, extra={"folded": folded})

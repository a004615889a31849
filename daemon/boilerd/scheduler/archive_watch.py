"""The archive's watch: tells how many tasks the limit of an archive has cost."""

import logging
from collections.abc import Mapping, Sequence

from boilerd.broker.broker import Broker

logger = logging.getLogger("boilerd.scheduler")

#: At most so often there is a line of a queue whose archive is full.
LOOK_EVERY_S = 5.0
HINT = "run or delete what is there, or raise archive_limit"


class ArchiveWatch:
    """Looks at the counters of the daemon's queues; at first it tells what was dropped so far that day.

    Args:
        broker: Of this process alone.
        queues: Their names.
    """

    def __init__(self, broker: Broker, queues: Sequence[str]) -> None:
        self._broker = broker
        self._queues = queues
        self._told: Mapping[str, int] = {}

    def look(self) -> float:
        """Tell what was dropped since the last look; seconds until the next is due."""
        found = self._broker.count_dropped(self._queues)
        for queue, count in found.items():
            told = self._told.get(queue, 0)
            if dropped := count - (told if told <= count else 0):  # a new day begins with 0
                fields = {"queue": queue, "dropped": dropped, "hint": HINT}
                logger.error("archive is full, tasks were dropped", extra=fields)
        self._told = found
        return LOOK_EVERY_S

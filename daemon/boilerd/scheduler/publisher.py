"""The publisher: tells Redis what this daemon is, and keeps that there while it lives."""

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Protocol

from boilerd.broker.broker import Broker
from boilerd.errors import BrokerRefusedError, BrokerUnavailableError
from boilerd.process.identity import is_alive
from boilerd.process.scoreboard import Scoreboard

logger = logging.getLogger("boilerd.scheduler")

#: As often as the leases: Redis forgets a daemon that has not told for a minute.
PUBLISH_EVERY_S = 5.0
#: What has just changed, as at a start, where the workers come after the scheduler, is looked at again after so long.
CHANGING_S = 1.0


class TellsFacts(Protocol):
    """Knows what a daemon tells of itself."""

    name: str

    def encoded(self, processes: Mapping[str, int]) -> str:
        """As JSON in ASCII; `processes`: how many workers each group has."""


class Publisher:
    """Publishes the facts about the daemon; they are worth no failure of another duty.

    Args:
        broker: Of this process alone.
        scoreboard: Tells how many workers each pool has.
        rows: Of workers.
        facts: What is told.
    """

    def __init__(self, broker: Broker, scoreboard: Scoreboard, rows: int, facts: TellsFacts) -> None:
        self._broker = broker
        self._scoreboard = scoreboard
        self._rows = rows
        self._facts = facts
        self._told: Mapping[str, int] | None = None
        self._size = 0
        self._is_refused = False

    def publish(self) -> float:
        """Tell what has changed, else that it holds; seconds until it is to be told again."""
        try:
            has_changed = self._publish()
        except BrokerRefusedError as error:
            if not self._is_refused:
                logger.warning("facts about the daemon are not published", extra={"error": str(error)})
            self._is_refused, self._told = True, None
            return PUBLISH_EVERY_S
        self._is_refused = False
        return CHANGING_S if has_changed else PUBLISH_EVERY_S

    def withdraw(self) -> None:
        """Take it back at the end; not where workers go on, as when another scheduler takes the place of this one."""
        if any(row < self._rows and is_alive(pid) for row, pid in self._scoreboard.live().items()):
            return
        try:
            self._broker.withdraw(self._facts.name)
        except BrokerUnavailableError as error:
            logger.debug("facts about the daemon stay for a minute", extra={"error": str(error)})

    def _publish(self) -> bool:
        """True if something was told anew."""
        processes = Counter(self._scoreboard.group(row) for row in self._scoreboard.live() if row < self._rows)
        if processes == self._told and self._broker.publish(self._facts.name, self._size):
            return False
        encoded = self._facts.encoded(processes)
        self._broker.publish(self._facts.name, len(encoded), encoded)
        self._told, self._size = processes, len(encoded)
        return True

"""The limit keeper: sets the limits of the settings again where they are gone, and tells where another daemon's differ.

The daemon that started or was reloaded last decides: its start writes its limits, and nobody writes over one that is
there, or two daemons would do so for ever.
"""

import logging
from collections.abc import Mapping

from boilerd.broker.broker import Broker

logger = logging.getLogger("boilerd.scheduler")

#: For so long a limit may be gone, as after FLUSHALL.
KEEP_EVERY_S = 5.0


class LimitKeeper:
    """Keeps the limits that the settings have, in one round trip.

    Args:
        broker: Of this process alone.
        limits: ``QUEUE:max_active`` and ``QUEUE:max_length`` → how many.
    """

    def __init__(self, broker: Broker, limits: Mapping[str, int]) -> None:
        self._broker = broker
        self._limits = limits
        self._told: Mapping[str, int] = {}

    def keep(self) -> float:
        """Set those that are missing, and tell once of each that differs; seconds until the next look is due."""
        differing = self._broker.keep_limits(self._limits)
        for name, in_force in differing.items():
            if self._told.get(name) != in_force:
                self._tell(name, in_force)
        self._told = differing
        return KEEP_EVERY_S

    def _tell(self, name: str, in_force: int) -> None:
        queue, _, limit = name.rpartition(":")
        fields = {"queue": queue, "limit": limit, "here": self._limits[name], "in_force": in_force}
        hint = "the daemon that started or was reloaded last decides; give the queue one limit everywhere"
        logger.warning("another daemon has set another limit", extra={**fields, "hint": hint})

"""The pauses' watch: resumes queues and periodic tasks whose pause has come to its end."""

import logging

from boilerd.broker.broker import Broker

logger = logging.getLogger("boilerd.scheduler")

#: A pause lasts so much longer at most; the ticks of a periodic task heed its end themselves.
LOOK_EVERY_S = 5.0


class PauseWatch:
    """Looks at all pauses, whoever made them.

    Args:
        broker: Of this process alone.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def look(self) -> float:
        """Resume what is to be resumed; seconds until the next look is due."""
        for field in self._broker.end_pauses():
            kind, _, name = field.partition(":")
            logger.info("pause has come to its end", extra={kind: name})
        return LOOK_EVERY_S

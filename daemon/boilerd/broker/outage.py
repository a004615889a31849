"""Retry an action while the broker is unavailable."""

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from boilerd.errors import BrokerError

logger = logging.getLogger("boilerd.broker")

#: The first pause; each further one is twice as long, up to the longest.
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 3.0

T = TypeVar("T")


class OutageRetry:
    """Retries an action while the broker is unavailable, with capped, jittered back-off.

    It logs one line at the start of an outage and one at its end.

    Args:
        pause: Sleeps for the given seconds; True to try again, False to raise the action's error.
        awaits: The errors after which the action is tried again; any other is raised at once.
    """

    def __init__(self, pause: Callable[[float], bool], *, awaits: type[BrokerError] = BrokerError) -> None:
        self._pause = pause
        self._awaits = awaits

    def call(self, action: Callable[[], T]) -> T:
        """Do the action until it succeeds; its answer.

        Raises:
            BrokerError: `pause` gave up, or `awaits` does not cover the error.
        """
        began_s: float | None = None
        longest_s = FIRST_PAUSE_S
        while True:
            try:
                answer = action()
            except self._awaits as error:
                if began_s is None:
                    began_s = time.monotonic()
                    logger.error("broker unavailable, waiting", extra={"error": str(error)})  # noqa: TRY400
                # All workers lose the broker at one moment; jitter keeps them from coming back at one moment.
                if not self._pause(longest_s * (0.5 + random.random() / 2)):
                    raise
                longest_s = min(2 * longest_s, LONGEST_PAUSE_S)
            else:
                if began_s is not None:
                    logger.info("broker available again", extra={"outage_s": round(time.monotonic() - began_s, 3)})
                return answer

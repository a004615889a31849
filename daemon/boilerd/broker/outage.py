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
        outage: Outage | None = None
        while True:
            try:
                answer = action()
            except self._awaits as error:
                outage = outage or Outage()
                if not self._pause(outage.next_pause_s(error)):
                    raise
            else:
                if outage:
                    outage.end()
                return answer


class Outage:
    """An outage of the broker, from the first error on, if there is one.

    Attributes:
        error: The last one; None: the broker is there.
    """

    def __init__(self) -> None:
        self.error: BrokerError | None = None
        self._began_s = 0.0
        self._longest_s = FIRST_PAUSE_S

    def next_pause_s(self, error: BrokerError) -> float:
        """Note an error; how long to wait until the next try."""
        if self.error is None:
            self._began_s, self._longest_s = time.monotonic(), FIRST_PAUSE_S
            logger.error("broker unavailable, waiting", extra={"error": str(error)})
        self.error = error
        # All workers lose the broker at one moment; jitter keeps them from coming back at one moment.
        pause_s = self._longest_s * (0.5 + random.random() / 2)
        self._longest_s = min(2 * self._longest_s, LONGEST_PAUSE_S)
        return pause_s

    def end(self) -> None:
        """Note that the broker did what was asked."""
        if self.error is not None:
            self.error = None
            logger.info("broker available again", extra={"outage_s": round(time.monotonic() - self._began_s, 3)})

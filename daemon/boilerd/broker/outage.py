"""Wait for a broker that does not answer: capped, jittered, and told once."""

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from boilerd.errors import BrokerError

logger = logging.getLogger("boilerd.broker")

#: The first pause; each further one is twice as long, up to the last.
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 3.0

T = TypeVar("T")


class OutageRetry:
    """Tries an action until Redis lets it through.

    Args:
        pause: Sleeps for so many seconds; answers whether to try again. When it says no, the
            action's error is raised.
        awaits: Errors that pass; any other is raised at once.
    """

    def __init__(self, pause: Callable[[float], bool], *, awaits: type[BrokerError] = BrokerError) -> None:
        self._pause = pause
        self._awaits = awaits

    def call(self, action: Callable[[], T]) -> T:
        """Do it, again and again where Redis fails; one line when that begins, one when it ends.

        Raises:
            BrokerError: `pause` said to give up, or it is none that passes.
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
                # All workers lose the broker together; they need not come back together.
                if not self._pause(longest_s * (0.5 + random.random() / 2)):
                    raise
                longest_s = min(2 * longest_s, LONGEST_PAUSE_S)
            else:
                if began_s is not None:
                    logger.info("broker available again", extra={"outage_s": round(time.monotonic() - began_s, 3)})
                return answer

"""The roller: rolls up the metrics of minutes that are over.

Any number of schedulers may do it, each pair of queue and type is added once. Metrics are nothing that a task waits
for: where Redis refuses them, that is told once, and no other duty hears of it.
"""

import logging

from boilerd.broker.broker import Broker
from boilerd.errors import BrokerRefusedError

logger = logging.getLogger("boilerd.scheduler")

#: So late is what enqueues counted; and so long after its end a minute is rolled up.
ROLL_EVERY_S = 5.0
#: Between two calls, so that Redis serves others: each takes it 3 ms at most.
ROLL_PAUSE_S = 0.05


class Roller:
    """Rolls up, some pairs of queue and type at a time.

    Args:
        broker: Of this process alone.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._is_refused = False

    def roll(self) -> float:
        """Roll up some pairs; seconds until it is due again."""
        try:
            has_more = self._broker.roll_metrics()
        except BrokerRefusedError as error:
            if not self._is_refused:
                logger.warning("metrics not rolled up, the broker refused", extra={"error": str(error)})
            self._is_refused = True
            return ROLL_EVERY_S
        self._is_refused = False
        return ROLL_PAUSE_S if has_more else ROLL_EVERY_S

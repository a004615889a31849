"""When Redis was away from this dashboard, as far as somebody looked: it keeps its own failures alone, and the last."""

import threading
from collections import deque
from dataclasses import dataclass, replace
from datetime import UTC, datetime

#: So many are told, the latest.
MOST = 20


@dataclass(frozen=True, slots=True)
class Outage:
    """Answers that Redis did not give, one after another; by this host's clock.

    Attributes:
        since: When the first of them was missed.
        last: When the last of them was missed.
        until: When the next picture of all queues was taken; nobody may have looked between.
        why: What was wrong the last time.
    """

    since: datetime
    last: datetime
    until: datetime
    why: str


class Outages:
    """Remembers them; any thread may tell of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._present: Outage | None = None
        self._over: deque[Outage] = deque(maxlen=MOST)

    def note(self, error: Exception) -> None:
        """Redis did not answer."""
        now = datetime.now(UTC)
        with self._lock:
            self._present = Outage(self._present.since if self._present else now, now, now, str(error))

    def over(self) -> tuple[Outage, ...]:
        """A picture was taken; all outages until then, the latest first."""
        with self._lock:
            if self._present:
                self._over.appendleft(replace(self._present, until=datetime.now(UTC)))
                self._present = None
            return tuple(self._over)

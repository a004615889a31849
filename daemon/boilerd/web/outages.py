"""When Redis was away from this dashboard, as far as somebody looked: it keeps its own failures alone, and the last."""

import threading
import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

#: So many are told, the latest.
MOST = 20


@dataclass(frozen=True, slots=True)
class Outage:
    """Answers that Redis did not give, one after another; by this host's clock, as it was at `until`.

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


@dataclass(slots=True)
class _Present:
    """One that goes on, by the monotonic clock: the other may be set meanwhile."""

    since_s: float
    last_s: float
    why: str


class Outages:
    """Remembers them; any thread may tell of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._present: _Present | None = None
        self._over: deque[Outage] = deque(maxlen=MOST)

    def note(self, error: Exception) -> None:
        """Redis did not answer."""
        with self._lock:
            now_s = time.monotonic()
            self._present = _Present(self._present.since_s if self._present else now_s, now_s, str(error))

    def over(self) -> tuple[Outage, ...]:
        """A picture was taken; all outages until then, the latest first."""
        with self._lock:
            if present := self._present:
                until, now_s = datetime.now(UTC), time.monotonic()
                since, last = (until - timedelta(seconds=now_s - at_s) for at_s in (present.since_s, present.last_s))
                self._over.appendleft(Outage(since, last, until, present.why))
                self._present = None
            return tuple(self._over)

"""When Redis was away from this dashboard, as far as somebody looked: it keeps its own failures alone, and the last."""

from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime

#: So many are told, the latest.
MOST = 20


@dataclass(frozen=True, slots=True)
class Outage:
    """Pictures that Redis did not answer, one after another.

    Attributes:
        since: When the first of them failed.
        last: When the last of them failed.
        until: When the next picture was taken; nobody may have looked between.
        why: What was wrong the last time.
    """

    since: datetime
    last: datetime
    until: datetime
    why: str


class Outages:
    """Remembers them; one thread at a time."""

    def __init__(self) -> None:
        self._since: datetime | None = None
        self._last = datetime.now(UTC)
        self._why = ""
        self._over: deque[Outage] = deque(maxlen=MOST)

    def note(self, error: Exception) -> None:
        """A picture failed."""
        self._last, self._why = datetime.now(UTC), str(error)
        self._since = self._since or self._last

    def over(self) -> tuple[Outage, ...]:
        """A picture was taken; all outages until then, the latest first."""
        if self._since is not None:
            self._over.appendleft(Outage(self._since, self._last, datetime.now(UTC), self._why))
            self._since = None
        return tuple(self._over)

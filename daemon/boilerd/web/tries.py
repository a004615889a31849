"""Count how often somebody tried to log in, and refuse more."""

import ipaddress
import time
from collections import deque

from boilerd.web.refusal import Refusal

PER_S = 60.0
#: Of so many who tried is that remembered.
_MOST_TRIED = 10_000


class Tries:
    """Those of the last minute, by whom.

    Args:
        most: How many each may have.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._of: dict[tuple[str, ...], deque[float]] = {}

    def count(self, *who: str) -> None:
        """Count one more; raises Refusal if it is one too many."""
        now_s = time.monotonic()
        tries = self._of.setdefault(who, deque(maxlen=self._most))
        if len(tries) == self._most and now_s - tries[0] < PER_S:
            raise Refusal(429, f"more than {self._most} tries in a minute; wait for one")
        tries.append(now_s)
        while len(self._of) > _MOST_TRIED:
            del self._of[next(iter(self._of))]

    def forget(self, *who: str) -> None:
        """They proved who they are."""
        self._of.pop(who, None)


def place_of(address: str) -> str:
    """What tries are counted for: of IPv6 its network, as anybody has 2**64 addresses of one."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(found) if found.version == 4 else str(ipaddress.ip_network((int(found), 64), strict=False))

"""How often open pages renew themselves: the more people look, and the slower the host, the less often."""

import math
import threading
import time

#: Of one CPU, what all polls together are to take.
SHARE = 0.03
#: Between two polls of one page: from when on it is told, and the longest.
LEAST_S, LONGEST_S = 1.0, 30.0
#: What polls take is looked at over so long, or until each page has asked if that is longer.
WINDOW_S = 4.0


class Pace:
    """Finds the pace by the CPU that polls take.

    Attributes:
        wait_s: How long a page is to wait at least between two polls; 0: as its reader likes.
    """

    def __init__(self) -> None:
        self.wait_s = 0.0
        self._lock = threading.Lock()
        self._used_s, self._since_s = 0.0, time.monotonic()

    def note(self, used_s: float) -> None:
        """Note CPU that a poll took: of a thread, or of the loop, which may have served others meanwhile."""
        with self._lock:
            self._used_s += used_s
            passed_s = time.monotonic() - self._since_s
            if passed_s < max(WINDOW_S, self.wait_s):
                return
            # Half of the way, as a ratio: one page that takes long once changes little, and pages hear of it late.
            wanted_s = max(self.wait_s, LEAST_S) * math.sqrt(self._used_s / passed_s / SHARE)
            self.wait_s = min(wanted_s, LONGEST_S) if wanted_s > LEAST_S else 0.0
            self._used_s, self._since_s = 0.0, time.monotonic()

"""How often open pages renew themselves: the more CPU their polls take, the less often."""

import functools
import math
import threading
import time
import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any

#: Of one CPU, what all polls together are to take.
SHARE = 0.02
#: Between two polls of one page: from when on it is told, and the longest.
LEAST_S, LONGEST_S = 1.0, 30.0
#: What polls take is looked at over so long, or until each page has asked if that is longer.
WINDOW_S = 4.0
#: Where nobody asks for so long, or for half as long again as pages wait, that says nothing of what their polls take;
#: and after so long a pace is forgotten.
QUIET_S, FORGOTTEN_S = 10.0, 2 * LONGEST_S


class Pace:
    """Finds the pace by the CPU that polls take."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wait_s = self._used_s = 0.0
        self._since_s = self._noted_s = time.monotonic()

    @property
    def wait_s(self) -> float:
        """How long a page is to wait between two polls; 0: as its reader likes, or no page has asked lately."""
        return self._wait_s if time.monotonic() < self._noted_s + FORGOTTEN_S else 0.0

    def note(self, used_s: float) -> None:
        """Note CPU that a poll took."""
        with self._lock:
            now_s, self._wait_s = time.monotonic(), self.wait_s
            if now_s > self._noted_s + max(QUIET_S, 1.5 * self._wait_s):
                self._used_s, self._since_s = 0.0, now_s
            self._noted_s = now_s
            self._used_s += used_s
            passed_s = now_s - self._since_s
            if passed_s < max(WINDOW_S, self._wait_s):
                return
            # Half of the way, as a ratio: one page that takes long once changes little, and pages hear of it late.
            wanted_s = max(self._wait_s, LEAST_S) * math.sqrt(self._used_s / passed_s / SHARE)
            self._wait_s = min(wanted_s, LONGEST_S) if wanted_s > LEAST_S else 0.0
            self._used_s, self._since_s = 0.0, now_s


@types.coroutine
def cpu_of(work: Awaitable[object]) -> Generator[Any, Any, float]:
    """Waits for it: the seconds of CPU that its own steps took, without what the loop did for others meanwhile."""
    steps, used_s = work.__await__(), 0.0
    step: Callable[[], Any] = functools.partial(next, steps)
    while True:
        began_s = time.thread_time()
        try:
            waits_for = step()
        except StopIteration:
            return used_s + time.thread_time() - began_s
        used_s += time.thread_time() - began_s
        try:
            step = functools.partial(steps.send, (yield waits_for))
        except BaseException as error:  # noqa: BLE001 - such as that it is cancelled
            step = functools.partial(steps.throw, error)

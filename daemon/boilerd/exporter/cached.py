"""Read something slow once for all who ask within a second."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

#: What was read is given to all who ask before this much time is over, counted from when the reading began.
FRESH_S = 1.0


class Cached(Generic[T]):
    """What a function returns, read in a thread of its own; the function is never called twice at one time.

    Args:
        read: Returns it; may take its time. What it raises, all raise who wait.
        clock: Seconds that never go back.
    """

    def __init__(self, read: Callable[[], T], clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._executor = ThreadPoolExecutor(max_workers=1)
        self._began_s = 0.0
        self._reading: asyncio.Future[T] | None = None

    async def get(self) -> T:
        """What was read within the last second, or is being read."""
        now_s = self._clock()
        if self._reading is None or (self._reading.done() and now_s - self._began_s >= FRESH_S):
            self._began_s = now_s
            self._reading = asyncio.get_running_loop().run_in_executor(self._executor, self._read)
        # Whoever gives up waiting must not take it from the others.
        return await asyncio.shield(self._reading)

    async def run(self, work: Callable[[], R]) -> R:
        """What some work returns, done in that thread as well."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

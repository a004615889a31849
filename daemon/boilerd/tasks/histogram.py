"""Counts of values by bucket, which can be added over periods, queues and types, with percentiles of them.

The bounds never change: only counts of equal buckets can be added, and Redis keeps them for 90 days. Quantile sketches
would be more exact, but cost a worker several microseconds a task, and no script could merge them.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

import msgspec

#: Each is 1.3 to 2.5 times the one before: so far may a percentile be from the truth.
BOUNDS_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0015, 0.0025, 0.0035, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.035, 0.05, 0.075, 0.1,
    0.15, 0.25, 0.35, 0.5, 0.75, 1.0, 1.5, 2.5, 3.5, 5.0, 7.5, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 300.0, 600.0,
    900.0, 1800.0, 3600.0, 9000.0, 21600.0,
)  # fmt: skip
#: Every second one, from a millisecond to 6 hours: enough for graphs, where each bucket is a series.
SHOWN_BOUNDS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0,
    21600.0,
)  # fmt: skip
#: Powers of 4, from 64 bytes to 64 MiB.
BOUNDS_BYTES = tuple(float(4**power) for power in range(3, 14))


def bucket_of(seconds: float) -> int:
    """The number of the bucket for a duration: of the first bound that is not below it; the last has no bound."""
    return bisect_left(BOUNDS_S, seconds)


def size_bucket_of(size_bytes: int) -> int:
    """The same for a size."""
    return bisect_left(BOUNDS_BYTES, size_bytes)


class Histogram(msgspec.Struct, frozen=True):
    """Values by bucket.

    Attributes:
        bounds: The highest value of each bucket, ascending; the last bucket has none.
        counts: How many values are in each bucket, one more than there are bounds.
        sum: Of all values.
        most: The highest value; 0: it is not known.
    """

    bounds: Sequence[float]
    counts: Sequence[int]
    sum: float = 0.0
    most: float = 0.0

    @property
    def count(self) -> int:
        """How many values."""
        return sum(self.counts)

    @property
    def mean(self) -> float | None:
        """The average; None: there are no values."""
        return self.sum / count if (count := self.count) else None

    def percentile(self, percent: float) -> float | None:
        """The value below which so many percent of all are; None: there are no values.

        Exact to the bucket; within it the values are taken to lie evenly.
        """
        if not 0 <= percent <= 100:
            raise ValueError(f"percentile {percent}: it is from 0 to 100")
        place, below = percent / 100 * self.count, 0
        for bucket, count in enumerate(self.counts):
            if count and place <= below + count:
                low, high = self._edges(bucket)
                return low + (high - low) * (place - below) / count
            below += count
        return None

    def cumulative(self, bounds: Sequence[float] = SHOWN_BOUNDS_S) -> list[tuple[float, int]]:
        """How many values are up to each of these bounds, which are among its own, and up to infinity."""
        up_to = dict(zip((*self.bounds, math.inf), accumulate(self.counts), strict=True))
        return [(bound, up_to[bound]) for bound in (*bounds, math.inf)]

    def _edges(self, bucket: int) -> tuple[float, float]:
        low = self.bounds[bucket - 1] if bucket else 0.0
        high = self.bounds[bucket] if bucket < len(self.bounds) else max(low, self.most)
        return low, min(high, max(low, self.most)) if self.most else high

    def __add__(self, other: "Histogram") -> "Histogram":
        """The values of both, which have the same bounds."""
        counts = tuple(mine + its for mine, its in zip(self.counts, other.counts, strict=True))
        return Histogram(self.bounds, counts, self.sum + other.sum, max(self.most, other.most))

"""Make of metrics what people look at: a line for each task type, and the numbers that it has, in all ways to look."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from boilerd.broker.constants import METRIC_PERIODS
from boilerd.broker.metrics import Period, Series
from boilerd.tasks.histogram import SHOWN_BOUNDS_S, Histogram
from boilerd.tasks.metric_record import LATER_BOUNDS, Numbers, Pair

PERCENTS = (50, 95, 99)
#: Periods that are few enough to read as lines, and to add soon.
MOST_PERIODS = 72


@dataclass(frozen=True, slots=True)
class TypeLine:
    """A type, with the queues that it was in, and what was counted of it in all of them.

    Attributes:
        time_share: Which part of the time of all attempts went to it; None: nothing ran.
    """

    type: str
    queues: Sequence[str]
    numbers: Numbers
    time_share: float | None


def type_lines(series: Series) -> list[TypeLine]:
    """Each type, the one that takes most of the workers' time first."""
    return lines_of(series.total())


def lines_of(total: Mapping[Pair, Numbers]) -> list[TypeLine]:
    """The same, of what was added already."""
    by_type: dict[str, dict[str, Numbers]] = {}
    for pair, numbers in total.items():
        by_type.setdefault(pair.type, {})[pair.queue] = numbers
    sums = {name: Numbers.sum_of(found.values()) for name, found in by_type.items()}
    whole = sum(numbers.run.sum for numbers in sums.values())
    lines = [
        TypeLine(name, sorted(by_type[name]), numbers, numbers.run.sum / whole if whole else None)
        for name, numbers in sums.items()
    ]
    return sorted(lines, key=lambda line: (-line.numbers.run.sum, line.type))


def figures(numbers: Numbers, lasting_s: float) -> dict[str, Any]:
    """What was counted in so many seconds, as plain values: ``attempts enqueued ended failed …``."""
    return {
        "attempts": numbers.attempts, "enqueued": numbers.enqueued,
        "ended_per_s": numbers.ended / lasting_s if lasting_s else None,
        "failed_share": failed_share(numbers),
        "wait_s": _summary(numbers.wait), "run_s": _summary(numbers.run), "payload_bytes": _summary(numbers.payload),
    }  # fmt: skip


def attempts_taken(numbers: Numbers) -> list[dict[str, int | float | None]]:
    """How many tasks were done with at which attempts, ``first`` to ``last``, and which part of all; ``last`` None: or
    a later one. The first attempt stands first.
    """  # noqa: D205 - one sentence
    counts = numbers.taken
    lasts = (1, *LATER_BOUNDS, None)
    firsts = (1, *((last or 0) + 1 for last in lasts[:-1]))
    return [
        {"first": first, "last": last, "tasks": count, "share": count / sum(counts) if sum(counts) else None}
        for first, last, count in zip(firsts, lasts, counts, strict=True)
    ]


def failed_share(numbers: Numbers) -> float | None:
    """Which part of the ended attempts failed; None: none ended."""
    return numbers.failed / numbers.ended if numbers.ended else None


def step_for(lasting_s: float, most: int = MOST_PERIODS, *, since_s: float = 0.0) -> int:
    """The shortest period of which there are at most so many in this time, in seconds, and that is kept since then.

    Args:
        lasting_s: How long the time is, in seconds.
        most: How many periods.
        since_s: How long ago it began, where it is over.
    """
    age_s = max(lasting_s, since_s)
    steps = [step_s for step_s, kept_s in METRIC_PERIODS.values() if age_s <= kept_s and lasting_s <= most * step_s]
    return min(steps, default=86400)


def lasting_s(series: Series, period: Period) -> float:
    """How long a period of these lasts: the last one is not over, as a rule."""
    return min(float(period.step_s), (series.until - period.start).total_seconds())


def in_columns(series: Series, most: int) -> list[Period]:
    """The periods, neighbours added so that there are at most so many; the last may have fewer of them."""
    size = math.ceil(len(series.periods) / most) or 1
    groups = [series.periods[first : first + size] for first in range(0, len(series.periods), size)]
    return [Period(group[0].start, series.step_s * size, _added(group)) for group in groups]


def heat_map(columns: Sequence[Histogram]) -> dict[str, Any]:
    """How many values of each moment are in which bucket, without the buckets above and below all of them.

    ``edges_s`` has one bound more than there are buckets, the first may be 0; values above the last bound of all are
    counted in the highest bucket.
    """
    bounds = [0.0, *SHOWN_BOUNDS_S]
    counts = [_between(column) for column in columns]
    used = [row for row in range(len(bounds) - 1) if any(column[row] for column in counts)]
    if not used:
        return {"edges_s": [], "columns": []}
    first, last = used[0], used[-1] + 1
    return {"edges_s": bounds[first : last + 1], "columns": [column[first:last] for column in counts]}


def _between(values: Histogram) -> list[int]:
    """The counts between the bounds that are shown, the highest with all above it."""
    up_to = [count for _, count in values.cumulative()]
    counts = [high - low for low, high in zip([0, *up_to], up_to, strict=False)]
    return [*counts[:-2], counts[-2] + counts[-1]]


def _added(group: Sequence[Period]) -> Mapping[Pair, Numbers]:
    return group[0].numbers if len(group) == 1 else Series(0, group, group[0].start).total()


def _summary(values: Histogram) -> dict[str, float | None]:
    percentiles = {f"p{percent}": values.percentile(percent) for percent in PERCENTS}
    return {"count": values.count, "mean": values.mean, **percentiles, "max": values.most or None}

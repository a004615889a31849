"""Values by bucket: what can be said of them, and that they can be added."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boilerd.tasks.histogram import (
    BOUNDS_BYTES,
    BOUNDS_S,
    SHOWN_BOUNDS_S,
    Histogram,
    bucket_of,
    size_bucket_of,
)

#: From a microsecond on, as they are measured.
DURATIONS = st.lists(st.floats(1e-6, 1e5), min_size=1, max_size=200)


def histogram_of(values: list[float]) -> Histogram:
    counts = [0] * (len(BOUNDS_S) + 1)
    for value in values:
        counts[bucket_of(value)] += 1
    return Histogram(BOUNDS_S, counts, sum(values), max(values, default=0.0))


def true_percentile(values: list[float], percent: float) -> float:
    """The least value that so many percent do not exceed."""
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]


@given(DURATIONS, st.integers(0, 100))
def test_a_percentile_is_in_the_bucket_of_the_true_one(values: list[float], percent: int) -> None:
    true = true_percentile(values, percent)

    found = histogram_of(values).percentile(percent)

    assert found is not None
    edges = (0.0, *BOUNDS_S, math.inf)
    low, high = edges[bucket_of(true)], edges[bucket_of(true) + 1]
    assert low <= found <= min(high, max(values)) or found == pytest.approx(max(values))


@given(DURATIONS)
def test_percentiles_rise_and_never_exceed_the_highest_value(values: list[float]) -> None:
    found = [histogram_of(values).percentile(percent) or 0.0 for percent in range(101)]

    assert all(one <= next_one + 1e-9 for one, next_one in pairwise(found))
    assert found[-1] <= max(values) + 1e-9


def test_values_of_one_bucket_are_taken_to_lie_evenly_in_it() -> None:
    counts = [0] * (len(BOUNDS_S) + 1)
    counts[bucket_of(0.2)] = 10

    found = Histogram(BOUNDS_S, counts)

    assert found.percentile(0) == pytest.approx(0.15)
    assert found.percentile(50) == pytest.approx(0.20)
    assert found.percentile(100) == pytest.approx(0.25)


def test_values_beyond_the_last_bound_lie_between_it_and_the_highest() -> None:
    found = histogram_of([30_000.0] * 2)

    assert found.percentile(50) == pytest.approx((21_600 + 30_000) / 2)
    assert found.percentile(100) == pytest.approx(30_000)


def test_no_values_have_no_percentile_and_no_mean() -> None:
    found = histogram_of([])

    assert (found.percentile(50), found.mean, found.count) == (None, None, 0)


@pytest.mark.parametrize("percent", [-1, 101, math.nan])
def test_a_percentile_is_from_0_to_100(percent: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 100"):
        histogram_of([1.0]).percentile(percent)


@given(DURATIONS, DURATIONS)
def test_the_sum_of_two_is_that_of_all_values(one: list[float], other: list[float]) -> None:
    added = histogram_of(one) + histogram_of(other)

    expected = histogram_of(one + other)
    assert (list(added.counts), added.most) == (expected.counts, expected.most)
    assert added.sum == pytest.approx(expected.sum)


def test_a_bound_is_in_the_bucket_that_it_ends() -> None:
    assert [bucket_of(bound) for bound in BOUNDS_S] == list(range(len(BOUNDS_S)))
    assert [size_bucket_of(int(bound)) for bound in BOUNDS_BYTES] == list(range(len(BOUNDS_BYTES)))
    assert (bucket_of(0.0), bucket_of(1e9), size_bucket_of(0), size_bucket_of(10**12)) == (0, 40, 0, 11)


def test_bounds_rise_and_those_that_are_shown_are_among_them() -> None:
    assert list(BOUNDS_S) == sorted({*BOUNDS_S})
    assert {*SHOWN_BOUNDS_S} <= {*BOUNDS_S}
    assert list(SHOWN_BOUNDS_S) == sorted(SHOWN_BOUNDS_S)


def test_counts_are_joined_to_fewer_buckets() -> None:
    found = histogram_of([0.0002, 0.0012, 0.002, 5.0, 99_999.0])

    joined = found.cumulative((0.001, 0.0025, 5.0))

    assert joined == [(0.001, 1), (0.0025, 3), (5.0, 4), (math.inf, 5)]

"""Values are written as a person would."""

import pytest

from boilerd.web import shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1833.4, "1,833"),
        (999.96, "1,000"),
        (18.34, "18.3"),
        (2.0, "2"),
        (0.001834, "0.00183"),
        (-1, "-1"),
    ],
)
def test_a_figure_has_three_digits_that_count_and_no_exponent(value: float, text: str) -> None:
    assert shown.figure(value) == text


def test_what_is_too_small_or_almost_all_is_said_so() -> None:
    assert [shown.percent(part) for part in (None, 0, 9.05e-7, 0.5, 0.9996, 1)] == [
        "", "0 %", "< 0.01 %", "50 %", "> 99.9 %", "100 %",
    ]  # fmt: skip
    assert shown.share(1, 0) == ""
    assert [shown.pace(per_s) for per_s in (None, 1833.0, 0.5, 1e-7)] == ["", "1,833 / s", "30 / min", "< 0.01 / h"]
    assert [shown.points(change) for change in (0.25, -0.0123, 0.0001)] == ["+25", "-1.23", "same"]
    assert [shown.brief(seconds) for seconds in (0.9999, 2e-7, 0, 90)] == ["1,000 ms", "0.2 µs", "0", "1.5 min"]
    assert [shown.sized(size) for size in (1023.9, 0, 5e12)] == ["1,024 B", "0 B", "4,657 GiB"]
    assert [shown.lasting(seconds) for seconds in (1e-6, 0.25, 90)] == ["< 0.0001 s", "0.25 s", "1 min 30 s"]

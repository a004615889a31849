"""Draw small charts as SVG: each a picture with a title, of a handful of elements however many values it has.

They stretch to whatever room they are given and have no text but their title, so that nothing in them is too small to
read; `charts.html` sets the words, the moments and the table beside them. Colours are classes of the style sheet, for
the policy of the dashboard lets no style into a page.
"""

import functools
import json
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from markupsafe import Markup, escape

from boilerd.web.shown import harmless, number

#: Shades of a heat map; the style sheet has a class for each.
SHADES = 5
#: The height of a chart in its own units; as wide as it has values.
_HEIGHT = 100.0
#: Steps of an area, by their heights.
_STEPS = [f"V{_HEIGHT - height:g}h1" for height in range(101)]

#: Outcome → its colour and height in a strip; all others go on.
_MARKS = {"completed": ("good", 50.0), "archived": ("bad", 100.0), "skipped": ("warn", 25.0), "gone": ("soft", 50.0)}
_WAITS = ("link", 75.0)

Values = Sequence[float | None]


def sparkline(values: Values, label: str, top: float = 0.0, marks: Iterable[float] = ()) -> Markup:
    """Steps without axes, for a cell of a table."""
    drawn = [_path("area", _area(tuple(values), _top([values], top))), *_marks(marks)]
    return _picture(max(len(values), 1), label, drawn, kind="sparkline")


def bars(values: Values, label: str, top: float = 0.0, marks: Iterable[float] = ()) -> Markup:
    """A bar for each value, up to `top` or to the highest."""
    highest = _top([values], top)
    drawn = "".join(
        f"M{place + 0.1:.4g} {_HEIGHT:g}V{_y(value, highest)}h.8V{_HEIGHT:g}z"
        for place, value in enumerate(values)
        if value
    )
    return _picture(max(len(values), 1), label, [_path("bar", drawn), *_marks(marks)])


def lines(named: Mapping[str, Values], label: str, top: float = 0.0, marks: Iterable[float] = ()) -> Markup:
    """A line for each name, in this order; a value that is None leaves a gap."""
    highest = _top(named.values(), top)
    drawn = [
        _path(f"line line-{number}", _line(["" if value is None else _y(value, highest) for value in values]))
        for number, values in enumerate(named.values(), 1)
    ]
    return _picture(max([1, *map(len, named.values())]), label, [*drawn, *_marks(marks)])


def heat(
    columns: Sequence[Sequence[int]],
    edges: Sequence[float],
    label: str,
    over: Mapping[str, Values] | None = None,
    marks: Iterable[float] = (),
) -> Markup:
    """How many values of each moment are in which bucket: the more, the stronger its shade.

    Args:
        columns: The counts of each moment, the lowest bucket first.
        edges: Of the buckets, one more than there are of them, ascending.
        label: What it shows, as a sentence.
        over: Lines over it, in the unit of the edges.
        marks: Where something happened, in columns from the left.
    """
    most = max((count for column in columns for count in column), default=0)
    rows = max(len(edges) - 1, 1)
    step = _HEIGHT / rows
    cell_of = [f"{_HEIGHT - (row + 1) * step:.5g}h1v{step:.5g}h-1z" for row in range(rows)]
    cells: dict[int, list[str]] = {}
    for x, column in enumerate(columns):
        for row, count in enumerate(column):
            if count:
                shade = math.ceil(SHADES * math.sqrt(count / most))
                cells.setdefault(shade, []).append(f"M{x} {cell_of[row]}")
    shades = [_path(f"heat heat-{shade}", "".join(found)) for shade, found in sorted(cells.items())]
    # A percentile is one of a few values, or near one: each is looked for once.
    heights = {value: _on_edges(value, edges) for value in {*chain(*(over or {}).values())}}
    drawn = [
        _path(f"line line-{number}", _line([heights[value] for value in values]))
        for number, values in enumerate((over or {}).values(), 1)
    ]
    return _picture(max(len(columns), 1), label, [*shades, *drawn, *_marks(marks)], kind="chart tall")


def strip(outcomes: Sequence[str], label: str, room: int = 0) -> Markup:
    """A mark for each of a few outcomes, the last at the right; they differ in height as well as in colour.

    With fewer than `room` of them the left stays empty.
    """
    drawn: dict[str, str] = {}
    for place, outcome in enumerate(outcomes, max(0, room - len(outcomes))):
        kind, height = _MARKS.get(outcome, _WAITS)
        drawn[kind] = drawn.get(kind, "") + f"M{place + 0.15:.4g} {_HEIGHT:g}V{_HEIGHT - height:g}h.7V{_HEIGHT:g}z"
    parts = [_path(f"mark-{kind}", path) for kind, path in drawn.items()]
    return _picture(max(len(outcomes), room, 1), label, parts, kind="sparkline")


def tallied(words: Iterable[str]) -> str:
    """How often each word is there, as a list: ``28 completed, 2 archived``."""
    return ", ".join(f"{count} {word}" for word, count in Counter(words).items())


def told(named: Mapping[str, Values], write: Callable[[Any], object] = number) -> str:
    """What `static/chart.js` says of each column, as JSON: the names with their values."""
    written = {value: "" if value is None else write(value) for value in {*chain(*named.values())}}
    lines = [[written[value] and f"{name} {written[value]}" for value in values] for name, values in named.items()]
    said = [", ".join(filter(None, column)) for column in zip(*lines, strict=True)]
    return json.dumps(said, ensure_ascii=False, separators=(",", ":"))


def top_of(*several: Values) -> float:
    """The highest value of all; 0: there is none."""
    return max(chain([0.0], filter(None, chain(*several))))


def _picture(width: float, label: str, parts: Iterable[str], kind: str = "chart") -> Markup:
    told = escape(harmless(label))
    # All but the label is written here: `Markup.format` would take longer than the drawing.
    start = f'<svg class="{kind}" role="img" viewBox="0 0 {width:g} {_HEIGHT:g}" preserveAspectRatio="none">'
    return Markup(f"{start}<title>{told}</title>{''.join(parts)}</svg>")  # noqa: S704


def _path(kind: str, drawn: str) -> str:
    return f'<path class="{kind}" d="{drawn}"/>' if drawn else ""


def _marks(places: Iterable[float]) -> list[str]:
    return [_path("mark-line", "".join(f"M{place:.5g} 0V{_HEIGHT:g}" for place in places))]


@functools.lru_cache(256)  # minutes that are over stay as they are
def _area(values: tuple[float | None, ...], top: float) -> str:
    if not any(values):
        return ""
    # Whole numbers: there may be a hundred such charts on a page.
    points = "".join([_STEPS[min(round(_HEIGHT * (value or 0.0) / top), 100)] for value in values])
    return f"M0 {_HEIGHT:g}{points}V{_HEIGHT:g}z"


def _line(heights: Sequence[str]) -> str:
    """A path through the middle of each column; an empty height leaves a gap."""
    drawn, before = [], ""
    for place, height in enumerate(heights):
        if height:
            # A point that stands alone is seen too.
            drawn.append(f"L{place}.5 {height}" if before else f"M{place}.5 {height}h.01")
        before = height
    return "".join(drawn)


def _top(several: Iterable[Values], top: float) -> float:
    return top or top_of(*several) or 1.0


def _y(value: float, top: float) -> str:
    return f"{_HEIGHT - _HEIGHT * value / top:.4g}" if value < top else "0"


def _on_edges(value: float | None, edges: Sequence[float]) -> str:
    """How high a value lies among buckets that are equally high, each with a logarithmic scale of its own."""
    if value is None or len(edges) < 2:
        return ""
    row = max(bisect_right(edges, value, hi=len(edges) - 1) - 1, 0)
    low, high = max(edges[row], edges[row + 1] / 10), edges[row + 1]
    share = math.log(max(value, low) / low) / math.log(high / low) if 0 < low < high < math.inf else 0.5
    return f"{_HEIGHT * (1 - (row + min(share, 1.0)) / (len(edges) - 1)):.4g}"

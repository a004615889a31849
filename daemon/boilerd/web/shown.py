"""Values as people read them, in templates; whatever is printed there is made harmless here."""

import functools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from markupsafe import Markup, escape

#: Characters of a payload that a page has; the rest is a download.
MOST_SHOWN = 64 * 1024
#: Nodes of a payload that a page shows as a tree, and how deep that goes.
MOST_NODES, MOST_DEPTH = 150, 6
#: A part that changes by less than so much of the whole is the same.
LEAST_CHANGE = 0.0005
#: What is the same in HTML.
_PLAIN = re.compile(r"[ !#-%(-;=?-~]*")


def harmless(text: str) -> str:
    """The text with escapes for characters that are not seen, or that change the order of others."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text)


def finalize(value: Any) -> str:
    """What a template prints for a value: HTML."""
    if isinstance(value, Markup):
        return value
    if value is None:
        return ""
    text = value if isinstance(value, str) else str(value)
    return text if _PLAIN.fullmatch(text) else escape(harmless(text))


def cut(text: str, most: int = 200) -> str:
    """The text, or its beginning."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


_ON_ONE_LINE = json.JSONEncoder(ensure_ascii=False, default=str)


def json_text(value: Any, most: int = MOST_SHOWN) -> str:
    """A value as JSON on many lines; numbers keep all their digits."""
    return cut(json.dumps(value, ensure_ascii=False, indent=2, default=str), most)


def json_line(value: Any, most: int = 200) -> str:
    """A value as JSON on one line."""
    return cut(_ON_ONE_LINE.encode(value), most)


def number(value: float) -> str:
    """A whole number with separators."""
    return f"{value:,.0f}"


def figure(value: float) -> str:
    """A number with three digits that count, and all those before the point: 1,830, 18.3 or 0.00183."""
    if not value:
        return "0"
    if not math.isfinite(value):
        return str(value)
    after = 2 - math.floor(math.log10(abs(value)))
    if after <= 0:
        return f"{value:,.0f}"
    return f"{value:,.{after}f}".rstrip("0").rstrip(".")


def lasting(seconds: float | None) -> str:
    """A duration with two units at most."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{figure(seconds)} s" if not 0 < seconds < 0.0001 else "< 0.0001 s"
    rest = round(seconds)
    parts: list[str] = []
    for name, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count or parts:
            parts.append(f"{count:,} {name}")
    return " ".join(parts[:2])


def sized(size: float) -> str:
    """A number of bytes."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{figure(size)} {unit}"
        size /= 1024
    return f"{figure(size)} GiB"


@functools.lru_cache(512)  # a page has hundreds, most of them as before
def moment(value: datetime | None, style: Literal["relative", "absolute"] = "relative") -> Markup:
    """A moment in UTC, which time.js shows in the reader's zone: relative, or absolute."""
    if value is None:
        return Markup("")
    told = value.astimezone(UTC).isoformat(timespec="milliseconds")
    # `Markup.format` would take longer than all else of a cell; a date and a word have nothing to escape.
    return Markup(f'<time datetime="{told}" data-style="{style}">{told[:10]} {told[11:19]} UTC</time>')  # noqa: S704


def share(part: float, whole: float) -> str:
    """A part as a percentage."""
    return percent(part / whole) if whole else ""


def percent(part: float | None) -> str:
    """A part of 1 as a percentage; empty if it is not known."""
    if part is None:
        return ""
    if 0 < part < 0.0001:
        return "< 0.01 %"
    if 0.9995 <= part < 1:  # some are left
        return "> 99.9 %"
    return f"{figure(100 * part)} %"


def points(change: float | None) -> str:
    """By how many percentage points a part has changed, with its sign."""
    if change is None:
        return ""
    return f"{'+' if change > 0 else ''}{figure(100 * change)}" if abs(change) >= LEAST_CHANGE else "same"


def brief(seconds: float | None) -> str:
    """A duration in one unit, from microseconds to days."""
    if seconds is None:
        return ""
    for name, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1), ("ms", 0.001)):
        if seconds >= size:
            return f"{figure(seconds / size)} {name}"
    return f"{figure(seconds * 1e6)} µs" if seconds else "0"


def pace(per_s: float | None) -> str:
    """How often something happens, in the unit in which that is at least once."""
    if not per_s:
        return ""
    unit, lasting_s = next((row for row in (("s", 1), ("min", 60)) if per_s * row[1] >= 1), ("h", 3600))
    often = per_s * lasting_s
    return f"{figure(often)} / {unit}" if often >= 0.01 else f"< 0.01 / {unit}"


def branches(value: Any, most: int = MOST_NODES) -> list[dict[str, Any]]:
    """A mapping or list as nodes with ``name``, ``text`` and ``inner`` ones, so many of them at most."""
    return _branches(value, iter(range(most)), 0)


def _branches(value: Any, left: Iterator[int], depth: int) -> list[dict[str, Any]]:
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
    found: list[dict[str, Any]] = []
    for name, inner in pairs:
        if next(left, None) is None:
            found.append({"name": "…", "text": "more is not shown here", "inner": []})
            break
        is_open = isinstance(inner, Mapping | list) and bool(inner) and depth < MOST_DEPTH
        text = _kind_of(inner) if is_open else json_line(inner)
        found.append(
            {"name": cut(str(name)), "text": text, "inner": _branches(inner, left, depth + 1) if is_open else []}
        )
    return found


def _kind_of(value: Any) -> str:
    return f"{len(value):,} {'keys' if isinstance(value, Mapping) else 'items'}"


def column(rows: Iterable[Mapping[str, Any]], name: str) -> list[Any]:
    """What each row has under this name; Jinja's `map` takes ten times as long for hundreds of them."""
    return [row[name] for row in rows]


def pattern(text: str) -> str:
    """A regular expression of browsers that fits this text alone; unlike Python's, theirs has no escape for a dash."""
    return re.sub(r"[\\^$.*+?()\[\]{}|/]", r"\\\g<0>", text)


FILTERS = {
    "branches": branches,
    "column": column,
    "cut": cut,
    "json_text": json_text,
    "json_line": json_line,
    "number": number,
    "figure": figure,
    "lasting": lasting,
    "sized": sized,
    "moment": moment,
    "share": share,
    "percent": percent,
    "points": points,
    "brief": brief,
    "pace": pace,
    "pattern": pattern,
}

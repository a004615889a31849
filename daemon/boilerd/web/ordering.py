"""Lists that a person sorts by clicking a column's heading: the query says by which, and a page of it is shown."""

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from boilerd.web.visit import MOST_PAGES, QueryError, Visit

#: Rows of a page, and how many a program may ask for.
SIZE, MOST_SIZE = 50, 1000
#: Rows of an export.
MOST_EXPORTED = 100_000

Row = Mapping[str, Any]


def in_order(
    visit: Visit,
    rows: Sequence[Row],
    columns: Mapping[str, Callable[[Row], Any]],
    default: str,
    *,
    way: str = "",
    size: int = SIZE,
) -> tuple[list[Row], dict[str, Any]]:
    """The rows of the page that is asked for, and what `charts.html` needs for headings and pager.

    Args:
        visit: Its query may have ``sort``, ``way``, ``page`` and ``size``.
        rows: All of them.
        columns: Name of a column → what it is sorted by; rows for which that is None come last, whichever way.
        default: The column where the query names none; numbers begin with the greatest.
        way: ``up`` or ``down``, where the query says none; empty: as the column has it.
        size: Rows of a page, where the query does not say.
    """
    by = visit.word("sort", default, of=[*columns])
    value = columns[by]
    values = [(value(row), row) for row in rows]
    known, unknown = [each for each in values if each[0] is not None], [row for at, row in values if at is None]
    natural = way if way and by == default else "down" if known and isinstance(known[0][0], int | float) else "up"
    turned = visit.word("way", natural, of=["up", "down"])
    ordered = [row for _, row in sorted(known, key=itemgetter(0), reverse=turned == "down")] + unknown
    most = MOST_EXPORTED if visit.is_export else MOST_SIZE
    page, size = visit.number("page", 1, most=MOST_PAGES), visit.number("size", size, most=most)
    shown = ordered[(page - 1) * size : page * size]
    first = (page - 1) * size
    return shown, {
        "by": by, "way": turned, "is_part": False, "page": page, "total": len(ordered), "first": first + bool(shown),
        "last": first + len(shown), "has_more": len(ordered) > page * size,
    }  # fmt: skip


def most_exported(visit: Visit) -> int:
    """How many rows an export that is read part by part has at most; raises QueryError: its second page is meant."""
    most = visit.number("size", MOST_EXPORTED, most=MOST_EXPORTED)
    if visit.number("page", 1) > 1:
        raise QueryError("page: an export of this list begins with the first row; without size, it has all")
    return most

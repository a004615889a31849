"""Print tables that fit the terminal, times that people read, and JSON for programs."""

import shutil
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from rich.cells import cell_len, set_cell_size

from boilerd.cli.output import echo, echo_bold, harmless, json_text

if TYPE_CHECKING:
    from rich.table import Table

#: The width of a pipe, where nothing is cut.
PIPE_WIDTH = 100_000
#: The width that the last column keeps on a narrow terminal.
MIN_LAST_WIDTH = 8


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; columns whose title ends in ``>`` hold numbers.

    On a narrow terminal the last column is cut; in a pipe none is.
    """
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_WIDTH
    cells, widths = _fit(columns, rows, width)
    # Not by rich, which draws the dash: it takes 0.4 ms for a row.
    echo_bold(_line(columns, [column.removesuffix(">") for column in columns], widths))
    for row in cells:
        echo(_line(columns, row, widths))


def _line(columns: Sequence[str], row: Sequence[str], widths: Sequence[int]) -> str:
    """Set the cells of a row under those of the others, as far as there are widths; cut a cell that is too wide."""
    shown = []
    for column, cell, width in zip(columns, row, widths, strict=False):
        gap = width - cell_len(cell)
        text = cell + " " * gap if gap >= 0 else set_cell_size(cell, width - 1) + "…"
        shown.append(" " * gap + cell if gap > 0 and column.endswith(">") else text)
    return "  ".join(shown).rstrip()


def make_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], width: int, *, chosen: int | None = None
) -> "Table":
    """Make a table at most `width` wide with the chosen row highlighted; leaves out columns from the right."""
    from rich.table import Table  # noqa: PLC0415 - takes 15 ms, and only the dash needs it
    from rich.text import Text  # noqa: PLC0415

    cells, widths = _fit(columns, rows, width)
    columns, cells = columns[: len(widths)], [row[: len(widths)] for row in cells]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        justify: Literal["right", "left"] = "right" if column.endswith(">") else "left"
        table.add_column(column.removesuffix(">"), justify=justify, no_wrap=True, overflow="ellipsis")
    table.columns[-1].max_width = widths[-1]
    for number, row in enumerate(cells):
        table.add_row(*map(Text, row), style="reverse" if number == chosen else "")
    return table


def _fit(columns: Sequence[str], rows: Iterable[Sequence[object]], width: int) -> tuple[list[list[str]], list[int]]:
    """Return the text of each cell, and the widths of the columns that fit."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [
        max(cell_len(column.removesuffix(">")), *(cell_len(row[n]) for row in cells), 0)
        for n, column in enumerate(columns)
    ]
    while len(widths) > 2 and sum(widths[:-1]) + min(MIN_LAST_WIDTH, widths[-1]) + 2 * (len(widths) - 1) > width:
        widths.pop()
    # Two spaces stand between columns. The last column is cut: IDs and times matter more than the end of an error.
    left = max(MIN_LAST_WIDTH, width - sum(widths[:-1]) - 2 * (len(widths) - 1))
    widths[-1] = min(widths[-1], left)
    widths[0] = max(1, widths[0] - max(0, sum(widths) + 2 * (len(widths) - 1) - width))
    return cells, widths


def print_fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Print ``name  value`` lines; leaves out names without a value."""
    for name, value in pairs:
        if value not in {None, ""}:
            echo(f"{name:<14}{_cell(value)}")


def print_json(value: Any) -> None:
    """Print an object on one line."""
    # Not by msgspec: it refuses lone surrogates, which stand for bytes in Redis that are no text.
    echo(json_text(msgspec.to_builtins(value, enc_hook=str), separators=(",", ":")))


def relative(moment: datetime | None) -> str:
    """Format as ``3m ago`` or ``in 2h``; empty for None."""
    if moment is None:
        return ""
    seconds = (moment - datetime.now(UTC)).total_seconds()
    distance = lasting(abs(seconds))
    return f"in {distance}" if seconds > 0 else f"{distance} ago"


def absolute(moment: datetime | None) -> str:
    """Format as ``2026-11-24 09:30:00 +01:00 (3m ago)``, in the local zone where the calendar has it."""
    if moment is None:
        return ""
    local = moment
    with suppress(ValueError, OverflowError, OSError):
        local = moment.astimezone()
    return f"{local.isoformat(' ', 'seconds')} ({relative(moment)})"


def lasting(seconds: float) -> str:
    """Format as ``0.2s``, ``45s``, ``3m``, ``2h5m`` or ``4d``."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    if seconds < 120:
        return f"{seconds:.0f}s"
    minutes = int(seconds // 60)
    if minutes < 120:
        return f"{minutes}m"
    hours = minutes // 60
    return f"{hours}h{minutes % 60}m" if hours < 48 else f"{hours // 24}d"


def brief(seconds: float) -> str:
    """Format as ``0.3ms``, ``12ms`` or ``450ms``, and from a second on as `lasting`."""
    if seconds < 0.01:
        return f"{seconds * 1000:.1f}ms"
    return f"{seconds * 1000:.0f}ms" if seconds < 1 else lasting(seconds)


def pace(count: int, seconds: float) -> str:
    """Format how often something happens as ``12.5/s``, ``3.0/min`` or ``0.2/h``; empty if it never does."""
    if not count or not seconds:
        return ""
    unit, lasting_s = next((row for row in (("s", 1), ("min", 60)) if count / seconds * row[1] >= 1), ("h", 3600))
    return f"{count / seconds * lasting_s:,.1f}/{unit}"


def sized(size: float) -> str:
    """Format as ``512 B`` or ``1.5 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def rate(part: int, whole: int) -> str:
    """Format as a percentage; empty if the whole is 0."""
    return f"{100 * part / whole:.2f}%" if whole else ""


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else harmless(str(value))

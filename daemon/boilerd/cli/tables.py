"""Print tables that fit the terminal, times that people read, and JSON for programs."""

import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from boilerd.cli.output import echo, harmless, json_text

#: The width of a pipe, where nothing is cut.
PIPE_WIDTH = 100_000
#: The width that the last column keeps on a narrow terminal.
MIN_LAST_WIDTH = 8


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; columns whose title ends in ``>`` hold numbers.

    On a narrow terminal the last column is cut; in a pipe none is.
    """
    output = console()
    output.print(make_table(columns, rows, output.width))


def make_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], width: int, *, chosen: int | None = None
) -> Table:
    """Make a table at most `width` wide with the chosen row highlighted; leaves out columns from the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [
        max(len(column.removesuffix(">")), *(cell_len(row[n]) for row in cells), 0) for n, column in enumerate(columns)
    ]
    while len(widths) > 2 and sum(widths[:-1]) + min(MIN_LAST_WIDTH, widths[-1]) + 2 * (len(widths) - 1) > width:
        widths.pop()
    columns, cells = columns[: len(widths)], [row[: len(widths)] for row in cells]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        justify: Literal["right", "left"] = "right" if column.endswith(">") else "left"
        table.add_column(column.removesuffix(">"), justify=justify, no_wrap=True, overflow="ellipsis")
    # Two spaces stand between columns. The last column is cut: IDs and times matter more than the end of an error.
    table.columns[-1].max_width = max(MIN_LAST_WIDTH, width - sum(widths[:-1]) - 2 * (len(columns) - 1))
    for number, row in enumerate(cells):
        table.add_row(*map(Text, row), style="reverse" if number == chosen else "")
    return table


def print_fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Print ``name  value`` lines; leaves out names without a value."""
    for name, value in pairs:
        if value not in {None, ""}:
            echo(f"{name:<14}{_cell(value)}")


def print_json(value: Any) -> None:
    """Print an object on one line."""
    # Not by msgspec: it refuses lone surrogates, which stand for bytes in Redis that are no text.
    echo(json_text(msgspec.to_builtins(value, enc_hook=str), separators=(",", ":")))


def console() -> Console:
    """Make a console on stdout; rich colours it only on a terminal and without NO_COLOR."""
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False, soft_wrap=False)


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

"""What commands print: tables that fit the terminal, moments for people, JSON for programs."""

import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import click
import msgspec
from rich.cells import cell_len, set_cell_size

if TYPE_CHECKING:
    from rich.table import Table

#: A pipe has no width; nothing is cut there.
PIPE_WIDTH = 100_000
#: What the last column keeps where a terminal is too narrow.
LEAST_WIDTH = 8


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns that end in ``>`` are numbers. Where a terminal is too narrow the last one is cut; in a pipe none is."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_WIDTH
    cells, widths = _fitted(columns, rows, width)
    # Not by rich, which draws the dash: it takes 0.4 ms for a row.
    head = _line(columns, [column.removesuffix(">") for column in columns], widths)
    if os.environ.get("TERM") != "dumb":
        head = click.style(head, bold=True)
    lines = [head, *(_line(columns, row, widths) for row in cells)]
    click.echo("\n".join(lines))


def _line(columns: Sequence[str], row: Sequence[str], widths: Sequence[int]) -> str:
    """The cells of a row under each other, as far as there are columns for them; one that is too wide is cut."""
    shown = []
    for column, cell, width in zip(columns, row, widths, strict=False):
        gap = width - cell_len(cell)
        text = cell + " " * gap if gap >= 0 else set_cell_size(cell, width - 1) + "…"
        shown.append(" " * gap + cell if gap > 0 and column.endswith(">") else text)
    return "  ".join(shown).rstrip()


def make_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], width: int, *, chosen: int | None = None
) -> "Table":
    """A table without lines, at most so wide, with one row highlighted; columns at the right go first."""
    from rich.table import Table  # noqa: PLC0415 - takes 15 ms, and only the dash needs it
    from rich.text import Text  # noqa: PLC0415

    cells, widths = _fitted(columns, rows, width)
    columns, cells = columns[: len(widths)], [row[: len(widths)] for row in cells]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        justify: Literal["right", "left"] = "right" if column.endswith(">") else "left"
        table.add_column(column.removesuffix(">"), justify=justify, no_wrap=True, overflow="ellipsis")
    table.columns[-1].max_width = widths[-1]
    for number, row in enumerate(cells):
        table.add_row(*map(Text, row), style="reverse" if number == chosen else "")
    return table


def _fitted(columns: Sequence[str], rows: Iterable[Sequence[object]], width: int) -> tuple[list[list[str]], list[int]]:
    """What the cells show, and the widths of the columns for which there is room."""
    cells = [[harmless(cell) for cell in row] for row in rows]
    widths = [
        max(cell_len(column.removesuffix(">")), *(cell_len(row[n]) for row in cells), 0)
        for n, column in enumerate(columns)
    ]
    while len(widths) > 2 and sum(widths[:-1]) + min(LEAST_WIDTH, widths[-1]) + 2 * (len(widths) - 1) > width:
        widths.pop()
    # Two spaces stand between columns. IDs and times are worth more than the end of an error.
    room = max(LEAST_WIDTH, width - sum(widths[:-1]) - 2 * (len(widths) - 1))
    widths[-1] = min(widths[-1], room)
    widths[0] = max(1, widths[0] - max(0, sum(widths) + 2 * (len(widths) - 1) - width))
    return cells, widths


def print_fields(pairs: Iterable[tuple[str, object]]) -> None:
    """``name  value`` lines; those without a value are left out."""
    for name, value in pairs:
        if value not in {None, ""}:
            click.echo(f"{name:<14}{harmless(value)}")


def print_json(value: Any) -> None:
    """One object on one line; bytes in Redis that are no text, which msgspec would refuse, become escapes on stdout."""
    plain = msgspec.to_builtins(value, enc_hook=str)
    click.echo(json.dumps(plain, ensure_ascii=False, separators=(",", ":")))


def harmless(value: object) -> str:
    """On one line, without characters that would move the cursor."""
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def relative(moment: datetime | None) -> str:
    """``3m ago``, ``in 2h``; empty for None."""
    if moment is None:
        return ""
    seconds = (moment - datetime.now(UTC)).total_seconds()
    told = lasting(abs(seconds))
    return f"in {told}" if seconds > 0 else f"{told} ago"


def absolute(moment: datetime | None) -> str:
    """``2026-11-24 09:30:00 +01:00 (3m ago)``, in the local zone."""
    return f"{moment.astimezone().isoformat(' ', 'seconds')} ({relative(moment)})" if moment else ""


def lasting(seconds: float) -> str:
    """``0.2s``, ``45s``, ``3m``, ``2h5m``, ``4d``."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    if seconds < 120:
        return f"{seconds:.0f}s"
    minutes = int(seconds // 60)
    if minutes < 120:
        return f"{minutes}m"
    hours = minutes // 60
    return f"{hours}h{minutes % 60}m" if hours < 48 else f"{timedelta(hours=hours).days}d"


def sized(size: float) -> str:
    """``512 B``, ``1.5 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def rate(part: int, whole: int) -> str:
    """A percentage; empty of nothing."""
    return f"{100 * part / whole:.2f}%" if whole else ""

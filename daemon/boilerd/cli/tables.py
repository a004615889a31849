"""What commands print: tables that fit the terminal, moments for people, JSON for programs."""

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

#: A pipe has no width; nothing is cut there.
PIPE_WIDTH = 100_000


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns that end in ``>`` are numbers. Cells are cut where the terminal is too narrow, never in a pipe."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        is_number = column.endswith(">")
        table.add_column(
            column.removesuffix(">"), justify="right" if is_number else "left", no_wrap=True, overflow="ellipsis"
        )
    for row in rows:
        table.add_row(*(Text(harmless(cell)) for cell in row))
    console().print(table)


def print_fields(pairs: Iterable[tuple[str, object]]) -> None:
    """``name  value`` lines; those without a value are left out."""
    for name, value in pairs:
        if value not in {None, ""}:
            click.echo(f"{name:<14}{harmless(value)}")


def print_json(value: Any) -> None:
    """One object on one line."""
    click.echo(msgspec.json.encode(value, enc_hook=str).decode())


def console() -> Console:
    """Of stdout; colours only on a terminal and without NO_COLOR, as rich does it."""
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False, soft_wrap=False)


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

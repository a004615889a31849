"""``boilerd logs``."""

import contextlib
import json
import logging
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from boilerd.cli.known_names import complete_types
from boilerd.cli.options import Loaded, with_settings
from boilerd.cli.output import echo, harmless_json
from boilerd.errors import BoilerdError
from boilerd.process.log_lines import TextFormatter
from boilerd.settings.finding import unit_of

#: Fields that a readable line does not show as extra fields.
_NOT_EXTRA = {"time", "level", "message", "logger", "pid", "traceback", "exc_info"}
_LEVELS = ("debug", "info", "warning", "error", "critical")


class NoLogError(BoilerdError):
    """No log was found."""


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with lines as they come.")
@click.option("-n", "--lines", type=click.IntRange(0), default=50, show_default=True, help="How many at most.")
@click.option("--level", type=click.Choice(_LEVELS), default="debug", help="The lowest level to show.")
@click.option("--task", "task_id", help="Lines of the task with this ID.")
@click.option("--type", "task_type", shell_complete=complete_types, help="Lines of tasks of this type.")
@click.option("--file", "path", help="This file; '-' reads stdin.")
@click.option("--unit", help="Without a file: whose lines of the journal; boiler-worker, or the instance of --config.")
@click.option("--json", "as_json", is_flag=True, help="Print the JSON lines as they are.")
@with_settings(("log_file",), is_lenient=True)
def logs(loaded: Loaded, *, path: str | None, as_json: bool, follow: bool, lines: int, **wanted: Any) -> None:
    """Show the daemon's log for people: from log_file if it is set, else from the journal.

    \b
    boilerd logs -f --level warning
    boilerd logs --task 049826ce-3df1-4b26-8678-9d36ba9e617c
    ssh host cat /var/log/boilerd.log | boilerd logs --file - --type email:deliver
    """  # noqa: D301 - click looks for the character \b
    unit, keep = wanted.pop("unit") or unit_of(loaded), _filter(**wanted)
    path, is_empty = path or loaded.settings.log_file, True
    with _source(path, unit, lines if follow else None) as source:
        found: Iterable[tuple[str, dict[str, Any]]] = filter(lambda pair: keep(pair[1]), map(_parse, source))
        for text, fields in found if follow else deque(found, maxlen=min(lines, sys.maxsize)):
            if as_json:
                echo(harmless_json(text) if fields else text)
            else:
                echo(*_readable(text, fields))
            is_empty = False
    if is_empty and lines and not path:
        echo(f"no such lines of {unit} in the journal; a daemon that logs elsewhere needs --unit or --file", err=True)


@contextlib.contextmanager
def _source(path: str | None, unit: str, last: int | None) -> Iterator[Iterable[str]]:
    """Open the log as lines; with `last`, so many of the past and then new ones as they come."""
    if path == "-":
        yield sys.stdin
        return
    if path and last is None:
        yield _lines_of(Path(path))
        return
    if path:
        command = ["tail", "-n", str(last), "-F", "--", path]
    elif shutil.which("journalctl"):
        following = [] if last is None else ["-f", "-n", str(last)]
        command = ["journalctl", "-q", "-t", unit, "-o", "cat", "--no-pager", *following]
    else:
        raise NoLogError("no log: log_file is not set, and there is no journal here; give --file, or '--file -'")
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8", errors="backslashreplace") as process:
        try:
            yield process.stdout or ()
        except BaseException:
            process.terminate()
            raise
    if process.returncode > 0:
        raise SystemExit(process.returncode)  # its own message is on stderr


def _lines_of(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8", errors="backslashreplace") as file:
            yield from file
    except OSError as error:
        raise NoLogError(f"{path}: {error.strerror}; give another file with --file") from error


def _parse(line: str) -> tuple[str, dict[str, Any]]:
    """Parse a line into its text and its fields; no fields if boilerd did not write it."""
    text = line.rstrip("\n")
    with contextlib.suppress(ValueError, RecursionError):
        fields = json.loads(text)
        if isinstance(fields, dict) and isinstance(fields.get("message"), str):
            return text, fields
    return text, {}


def _filter(*, level: str, task_id: str | None, task_type: str | None) -> Callable[[dict[str, Any]], bool]:
    def keeps(fields: dict[str, Any]) -> bool:
        shown = fields.get("level", "critical")
        return (
            _LEVELS.index(shown if shown in _LEVELS else "critical") >= _LEVELS.index(level)
            and task_id in (None, fields.get("task_id"))
            and task_type in (None, fields.get("task_type"))
        )

    return keeps


def _readable(text: str, fields: dict[str, Any]) -> list[str]:
    """Format a line as the daemon writes it on a terminal; the text itself if it cannot be read as one of its lines."""
    if not fields:
        return [text]
    level = str(fields.get("level", "")).upper()
    # A record is an object: a field that is named as a method is would take its place.
    extra = {k: value for k, value in fields.items() if k not in _NOT_EXTRA and not hasattr(logging.LogRecord, k)}
    own = {"msg": fields["message"], "args": (), "levelname": level, "created": _created(fields)}
    with contextlib.suppress(RecursionError):
        # An application's own handler may have written the second.
        traceback = str(fields.get("traceback") or fields.get("exc_info") or "")
        return [*TextFormatter().format(logging.makeLogRecord(extra | own)).split("\n"), *traceback.splitlines()]
    return [text]


def _created(fields: dict[str, Any]) -> float:
    """Read when the line was written; now, where it does not say so, or says what cannot be shown."""
    with contextlib.suppress(TypeError, ValueError, KeyError, OverflowError, OSError):
        created = datetime.fromisoformat(fields["time"]).timestamp()
        datetime.fromtimestamp(created).astimezone()
        return created
    return datetime.now().astimezone().timestamp()

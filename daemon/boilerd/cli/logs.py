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
from typing import Any

import click

from boilerd.cli.options import Loaded, with_settings
from boilerd.cli.tables import harmless
from boilerd.errors import BoilerdError
from boilerd.process.log_lines import TextFormatter

#: What a line for people leaves out.
_HIDDEN = {"time", "level", "message", "logger", "pid", "traceback", "exc_info"}
_LEVELS = ("debug", "info", "warning", "error", "critical")


class NoLogError(BoilerdError):
    """There is no log to be found."""


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with lines as they come.")
@click.option("-n", "--lines", type=click.IntRange(0), default=50, show_default=True, help="How many at most.")
@click.option("--level", type=click.Choice(_LEVELS), default="debug", help="The lowest level to show.")
@click.option("--task", "task_id", help="Lines of the task with this ID.")
@click.option("--type", "task_type", help="Lines of tasks of this type.")
@click.option("--file", "path", help="This file; '-' reads stdin.")
@click.option("--unit", default="boiler-worker", show_default=True, help="Without a file: whose lines of the journal.")
@click.option("--json", "as_json", is_flag=True, help="Print the JSON lines as they are.")
@with_settings(("log_file",), is_lenient=True)
def logs(loaded: Loaded, *, path: str | None, as_json: bool, follow: bool, lines: int, **wanted: Any) -> None:
    """Show the daemon's log for people: from log_file if it is set, else from the journal.

    \b
    boilerd logs -f --level warning
    boilerd logs --task 049826ce-3df1-4b26-8678-9d36ba9e617c
    ssh host cat /var/log/boilerd.log | boilerd logs --file - --type email:deliver
    """  # noqa: D301 - click looks for the character \b
    unit, keep = wanted.pop("unit"), _filter(**wanted)
    path, is_empty = path or loaded.settings.log_file, True
    with _source(path, unit, lines if follow else None) as source:
        found: Iterable[tuple[str, dict[str, Any]]] = filter(lambda pair: keep(pair[1]), map(_parse, source))
        for text, fields in found if follow else deque(found, maxlen=min(lines, sys.maxsize)):
            click.echo(text if as_json or not fields else _readable(fields))
            is_empty = False
    if is_empty and lines and not path:
        click.echo(
            f"no such lines of {unit} in the journal; a daemon that logs elsewhere needs --unit or --file", err=True
        )


@contextlib.contextmanager
def _source(path: str | None, unit: str, last: int | None) -> Iterator[Iterable[str]]:
    """The lines of the log; with `last`, so many of the past, and then those that come."""
    if path == "-":
        yield sys.stdin
        return
    if path:
        command = ["cat", "--", path] if last is None else ["tail", "-n", str(last), "-F", "--", path]
    elif shutil.which("journalctl"):
        following = [] if last is None else ["-f", "-n", str(last)]
        command = ["journalctl", "-q", "-t", unit, "-o", "cat", "--no-pager", *following]
    else:
        raise NoLogError("no log: log_file is not set, and there is no journal here; give --file, or '--file -'")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="backslashreplace") as process:
        try:
            yield process.stdout or ()
        except BaseException:
            process.terminate()
            raise
    if process.returncode > 0:
        raise SystemExit(process.returncode)  # it has said why


def _parse(line: str) -> tuple[str, dict[str, Any]]:
    """The line and its fields; none where it is not one of ours."""
    text = line.rstrip("\n")
    with contextlib.suppress(ValueError):
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


def _readable(fields: dict[str, Any]) -> str:
    """As the daemon writes it on a terminal."""
    created = datetime.now().astimezone().timestamp()
    with contextlib.suppress(TypeError, ValueError, KeyError):
        created = datetime.fromisoformat(fields["time"]).timestamp()
    level = str(fields.get("level", "")).upper()
    extra = {name: value for name, value in fields.items() if name not in _HIDDEN}
    record = logging.makeLogRecord({**extra, "msg": fields["message"], "levelname": level, "created": created})
    # An application's own handler may have written the second.
    traceback = str(fields.get("traceback") or fields.get("exc_info") or "")
    return "\n".join([TextFormatter().format(record), *map(harmless, traceback.splitlines())])

"""Where text leaves the command line: whatever a command prints goes through `echo`, or through `tables`.

Whoever can write to Redis, to a log or to a file chooses what is shown, and a terminal obeys what it is shown.
So text is made harmless here, where it is printed, and not where it comes from; `make check` refuses click's own
functions elsewhere.
"""

import io
import json
import os
from typing import Any

import click


def echo(*lines: object, err: bool = False) -> None:
    """Print each argument on a line of its own; without any, an empty one."""
    shown = "\n".join(harmless(str(line)) for line in lines)
    click.echo(shown, err=err)  # noqa: TID251 - the one place


def echo_bold(line: str) -> None:
    """Print a line, in bold where a terminal can show that."""
    shown = harmless(line)
    bold = shown if os.environ.get("TERM") == "dumb" else click.style(shown, bold=True)
    click.echo(bold)  # noqa: TID251 - the one place


def echo_error(message: object) -> None:
    """Say on stderr, in one line, why a command failed."""
    echo(f"boilerd: error: {message}", err=True)


def echo_misuse(error: click.ClickException) -> None:
    """Show click's own complaint, which repeats the words that were given."""
    told = io.StringIO()
    error.show(told)
    echo(*told.getvalue().splitlines(), err=True)


def ask(question: str) -> None:
    """Ask on stderr; anything but a yes ends the command."""
    click.confirm(harmless(question), abort=True, err=True)  # noqa: TID251 - the one place


def harmless(text: str) -> str:
    """The text on one line, with escapes for what a terminal would obey, hide or show in another order."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def json_text(value: Any, *, separators: tuple[str, str] = (", ", ": ")) -> str:
    """The value as JSON on one line, with JSON's own escapes for the same characters: it reads back as the same."""
    return harmless_json(json.dumps(value, ensure_ascii=False, separators=separators))


def harmless_json(text: str) -> str:
    """A line of JSON with escapes in its strings; a tab can only stand between them."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\t" else json.dumps(c)[1:-1] for c in text)

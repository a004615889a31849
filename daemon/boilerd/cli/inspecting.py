"""Parts of the commands that read and change what the broker holds."""

import signal
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from boilerd.broker.audit import Actor
from boilerd.broker.connection import connect_to
from boilerd.cli.missing_broker import naming_missing_broker
from boilerd.cli.options import BROKER, Loaded, with_settings
from boilerd.cli.output import ask, echo
from boilerd.cli.tables import absolute
from boilerd.errors import MisplacedKeyError
from boilerd.inspector import Action, BulkProgress, Inspector
from boilerd.tasks.task import TaskState

if TYPE_CHECKING:
    from boilerd.broker.pauses import Kind, Pause

#: The type of an option that names a state.
STATES = click.Choice([state.value for state in TaskState])

with_broker = with_settings(BROKER)
#: Who intervenes by a command.
CLI = Actor("cli")
#: Things that could not be read, of which is told.
_MOST_SKIPPED = 3
#: Gives a command ``--yes``.
with_yes = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


@contextmanager
def inspecting(loaded: Loaded) -> Iterator[Inspector]:
    """Connect an inspector to the broker that the settings name."""
    with naming_missing_broker(loaded.settings), connect_to(loaded.settings) as connection:
        yield Inspector(connection, by=CLI)


def tell_skipped(reasons: Sequence[str]) -> None:
    """Say on stderr what could not be read, and why."""
    for reason in reasons[:_MOST_SKIPPED]:
        echo(f"left out: {reason}", err=True)


def check_known(loaded: Loaded, inspector: Inspector, queue: str) -> None:
    """Raise QueueNotFoundError for a misspelt name: no such queue was ever used, and no worker is to serve it."""
    if queue not in loaded.settings.served_queues() and not inspector.has_workers(queue):
        inspector.queue(queue)


def told_pauses(inspector: Inspector, kind: "Kind") -> dict[str, "Pause"]:
    """Name → what was said of its pause; nothing where another program's key stands in its place."""
    with suppress(MisplacedKeyError):
        return {pause.name: pause for pause in inspector.pauses() if pause.kind == kind}
    return {}


def pause_words(pause: "Pause | None") -> str:
    """Say of something that it is paused, until when and why."""
    until = f" until {absolute(pause.until)}" if pause and pause.until else ""
    return f"paused{until}{f': {pause.note}' if pause and pause.note else ''}"


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is deleted; without a terminal ``--yes`` must be given."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Say so with --yes.")
    ask(question)


def do_all(  # noqa: PLR0917 - what chooses tasks, in its order
    inspector: Inspector, action: Action, queue: str, state: TaskState, task_type: str | None = None, find: str = ""
) -> int:
    """Do an action to all tasks of a queue in a state, with a progress bar; return how many were changed."""
    return show_progress(action, inspector.bulk(action, queue, state, task_type, wanted=find))


def show_progress(action: Action, steps: Generator[BulkProgress]) -> int:
    """Show a progress bar for a bulk action; return how many tasks were changed."""
    done = 0
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    # On stderr: a progress bar is no data.
    console = Console(stderr=True)
    with (
        ending_in_order(),
        closing(steps),
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        shown = bar.add_task(action, total=None)
        for progress in steps:
            done = progress.done
            bar.update(shown, completed=progress.seen, total=progress.total)
    return done


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Have TERM, and HUP of a terminal that is gone, end the block as Ctrl-C does: the audit tells how far it came."""
    caught = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_DFL]
    for each in caught:
        signal.signal(each, signal.default_int_handler)
    try:
        yield
    finally:
        for each in caught:
            signal.signal(each, signal.SIG_DFL)

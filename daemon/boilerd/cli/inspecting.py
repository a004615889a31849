"""Parts of the commands that read and change what the broker holds."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from boilerd.broker.connection import connect_to
from boilerd.cli.missing_broker import naming_missing_broker
from boilerd.cli.options import BROKER, Loaded, with_settings
from boilerd.cli.output import ask
from boilerd.inspector import Action, BulkProgress, Inspector
from boilerd.tasks.task import TaskState

#: The type of an option that names a state.
STATES = click.Choice([state.value for state in TaskState])

with_broker = with_settings(BROKER)
#: Gives a command ``--yes``.
with_yes = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


@contextmanager
def inspecting(loaded: Loaded) -> Iterator[Inspector]:
    """Connect an inspector to the broker that the settings name."""
    with naming_missing_broker(loaded.settings), connect_to(loaded.settings) as connection:
        yield Inspector(connection)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is deleted; without a terminal ``--yes`` must be given."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Say so with --yes.")
    ask(question)


def do_all(inspector: Inspector, action: Action, queue: str, state: TaskState, task_type: str | None = None) -> int:
    """Do an action to all tasks of a queue in a state, with a progress bar; return how many were changed."""
    return show_progress(action, inspector.bulk(action, queue, state, task_type))


def show_progress(action: Action, steps: Iterable[BulkProgress]) -> int:
    """Show a progress bar for a bulk action; return how many tasks were changed."""
    done = 0
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    # On stderr: a progress bar is no data.
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task(action, total=None)
        for progress in steps:
            done = progress.done
            bar.update(shown, completed=progress.seen, total=progress.total)
    return done

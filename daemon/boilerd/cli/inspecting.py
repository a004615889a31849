"""What the commands share that look at the broker and intervene."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from boilerd.broker.connection import connect_to
from boilerd.cli.options import BROKER, Loaded, with_settings
from boilerd.inspector import Action, Inspector
from boilerd.tasks.task import TaskState

#: A choice of states.
STATES = click.Choice([state.value for state in TaskState])

with_broker = with_settings(BROKER)


def with_json(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, an object a line.")(command)


def with_yes(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--yes``."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask.")(command)


@contextmanager
def inspecting(loaded: Loaded) -> Iterator[Inspector]:
    """The inspector of the broker that the settings name."""
    with connect_to(loaded.settings) as connection:
        yield Inspector(connection)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is destroyed; without a terminal ``--yes`` must be given."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Say so with --yes.")
    click.confirm(question, abort=True, err=True)


def do_all(inspector: Inspector, action: Action, queue: str, state: TaskState, task_type: str | None = None) -> int:
    """Do it with all tasks of the queue in that state, under a progress bar; how many it was done with."""
    done = 0
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    # On stderr, and for people: a progress bar is no data.
    talk = Console(stderr=True)
    with Progress(*columns, console=talk, transient=True, disable=not talk.is_terminal) as bar:
        shown = bar.add_task(action, total=None)
        for progress in inspector.bulk(action, queue, state, task_type):
            done = progress.done
            bar.update(shown, completed=progress.seen, total=progress.total)
    return done

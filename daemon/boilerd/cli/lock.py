"""``boilerd lock``."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from boilerd.cli.inspecting import check_known, confirm, inspecting, with_broker, with_yes
from boilerd.cli.known_names import complete_queues
from boilerd.cli.options import Loaded, with_json_lines
from boilerd.cli.output import echo
from boilerd.cli.tables import absolute, print_json, print_table
from boilerd.errors import UniqueLockError, listed, shown
from boilerd.inspector import Inspector

if TYPE_CHECKING:
    from boilerd.broker.shares import Lock


@click.group()
def lock() -> None:
    """Look at unique locks, and release one that was left behind.

    \b
    boilerd lock ls --type report:build
    """  # noqa: D301 - click looks for the character \b


@lock.command("ls")
@click.option("-q", "--queue", metavar="QUEUE", default="", help="Of this queue.", shell_complete=complete_queues)
@click.option("--type", "task_type", metavar="TYPE", default="", help="Of this type, or of what it begins with and *.")
@with_json_lines
@with_broker
def list_(loaded: Loaded, *, queue: str, task_type: str, as_json: bool) -> None:
    """List unique locks, each with the task that holds it; all keys of Redis are looked through for them.

    \b
    boilerd lock ls
    boilerd lock ls --queue low --type report:build --json
    """  # noqa: D301 - click looks for the character \b
    rows, types = [], []
    with inspecting(loaded) as inspector:
        for each in _locks(inspector, queue, task_type):
            if as_json:
                print_json(each)
            ends = absolute(each.ends_at)
            rows.append((each.queue, each.type, each.digest, each.task_id, ends, "lasts" if each.lasts else ""))
        if queue and not rows:
            check_known(loaded, inspector, queue)
        if task_type and not rows:
            types = sorted({each.type for each in _locks(inspector, queue)})
    if types:
        echo(f"note: no lock is of type {shown(task_type)}, but there are those of {listed(types)}", err=True)
    if not as_json:
        print_table(("QUEUE", "TYPE", "DIGEST", "TASK", "ENDS", ""), sorted(rows))


def _locks(inspector: Inspector, queue: str, task_type: str = "") -> "Iterator[Lock]":
    after = ""
    while True:
        found = inspector.unique_locks(queue, task_type, after=after)
        yield from found.locks
        if not (after := found.after):
            return


@lock.command()
@click.argument("queue", shell_complete=complete_queues)
@click.argument("task_type", metavar="TYPE")
@click.argument("digest")
@click.option("--task", "task_id", metavar="ID", default="", help="Also if this task holds it and has not ended.")
@with_yes
@with_broker
def release(loaded: Loaded, *, queue: str, task_type: str, digest: str, task_id: str, yes: bool) -> None:
    """Release a unique lock, so that a task with its payload may be enqueued; prints the task that held it.

    If that task has not ended, another may run beside it then: its ID has to be given.

    \b
    boilerd lock release low report:build DIGEST --yes
    """  # noqa: D301 - click looks for the character \b
    with inspecting(loaded) as inspector:
        found = inspector.unique_lock(queue, task_type, digest)
        if found is None:
            raise UniqueLockError(task_type, queue, task_id, "free")
        confirm(f"Release the lock of type {task_type} in queue {queue} that task {found.task_id} holds?", yes=yes)
        inspector.release_lock(queue, task_type, digest, task_id=task_id or found.task_id, also_of_living=bool(task_id))
        echo(found.task_id)

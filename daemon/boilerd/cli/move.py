"""``boilerd task move``."""

from collections.abc import Sequence
from contextlib import closing

import click

from boilerd.broker import server_check
from boilerd.broker.connection import connect, connect_to
from boilerd.broker.moving import Move
from boilerd.cli.inspecting import CLI, ending_in_order, with_broker
from boilerd.cli.known_names import complete_queues
from boilerd.cli.missing_broker import naming_missing_broker
from boilerd.cli.options import Loaded
from boilerd.cli.output import echo, echo_error
from boilerd.process.exit_status import FAILED
from boilerd.settings.loading import read_secret_file


@click.command()
@click.option("--to", "url", required=True, metavar="URL", help="The broker to which they go, as redis_url.")
@click.option("--password-file", metavar="FILE", help="Where its password stands; in a URL every user could read it.")
@click.option(
    "-q",
    "--queue",
    "queues",
    multiple=True,
    shell_complete=complete_queues,
    help="Of this queue only; may be given several times.",
)
@with_broker
def move(loaded: Loaded, *, url: str, password_file: str | None, queues: tuple[str, ...]) -> None:
    """Move all waiting tasks to another broker: pending, scheduled, retried and archived ones.

    Each is stored there before it is deleted here. Meanwhile nothing is claimed from its queue here; where the
    command was cut off, call it again, and it goes on. Tasks that run here stay.

    \b
    boilerd task move --to redis://redis.example:6379/0 --password-file /root/redis.password
    """  # noqa: D301 - click looks for the character \b
    password = read_secret_file(password_file) if password_file else None
    with (
        naming_missing_broker(loaded.settings),
        connect_to(loaded.settings) as source,
        connect(url, password=password) as target,
    ):
        moving = Move(source, target, CLI)
        moving.check()  # first, as it asks the source: only that may be a daemon's that does not run
        server_check.check(target)
        moved, left = _move_all(moving, queues or moving.queues())
    echo(moved)
    for task_id, reason in left.items():
        echo_error(f"task {task_id} stays here: {reason}")
    if left:
        raise SystemExit(FAILED)


def _move_all(moving: Move, queues: Sequence[str]) -> tuple[int, dict[str, str]]:
    moved = 0
    left: dict[str, str] = {}
    for queue in queues:
        with ending_in_order(), closing(moving.run(queue)) as steps:
            for step in steps:
                moved += len(step.moved)
                left |= step.left
    return moved, left

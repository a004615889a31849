"""``boilerd worker``."""

import click

from boilerd.cli.control import restart, scale
from boilerd.cli.inspecting import inspecting, with_broker
from boilerd.cli.options import Loaded, with_json_lines
from boilerd.cli.tables import print_json, print_table, relative
from boilerd.tasks.queues import DEFAULT_POOL


@click.group()
def worker() -> None:
    """Look at the workers of all hosts; restart and scale those of this daemon.

    \b
    boilerd worker ls
    boilerd worker scale 20
    """  # noqa: D301 - click looks for the character \b


@worker.command("ls")
@with_json_lines
@with_broker
def list_(loaded: Loaded, *, as_json: bool) -> None:
    """List the workers of all hosts, and what each is running since when.

    \b
    boilerd worker ls
    """  # noqa: D301 - click looks for the character \b
    with inspecting(loaded) as inspector:
        found = inspector.workers()
    if as_json:
        for one in found:
            print_json(one)
        return
    # Only where there is something to tell: with one pool, and one task at a time, the table is as it always was.
    has_pools = any((one.pool, one.slots) != (DEFAULT_POOL, 1) for one in found)
    rows = [
        (
            one.name, *((one.pool, one.slots, one.running) if has_pools else ()), str(one.pid), one.state,
            relative(one.started_at), one.succeeded, one.failed, one.problem or one.runs,
            relative(one.task_started_at),
        )
        for one in found
    ]  # fmt: skip
    pools = ("POOL", "SLOTS>", "RUNNING>") if has_pools else ()
    print_table(("WORKER", *pools, "PID>", "STATE", "STARTED", "DONE>", "FAILED>", "RUNS", "SINCE"), rows)


worker.add_command(restart)
worker.add_command(scale)

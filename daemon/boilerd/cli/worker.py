"""``boilerd worker``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from boilerd.broker.views import WorkerInfo
from boilerd.cli.control import restart, scale
from boilerd.cli.inspecting import inspecting, with_broker
from boilerd.cli.options import Loaded, with_json_lines
from boilerd.cli.tables import lasting, print_json, print_table, relative, sized
from boilerd.tasks.queues import DEFAULT_POOL

if TYPE_CHECKING:
    from boilerd.broker.deaths import WorkerDeath


@click.group()
def worker() -> None:
    """Look at the workers of all hosts; restart and scale those of this daemon.

    \b
    boilerd worker ls
    boilerd worker scale 20
    """  # noqa: D301 - click looks for the character \b


@worker.command("ls")
@click.option("--dead", is_flag=True, help="Those that died within a day instead: how, with which task and memory.")
@with_json_lines
@with_broker
def list_(loaded: Loaded, *, dead: bool, as_json: bool) -> None:
    """List the workers of all hosts, what each takes of its host, and what it is running since when.

    \b
    boilerd worker ls
    boilerd worker ls --dead
    """  # noqa: D301 - click looks for the character \b
    with inspecting(loaded) as inspector:
        if dead:
            _print_dead(inspector.deaths(), as_json=as_json)
            return
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
            relative(one.started_at), *_load(one), one.succeeded, one.failed, one.problem or one.runs,
            relative(one.task_started_at),
        )
        for one in found
    ]  # fmt: skip
    pools = ("POOL", "SLOTS>", "RUNNING>") if has_pools else ()
    columns = ("WORKER", *pools, "PID>", "STATE", "STARTED", "MEMORY>", "CPU>", "DONE>", "FAILED>", "RUNS", "SINCE")
    print_table(columns, rows)


def _print_dead(found: "Sequence[WorkerDeath]", *, as_json: bool) -> None:
    if as_json:
        for one in found:
            print_json(one)
        return
    rows = [
        (
            one.worker, one.pool, str(one.pid), relative(one.at), one.why,
            "" if one.rss_bytes is None else sized(one.rss_bytes), "" if one.lived_s is None else lasting(one.lived_s),
            f"{one.task_type} {one.task_id}".strip(), one.tasks,
        )
        for one in found
    ]  # fmt: skip
    print_table(("WORKER", "POOL", "PID>", "DIED", "HOW", "MEMORY>", "LIVED>", "RAN", "HELD>"), rows)


def _load(one: WorkerInfo) -> tuple[str, str]:
    """Its resident size, and the CPU time of its process; empty where they are not known, as before a heartbeat."""
    memory = "" if one.rss_bytes is None else sized(one.rss_bytes)
    return memory, "" if one.cpu_ms is None else lasting(one.cpu_ms / 1000)


worker.add_command(restart)
worker.add_command(scale)

"""``boilerd health``."""

import json
from collections.abc import Iterable

import click

from boilerd.broker import server_check
from boilerd.broker.connection import connect_to
from boilerd.broker.views import QueueDetail
from boilerd.cli.options import BROKER, DurationType, Loaded, with_json_object, with_settings
from boilerd.cli.output import echo
from boilerd.cli.rpc_client import read_status
from boilerd.errors import BrokerError
from boilerd.inspector import Inspector
from boilerd.process.exit_status import FAILED, OK
from boilerd.settings.definitions import Settings


@click.command()
@click.option("--max-latency", type=DurationType(), help="Longest that a task of these queues may have waited.")
@with_json_object
@with_settings((*BROKER, "queues"))
def health(loaded: Loaded, *, max_latency: float | None, as_json: bool) -> None:
    """Say whether all is well, for probes: one line for each thing that is not.

    Exit status: 0 the daemon has started and does not drain, every process of it runs and gets through
    to the broker, that takes new tasks, its keys are what they should be, no archive is full and dropped
    tasks today, and no task has waited longer than --max-latency; 1 otherwise.

    \b
    boilerd health --max-latency 5m
    """  # noqa: D301 - click looks for the character \b
    problems = _problems(loaded.settings, max_latency)
    if as_json:
        echo(json.dumps({"ok": not problems, "troubles": problems}))
    else:
        echo(*problems or ["ok"])
    raise SystemExit(FAILED if problems else OK)


def _problems(settings: Settings, max_latency_s: float | None) -> list[str]:
    problems = read_status(settings.control_socket()).problems()
    try:
        with connect_to(settings, timeout_s=2.0) as connection:
            server_check.check(connection)
            server_check.probe(connection, is_storing=True)
            inspector = Inspector(connection)
            problems += inspector.problems(settings.queues)
            queues = inspector.queue_details(settings.queues)
            problems += _dropping(queues, settings.archive_limit)
            if max_latency_s is not None:
                problems += _late(queues, max_latency_s)
    except BrokerError as error:
        problems.insert(0, f"broker: {error}")  # likely the cause of the others
    return problems


def _dropping(queues: Iterable[QueueDetail], archive_limit: int) -> list[str]:
    """Name the queues whose archive is full and has cost tasks today."""
    return [
        f"queue {found.counts.name}: its archive is full, {found.today.dropped} tasks were dropped today (UTC);"
        " run or delete what is there, or raise archive_limit"
        for found in queues
        if found.today.dropped and found.counts.archived >= archive_limit > 0
    ]


def _late(queues: Iterable[QueueDetail], max_latency_s: float) -> list[str]:
    """Name the queues whose oldest task has waited too long; tasks of a paused queue are meant to wait."""
    return [
        f"queue {found.counts.name}: the oldest task has waited {found.latency_s:.0f} s"
        for found in queues
        if not found.counts.is_paused and found.latency_s > max_latency_s
    ]

"""``boilerd health``."""

import json
from collections.abc import Iterable

import click

from boilerd.broker import server_check
from boilerd.broker.connection import connect_to
from boilerd.broker.views import QueueDetail
from boilerd.cli.facts import print_verdict, read_facts, verdict_fields
from boilerd.cli.missing_broker import naming_missing_broker
from boilerd.cli.options import BROKER, DurationType, Loaded, with_json_object, with_settings
from boilerd.cli.output import echo
from boilerd.cli.rpc_client import DaemonStatus, read_status
from boilerd.errors import BrokerError
from boilerd.inspector import Inspector
from boilerd.process.exit_status import FAILED, OK
from boilerd.settings.definitions import Settings
from boilerd.verdict.table import judge

#: What is said of a queue with tasks that nobody will claim.
NOBODY = "tasks wait, and no worker works on it"


@click.command()
@click.option("--max-latency", type=DurationType(), help="Longest that a task of these queues may have waited.")
@click.option("--explain", is_flag=True, help="Say in sentences what is wrong, the worst first, and what shows more.")
@with_json_object
@with_settings((*BROKER, "queues"))
def health(loaded: Loaded, *, max_latency: float | None, explain: bool, as_json: bool) -> None:
    """Say whether all is well, for probes: one line for each thing that is not.

    Exit status: 0 the daemon has started and does not drain, every process of it runs and gets through
    to the broker, that takes new tasks, its keys are what they should be, no archive is full and dropped
    tasks today, and no task has waited longer than --max-latency, also in a paused queue and in one that no worker
    works on; 1 otherwise.
    A note, such as one of tasks that no worker will claim, changes nothing about that.

    \b
    boilerd health --max-latency 5m
    boilerd health --explain
    """  # noqa: D301 - click looks for the character \b
    daemon = read_status(loaded.settings.control_socket())
    problems, notes = _problems(loaded.settings, daemon, max_latency)
    verdict = judge(read_facts(loaded.settings, daemon, max_latency_s=max_latency)) if explain else None
    if as_json:
        told = verdict_fields(verdict) if verdict else {}
        echo(json.dumps({"ok": not problems, **told, "troubles": problems, **({"notes": notes} if notes else {})}))
    elif verdict:
        print_verdict(verdict)
    else:
        echo(*problems or ["ok"], *(f"note: {note}" for note in notes))
    raise SystemExit(FAILED if problems else OK)


def _problems(settings: Settings, daemon: DaemonStatus, max_latency_s: float | None) -> tuple[list[str], list[str]]:
    """What is wrong, and what a person should know beside it."""
    problems, notes = daemon.problems(), []
    try:
        with naming_missing_broker(settings), connect_to(settings, timeout_s=2.0) as connection:
            server_check.check(connection)
            server_check.probe(connection, is_storing=True)
            inspector = Inspector(connection)
            problems += inspector.problems(settings.served_queues())
            queues, unserved = inspector.queue_details(settings.served_queues()), inspector.unserved()
            notes = [f"queue {found.counts.name}: {NOBODY}" for found in unserved]
            problems += _dropping(queues, settings.archive_limit)
            if max_latency_s is not None:
                problems += _late(queues + [found for found in unserved if found not in queues], max_latency_s)
    except BrokerError as error:
        problems.insert(0, f"broker: {error}")  # likely the cause of the others
    return problems, notes


def _dropping(queues: Iterable[QueueDetail], archive_limit: int) -> list[str]:
    """Name the queues whose archive is full and has cost tasks today."""
    return [
        f"queue {found.counts.name}: its archive is full, {found.today.dropped} tasks were dropped today (UTC);"
        " run or delete what is there, or raise archive_limit"
        for found in queues
        if found.today.dropped and found.counts.archived >= archive_limit > 0
    ]


def _late(queues: Iterable[QueueDetail], max_latency_s: float) -> list[str]:
    """Name the queues whose oldest task has waited too long, for whatever reason."""
    return [
        f"queue {found.counts.name}{' (paused)' if found.counts.is_paused else ''}:"
        f" the oldest task has waited {found.latency_s:.0f} s"
        for found in queues
        if found.latency_s > max_latency_s
    ]

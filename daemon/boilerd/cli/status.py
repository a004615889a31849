"""``boilerd status``."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from boilerd.cli.options import BROKER, Loaded, with_settings
from boilerd.cli.socket_client import daemon_info, daemon_processes
from boilerd.connection import connect
from boilerd.errors import BrokerError
from boilerd.exitcodes import FAILED, OK
from boilerd.inspector import Inspector
from boilerd.records import QueueInfo
from boilerd.urls import mask_url

#: Supervisor calls a process RUNNING when it has lived for a second.
UP = frozenset({"STARTING", "RUNNING"})
_STATES = ("pending", "active", "scheduled", "completed", "archived")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@with_settings(BROKER)
def status(loaded: Loaded, *, as_json: bool) -> None:
    """Show the daemon of this runtime directory, its processes, and the queues.

    Exit status: 0 all processes run and the broker answers, 1 otherwise.

    \b
    boilerd status --json | jq .daemon.busy
    """  # noqa: D301 - click looks for the character \b
    settings = loaded.settings
    processes = daemon_processes(settings.control_socket())
    info = daemon_info(settings.control_socket())
    broker_error, queues = None, []
    try:
        with connect(
            settings.broker_url(), password=settings.redis_password, db=settings.redis_db, timeout_s=2.0
        ) as connection:
            queues = Inspector(connection).queues(settings.queues)
    except BrokerError as error:
        broker_error = str(error)
    url = mask_url(settings.broker_url())
    if as_json:
        rows = [asdict(queue) for queue in queues]
        click.echo(
            json.dumps(
                {"daemon": info, "processes": processes, "broker": {"url": url, "error": broker_error}, "queues": rows}
            )
        )
    else:
        _print_processes(processes, info, settings.control_socket())
        click.echo(f"broker      {url}" + (f"  {broker_error}" if broker_error else ""))
        _print_queues(queues)
    is_well = bool(processes) and broker_error is None and all(p["state"] in UP for p in processes)
    raise SystemExit(OK if is_well else FAILED)


def _print_processes(processes: list[dict[str, Any]], info: dict[str, Any], control_socket: Path) -> None:
    if not processes:
        click.echo(f"daemon      not running (nobody answers at {control_socket})")
        return
    running = sum(process["state"] in UP for process in processes)
    click.echo(f"daemon      {info.get('status', 'starting')}")
    click.echo(f"processes   {running} of {len(processes)} up")
    for process in processes:
        pid = f"pid {process['pid']}" if process["pid"] else ""
        click.echo(f"  {process['name']:<12}{process['state']:<10}{pid}")


def _print_queues(queues: list[QueueInfo]) -> None:
    if not queues:
        return
    width = max(10, *(len(queue.name) for queue in queues))
    click.echo(f"{'queue':<{width}}" + "".join(f"{state:>11}" for state in _STATES))
    for queue in queues:
        counts = "".join(f"{getattr(queue, state):>11}" for state in _STATES)
        click.echo(f"{queue.name:<{width}}{counts}" + ("  paused" if queue.is_paused else ""))

"""``boilerd status``."""

import json
from collections.abc import Collection
from dataclasses import asdict

import click

from boilerd.broker import server_check
from boilerd.broker.connection import connect_to
from boilerd.broker.views import QueueInfo
from boilerd.cli.health import NOBODY
from boilerd.cli.missing_broker import naming_missing_broker
from boilerd.cli.options import BROKER, Loaded, with_json_object, with_settings
from boilerd.cli.output import echo, harmless
from boilerd.cli.rpc_client import DaemonStatus, read_status
from boilerd.errors import BrokerError
from boilerd.inspector import Inspector
from boilerd.process.exit_status import FAILED, OK
from boilerd.settings.urls import mask_url

#: Field of a queue → its title and its width.
_COLUMNS = {
    "pending": ("pending", 11), "active": ("active", 11), "scheduled": ("scheduled+retry", 17),
    "completed": ("completed", 11), "archived": ("archived", 11),
}  # fmt: skip


@click.command()
@with_json_object
@with_settings(BROKER)
def status(loaded: Loaded, *, as_json: bool) -> None:
    """Show the daemon of this runtime directory, its processes, and the queues.

    Exit status: 0 the daemon has started, all its processes run and get through to the broker, and that
    takes new tasks; 1 otherwise.

    \b
    boilerd status --json | jq .daemon.busy
    """  # noqa: D301 - click looks for the character \b
    settings = loaded.settings
    daemon = read_status(settings.control_socket())
    broker_error, queues, is_suspended, unserved = None, [], False, set()
    try:
        with naming_missing_broker(settings), connect_to(settings, timeout_s=2.0) as connection:
            inspector = Inspector(connection)
            queues = sorted(inspector.queues(settings.served_queues()), key=lambda queue: queue.is_idle)
            is_suspended = inspector.is_suspended()
            unserved = {found.counts.name for found in inspector.unserved()}
            server_check.probe(connection, is_storing=True)
    except BrokerError as error:
        broker_error = str(error)
    if broker_error is None:
        daemon = daemon.with_pending(sum(queue.pending for queue in queues if queue.name in settings.served_queues()))
    url = mask_url(settings.broker_url())
    if as_json:
        rows = [asdict(queue) for queue in queues]
        echo(
            json.dumps(
                {
                    "daemon": daemon.info, "processes": daemon.processes, "broker": {"url": url, "error": broker_error},
                    "is_suspended": is_suspended, "queues": rows, "unserved": sorted(unserved),
                    "troubles": daemon.problems(),
                }
            )
        )  # fmt: skip
    else:
        _print_daemon(daemon)
        echo(f"broker      {url}" + (f"  {broker_error}" if broker_error else ""))
        if is_suspended:
            echo("suspended   nothing is claimed until `rq resume`")
        _print_queues(queues, unserved)
    raise SystemExit(FAILED if broker_error or daemon.problems() else OK)


def _print_daemon(daemon: DaemonStatus) -> None:
    echo(f"daemon      {daemon.summary}")
    if daemon.silence:
        return
    echo(f"processes   {daemon.count_up()} of {len(daemon.processes)} up")
    starts = daemon.failed_starts()
    for process in daemon.processes:
        pid = f"pid {process['pid']}" if process["pid"] else ""
        why = starts.get(process["name"], "").removeprefix(", ")
        echo(f"  {process['name']:<12}{process['state']:<10}{pid}" + (f"  {why}" if why else ""))


def _print_queues(queues: list[QueueInfo], unserved: Collection[str]) -> None:
    if not queues:
        return
    names = [harmless(queue.name) for queue in queues]
    width = max(10, *map(len, names))
    echo(f"{'queue':<{width}}" + "".join(f"{title:>{room}}" for title, room in _COLUMNS.values()))
    for name, queue in zip(names, queues, strict=True):
        counts = "".join(f"{getattr(queue, state):>{room}}" for state, (_, room) in _COLUMNS.items())
        remark = queue.problem or ("paused" if queue.is_paused else NOBODY if queue.name in unserved else "")
        echo(f"{name:<{width}}{counts}" + (f"  {remark}" if remark else ""))

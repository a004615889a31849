"""``boilerd status``."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click

from boilerd.broker.overview import Overview
from boilerd.broker.views import QueueInfo
from boilerd.cli.facts import print_verdict, read_facts, verdict_fields
from boilerd.cli.health import NOBODY
from boilerd.cli.options import BROKER, Loaded, with_json_object, with_settings
from boilerd.cli.output import echo, harmless
from boilerd.cli.rpc_client import DaemonStatus, read_status
from boilerd.process.exit_status import FAILED, OK
from boilerd.settings.urls import mask_url
from boilerd.tasks.queues import DEFAULT_POOL
from boilerd.verdict.finding import MOST_TOLD
from boilerd.verdict.table import judge

#: Field of a queue → its title and its width.
_COLUMNS = {
    "pending": ("pending", 11), "active": ("active", 11), "scheduled": ("scheduled+retry", 17),
    "completed": ("completed", 11), "archived": ("archived", 11),
}  # fmt: skip


@click.command()
@with_json_object
@with_settings(BROKER)
def status(loaded: Loaded, *, as_json: bool) -> None:
    """Show the daemon of this runtime directory, its processes, and the queues; first whether all is well.

    Exit status: 0 the daemon has started, all its processes run and get through to the broker, and that
    takes new tasks; 1 otherwise.

    \b
    boilerd status --json | jq .daemon.busy
    """  # noqa: D301 - click looks for the character \b
    settings = loaded.settings
    daemon = read_status(settings.control_socket())
    facts = read_facts(settings, daemon)
    verdict, broker_error = judge(facts), facts.broker_error or None
    seen = facts.overview or Overview()
    queues = sorted(seen.counts, key=lambda queue: queue.is_idle)
    unserved = {queue.name for queue in seen.unserved}
    if broker_error is None:
        daemon = daemon.with_pending(sum(queue.pending for queue in queues if queue.name in facts.queues))
    url = mask_url(settings.broker_url())
    if as_json:
        rows = [asdict(queue) for queue in queues]
        echo(
            json.dumps(
                {
                    **verdict_fields(verdict),
                    "daemon": daemon.info, "processes": daemon.processes, "broker": {"url": url, "error": broker_error},
                    "is_suspended": seen.is_suspended, "queues": rows, "unserved": sorted(unserved),
                    "troubles": daemon.problems(),
                }
            )
        )  # fmt: skip
    else:
        print_verdict(verdict, MOST_TOLD)
        _print_daemon(daemon)
        echo(f"broker      {url}" + (f"  {broker_error}" if broker_error else ""))
        if seen.is_suspended:
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
    _print_pools(daemon.info.get("pools", []))


def _print_pools(pools: Sequence[Mapping[str, Any]]) -> None:
    """A line for each pool; none where one pool runs one task in each process, as the line of the daemon tells all."""
    if all((pool["name"], pool["slots"]) == (DEFAULT_POOL, 1) for pool in pools):
        return
    width = max(10, *(len(pool["name"]) for pool in pools))
    echo(f"{'pool':<{width}}{'processes':>11}{'slots':>11}{'running':>11}{'stuck':>11}")
    for pool in pools:
        slots = pool["workers"] * pool["slots"]
        counts = "".join(f"{count:>11,}" for count in (pool["workers"], slots, pool["running"], pool["stuck"]))
        echo(f"{pool['name']:<{width}}{counts}" + ("  quiet" if pool["is_quiet"] else ""))


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

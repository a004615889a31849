"""``boilerd stats``."""

from collections.abc import Callable
from typing import Any

import click

from boilerd.cli.inspecting import inspecting, with_broker
from boilerd.cli.options import Loaded, with_json_lines
from boilerd.cli.output import echo
from boilerd.cli.tables import lasting, print_json, print_table, rate, sized

_STATES = ("pending", "active", "scheduled", "archived", "completed")
#: RQ keeps those in one registry.
_TITLES = {"scheduled": "SCHEDULED+RETRY"}


@click.command()
@with_json_lines
@with_broker
def stats(loaded: Loaded, *, as_json: bool) -> None:
    """Show tasks by state over all queues, what was done today, and the broker.

    \b
    boilerd stats
    boilerd stats --json | jq .today.failed
    """  # noqa: D301 - click looks for the character \b
    with inspecting(loaded) as inspector:
        queues = inspector.queue_details()
        broker = inspector.broker()
        found = inspector.workers()
    tasks = {state: sum(getattr(queue.counts, state) for queue in queues) for state in _STATES}
    today = {name: sum(getattr(queue.today, name) for queue in queues) for name in ("processed", "failed", "dropped")}
    told = [queue.counts.problem for queue in queues] + [worker.problem for worker in found]
    problems = [problem for problem in told if problem]
    workers = [worker for worker in found if not worker.problem]
    busy = sum(bool(worker.task_id) for worker in workers)
    if as_json:
        print_json({
            "tasks": tasks, "today": today, "workers": len(workers), "busy": busy, "broker": broker,
            "problems": problems,
        })  # fmt: skip
        return
    titles = [_TITLES.get(state, state.upper()) for state in _STATES]
    print_table([f"{title}>" for title in titles], [list(tasks.values())])
    echo()
    print_table(
        ("TODAY (UTC) PROCESSED>", "FAILED>", "RATE>", "DROPPED>"),
        [(today["processed"], today["failed"], rate(today["failed"], today["processed"]), today["dropped"])],
    )
    echo()
    print_table(("WORKERS>", "BUSY>"), [(len(workers), busy)])
    echo()
    shown: dict[str, Callable[[Any], str]] = {
        "uptime_s": lasting,
        "clients": str,
        "memory_bytes": sized,
        "peak_memory_bytes": sized,
    }
    row = [broker["server"], *("-" if broker[name] is None else show(broker[name]) for name, show in shown.items())]
    print_table(("BROKER", "UP>", "CLIENTS>", "MEMORY>", "PEAK>"), [row])
    if problems:
        echo()
        print_table(("PROBLEM",), [(problem,) for problem in problems])

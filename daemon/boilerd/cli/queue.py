"""``boilerd queue``."""

from dataclasses import asdict
from datetime import datetime, timedelta

import click

from boilerd.cli.inspecting import (
    STATES,
    check_known,
    confirm,
    do_all,
    inspecting,
    pause_words,
    told_pauses,
    with_broker,
    with_yes,
)
from boilerd.cli.known_names import complete_queues
from boilerd.cli.options import Loaded, with_json_lines, with_pause
from boilerd.cli.output import echo
from boilerd.cli.tables import lasting, print_fields, print_json, print_table, rate, sized
from boilerd.tasks.task import TaskState


@click.group()
def queue() -> None:
    """Look at queues, pause and empty them.

    \b
    boilerd queue ls
    boilerd queue pause low
    """  # noqa: D301 - click looks for the character \b


@queue.command("ls")
@with_json_lines
@with_broker
def list_(loaded: Loaded, *, as_json: bool) -> None:
    """List the queues with their tasks by state; those that hold nothing come last.

    \b
    boilerd queue ls
    boilerd queue ls --json | jq 'select(.latency_s > 60) | .name'
    """  # noqa: D301 - click looks for the character \b
    with inspecting(loaded) as inspector:
        details = sorted(inspector.queue_details(), key=lambda detail: detail.counts.is_idle)
        is_any_paused = any(detail.counts.is_paused for detail in details)
        told = told_pauses(inspector, "queue") if is_any_paused else {}
    if as_json:
        for detail in details:
            counts = detail.counts
            pause = told.get(counts.name) if counts.is_paused else None
            more = {"latency_s": detail.latency_s, "memory_bytes": detail.memory_bytes, "pause": pause}
            print_json({**asdict(counts), **more})
        return
    rows = [
        (
            info.name, info.pending, info.active, info.scheduled, info.archived, info.completed,
            lasting(detail.latency_s) if info.pending else "", sized(detail.memory_bytes),
            info.problem or (pause_words(told.get(info.name)) if info.is_paused else ""),
        )
        for detail in details
        for info in [detail.counts]
    ]  # fmt: skip
    columns = "QUEUE", "PENDING>", "ACTIVE>", "SCHEDULED+RETRY>", "ARCHIVED>", "COMPLETED>", "LATENCY>", "MEMORY>", ""
    print_table(columns, rows)


@queue.command()
@click.argument("name", metavar="QUEUE", shell_complete=complete_queues)
@click.option("--days", type=click.IntRange(1, 90), default=7, show_default=True, help="Days of history.")
@with_json_lines
@with_broker
def show(loaded: Loaded, *, name: str, days: int, as_json: bool) -> None:
    """Show a queue, and what was done in the last days.

    \b
    boilerd queue show default --days 30
    """  # noqa: D301 - click looks for the character \b
    with inspecting(loaded) as inspector:
        detail = inspector.queue(name)
        history = inspector.history(name, days)
        info = detail.counts
        pause = told_pauses(inspector, "queue").get(name) if info.is_paused else None
    if as_json:
        print_json({"queue": detail, "history": history, "pause": pause})
        return
    print_fields([
        ("queue", info.name), ("state", pause_words(pause) if info.is_paused else "open"),
        ("pending", f"{info.pending:,}"), ("active", f"{info.active:,}"), ("sched+retry", f"{info.scheduled:,}"),
        ("archived", f"{info.archived:,}"), ("completed", f"{info.completed:,}"),
        ("latency", lasting(detail.latency_s)), ("memory", f"about {sized(detail.memory_bytes)}"),
        ("max active", detail.max_active or None), ("max length", detail.max_length or None),
        ("problem", info.problem),
    ])  # fmt: skip
    echo()
    rows = [(day.day, day.processed, day.failed, rate(day.failed, day.processed), day.problem) for day in history]
    print_table(("DAY (UTC)", "PROCESSED>", "FAILED>", "RATE>", ""), rows)


@queue.command()
@click.argument("names", metavar="QUEUE...", nargs=-1, required=True, shell_complete=complete_queues)
@with_pause
@with_broker
def pause(loaded: Loaded, *, names: tuple[str, ...], note: str, until: datetime | timedelta | None) -> None:
    """Let no worker claim from these queues, on any host; running tasks go on.

    \b
    boilerd queue pause low default
    boilerd queue pause low --note "the mail server moves" --until 2h
    """  # noqa: D301 - click looks for the character \b
    from boilerd.broker.pauses import paused_again  # noqa: PLC0415 - as of the inspector

    with inspecting(loaded) as inspector:
        before = told_pauses(inspector, "queue")
        for name in names:
            check_known(loaded, inspector, name)
            if not inspector.pause(name, note=note, until=until):
                echo(f"queue {name} {paused_again(before.get(name), note, until)}", err=True)


@queue.command()
@click.argument("names", metavar="QUEUE...", nargs=-1, required=True, shell_complete=complete_queues)
@with_broker
def resume(loaded: Loaded, *, names: tuple[str, ...]) -> None:
    """Let workers claim from these queues again.

    \b
    boilerd queue resume low default
    """  # noqa: D301 - click looks for the character \b
    with inspecting(loaded) as inspector:
        for name in names:
            if not inspector.resume(name):
                check_known(loaded, inspector, name)
                echo(f"queue {name} was not paused", err=True)


@queue.command()
@click.argument("name", metavar="QUEUE", shell_complete=complete_queues)
@click.option("--state", type=STATES, default="pending", show_default=True, help="Which of its tasks.")
@with_yes
@with_broker
def purge(loaded: Loaded, *, name: str, state: str, yes: bool) -> None:
    """Delete all tasks of a queue in a state; prints how many it were.

    \b
    boilerd queue purge low --yes
    """  # noqa: D301 - click looks for the character \b
    confirm(f"Delete all {state} tasks of queue {name}?", yes=yes)
    with inspecting(loaded) as inspector:
        echo(do_all(inspector, "delete", name, TaskState(state)))

"""``boilerd cron``."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from boilerd.broker.audit import Audit
from boilerd.cli.inspecting import CLI, inspecting, pause_words, told_pauses, with_broker
from boilerd.cli.missing_broker import naming_missing_broker
from boilerd.cli.options import BROKER, Loaded, with_json_lines, with_pause, with_settings
from boilerd.cli.output import echo
from boilerd.cli.tables import absolute, lasting, print_json, print_table, relative
from boilerd.client import Client
from boilerd.errors import InvalidTaskError, MisplacedKeyError, listed, shown
from boilerd.inspector import Inspector
from boilerd.tasks.cron import CronEntry
from boilerd.tasks.loading import load_app
from boilerd.tasks.mux import ServeMux

if TYPE_CHECKING:
    from boilerd.broker.ticks import TickInfo

with_app = with_settings((*BROKER, "app"))
#: What is wrong with an entry that some daemon had, and with one that these settings have alone.
_GONE, _ONLY_HERE = "no daemon has this entry any more", "no daemon that lives has this entry"
#: Hosts in a cell.
_MOST_HOSTS = 3


@click.group()
def cron() -> None:
    """Look at periodic tasks and their ticks, pause one, and run one now.

    \b
    boilerd cron ls
    boilerd cron history report-refresh
    boilerd cron run report-refresh
    """  # noqa: D301 - click looks for the character \b


@cron.command("ls")
@with_json_lines
@with_app
def list_(loaded: Loaded, *, as_json: bool) -> None:
    """List the periodic tasks of the daemons of all hosts, and those of these settings and their application.

    Each with its last and next ticks, and where it runs.

    \b
    boilerd cron ls
    """  # noqa: D301 - click looks for the character \b
    rows = _rows(loaded)
    if as_json:
        for row in rows:
            print_json(row)
        return
    if not rows:
        app = loaded.settings.app or "(built-in)"
        echo(
            f"no periodic tasks in these settings and in app {app}; where the daemon was started with other ones,"
            " such as --app, give them here as well",
            err=True,
        )
    # Only where there is something to tell: before a daemon runs, the table is of these settings.
    has_hosts = any(row["daemons"] for row in rows)
    shown = [
        (
            row["name"], row["spec"], row["timezone"], row["type"], relative(row["previous"]), relative(row["next"]),
            *([_hosts(row["daemons"])] if has_hosts else []), row["problem"],
        )
        for row in rows
    ]  # fmt: skip
    hosts = ["ON"] if has_hosts else []
    print_table(("NAME", "SPEC", "TIMEZONE", "TYPE", "PREVIOUS", "NEXT", *hosts, ""), shown)


@cron.command()
@click.argument("name")
@click.option("--size", type=click.IntRange(1, 100), default=20, show_default=True, help="How many.")
@with_json_lines
@with_broker
def history(loaded: Loaded, *, name: str, size: int, as_json: bool) -> None:
    """List the last ticks of a periodic task, latest first: when each was due and taken, and what became of its task.

    \b
    boilerd cron history report-refresh
    """  # noqa: D301 - click looks for the character \b
    with inspecting(loaded) as inspector:
        found = inspector.ticks(name, size)
        known = [] if found else sorted({row.name for row in inspector.crons()})
    if not found and name not in known:
        raise InvalidTaskError(f"no periodic task {shown(name)}; there are: {listed(known)}")
    if as_json:
        for tick in found:
            print_json(tick)
        return
    rows = [
        (
            absolute(tick.due_at), _delay(tick), str(tick.missed or ""), tick.task_id or "-",
            tick.state or ("" if tick.skipped else "gone"), absolute(tick.ended_at), tick.skipped,
        )
        for tick in found
    ]  # fmt: skip
    print_table(("DUE", "TAKEN AFTER>", "MISSED BEFORE>", "TASK", "STATE", "ENDED", "SKIPPED"), rows)


@cron.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@with_pause
@with_broker
def pause(loaded: Loaded, *, names: tuple[str, ...], note: str, until: datetime | timedelta | None) -> None:
    """Have the ticks of these periodic tasks pass without a task, on all hosts.

    \b
    boilerd cron pause report-refresh
    boilerd cron pause report-refresh --note "the warehouse is rebuilt" --until 2h
    """  # noqa: D301 - click looks for the character \b
    from boilerd.broker.pauses import paused_again  # noqa: PLC0415 - as of the inspector

    with inspecting(loaded) as inspector:
        before = told_pauses(inspector, "cron")
        for name in names:
            if not inspector.pause_cron(name, note=note, until=until):
                echo(f"periodic task {name} {paused_again(before.get(name), note, until)}", err=True)


@cron.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@with_broker
def resume(loaded: Loaded, *, names: tuple[str, ...]) -> None:
    """Have the next ticks of these periodic tasks enqueue again.

    \b
    boilerd cron resume report-refresh
    """  # noqa: D301 - click looks for the character \b
    with inspecting(loaded) as inspector:
        for name in names:
            if not inspector.resume_cron(name):
                echo(f"periodic task {name} was not paused", err=True)


@cron.command()
@click.argument("name")
@with_app
def run(loaded: Loaded, *, name: str) -> None:
    """Enqueue the task of a periodic entry now, beside its ticks, and print its ID.

    \b
    boilerd cron run report-refresh
    """  # noqa: D301 - click looks for the character \b
    mux = load_app(loaded.settings.app)
    entries = {entry.name: entry for entry in _entries(loaded, mux)}
    if name not in entries:
        raise InvalidTaskError(f"no periodic task {shown(name)}; there are: {', '.join(entries) or 'none'}")
    entry = entries[name]
    with naming_missing_broker(loaded.settings), Client.from_settings(loaded.settings, mux=mux) as client:
        with Audit(client.connection, CLI).noting("cron run", cron=name) as noted:
            info = client.enqueue_message(entry.message, **entry.options)
            noted.count = 1
        echo(info.id)


def _entries(loaded: Loaded, mux: ServeMux) -> list[CronEntry]:
    return [*mux.crons, *loaded.settings.cron_entries()]


def _rows(loaded: Loaded) -> list[dict[str, Any]]:
    """All periodic tasks, by name, each as programs get it."""
    own = {(entry.name, entry.spec, entry.timezone): entry for entry in _entries(loaded, load_app(loaded.settings.app))}
    with inspecting(loaded) as inspector:
        ticks, problem = _last_ticks(inspector)
        found = {(cron.name, cron.spec, cron.timezone): cron for cron in inspector.crons()}
        missing = _ONLY_HERE if inspector.daemons() else ""
        paused = _paused(inspector)
    rows = []
    for name, spec, timezone in sorted({**found, **own}):
        entry, cron = own.get((name, spec, timezone)), found.get((name, spec, timezone))
        daemons = list(cron.daemons) if cron else []
        lack = "" if daemons else missing if entry else _GONE
        rows.append({
            "name": name, "spec": spec, "timezone": timezone,
            "type": entry.task_type if entry else cron.task_type if cron else "",
            "previous": _moment(ticks.get(name)),
            "next": _moment(entry.schedule.next_after(time.time())) if entry else cron.next if cron else None,
            "daemons": daemons, "problem": problem or lack or paused.get(name, ""),
        })  # fmt: skip
    return rows


def _paused(inspector: Inspector) -> dict[str, str]:
    """Name of each that is paused → that it is, until when and why."""
    told = told_pauses(inspector, "cron")
    try:
        return {name: pause_words(told.get(name)) for name in inspector.paused_crons()}
    except MisplacedKeyError:
        return {}


def _last_ticks(inspector: Inspector) -> tuple[dict[str, float], str]:
    """The last tick of each entry; or what is wrong where they should be."""
    try:
        return inspector.last_ticks(), ""
    except MisplacedKeyError as error:
        return {}, str(error)


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _hosts(daemons: Sequence[str]) -> str:
    return listed(sorted({name.rpartition(".")[0] for name in daemons}), _MOST_HOSTS) if daemons else ""


def _delay(tick: "TickInfo") -> str:
    """How long after it was due the tick was taken."""
    if tick.due_at is None or tick.taken_at is None:
        return ""
    return lasting(max(0.0, (tick.taken_at - tick.due_at).total_seconds()))

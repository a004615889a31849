"""``boilerd cron``."""

import time
from datetime import UTC, datetime
from typing import Any

import click

from boilerd.broker.audit import Audit
from boilerd.cli.inspecting import CLI, inspecting
from boilerd.cli.missing_broker import naming_missing_broker
from boilerd.cli.options import BROKER, Loaded, with_json_lines, with_settings
from boilerd.cli.output import echo
from boilerd.cli.tables import print_json, print_table, relative
from boilerd.client import Client
from boilerd.errors import InvalidTaskError, MisplacedKeyError, shown
from boilerd.tasks.cron import CronEntry
from boilerd.tasks.loading import load_app
from boilerd.tasks.mux import ServeMux

with_app = with_settings((*BROKER, "app"))


@click.group()
def cron() -> None:
    """Look at periodic tasks, and run one now.

    \b
    boilerd cron ls
    boilerd cron run report-refresh
    """  # noqa: D301 - click looks for the character \b


@cron.command("ls")
@with_json_lines
@with_app
def list_(loaded: Loaded, *, as_json: bool) -> None:
    """List the periodic tasks of the settings and the application, with their last and next runs.

    \b
    boilerd cron ls
    """  # noqa: D301 - click looks for the character \b
    entries = _entries(loaded, load_app(loaded.settings.app))
    ticks, problem = _last_ticks(loaded)
    now_s = time.time()
    rows: list[dict[str, Any]] = [
        {
            "name": entry.name, "spec": entry.spec, "timezone": entry.timezone, "type": entry.task_type,
            "previous": _moment(ticks.get(entry.name)), "next": _moment(entry.schedule.next_after(now_s)),
            "problem": problem,
        }
        for entry in entries
    ]  # fmt: skip
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
    shown = [
        (
            row["name"], row["spec"], row["timezone"], row["type"], relative(row["previous"]), relative(row["next"]),
            problem,
        )
        for row in rows
    ]  # fmt: skip
    print_table(("NAME", "SPEC", "TIMEZONE", "TYPE", "PREVIOUS", "NEXT", ""), shown)


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


def _last_ticks(loaded: Loaded) -> tuple[dict[str, float], str]:
    """The last tick of each entry; or what is wrong where they should be."""
    with inspecting(loaded) as inspector:
        try:
            return inspector.last_ticks(), ""
        except MisplacedKeyError as error:
            return {}, str(error)


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)

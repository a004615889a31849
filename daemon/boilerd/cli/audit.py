"""``boilerd audit``."""

import select
from collections.abc import Iterator
from datetime import timedelta

import click

from boilerd.broker.audit import KINDS, AuditEntry
from boilerd.cli.inspecting import inspecting, with_broker
from boilerd.cli.options import DurationType, Loaded, with_json_lines
from boilerd.cli.output import echo
from boilerd.cli.tables import print_json, print_table
from boilerd.inspector import Inspector

#: How often `--follow` looks.
FOLLOW_S = 1.0


@click.command()
@click.option("--since", type=DurationType(), help="Of the last so long: 1h, 30m.")
@click.option("--who", metavar="NAME", help="Of this user.")
@click.option("--what", type=click.Choice(KINDS), help="Of this kind.")
@click.option(
    "--page", type=click.IntRange(1), default=1, show_default=True, help="Which page; the first is the latest."
)
@click.option("--size", type=click.IntRange(1, 10_000), default=30, show_default=True, help="Entries of a page.")
@click.option("-f", "--follow", is_flag=True, help="Go on with entries as they come.")
@with_json_lines
@with_broker
def audit(
    loaded: Loaded,
    *,
    since: float | None,
    who: str | None,
    what: str | None,
    page: int,
    size: int,
    follow: bool,
    as_json: bool,
) -> None:
    """Show who intervened, from where, in what, and how it ended; the latest last.

    \b
    boilerd audit --since 1h
    boilerd audit --who anna --what delete --json
    """  # noqa: D301 - click looks for the character \b
    if follow and page != 1:
        raise click.UsageError("--follow goes on from the latest entries; leave --page out")
    with inspecting(loaded) as inspector:
        latest = inspector.audit(size=1) if follow else []
        period = None if since is None else timedelta(seconds=since)
        found = inspector.audit(since=period, who=who, what=what, page=page, size=size)
        _print(found, as_json=as_json, is_table=not follow)
        if not follow:
            return
        shown = {entry.id for entry in found}
        for entry in _coming(inspector, latest[0].id if latest else ""):
            if entry.id not in shown and entry.fits(who, what):
                _print([entry], as_json=as_json, is_table=False)


def _coming(inspector: Inspector, last_id: str) -> Iterator[AuditEntry]:
    """Each entry behind this one, as it comes."""
    while True:
        for entry in inspector.audit_after(last_id):
            last_id = entry.id
            yield entry
        select.select([], [], [], FOLLOW_S)


def _print(entries: list[AuditEntry], *, as_json: bool, is_table: bool) -> None:
    if as_json:
        for entry in entries:
            print_json(entry)
        return
    rows = [
        (
            entry.at.astimezone().isoformat(" ", "seconds"), f"{entry.user}@{entry.host}", entry.via, entry.what,
            entry.count, " ".join(f"{name} {value}" for name, value in entry.on.items()), _ended(entry),
        )
        for entry in entries
    ]  # fmt: skip
    if is_table:
        print_table(("WHEN", "WHO", "FROM", "WHAT", "COUNT>", "ON", "OUTCOME"), rows)
        return
    for row in rows:
        echo("  ".join(map(str, row)))


def _ended(entry: AuditEntry) -> str:
    return f"{entry.outcome}: {entry.why}" if entry.why else entry.outcome

"""``boilerd daemon``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from boilerd.cli.inspecting import inspecting, with_broker
from boilerd.cli.options import Loaded, with_json_lines, with_json_object
from boilerd.cli.output import echo, json_text
from boilerd.cli.tables import absolute, print_fields, print_json, print_table, relative
from boilerd.errors import BoilerdError, listed, shown

if TYPE_CHECKING:
    from boilerd.broker.daemons import DaemonInfo

#: Names of daemons in a cell.
_MOST_NAMED = 3


@click.group()
def daemon() -> None:
    """Look at the daemons of all hosts: versions, releases, pools, types, settings.

    \b
    boilerd daemon ls
    boilerd daemon show web1
    """  # noqa: D301 - click looks for the character \b


@daemon.command("ls")
@with_json_lines
@with_broker
def list_(loaded: Loaded, *, as_json: bool) -> None:
    """List the daemons of all hosts, and in which settings they differ.

    \b
    boilerd daemon ls
    """  # noqa: D301 - click looks for the character \b
    with inspecting(loaded) as inspector:
        found = inspector.daemons()
        silent = _silent(inspector.workers(), found)
    if as_json:
        for one in found:
            print_json(one)
        return
    rows = [
        (
            one.name, relative(one.started_at), one.release, one.versions.get("boilerd", ""),
            one.versions.get("python", ""), one.versions.get("broker", ""), one.processes, len(one.types),
            len(one.crons), one.problem or _pools(one),
        )
        for one in found
    ]  # fmt: skip
    print_table(
        ("DAEMON", "STARTED", "RELEASE", "BOILERD", "PYTHON", "BROKER", "WORKERS>", "TYPES>", "CRONS>", "POOLS"), rows
    )
    if silent:
        hint = "`boilerd worker ls` has their workers"
        echo(f"note: of a version that does not tell: {listed(silent)}; {hint}", err=True)
    if different := _differences(found):
        echo("", "They differ in:")
        print_table(("SETTING", "VALUE", "DAEMONS"), different)


@daemon.command()
@click.argument("name")
@with_json_object
@with_broker
def show(loaded: Loaded, *, name: str, as_json: bool) -> None:
    """Show all that a daemon tells: NAME is its name, its host, or the beginning of either.

    \b
    boilerd daemon show web1
    """  # noqa: D301 - click looks for the character \b
    with inspecting(loaded) as inspector:
        one = _named(inspector.daemons(), name)
    if as_json:
        print_json(one)
        return
    left_out = ", ".join(f"{count:,} {part}" for part, count in one.left_out.items())
    print_fields([
        ("daemon", one.name), ("host", one.host), ("pid", str(one.pid or "")), ("release", one.release),
        ("started", absolute(one.started_at)), ("seen", absolute(one.seen_at)),
        *one.versions.items(), ("left out", left_out), ("problem", one.problem),
    ])  # fmt: skip
    pools = [(pool.name, pool.processes, pool.slots, _weights(pool.queues)) for pool in one.pools]
    _print_part(("POOL", "WORKERS>", "SLOTS>", "QUEUES"), pools)
    crons = [(cron.name, cron.spec, cron.timezone, cron.queue, cron.type) for cron in one.crons]
    _print_part(("CRON", "SPEC", "TIMEZONE", "QUEUE", "TYPE"), crons)
    types = [(type_ or "(all others)", "yes" if type_ in one.schemas else "") for type_ in one.types]
    inner = [(type_, "yes") for type_ in one.schemas if type_ not in one.types]
    _print_part(("TYPE", "SCHEMA"), types + inner)
    _print_part(("SETTING", "VALUE"), [(setting, _value(value)) for setting, value in one.settings.items()])


def _print_part(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    if rows:
        echo("")
        print_table(columns, rows)


def _named(found: "Sequence[DaemonInfo]", name: str) -> "DaemonInfo":
    """The daemon of this name, or the only one whose name or host begins with it."""
    fitting = [one for one in found if name in {one.name, one.host}] or [
        one for one in found if one.name.startswith(name) or one.host.startswith(name)
    ]
    if len(fitting) == 1:
        return fitting[0]
    told = listed([one.name for one in fitting or found])
    if fitting:
        raise BoilerdError(f"daemon {shown(name)}: there are several, name one: {told}")
    raise BoilerdError(f"no daemon {shown(name)} lives; there are: {told}")


def _silent(workers: Sequence[Any], found: "Sequence[DaemonInfo]") -> list[str]:
    """The daemons that have workers of ours and tell nothing."""
    telling = {one.name for one in found}
    names = {worker.name.rpartition(".")[0] for worker in workers if not worker.problem}
    return sorted(name for name in names - telling if name)


def _differences(found: "Sequence[DaemonInfo]") -> list[tuple[str, str, str]]:
    """Setting, value and daemons, of each value of the settings that are not the same everywhere."""
    told = [one for one in found if one.settings]
    values: dict[str, dict[str, list[str]]] = {}
    for one in told:
        for name, value in one.settings.items():
            values.setdefault(name, {}).setdefault(_value(value), []).append(one.name)
    return [
        (name, value, listed(daemons, _MOST_NAMED))
        for name, by_value in values.items()
        if len(by_value) > 1
        for value, daemons in by_value.items()
    ]


def _pools(one: "DaemonInfo") -> str:
    return ", ".join(f"{pool.name} {pool.processes} x {pool.slots}" for pool in one.pools)


def _weights(queues: "dict[str, int]") -> str:
    return ", ".join(f"{name}={weight}" for name, weight in queues.items())


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json_text(value)

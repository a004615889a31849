"""``boilerd task why``."""

import os
from typing import TYPE_CHECKING

import click

from boilerd.cli.inspecting import inspecting, with_broker
from boilerd.cli.options import Loaded, with_json_object
from boilerd.cli.output import echo
from boilerd.cli.tables import absolute, lasting, print_json
from boilerd.errors import TaskNotFoundError
from boilerd.settings.definitions import Settings

if TYPE_CHECKING:
    from boilerd.broker.explanation import Explanation

#: What is said beside an ID that nobody knows.
_NO_ID = "a task that a unique lock refused was not stored and has no ID; its error names the task to ask about"


@click.command()
@click.argument("task_id", metavar="ID")
@with_json_object
@with_broker
def why(loaded: Loaded, *, task_id: str, as_json: bool) -> None:
    """Say why a task does not run, or what became of it: what binds first, with what would help.

    \b
    boilerd task why 049826ce-3df1-4b26-8678-9d36ba9e617c
    """  # noqa: D301 - click looks for the character \b
    with inspecting(loaded) as inspector:
        if remembered_s := inspector.remembered_s(task_id):
            echo(f"note: its ID is remembered by once, and refused with it for {lasting(remembered_s)}", err=True)
        try:
            found = inspector.explain(task_id)
        except TaskNotFoundError:
            deeds = inspector.traces(task_id).deeds
            for deed in deeds:
                said = f"note: {deed.what}, {deed.outcome}, by {deed.user}@{deed.host} at {absolute(deed.at)}"
                echo(said, err=True)
            if not (remembered_s or deeds):
                echo(f"note: {_NO_ID}", err=True)
            raise
    found = _with_daemon(found, loaded.settings)
    if as_json:
        print_json(found)
        return
    for line in lines_of(found):
        echo(line)


def lines_of(found: "Explanation") -> list[str]:
    """The explanation in lines; the first names the task."""
    lines = [f"task {found.id}, {found.type} of queue {found.queue}, is {found.state or found.rq_status}"]
    for number, reason in enumerate(found.reasons, 1):
        lines.append(f"{number}. {reason.fact}")
        lines += [
            f"   {name:<6}{value}"
            for name, value in (
                ("since", absolute(reason.since)), ("until", absolute(reason.ends_at)), ("try", reason.remedy),
            )
            if value
        ]  # fmt: skip
    return lines


def _with_daemon(found: "Explanation", settings: Settings) -> "Explanation":
    """With what only the control socket of the daemon here knows."""
    is_ours = found.is_waiting and found.queue in settings.served_queues()
    if not is_ours or not os.path.lexists(settings.control_socket()):
        return found
    from boilerd.broker.reasons import quiet_daemon  # noqa: PLC0415 - other commands do without
    from boilerd.cli.rpc_client import read_status  # noqa: PLC0415 - XML-RPC takes its time to import

    info = read_status(settings.control_socket()).info
    if info.get("is_quiet"):
        return quiet_daemon(found)
    quiet = {pool["name"] for pool in info.get("pools", []) if pool["is_quiet"]}
    serving = {pool.name for pool in settings.worker_pools() if found.queue in pool.queues}
    return quiet_daemon(found, min(serving)) if serving <= quiet else found

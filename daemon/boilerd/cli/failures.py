"""``boilerd failures``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from boilerd.cli.inspecting import confirm, inspecting, show_progress, with_broker, with_yes
from boilerd.cli.options import Loaded, with_json_lines, with_json_object
from boilerd.cli.output import echo
from boilerd.cli.tables import absolute, print_fields, print_json, print_table, relative
from boilerd.inspector import Action

if TYPE_CHECKING:
    from boilerd.broker.failure_groups import FailureGroup


class _ListsAlone(click.Group):
    """A group that lists where no command is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put in the name of the command that lists."""
        asks_for_help = bool(set(args) & set(ctx.help_option_names))
        has_command = bool(args) and not args[0].startswith("-")
        return super().parse_args(ctx, args if has_command or asks_for_help else ["ls", *args])


@click.group(cls=_ListsAlone)
def failures() -> None:
    """Look at what fails: all attempts that failed in one way are a group, whatever their messages say.

    Without a command it lists them, as `ls`.

    \b
    boilerd failures ls
    boilerd failures show 3f0c2a91d4be
    boilerd failures run 3f0c2a91d4be
    """  # noqa: D301 - click looks for the character \b


@failures.command("ls")
@click.option("--size", type=click.IntRange(1, 1000), default=30, show_default=True, help="How many at most.")
@with_json_lines
@with_broker
def list_(loaded: Loaded, *, size: int, as_json: bool) -> None:
    """List the failure groups that were seen last, latest first.

    \b
    boilerd failures ls
    boilerd failures ls --json | jq -r 'select(.state == "new") | .fingerprint'
    """  # noqa: D301 - click looks for the character \b
    with inspecting(loaded) as inspector:
        found = inspector.failures(size)
    if as_json:
        for one in found:
            print_json(one)
        return
    print_table(
        ("GROUP", "STATE", "COUNT>", "LAST HOUR>", "SEEN", "TYPE", "ERROR"),
        [
            (one.fingerprint, one.state, one.count, one.last_hour, relative(one.last_seen), one.type, _error(one))
            for one in found
        ],
    )


@failures.command()
@click.argument("fingerprint", metavar="GROUP")
@with_json_object
@with_broker
def show(loaded: Loaded, *, fingerprint: str, as_json: bool) -> None:
    """Show a failure group: where in the application it fails, since when, and its last tasks.

    \b
    boilerd failures show 3f0c2a91d4be
    """  # noqa: D301 - click looks for the character \b
    with inspecting(loaded) as inspector:
        found = inspector.failure(fingerprint)
    if as_json:
        print_json(found)
        return
    print_fields([
        ("group", found.fingerprint), ("type", found.type), ("error", found.error), ("message", found.message),
        ("state", found.state), ("count", found.count), ("last hour", found.last_hour),
        ("24 hours", sum(found.hours[-24:])), ("7 days", sum(found.days[-7:])),
        ("first seen", _seen(absolute(found.first_seen), found.first_release)),
        ("last seen", _seen(absolute(found.last_seen), found.last_release)),
    ])  # fmt: skip
    _print_list("in, innermost first", found.frames)
    _print_list("last tasks", [_sample(found, task_id) for task_id in found.task_ids])


def _error(found: "FailureGroup") -> str:
    return ": ".join(filter(None, (found.error, found.message)))


def _seen(moment: str, release: str) -> str:
    return f"{moment}, release {release}" if release else moment


def _sample(found: "FailureGroup", task_id: str) -> str:
    request_id = found.request_ids.get(task_id)
    return f"{task_id}  request_id {request_id}" if request_id else task_id


def _print_list(title: str, lines: Sequence[str]) -> None:
    if lines:
        echo("", title, *(f"  {line}" for line in lines))


def _make_command(action: Action, text: str) -> click.Command:
    """Make ``run``, ``archive`` or ``delete`` for the tasks of a group."""

    @click.argument("fingerprint", metavar="GROUP")
    @with_yes
    @with_broker
    def command(loaded: Loaded, *, fingerprint: str, yes: bool) -> None:
        if action != "run":
            confirm(f"{action.capitalize()} all tasks of failure group {fingerprint}?", yes=yes)
        with inspecting(loaded) as inspector:
            echo(show_progress(action, inspector.bulk_failure(action, fingerprint)))

    command.__doc__ = text
    return failures.command(action)(command)


run = _make_command(
    "run",
    """Run the tasks of a failure group now, those that wait for a retry and archived ones; print how many.

    \b
    boilerd failures run 3f0c2a91d4be
    """,
)
archive = _make_command(
    "archive",
    """Set those tasks of a failure group aside that wait for a retry; print how many.

    \b
    boilerd failures archive 3f0c2a91d4be --yes
    """,
)
delete = _make_command(
    "delete",
    """Delete the tasks of a failure group that wait for a retry or are archived; print how many.

    \b
    boilerd failures delete 3f0c2a91d4be --yes
    """,
)

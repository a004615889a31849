"""``boilerd failures``."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from boilerd.cli.inspecting import confirm, inspecting, show_progress, tell_skipped, with_broker, with_yes
from boilerd.cli.options import Loaded, with_json_lines, with_json_object
from boilerd.cli.output import echo
from boilerd.cli.tables import absolute, print_fields, print_json, print_table, relative
from boilerd.inspector import Action
from boilerd.tasks.fingerprint import DIGITS

if TYPE_CHECKING:
    from boilerd.broker.failure_groups import FailureGroup, Mark


#: What a group is named.
_FINGERPRINT = re.compile(rf"[0-9a-f]{{{DIGITS}}}")


class _ListsAlone(click.Group):
    """A group that lists where no command is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put in the name of the command that lists."""
        asks_for_help = bool(set(args) & set(ctx.help_option_names))
        has_command = bool(args) and not args[0].startswith("-")
        return super().parse_args(ctx, args if has_command or asks_for_help else ["ls", *args])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command; the name of a group is none."""
        if _FINGERPRINT.fullmatch(args[0]) and not ctx.resilient_parsing:
            ctx.fail(f"{args[0]} is no command; see that failure group with: boilerd failures show {args[0]}")
        return super().resolve_command(ctx, args)


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
@click.option("--muted", is_flag=True, help="Also those that somebody has muted.")
@with_json_lines
@with_broker
def list_(loaded: Loaded, *, size: int, muted: bool, as_json: bool) -> None:
    """List the failure groups that were seen last, latest first, but for those that are muted.

    \b
    boilerd failures ls
    boilerd failures ls --muted
    boilerd failures ls --json | jq -r 'select(.state == "new") | .fingerprint'
    """  # noqa: D301 - click looks for the character \b
    skipped: list[str] = []
    with inspecting(loaded) as inspector:
        all_of_them = inspector.failures(size, skipped)
    tell_skipped(skipped)
    found = [one for one in all_of_them if muted or not one.muted_at]
    if hidden := len(all_of_them) - len(found):
        echo(f"{hidden:,} muted; see them with --muted", err=True)
    if as_json:
        for one in found:
            print_json(one)
        return
    print_table(
        ("GROUP", "STATE", "COUNT>", "LAST HOUR>", "SEEN", "TYPE", "ERROR"),
        [
            (one.fingerprint, _state(one), one.count, one.last_hour, relative(one.last_seen), one.type, _error(one))
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
        ("state", _state(found)), ("acknowledged", _said(found.acknowledged_at, found.acknowledged_by)),
        ("since then", f"{found.since_acknowledged:,}" if found.acknowledged_at else ""),
        ("muted", _said(found.muted_at, found.muted_by)), ("note", found.note),
        ("noted", _said(found.noted_at, found.noted_by)), ("count", found.count), ("last hour", _last_hour(found)),
        ("24 hours", sum(found.hours[-24:])), ("7 days", sum(found.days[-7:])),
        ("first seen", _seen(absolute(found.first_seen), found.first_release)),
        ("last seen", _seen(absolute(found.last_seen), found.last_release)),
    ])  # fmt: skip
    _print_list("in, innermost first", found.frames)
    _print_list("by release", [f"{release}  {count:,}" for release, count in found.releases.items()])
    _print_list("last tasks", [_sample(found, task_id) for task_id in found.task_ids])


def _error(found: "FailureGroup") -> str:
    return ": ".join(filter(None, (found.error, found.message)))


def _state(found: "FailureGroup") -> str:
    return f"{found.state}, muted" if found.muted_at else found.state


def _said(moment: datetime | None, user: str) -> str:
    return f"{absolute(moment)}, by {user}" if moment else ""


def _last_hour(found: "FailureGroup") -> str:
    if found.rise is None or not found.last_hour:
        return f"{found.last_hour:,}"
    return f"{found.last_hour:,}, {found.rise:.1f} times as often as in an hour of the day before"


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


_with_undo = click.option("--undo", is_flag=True, help="Take it back.")


@failures.command()
@click.argument("fingerprint", metavar="GROUP")
@_with_undo
@with_broker
def acknowledge(loaded: Loaded, *, fingerprint: str, undo: bool) -> None:
    """Say that a failure group is known: if it fails again, it `came back`.

    \b
    boilerd failures acknowledge 3f0c2a91d4be
    boilerd failures acknowledge 3f0c2a91d4be --undo
    """  # noqa: D301 - click looks for the character \b
    _mark(loaded, fingerprint, "unacknowledge" if undo else "acknowledge")


@failures.command()
@click.argument("fingerprint", metavar="GROUP")
@_with_undo
@with_broker
def mute(loaded: Loaded, *, fingerprint: str, undo: bool) -> None:
    """Hear no more of a failure group: lists leave it out, and it makes no finding.

    \b
    boilerd failures mute 3f0c2a91d4be
    boilerd failures mute 3f0c2a91d4be --undo
    """  # noqa: D301 - click looks for the character \b
    _mark(loaded, fingerprint, "unmute" if undo else "mute")


@failures.command()
@click.argument("fingerprint", metavar="GROUP")
@click.argument("text", required=False)
@_with_undo
@with_broker
def note(loaded: Loaded, *, fingerprint: str, text: str | None, undo: bool) -> None:
    """Write what is known of a failure group, for everybody; a new note takes the place of the old one.

    \b
    boilerd failures note 3f0c2a91d4be "the bank refuses, anna asks them"
    boilerd failures note 3f0c2a91d4be --undo
    """  # noqa: D301 - click looks for the character \b
    if bool(text) == undo:
        raise click.UsageError("Give the text of the note, or --undo to remove it.")
    _mark(loaded, fingerprint, "note", text or "")


def _mark(loaded: Loaded, fingerprint: str, mark: "Mark", text: str = "") -> None:
    with inspecting(loaded) as inspector:
        if not inspector.mark_failure(fingerprint, mark, text):
            echo("it was so already", err=True)

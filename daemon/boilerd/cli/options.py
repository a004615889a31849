"""Options that several commands share; those of the settings are made from their definitions."""

import functools
import os
import re
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, Literal

import click

from boilerd.errors import BoilerdError, ConfigError, shown
from boilerd.settings.definitions import definitions
from boilerd.settings.finding import find_daemon
from boilerd.settings.loading import Loaded, load
from boilerd.units import Duration

#: The settings of a command that connects to the broker or the daemon.
BROKER = ("redis_url", "redis_db", "key_prefix", "state_dir", "runtime_dir")
#: The settings that can be given as a flag: no secrets, which every user who runs `ps` would read, and no tables.
ALL = tuple(setting.name for setting in definitions() if setting.has_flag)


_MOMENT = "2027-01-31T08:00+01:00"


def with_settings(
    names: Iterable[str],
    *,
    refusal: type[BoilerdError] = ConfigError,
    is_lenient: bool = False,
    of: Literal["daemon", "shown daemon", "command"] = "daemon",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command ``--config`` and a flag for each named setting; it gets the settings as ``loaded``.

    Args:
        names: The settings that have a flag.
        refusal: The error that a wrong setting raises.
        is_lenient: True if only the named settings are read; the others may be wrong.
        of: Whose settings are wanted, if a daemon runs: what it runs with, also for people only, or what this command
            reads.
    """
    wanted = [setting for setting in definitions() if setting.name in set(names)]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def read_settings(config: str | None, **values: Any) -> Any:
            flags = {setting.name: values.pop(setting.name) for setting in wanted}
            try:
                loaded = load(flags, file=config, only=flags if is_lenient else None)
            except ConfigError as error:
                raise refusal(str(error)) from error
            if of != "command":
                loaded = _of_daemon(loaded, asks=not is_lenient, only_shows=of == "shown daemon")
            return command(loaded=loaded, **values)

        for setting in reversed(wanted):
            read_settings = click.option(_flag(setting.name), setting.name, metavar="VALUE", help=setting.doc)(
                read_settings
            )
        return click.option("-c", "--config", metavar="FILE", help="Settings file, instead of the usual places.")(
            read_settings
        )

    return decorate


def json_option(help_text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command ``--json``; it gets the flag as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help=help_text)


with_json_lines = json_option("Print JSON, an object a line.")
with_json_object = json_option("Print a JSON object.")


class DurationType(click.ParamType[float]):
    """``30s``, ``5m``, ``1h30m``, ``7d`` or seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        try:
            return Duration.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class MomentType(click.ParamType[datetime]):
    """ISO 8601 with a time zone."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return an aware datetime."""
        try:
            moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{shown(value)} is not a moment such as {_MOMENT}", param, ctx)
        if moment.utcoffset() is None:
            self.fail(f"{shown(value)} has no time zone; add one, such as Z or +01:00", param, ctx)
        return moment


class EndType(click.ParamType[Any]):
    """A duration from now, or ISO 8601 with a time zone."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime | timedelta:
        """Return an aware datetime, or a timedelta."""
        if isinstance(value, datetime | timedelta):
            return value
        try:
            return timedelta(seconds=Duration.parse(value))
        except ValueError:
            if not re.match(r"\d{4}-?\d\d", value):
                self.fail(f"{shown(value)} is neither {Duration.hint} nor a moment such as {_MOMENT}", param, ctx)
            return MomentType().convert(value, param, ctx)


def with_pause(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command that pauses ``--note`` and ``--until``."""
    until = click.option(
        "--until", type=EndType(), help="When a scheduler resumes it: 2h from now, or 2027-01-31T08:00Z."
    )
    return until(click.option("--note", default="", help="Why, for whoever comes upon it.")(function))


def settings_of(ctx: click.Context) -> Loaded:
    """The settings that a command in this context would get, as far as it is typed yet; raises ConfigError."""
    flags = {setting.name: ctx.params.get(setting.name) for setting in definitions()}
    return _of_daemon(load(flags, file=ctx.params.get("config")), asks=True, only_shows=False)


def _of_daemon(loaded: Loaded, *, asks: bool, only_shows: bool) -> Loaded:
    """The settings of the daemon that is meant; only where it is, for commands that need no more."""
    loaded = find_daemon(loaded)
    if not asks or not os.path.lexists(loaded.settings.control_socket()):
        return loaded
    from boilerd.cli.daemon_settings import as_the_daemon  # noqa: PLC0415 - XML-RPC takes its time to import

    return as_the_daemon(loaded, only_shows=only_shows)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def to_headers(ctx: click.Context, option: click.Parameter, words: tuple[str, ...]) -> dict[str, str] | None:
    """Make a dict of headers that are written NAME=VALUE; None for none."""
    headers: dict[str, str] = {}
    for name, equals, value in (word.partition("=") for word in words):
        if not equals:
            raise click.BadParameter(f"{shown(name)} is not NAME=VALUE, as in tenant-id=7", ctx, option)
        if name in headers:
            raise click.BadParameter(f"{shown(name)} is given twice; give it once", ctx, option)
        headers[name] = value
    return headers or None


__all__ = [
    "ALL",
    "BROKER",
    "DurationType",
    "Loaded",
    "MomentType",
    "json_option",
    "settings_of",
    "to_headers",
    "with_json_lines",
    "with_json_object",
    "with_pause",
    "with_settings",
]  # fmt: skip

"""Options that several commands share, made from the definitions of the settings."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import click

from boilerd.config import SECRETS, Loaded, definitions, load
from boilerd.errors import BoilerdError, ConfigError
from boilerd.units import Duration

#: What a command needs that talks to the broker or the daemon.
BROKER = ("redis_url", "redis_db", "state_dir", "runtime_dir")
#: A secret on a command line is read by everybody who can run `ps`.
ALL = tuple(setting.name for setting in definitions() if setting.name not in SECRETS)


def with_settings(
    names: Iterable[str], *, refusal: type[BoilerdError] = ConfigError
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command ``--config`` and a flag for each named setting; it gets them as ``loaded``.

    Settings that are wrong raise `refusal`.
    """
    wanted = [setting for setting in definitions() if setting.name in set(names)]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def read_settings(config: str | None, **values: Any) -> Any:
            flags = {setting.name: values.pop(setting.name) for setting in wanted}
            try:
                loaded = load(flags, file=config)
            except ConfigError as error:
                raise refusal(str(error)) from error
            return command(loaded=loaded, **values)

        for setting in reversed(wanted):
            read_settings = click.option(_flag(setting.name), setting.name, metavar="VALUE", help=setting.doc)(
                read_settings
            )
        return click.option("-c", "--config", metavar="FILE", help="Settings file, instead of the usual places.")(
            read_settings
        )

    return decorate


class DurationType(click.ParamType[float]):
    """``30s``, ``5m``, ``1h30m`` or seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        try:
            return Duration.parse(value)
        except ValueError:
            self.fail(f"{value!r} is not {Duration.hint}", param, ctx)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


__all__ = ["ALL", "BROKER", "DurationType", "Loaded", "with_settings"]

"""The names that a shell completes: of task types and queues that are in use.

A completion shows no error, and never takes long: who types goes on without it.
"""

import re
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress

import click

from boilerd.cli.options import settings_of
from boilerd.settings.definitions import Settings

#: How long settings and broker may take; the start of Python comes on top of it.
LIMIT_S = 0.25
#: What types and queues of ours may have. A shell puts a name into its line as it is: any other could be a command
#: there, or an option, and whoever can write to Redis has chosen it.
_NAME = re.compile(r"[A-Za-z0-9_.:/][A-Za-z0-9_.:/-]*")


def complete_queues(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Name the queues of the settings, and those that were ever used."""
    return _fitting(incomplete, _found(ctx, _queues))


def complete_types(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Name the types, or their beginnings, for which living workers have handlers."""
    return _fitting(incomplete, _found(ctx, _types))


def _fitting(incomplete: str, names: Iterable[str]) -> list[str]:
    return sorted(name for name in {*names} if name.startswith(incomplete) and _NAME.fullmatch(name))


def _found(ctx: click.Context, read: Callable[[Settings, list[str]], None]) -> list[str]:
    """What `read` finds within the limit; it runs in a thread, as a look-up of a host's name cannot be interrupted."""
    names: list[str] = []

    def look() -> None:
        with suppress(Exception):  # a setting is wrong, the broker is away: there is nothing to complete
            read(settings_of(ctx).settings, names)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(LIMIT_S)
    return list(names)


def _queues(settings: Settings, names: list[str]) -> None:
    from boilerd.broker.connection import connect_to  # noqa: PLC0415 - commands that complete nothing do without
    from boilerd.broker.inspection import Inspection  # noqa: PLC0415

    names += settings.served_queues()
    with connect_to(settings, timeout_s=LIMIT_S) as connection:
        names += Inspection(connection).queue_names()[0]


def _types(settings: Settings, names: list[str]) -> None:
    from boilerd.broker.connection import connect_to  # noqa: PLC0415 - as above
    from boilerd.broker.neighbours import neighbours  # noqa: PLC0415

    with connect_to(settings, timeout_s=LIMIT_S) as connection:
        for worker in neighbours(connection):
            names += filter(None, worker.declared.types if worker.declared else ())

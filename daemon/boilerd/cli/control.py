"""``boilerd quiet``, ``resume``, ``reload``, ``restart`` and ``scale``: the daemon's signals as commands."""

import logging
import select
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click

from boilerd.broker.audit import Audit, What
from boilerd.broker.connection import connect_to
from boilerd.cli.daemon_settings import as_the_daemon, changed_variables
from boilerd.cli.inspecting import CLI
from boilerd.cli.options import Loaded, with_settings
from boilerd.cli.rpc_client import Info
from boilerd.errors import BoilerdError, ConfigError, RefusedError
from boilerd.process import logs
from boilerd.settings.loading import load
from boilerd.settings.pools import MOST_WORKERS
from boilerd.supervision.asking import ask
from boilerd.supervision.sd_notify import IMPORT_LIMIT_S

logger = logging.getLogger("boilerd.cli")

#: Only the settings that say where the daemon is: others may be wrong, such as new ones before a reload.
with_daemon = with_settings(("state_dir", "runtime_dir"), is_lenient=True)
#: How long a daemon may stay silent in a reload, or starting: it imports the application.
SILENCE_S = IMPORT_LIMIT_S
#: How long a broker that is away may keep a command that needs none.
AUDIT_TIMEOUT_S = 2.0


class DaemonError(BoilerdError):
    """No daemon answers, or its reload failed."""


class PoolSizeType(click.ParamType[tuple[str, int]]):
    """``20``, or ``web=4``."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """The pool, empty where none is named, and the number."""
        pool, has_pool, number = value.rpartition("=")
        if has_pool and not pool:
            self.fail(f"{value!r} names no pool; write POOL=N, or N for the pool default", param, ctx)
        return pool, click.INT.convert(number, param, ctx)


@click.command()
@click.argument("pool", required=False)
@with_daemon
def quiet(loaded: Loaded, *, pool: str | None) -> None:
    """Let the daemon, or one of its pools, claim no more tasks until `resume`; those that run go on.

    That holds through reloads too. Without a pool it is what SIGTSTP does.

    \b
    boilerd quiet
    boilerd quiet web
    """  # noqa: D301 - click looks for the character \b
    _intervene(loaded, "quiet", *filter(None, [pool]), pool=pool)


@click.command()
@click.argument("pool", required=False)
@with_daemon
def resume(loaded: Loaded, *, pool: str | None) -> None:
    """Let the daemon, or one of its pools, claim tasks again. Without a pool as SIGCONT.

    \b
    boilerd resume
    boilerd resume web
    """  # noqa: D301 - click looks for the character \b
    _intervene(loaded, "resume", *filter(None, [pool]), pool=pool)


@click.command()
@click.option("--no-wait", is_flag=True, help="Only begin it, as SIGHUP does.")
@with_daemon
def reload(loaded: Loaded, *, no_wait: bool) -> None:
    """Load new settings and new code.

    They are tried first: when they would not do, the daemon goes on as before and the exit
    status is 1. Then the workers end their tasks, within shutdown_timeout, and the program
    replaces itself; its process ID stays, and so does an embedded Valkey.

    \b
    boilerd reload && boilerd status
    """  # noqa: D301 - click looks for the character \b
    generation = _intervene(loaded, "reload", kind=int)
    if no_wait:
        return
    await_reload(lambda: _read_info(loaded), generation)
    _tell_changed_variables()


@click.command()
@click.argument("workers", nargs=-1, metavar="[WORKER|POOL]...")
@with_daemon
def restart(loaded: Loaded, *, workers: tuple[str, ...]) -> None:
    """Replace workers by fresh ones, each when its task has ended; all of them without names, of a pool with its.

    Without names also what crashed too often is started again at once.

    \b
    boilerd restart
    boilerd restart worker:3
    boilerd restart web
    """  # noqa: D301 - click looks for the character \b
    _intervene(loaded, "restart", list(workers), workers=" ".join(workers))


@click.command()
@click.argument("wanted", metavar="[POOL=]N", type=PoolSizeType())
@with_daemon
def scale(loaded: Loaded, *, wanted: tuple[str, int]) -> None:
    """Have N workers in a pool, in `default` without a name, until the daemon is started or reloaded.

    SIGTTIN means one more in `default`, SIGTTOU one less. Workers that go end their tasks first.

    \b
    boilerd scale 20
    boilerd scale web=4
    """  # noqa: D301 - click looks for the character \b
    pool, size = wanted
    if not 1 <= size <= MOST_WORKERS:
        raise click.UsageError(
            f"{size} workers: give a number from 1 to {MOST_WORKERS}; `quiet` stops them from claiming"
        )
    _intervene(loaded, "scale", size, *filter(None, [pool]), pool=pool, size=str(size))


def _tell_changed_variables() -> None:
    """Log which settings of the unit's environment a reload did not take over; the daemon keeps the one it has."""
    with suppress(ConfigError):
        if names := changed_variables(load()):
            logs.configure(level="warning", style="json")
            logger.warning("the unit's environment has changed, restart it", extra={"settings": names})


def _intervene(loaded: Loaded, what: What, *args: Any, kind: Any = bool, **on: str | None) -> Any:
    """Call a method of this name, and note that in the audit of the daemon's broker."""
    known = as_the_daemon(loaded)
    if known is loaded:  # no daemon answers, or this is not said to be its settings file
        return _call(loaded, what, *args, kind=kind)
    told = {name: value for name, value in on.items() if value}
    with (
        connect_to(known.settings, timeout_s=AUDIT_TIMEOUT_S) as connection,
        Audit(connection, CLI).noting(what, daemon=str(loaded.settings.runtime_path()), **told) as noted,
    ):
        answer = _call(loaded, what, *args, kind=kind)
        noted.count = 1
    return answer


def _call(loaded: Loaded, method: str, *args: Any, kind: Any = bool) -> Any:
    path = loaded.settings.control_socket()
    try:
        return ask(path, f"boilerd.{method}", *args, kind=kind)
    except TimeoutError as error:
        raise DaemonError(str(error)) from error
    except PermissionError as error:
        raise DaemonError(f"{path}: {error.strerror}; ask the daemon as root or as its own user") from error
    except OSError as error:
        raise DaemonError(f"no daemon answers at {path}: {error.strerror or error}; is it running?") from error


def await_reload(read_info: Callable[[], dict[str, Any]], generation: int) -> None:
    """Wait until the program of this generation has been replaced.

    Args:
        read_info: Returns the daemon's info.
        generation: The generation of the program that is to end.

    Raises:
        DaemonError: The program goes on, or its successor does not become ready.
    """
    starting_since_s = time.monotonic()
    while (info := read_info())["generation"] <= generation or info["state"] not in {"ready", "draining"}:
        if info["generation"] <= generation and info["trouble"]:
            raise DaemonError(info["trouble"])
        if info["state"] != "starting":
            starting_since_s = time.monotonic()
        elif time.monotonic() - starting_since_s > SILENCE_S:
            raise DaemonError(f"the new program goes on starting: {info['status']}")
        select.select([], [], [], 0.05)


def _read_info(loaded: Loaded) -> dict[str, Any]:
    """Read the daemon's info; waits while the new program starts."""
    silent_since_s = time.monotonic()
    while True:
        try:
            info: dict[str, Any] = _call(loaded, "info", kind=Info)
        except (DaemonError, RefusedError):
            if time.monotonic() - silent_since_s > SILENCE_S:
                raise
            select.select([], [], [], 0.05)
        else:
            return info

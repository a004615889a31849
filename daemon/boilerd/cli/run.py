"""``boilerd run``."""

import functools
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from boilerd.cli.options import ALL, Loaded, with_settings
from boilerd.errors import BootError, BrokenReloadError, ConfigError
from boilerd.process import logs
from boilerd.process.gc_pause import gc_paused
from boilerd.supervision.handover import VARIABLE, Handover
from boilerd.supervision.sd_notify import Notifier

if TYPE_CHECKING:
    from boilerd.cli.rpc_client import DaemonStatus


class _LoggedCommand(click.Command):
    """Logs why the daemon could not start, for what collects the log; people read it on stderr."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        only_checks = ctx.params["only_checks"]
        is_reloaded = VARIABLE in os.environ and not only_checks
        try:
            return super().invoke(ctx)
        except BootError as error:
            if not only_checks:
                Notifier().send(STATUS=f"could not start: {error}")
            if not sys.stdout.isatty() and not only_checks:
                if not logging.getLogger().handlers:  # the settings could not be read
                    logs.configure(level="error", style="json")
                fields = {"error": str(error), "traceback": error.traceback or None}
                logging.getLogger("boilerd.daemon").critical("daemon could not start", extra=fields)
            if not is_reloaded:
                raise
            Handover.take().abandon()  # where the settings were wrong already
            raise BrokenReloadError(str(error), error.traceback) from error


@click.command(cls=_LoggedCommand, context_settings={"auto_envvar_prefix": None})
@with_settings(ALL, refusal=BootError, of="command")
@click.option("--burst", is_flag=True, help="Exit when the queues are empty.")
@click.option("--watch", "is_watching", is_flag=True, help="Reload when a file of the application's changes.")
@click.option("--debug", "is_debug", is_flag=True, help="Debug on this terminal: one worker, and no time limits.")
@click.option("--check", "only_checks", is_flag=True, hidden=True, help="Only see whether it could start; for reloads.")
def run(loaded: Loaded, *, burst: bool, is_watching: bool, is_debug: bool, only_checks: bool) -> None:
    """Run the daemon in the foreground.

    It forks the workers, and serves until SIGTERM or SIGINT: then running tasks get
    shutdown_timeout to finish. A second signal stops at once, but does nothing within a second
    of the first, as a shell and a service manager may send two. No task is lost either way.
    SIGHUP loads new settings and code; `boilerd quiet`, `resume`, `reload`, `restart` and
    `scale` control it.

    Exit status: 0 it drained, 2 wrong usage, 3 it could not start; 1 where that was for a broker that refuses
    the connection, does not answer or takes no writes at present, or for workers none of which could start, so that a
    later start may succeed.

    With --watch it reloads as soon as a Python file below the working directory, or of the application's package,
    has changed; it needs the extra: pip install 'boilerd[watch]'.

    With --debug, `breakpoint()` in a handler opens Python's debugger on this terminal. There is one worker,
    and nothing interrupts its task but Ctrl-C, which puts it back at once.

    \b
    boilerd run
    boilerd run --app myproject.tasks:mux --concurrency 4
    boilerd run --app myproject.tasks:mux --watch
    boilerd run --redis-url redis://localhost:6379/0 --queues critical=6,default=3
    """  # noqa: D301 - click looks for the character \b
    from boilerd.broker import key_prefix  # noqa: PLC0415 - `boilerd run --help` does not need it

    key_prefix.use(loaded.settings.key_prefix)
    with gc_paused(), key_prefix.shared_with_rq():
        from boilerd.daemon import watching  # noqa: PLC0415
        from boilerd.daemon.assembly import start  # noqa: PLC0415
        from boilerd.daemon.reload_check import check  # noqa: PLC0415

    if is_watching:
        watching.prepare(has_code=bool(loaded.settings.app or loaded.settings.rq_functions))
    request = functools.partial(_request_reload, loaded) if is_watching else None
    try:
        if only_checks:
            check(loaded.settings)
        else:
            ask = functools.partial(_ask_daemon, loaded)
            start(loaded, is_burst=burst, is_debug=is_debug, request_reload=request, ask_daemon=ask)
    except ConfigError as error:
        raise BootError(str(error)) from error


def _ask_daemon(loaded: Loaded) -> "DaemonStatus":
    """How the daemon is, for its exporter and its dashboard."""
    from boilerd.cli.rpc_client import read_status  # noqa: PLC0415 - in that child alone

    return read_status(loaded.settings.control_socket())


def _request_reload(loaded: Loaded) -> None:
    """Ask the daemon for a reload; raises RefusedError while it cannot do that, OSError if it does not answer."""
    from boilerd.supervision.asking import ask  # noqa: PLC0415 - in the child that watches alone

    ask(loaded.settings.control_socket(), "boilerd.files_changed", kind=bool)

"""``boilerd run``."""

import logging
import sys
from typing import Any

import click

from boilerd.cli.options import ALL, Loaded, with_settings
from boilerd.errors import BootError, ConfigError
from boilerd.process import logs
from boilerd.process.gc_pause import gc_paused


class _LoggedCommand(click.Command):
    """Logs why the daemon could not start, for what collects the log; people read it on stderr."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BootError as error:
            if not sys.stdout.isatty() and not ctx.params["only_checks"]:
                if not logging.getLogger().handlers:  # the settings could not be read
                    logs.configure(level="error", style="json")
                fields = {"error": str(error), "traceback": getattr(error, "traceback", None) or None}
                logging.getLogger("boilerd.daemon").critical("daemon could not start", extra=fields)
            raise


@click.command(cls=_LoggedCommand, context_settings={"auto_envvar_prefix": None})
@with_settings(ALL, refusal=BootError, of="command")
@click.option("--burst", is_flag=True, help="Exit when the queues are empty.")
@click.option("--check", "only_checks", is_flag=True, hidden=True, help="Only see whether it could start; for reloads.")
def run(loaded: Loaded, *, burst: bool, only_checks: bool) -> None:
    """Run the daemon in the foreground.

    It forks the workers, and serves until SIGTERM or SIGINT: then running tasks get
    shutdown_timeout to finish. A second signal a second later stops at once. No task is lost
    either way. SIGHUP loads new settings and code; `boilerd quiet`, `resume`, `reload`,
    `restart` and `scale` control it.

    \b
    boilerd run
    boilerd run --app myproject.tasks:mux --concurrency 4
    boilerd run --redis-url redis://localhost:6379/0 --queues critical=6,default=3
    """  # noqa: D301 - click looks for the character \b
    with gc_paused():
        from boilerd.daemon.assembly import start  # noqa: PLC0415 - `boilerd run --help` does not need it
        from boilerd.daemon.reload_check import check  # noqa: PLC0415

    try:
        if only_checks:
            check(loaded.settings)
        else:
            start(loaded, is_burst=burst)
    except ConfigError as error:
        raise BootError(str(error)) from error

"""``boilerd run``."""

import logging
import sys

import click

from boilerd.cli.options import ALL, Loaded, with_settings
from boilerd.errors import BootError, ConfigError


@click.command(context_settings={"auto_envvar_prefix": None})
@with_settings(ALL, refusal=BootError)
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
    from boilerd.daemon import check, start  # noqa: PLC0415 - `boilerd run --help` does without

    try:
        if only_checks:
            check(loaded.settings)
        else:
            start(loaded.settings, is_burst=burst)
    except BootError as error:
        # People read stderr; what collects the log must see it too.
        if not sys.stdout.isatty() and not only_checks:
            traceback = getattr(error, "traceback", None) or None
            fields = {"error": str(error), "traceback": traceback}
            logging.getLogger("boilerd.daemon").critical("daemon could not start", extra=fields)
        raise
    except ConfigError as error:
        raise BootError(str(error)) from error

"""The command line: parse arguments, print, exit. No other package may import this one.

Each command lives in a module that is imported when the command is used, so that ``boilerd enqueue`` does not
import what the daemon needs.
"""

import atexit
import errno
import importlib
import io
import logging
import os
import sys
import threading
import time
from contextlib import suppress
from typing import Any, NoReturn

import click

from boilerd.cli.output import echo, echo_error, echo_misuse
from boilerd.errors import (
    BoilerdError,
    BootError,
    BrokenReloadError,
    ConfigError,
    InvalidTaskError,
    NoBrokerError,
    NoWorkerError,
)
from boilerd.process import logs
from boilerd.process.exit_status import BOOT, FAILED, OK, USAGE
from boilerd.process.gc_pause import gc_paused
from boilerd.process.outlets import is_journal
from boilerd.process.warning_filters import spare_own_modules

#: How long threads may take to end by themselves, as those of a pool do that has just been told to.
ENDING_S = 0.3

#: Command → its module and name, and a short form of its help, as `--help` lists them without importing them.
COMMANDS = {
    "run": ("boilerd.cli.run:run", "Run the daemon in the foreground."),
    "enqueue": ("boilerd.cli.enqueue:enqueue", "Store a task for a worker to run."),
    "status": ("boilerd.cli.status:status", "Show the daemon, its processes and the queues."),
    "dash": ("boilerd.cli.dash:dash", "Show everything live, in the terminal."),
    "logs": ("boilerd.cli.logs:logs", "Show the daemon's log, as readable lines."),
    "stats": ("boilerd.cli.stats:stats", "Show tasks by state, what was done today, and the broker."),
    "queue": ("boilerd.cli.queue:queue", "Look at queues, pause and empty them."),
    "task": ("boilerd.cli.task:task", "Look at tasks, run, archive, cancel and delete them."),
    "failures": ("boilerd.cli.failures:failures", "Look at what fails, and run, archive or delete its tasks."),
    "types": ("boilerd.cli.task_types:types", "Show rates, failures and times of each task type."),
    "worker": ("boilerd.cli.worker:worker", "Look at the workers of all hosts."),
    "daemon": ("boilerd.cli.daemon:daemon", "Look at the daemons of all hosts, and how they differ."),
    "cron": ("boilerd.cli.cron:cron", "Look at periodic tasks, pause one, and run one now."),
    "lock": ("boilerd.cli.lock:lock", "Look at unique locks, and release one."),
    "audit": ("boilerd.cli.audit:audit", "Show who intervened, in what, and how it ended."),
    "schema": ("boilerd.cli.schema:schema", "Show the JSON Schema of payloads."),
    "quiet": ("boilerd.cli.control:quiet", "Let the daemon claim nothing more; what runs goes on."),
    "resume": ("boilerd.cli.control:resume", "Let it claim again."),
    "reload": ("boilerd.cli.control:reload", "Load new settings and code, without a new process."),
    "restart": ("boilerd.cli.control:restart", "Replace the workers by fresh ones."),
    "scale": ("boilerd.cli.control:scale", "Have more or fewer workers."),
    "health": ("boilerd.cli.health:health", "Say whether all is well; for probes."),
    "web": ("boilerd.cli.web:web", "Serve the web dashboard."),
    "config": ("boilerd.cli.config:config", "Show and check the settings."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List them in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        with gc_paused():
            command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """List the commands that a shell completes, as `--help` does."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - only there

        found = [CompletionItem(name, help=text) for name, (_, text) in COMMANDS.items() if name.startswith(incomplete)]
        return [*found, *super(click.Group, self).shell_complete(ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list in `--help`."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="boilerd", message="%(prog)s %(version)s")
def boilerd() -> None:
    """Background tasks for Python services.

    \b
    boilerd run                                         start the daemon
    boilerd enqueue worker:ping '{"message": "hi"}'     give it a task

    Exit status: 0 done, 1 failed, 2 wrong usage, 3 the daemon could not start; where its broker refuses the
    connection, does not answer or takes no writes at present, or no worker can start, a start ends with 1, as the next
    one may succeed.
    """  # noqa: D301 - click looks for the character \b


def main() -> NoReturn:
    """Run a command; turn errors into one line on stderr and an exit status."""
    spare_own_modules()
    _open_missing_streams()
    if os.environ.get("_BOILERD_COMPLETE"):
        from boilerd.cli.completion import complete  # noqa: PLC0415 - only there

        complete(boilerd)
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        # Redis or a log may hold bytes that are no text; they are shown with escapes.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        _run()
    except SystemExit as ended:
        _leave_threads(ended)
        raise


def _run() -> NoReturn:
    try:
        sys.exit(boilerd(standalone_mode=False) or OK)
    except click.ClickException as error:
        echo_misuse(error)
        sys.exit(error.exit_code)
    except click.Abort:
        echo("Aborted!", err=True)
        sys.exit(FAILED)
    except BoilerdError as error:
        _print_error(error)
        sys.exit(_exit_status(error))
    except BrokenPipeError:
        # The reader of our output, such as `head`, has closed the pipe.
        sys.stderr.close()
        sys.exit(FAILED)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        echo_error(f"stdout: {error.strerror}")
        os._exit(FAILED)  # the interpreter would try to write it once more


def _leave_threads(ended: SystemExit) -> None:
    """Exit without the threads that the application started at its import: Python would wait for them for ever."""
    others = [each for each in threading.enumerate() if each is not threading.main_thread() and not each.daemon]
    deadline = time.monotonic() + ENDING_S
    for thread in others:
        thread.join(max(0.0, deadline - time.monotonic()))
    left = [thread.name for thread in others if thread.is_alive()]
    if not left:
        return
    logging.getLogger("boilerd.cli").warning("threads of the application are left behind", extra={"threads": left})
    atexit._run_exitfuncs()  # noqa: SLF001 - os._exit skips them
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(ended.code if isinstance(ended.code, int) else FAILED)


def _open_missing_streams() -> None:
    """Open streams that our parent has closed; else the next file or socket would get their number."""
    for fd, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, fd)
            if null != fd:
                os.close(null)
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115 - open until the process ends


def _print_error(error: BoilerdError) -> None:
    """Print one line to stderr; if that is the journal, a log line like all others there."""
    message = " ".join(str(error).splitlines())
    if is_journal(2):
        if not isinstance(error, BootError):  # `run` has logged it
            logs.configure(level="error", style="json")
            logging.getLogger("boilerd.cli").error("command failed", extra={"error": message})
        return
    if isinstance(error, BootError) and error.traceback:
        echo(*error.traceback.splitlines(), err=True)
    echo_error(message)


def _exit_status(error: BoilerdError) -> int:
    if isinstance(error, NoBrokerError | NoWorkerError | BrokenReloadError):
        return FAILED
    if isinstance(error, BootError):
        return BOOT
    return USAGE if isinstance(error, ConfigError | InvalidTaskError) else FAILED

"""``boilerd task run-here``."""

import click

from boilerd.cli.known_names import complete_types
from boilerd.cli.options import BROKER, Loaded, with_settings


@click.command("run-here")
@click.argument("what", metavar="ID|TYPE", shell_complete=complete_types)
@click.option("--payload", metavar="JSON", help="Run a task of this TYPE and payload, that nobody has enqueued.")
@with_settings((*BROKER, "app", "rq_functions", "log_level"))
def run_here_(loaded: Loaded, *, what: str, payload: str | None) -> None:
    """Run one attempt of a task in the foreground, and print its result as JSON.

    The task stays as it is, in whatever state, but it must not run meanwhile: nothing is written, and no hook of a
    failure is called. There are no time limits, and `breakpoint()` opens Python's debugger. Log lines, and what the
    handler prints, go to stderr.

    Exit status: 0 the handler returned, 1 it raised: then its traceback is on stderr.

    \b
    boilerd task run-here 049826ce-3df1-4b26-8678-9d36ba9e617c
    boilerd task run-here email:deliver --payload '{"to": "ada@example.org"}' | jq .
    """  # noqa: D301 - click looks for the character \b
    from boilerd.cli.foreground import run  # noqa: PLC0415 - the other commands for tasks do without a worker

    status = run(loaded.settings, what, payload)
    if status:
        raise SystemExit(status)

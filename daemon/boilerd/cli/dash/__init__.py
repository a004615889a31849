"""``boilerd dash``: a live view of queues, tasks and workers in the terminal.

`state` holds what is shown and acts on keys, `views` draws it, `keyboard` reads keys.
"""

import contextlib
import os
import signal
import sys
import time

import click
from rich.console import Console, ConsoleDimensions
from rich.live import Live

from boilerd.broker.audit import Actor
from boilerd.cli.dash.keyboard import Keyboard
from boilerd.cli.dash.state import State
from boilerd.cli.dash.views import draw
from boilerd.cli.facts import read_facts
from boilerd.cli.inspecting import with_broker
from boilerd.cli.options import DurationType, Loaded
from boilerd.cli.rpc_client import read_status
from boilerd.client import Client
from boilerd.inspector import Inspector
from boilerd.settings.definitions import Settings
from boilerd.settings.urls import mask_url
from boilerd.verdict.table import judge


@click.command()
@click.option("--refresh", type=DurationType(), default="1", show_default=True, help="How often it looks.")
@with_broker
def dash(loaded: Loaded, *, refresh: float) -> None:
    """Show queues, tasks and workers live; pause, run, archive, cancel and delete with keys.

    `?` lists the keys.

    \b
    boilerd dash
    ssh -t host boilerd dash --refresh 5
    """  # noqa: D301 - click looks for the character \b
    console = Console(highlight=False)
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or console.is_dumb_terminal:
        raise click.UsageError(
            "dash needs a terminal that can move its cursor; `boilerd stats` and `boilerd queue ls` do without"
        )
    with Client.from_settings(loaded.settings) as client:
        inspector = Inspector(client.connection, by=Actor("dash"))
        state = State(inspector, inspector.cancel, lambda: _verdict(loaded.settings))
        title = mask_url(loaded.settings.broker_url())
        # TERM ends it as Ctrl-C does, so that Live restores the terminal.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with (
            contextlib.suppress(KeyboardInterrupt),
            Keyboard() as keyboard,
            Live(console=console, screen=True, auto_refresh=False) as live,
        ):
            next_refresh_s = 0.0
            while not state.is_over:
                if (began_s := time.monotonic()) >= next_refresh_s:
                    state.refresh()
                    took_s = time.monotonic() - began_s
                    # Where there is very much to look at, Redis is busy with it for a fifth of the time at most.
                    next_refresh_s = time.monotonic() + max(refresh, 0.1, 4 * took_s)
                # Not $COLUMNS: it does not change with the window.
                console.size = ConsoleDimensions(*os.get_terminal_size(sys.stdout.fileno()))
                live.update(draw(state, title, console.width, console.height), refresh=True)
                for key in keyboard.read(next_refresh_s - time.monotonic()):
                    state.press(key)
                    next_refresh_s = 0.0  # show the effect at once


def _verdict(settings: Settings) -> str:
    """Whether all is well, in a sentence."""
    return judge(read_facts(settings, read_status(settings.control_socket()), is_storing=False)).sentence

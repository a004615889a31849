"""``boilerd web``."""

import functools
import signal
import sys
from types import FrameType
from typing import Any

import click
import msgspec

from boilerd.cli.options import BROKER, Loaded, with_settings
from boilerd.cli.output import echo
from boilerd.errors import BootError, ConfigError
from boilerd.process import logs
from boilerd.process.exit_status import OK
from boilerd.settings.definitions import Settings
from boilerd.settings.problems import problem_of
from boilerd.settings.web import Web


@click.command()
@click.argument("what", type=click.Choice(["serve", "password", "token"]), default="serve", metavar="[password|token]")
@click.option("--host", help="The address to listen on, instead of that in [web].")
@click.option("--port", type=click.IntRange(0, 65535), help="Its port; 0: any that is free.")
@click.option("--socket", help="The path of a Unix socket, instead of both.")
@click.option("--prefix", help="What all paths begin with, behind a proxy.")
@click.option("--read-only", is_flag=True, help="Show everything and change nothing.")
@with_settings(BROKER, refusal=BootError)
def web(loaded: Loaded, *, what: str, read_only: bool, **places: Any) -> None:
    """Serve the web dashboard, until SIGTERM or SIGINT; it needs the extra: pip install 'boilerd[web]'.

    It listens on 127.0.0.1, where nobody has to log in. On other addresses it starts only if the table [web] of the
    settings says who may see it. `password` makes the hash of a password, and `token` a token for a program.

    \b
    boilerd web
    boilerd web --port 9000 --prefix /jobs
    boilerd web password
    """  # noqa: D301 - click looks for the character \b
    if what == "password":
        _print_hash()
    elif what == "token":
        _print_token()
    else:
        given = {name: value for name, value in places.items() if value is not None}
        _serve(loaded.settings, _changed(loaded.settings.web, {**given, **({"read_only": True} if read_only else {})}))


def _changed(web: Web, given: dict[str, Any]) -> Web:
    """The table with what the command line says instead."""
    try:
        return msgspec.convert({**msgspec.structs.asdict(web), **given}, Web, from_attributes=True)
    except msgspec.ValidationError as error:
        raise BootError(f"web: {problem_of(Web, given) or error}") from error


def _serve(settings: Settings, table: Web) -> None:
    from boilerd.cli.rpc_client import read_status  # noqa: PLC0415 - XML-RPC takes its time to import
    from boilerd.web import serving  # noqa: PLC0415 - here alone
    from boilerd.web.listening import address_of, inherited, listen  # noqa: PLC0415

    serving.check_libraries()
    settings = msgspec.structs.replace(settings, web=table)
    ask_daemon = functools.partial(read_status, settings.control_socket())
    try:
        server = serving.make_server(settings, ask_daemon)
    except ConfigError as error:
        raise BootError(str(error)) from error
    listener = inherited(table) or listen(table)
    logs.configure(level="warning", style=settings.log_format)
    echo(f"boilerd web: {address_of(table, listener)}")
    sys.stdout.flush()
    signal.signal(signal.SIGTERM, _end)  # uvicorn raises the signal again when it has ended
    signal.signal(signal.SIGINT, _end)
    server.run(sockets=[listener])


def _end(_signum: int, _frame: FrameType | None) -> None:
    raise SystemExit(OK)


def _print_hash() -> None:
    from boilerd.web.passwords import hash_password  # noqa: PLC0415

    if sys.stdin.isatty():
        given = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)  # noqa: TID251 - no text
    else:
        try:
            given = sys.stdin.buffer.readline().decode().rstrip("\n")
        except UnicodeDecodeError as error:
            raise click.UsageError("the password is no UTF-8 text; no browser could send it") from error
    if not given:
        raise click.UsageError("the password is empty; type one, or send it to stdin")
    echo(hash_password(given))


def _print_token() -> None:
    from boilerd.web.passwords import new_token  # noqa: PLC0415

    token, hashed = new_token()
    echo(f"token:  {token}", f"sha256: {hashed}")

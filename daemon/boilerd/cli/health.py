"""``boilerd health``."""

import click

from boilerd.broker import Broker
from boilerd.cli.options import BROKER, Loaded, with_settings
from boilerd.cli.socket_client import daemon_processes
from boilerd.cli.status import UP
from boilerd.connection import connect
from boilerd.errors import BrokerError
from boilerd.exitcodes import FAILED, OK
from boilerd.settings import Settings


@click.command()
@with_settings(BROKER)
def health(loaded: Loaded) -> None:
    """Say whether all is well, for probes: one line for each thing that is not.

    Exit status: 0 every process of the daemon runs and the broker answers, 1 otherwise.
    """
    troubles = list(_troubles(loaded.settings))
    click.echo("\n".join(troubles) or "ok")
    raise SystemExit(FAILED if troubles else OK)


def _troubles(settings: Settings) -> list[str]:
    processes = daemon_processes(settings.control_socket())
    troubles = [f"{process['name']}: {process['state'].lower()}" for process in processes if process["state"] not in UP]
    if not processes:
        troubles.append(f"daemon: not running (nobody answers at {settings.control_socket()})")
    try:
        with connect(
            settings.broker_url(), password=settings.redis_password, db=settings.redis_db, timeout_s=2.0
        ) as connection:
            Broker(connection).check()
    except BrokerError as error:
        troubles.append(f"broker: {error}")
    return troubles

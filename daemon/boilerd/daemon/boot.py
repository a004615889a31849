"""The boot's second half: wait for the broker, and learn what the processes must know of it."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import redis

from boilerd.broker import server_check
from boilerd.broker.broker import Broker
from boilerd.broker.connection import connect_to
from boilerd.broker.neighbours import Declared, neighbours, strangers
from boilerd.errors import (
    BootError,
    BrokerError,
    BrokerLoadingError,
    BrokerUnableError,
    BrokerUnavailableError,
    NoBrokerError,
)
from boilerd.process.scoreboard import Scoreboard
from boilerd.settings.definitions import Settings
from boilerd.settings.urls import mask_url
from boilerd.supervision.supervisor import DaemonSupervisor
from boilerd.tasks.queues import DEFAULT_QUEUE

logger = logging.getLogger("boilerd.daemon")


class BrokerFacts(NamedTuple):
    """Facts about the broker that a boot learns.

    Attributes:
        name: Its name and version.
        address: This host as the broker sees it; the workers register it.
        hazards: Settings of the broker by which tasks may be lost, one sentence each.
        lacking: Features that the daemon goes without, because the broker has no command for them, one sentence each.
        unserved: Queues for which tasks are meant, and that no worker serves, here or elsewhere.
        strangers: Other applications that share queues or periodic tasks with this one, one sentence each.
        started_s: When it was asked, by its clock.
    """

    name: str
    address: str
    hazards: Sequence[str]
    lacking: Sequence[str]
    unserved: Sequence[str]
    strangers: Sequence[str]
    started_s: float


def connect(settings: Settings, name: str) -> redis.Redis:
    """Make a client for the broker; `name` is its name there, behind ``boilerd-``."""
    return connect_to(settings, name=f"boilerd-{name}")


def unusable(settings: Settings, error: BrokerError) -> BootError:
    """The error of a boot that cannot use the broker."""
    kind = NoBrokerError if isinstance(error, BrokerUnavailableError | BrokerUnableError) else BootError
    return kind(f"{error} ({mask_url(settings.broker_url())})")


def wait_for_broker(
    settings: Settings, declared: Declared, scoreboard: Scoreboard, supervisor: DaemonSupervisor
) -> BrokerFacts:
    """Check the broker and set its limits; wait while it reads its file, as after a reboot of its host.

    After a reload wait also while it is away or takes no writes: the daemon served until then, and must serve again.

    Args:
        settings: Where the broker is, and the queues' limits.
        declared: What the application declares.
        scoreboard: Where to note that it is away.
        supervisor: Serves meanwhile.

    Raises:
        BootError: The broker cannot be used.
    """
    try:
        with connect(settings, "supervisor") as connection:
            return _wait(connection, settings, declared, scoreboard, supervisor)
    except BrokerError as error:
        raise unusable(settings, error) from error


def _wait(
    connection: redis.Redis,
    settings: Settings,
    declared: Declared,
    scoreboard: Scoreboard,
    supervisor: DaemonSupervisor,
) -> BrokerFacts:
    is_logged = False
    while True:
        try:
            facts = _set_up(connection, settings, declared)
        except (BrokerUnavailableError, BrokerUnableError) as error:
            is_loading = isinstance(error, BrokerLoadingError)
            if not is_loading and not supervisor.is_reloaded:
                raise
            if not is_logged:
                message = "broker is loading, waiting" if is_loading else "broker unavailable, waiting"
                logger.warning(message, extra={"error": str(error)})
            is_logged = scoreboard.is_broker_away = True
            scoreboard.beat()  # there is no scheduler yet that could be late
            connection.connection_pool.disconnect()  # the primary may be another by now
            supervisor.serve_briefly(0.2)
        else:
            scoreboard.is_broker_away = False
            return facts


def _set_up(connection: redis.Redis, settings: Settings, declared: Declared) -> BrokerFacts:
    name = server_check.check(connection)
    queues = settings.served_queues()
    broker = Broker(connection)
    broker.set_limits(settings.queue_limits(), queues)
    hazards, lacking = server_check.hazards(connection), server_check.lacking(connection)
    others = neighbours(connection)
    unserved = {*settings.limits, DEFAULT_QUEUE} - queues.keys() - {queue for other in others for queue in other.queues}
    found = strangers(declared, queues, others)
    address, started_s = server_check.address(connection), broker.now()
    return BrokerFacts(name, address, hazards, lacking, sorted(unserved), found, started_s)

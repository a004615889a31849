"""The check before a reload: ``boilerd run --check``, a child of the running daemon, with the new settings and code."""

from boilerd.broker import server_check
from boilerd.broker.broker import Broker
from boilerd.daemon import servers
from boilerd.daemon.assembly import open_logs
from boilerd.daemon.boot import connect, unusable
from boilerd.daemon.directories import own_directories, try_directories, usable_socket
from boilerd.daemon.fork_hooks import before_fork, start_daemon
from boilerd.daemon.privileges import secure_umask
from boilerd.daemon.processes import Application
from boilerd.daemon.sharing import group_id, share_runtime_directory
from boilerd.daemon.valkey import EmbeddedValkey
from boilerd.errors import BrokerError
from boilerd.settings.definitions import Settings
from boilerd.supervision.handover import Handover
from boilerd.tasks.loading import load_app


def check(settings: Settings) -> None:
    """Check that a daemon with these settings could take the place of the one that runs.

    Raises:
        BootError: It could not.
    """
    handover = Handover.peek()
    secure_umask()
    open_logs(settings)
    servers.check_extras(settings)
    valkey = EmbeddedValkey.of(settings) if settings.redis_url is None else None
    life = Application.of(load_app(settings.app, settings.rq_functions), settings).life
    start_daemon(life)
    before_fork(life)
    try_directories(own_directories(settings), handover.lock_fds)
    if (gid := group_id(settings)) is not None:
        share_runtime_directory(settings, gid)
    servers.prepare(settings, gid, is_reload=True)
    usable_socket(settings.control_socket())
    if valkey is not None:
        usable_socket(settings.valkey_socket())
        if valkey.find_running(handover) is None:
            return  # a new one will be started
    _try_broker(settings)


def _try_broker(settings: Settings) -> None:
    try:
        with connect(settings, "check") as connection:
            server_check.check(connection)
            if not Broker(connection).has_limits(settings.queue_limits(), settings.served_queues()):
                server_check.probe(connection, is_storing=True)
    except BrokerError as error:
        raise unusable(settings, error) from error

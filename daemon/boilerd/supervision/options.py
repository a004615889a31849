"""Supervisor's options, set by the program instead of read from a file.

Also what Supervisor takes from its options: the logger, the poll, the signals.
Written against Supervisor 4.3; the source is the documentation.
"""

import logging
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from supervisor.medusa import asyncore_25 as asyncore
from supervisor.options import ServerOptions
from supervisor.supervisord import Supervisor

from boilerd.errors import BootError
from boilerd.process.identity import end_with_parent
from boilerd.process.signals import SignalInbox, release_signals, restore_defaults
from boilerd.supervision.rpc import DaemonInterface, ProcessInterface

logger = logging.getLogger("boilerd.supervisor")

#: How often the loop looks at process states while something is about to happen.
BUSY_POLL_S = 0.05
#: Beside those that Supervisor receives anyway.
OWN_SIGNALS = (signal.SIGUSR1, signal.SIGTSTP, signal.SIGCONT, signal.SIGTTIN, signal.SIGTTOU)


class Options(ServerOptions):  # type: ignore[misc]
    """Supervisor's options, set by the program instead of read from a file."""

    def __init__(self, control_socket: Path) -> None:
        super().__init__()
        #: Processes that had to be cut short in this drain.
        self.timed_out: list[str] = []
        self.pid = os.getpid()
        self.logger = LoggerAdapter()
        self.loglevel = logging.CRITICAL  # of children's output in Supervisor's own log: never
        self.nodaemon = self.first = self.nocleanup = True
        self.test = self.strip_ansi = False
        self.identifier = "boilerd"
        self.logfile = self.uid = self.pidfile = None
        self.minfds = 1024
        self.control_socket = control_socket
        self.serverurl = f"unix://{control_socket}"
        self.server_configs = [
            {
                "family": socket.AF_UNIX, "file": str(control_socket), "chmod": 0o700, "chown": (-1, -1),
                "username": None, "password": None, "section": "unix_http_server",
            }
        ]  # fmt: skip
        self.rpcinterface_factories: list[Any] = [
            ("supervisor", ProcessInterface, {}),
            ("boilerd", DaemonInterface, {}),
        ]
        asyncore.dispatcher.log_info = _log_remark  # it would print among the log lines
        self.inbox: SignalInbox | None = None
        self.poller: Any = _Poller(self.poller)

    def setsignals(self) -> None:
        """Supervisor's handlers, and a pipe that ends its poll when one has run."""
        super().setsignals()
        for signum in OWN_SIGNALS:
            signal.signal(signum, self.signal_receiver.receive)
        self.inbox = SignalInbox([])
        asyncore.socket_map[self.inbox.read_fd] = _Wakeup(self.inbox)
        release_signals()  # held back through a reload

    def write_pidfile(self) -> None:
        """The lock on the state directory serves instead."""

    def set_uid_or_exit(self) -> None:
        """Users are systemd's business."""

    def set_rlimits_or_exit(self) -> None:
        """Limits are systemd's business."""

    def make_logger(self) -> None:
        """It is there already."""

    def openhttpservers(self, supervisord: Supervisor) -> None:
        """Open the control socket; raises BootError where it cannot be."""
        try:
            # A daemon that was killed left it; a living one is excluded by the caller.
            self.control_socket.unlink(missing_ok=True)
            self.httpservers = self.make_http_servers(supervisord)
        except OSError as error:
            raise BootError(f"control socket {self.control_socket}: {error.strerror or error}") from error
        self.unlink_socketfiles = True

    def process_config(self, do_usage: bool = True) -> None:
        """`supervisorctl reread` and `update`: there is no file of Supervisor's."""
        raise ValueError("boilerd has no supervisord.conf; change boilerd.toml and reload")

    def leave_parent(self) -> None:
        """In a forked child: drop what belongs to the parent."""
        restore_defaults()
        end_with_parent(self.pid)
        for dispatcher in list(asyncore.socket_map.values()):
            # Its own close() would shut the socket down for the parent as well.
            getattr(dispatcher, "socket", dispatcher).close()
        asyncore.socket_map.clear()
        for process in self.pidhistory.values():
            self.close_parent_pipes(process.pipes)


class LoggerAdapter:
    """Stands where Supervisor expects its own logger.

    What it says of processes is logged better by this module, with fields; its remarks stay
    for debugging, its errors stay errors.
    """

    level = logging.DEBUG
    handlers: tuple[()] = ()

    def __getattr__(self, name: str) -> Callable[..., None]:
        """``blather``, ``trace``, ``debug``, ``info``, ``warn``, ``error``, ``critical``."""
        level = {"error": logging.ERROR}.get(name, logging.DEBUG)
        return lambda message, **values: logger.log(level, "%s", message % values if values else message)

    def log(self, level: int, message: str, **values: object) -> None:
        """A remark of some level of Supervisor's."""
        logger.debug("%s", message % values if values else message)

    def close(self) -> None:
        """Nothing to close."""


def _log_remark(_channel: Any, message: str, _type: str = "info") -> None:
    """What medusa says of its connections, such as of clients that went away before they had their answer."""
    logger.debug("control socket: %s", message)


class _Poller:
    """Supervisor's poller, with a shorter sleep while something is about to happen."""

    def __init__(self, poller: Any) -> None:
        self._poller = poller
        self.is_about_to_act: Callable[[], bool] = bool
        #: The loop shall come round this often, whatever happens: the watchdog waits for it.
        self.longest_s = 1.0

    def poll(self, timeout: float) -> Any:
        if self.is_about_to_act():
            timeout = BUSY_POLL_S
        return self._poller.poll(min(timeout, self.longest_s))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._poller, name)


class _Wakeup:
    """The wakeup pipe as a dispatcher: it only has to be read."""

    def __init__(self, inbox: SignalInbox) -> None:
        self._inbox = inbox

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        self._inbox.drain()

    def handle_error(self) -> None:
        logger.critical("wakeup pipe failed", exc_info=True)  # noqa: LOG014 - called while one is handled

    def close(self) -> None:
        self._inbox.close()

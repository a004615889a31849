"""Supervisor's options, set by the program instead of read from a file.

Supervisor also takes its logger, its poller and its signal handlers from them.
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
from boilerd.process.signals import (
    HANDLED,
    PASSED_ON,
    SUPERVISORS_OWN,
    SignalInbox,
    ignore,
    release_signals,
    restore_defaults,
)
from boilerd.supervision.control_socket import ControlServer, open_control_socket, shortened
from boilerd.supervision.rpc import TOLD_NOTHING, DaemonInterface, ProcessInterface, Told

logger = logging.getLogger("boilerd.supervisor")

#: How often the loop looks at process states while something is about to happen.
BUSY_POLL_S = 0.05
#: How often the loop comes round at least.
IDLE_POLL_S = 1.0
#: Signals that the daemon receives beside those that Supervisor receives anyway.
OWN_SIGNALS = (signal.SIGUSR1, signal.SIGTSTP, signal.SIGCONT, signal.SIGTTIN, signal.SIGTTOU)


class Options(ServerOptions):  # type: ignore[misc]
    """Supervisor's options: read from its file and command line there, set by this program here.

    Args:
        control_socket: Where it is to be.
        told: What the daemon tells of its settings there.
        is_for_group: True if the group of the directory may ask there.

    Attributes:
        timed_out: Names of the workers that a drain or reload had to kill, or that gave their tasks back at its end.
        inbox: Ends the loop's poll early; None until `setsignals`, which runs when the loop is about to begin.
    """

    def __init__(self, control_socket: Path, told: Told = TOLD_NOTHING, *, is_for_group: bool = False) -> None:
        super().__init__()
        self._told = told
        self._is_for_group = is_for_group
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
        self.inbox: SignalInbox | None = None
        self._control_server: ControlServer | None = None

    def setsignals(self) -> None:
        """Install Supervisor's signal handler, and a pipe that ends its poll when a signal has come.

        The handler only notes the number: it may interrupt a fork, a log line or a change of the pool. The loop takes
        the numbers in `DaemonSupervisor.handle_signal`, and acts there. A forked child has handlers of its own.
        """
        super().setsignals()
        for signum in OWN_SIGNALS:
            signal.signal(signum, self.signal_receiver.receive)
        self.inbox = SignalInbox([])
        asyncore.socket_map[self.inbox.read_fd] = _Wakeup(self.inbox)
        release_signals()  # blocked since before a reload

    def write_pidfile(self) -> None:
        """Write none: the lock on the state directory serves instead."""

    def set_uid_or_exit(self) -> None:
        """Do nothing: `daemon.privileges` has changed the user already, or systemd has."""

    def set_rlimits_or_exit(self) -> None:
        """Do nothing: systemd sets the limits."""

    def make_logger(self) -> None:
        """Keep the one that is there already."""

    def openhttpservers(self, supervisord: Supervisor) -> None:
        """Open the control socket; raises BootError where it cannot be."""
        try:
            # A killed daemon left it; the caller has made sure that no living one listens there.
            self.control_socket.unlink(missing_ok=True)
            own = DaemonInterface(supervisord, self._told)
            interfaces = [("supervisor", ProcessInterface(supervisord)), ("boilerd", own)]
            self._control_server = open_control_socket(
                self.control_socket, supervisord, interfaces, is_for_group=self._is_for_group
            )
        except OSError as error:
            raise BootError(f"control socket {self.control_socket}: {error.strerror or error}") from error
        self.httpservers = [({"family": socket.AF_UNIX, "file": str(self.control_socket)}, self._control_server)]
        self.unlink_socketfiles = True

    def close_late_connections(self) -> None:
        """Close the control socket's connections whose clients take too long; the loop calls it once a round."""
        if self._control_server:
            self._control_server.close_late()

    def process_config(self, do_usage: bool = True) -> None:
        """Refuse `supervisorctl reread` and `update`; Supervisor expects a ValueError here."""
        raise ValueError("boilerd has no supervisord.conf; change boilerd.toml and reload")

    def leave_parent(self) -> None:
        """Drop what belongs to the parent; called in a forked child."""
        restore_defaults(held=HANDLED)
        # USR1 means a task. It may be one of the predecessor in this row, and nobody waits for an answer.
        ignore((*SUPERVISORS_OWN, signal.SIGUSR1))
        release_signals(held=PASSED_ON)
        end_with_parent(self.pid)
        for dispatcher in list(asyncore.socket_map.values()):
            # Its own close() would shut the socket down for the parent as well.
            getattr(dispatcher, "socket", dispatcher).close()
        asyncore.socket_map.clear()
        for process in self.pidhistory.values():
            self.close_parent_pipes(process.pipes)


class LoggerAdapter:
    """Takes the place of Supervisor's own logger.

    Our modules log the life of processes themselves, with fields; so Supervisor's messages become debug lines,
    and its errors stay errors.
    """

    level = logging.DEBUG
    handlers: tuple[()] = ()

    def __getattr__(self, name: str) -> Callable[..., None]:
        """``blather``, ``trace``, ``debug``, ``info``, ``warn``, ``error``, ``critical``."""
        level = {"error": logging.ERROR}.get(name, logging.DEBUG)
        return lambda message, **values: logger.log(level, "%s", shortened(message % values if values else message))

    def log(self, level: int, message: str, **values: object) -> None:
        """Log a message that Supervisor gave a level by number."""
        logger.debug("%s", shortened(message % values if values else message))

    def close(self) -> None:
        """Do nothing: there is nothing to close."""


class Poller:
    """Supervisor's poller, which sleeps for a second, with a shorter sleep where that is too long.

    Args:
        poller: Supervisor's.
        is_about_to_act: Returns True while the daemon's state will change by the clock soon.
        watchdog_every_s: How often the loop must feed the watchdog; 0: there is none.
    """

    def __init__(self, poller: Any, is_about_to_act: Callable[[], bool], watchdog_every_s: float) -> None:
        self._poller = poller
        self._is_about_to_act = is_about_to_act
        self._longest_s = min(watchdog_every_s or IDLE_POLL_S, IDLE_POLL_S)

    def poll(self, timeout: float) -> Any:
        """Wait like Supervisor's poller, but not longer than this loop may sleep now."""
        if self._is_about_to_act():
            timeout = BUSY_POLL_S
        return self._poller.poll(min(timeout, self._longest_s))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._poller, name)


class _Wakeup:
    """The wakeup pipe as a dispatcher of Supervisor's: reading empties it."""

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

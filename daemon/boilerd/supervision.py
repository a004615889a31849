"""Supervisor embedded as a library: its process states, backoff, control socket and events.

What is different from a stock supervisord, and why:

* Workers are forked without exec, from a parent that has imported the application, so that
  memory is shared copy-on-write and a worker starts in milliseconds (`children.ForkedProcess`).
* Supervisor polls once a second and Python restarts the poll after a signal (PEP 475), so a
  wakeup pipe is one more of its dispatchers: a dead child is replaced at once.
* Options are set here instead of read from a file, and log lines go through `logging`.

Written against Supervisor 4.3; the source is the documentation.
"""

import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from supervisor import events
from supervisor.medusa import asyncore_25 as asyncore
from supervisor.options import ProcessGroupConfig, ServerOptions
from supervisor.rpcinterface import SupervisorNamespaceRPCInterface
from supervisor.states import ProcessStates, SupervisorStates
from supervisor.supervisord import Supervisor
from supervisor.xmlrpc import Faults, RPCError

from boilerd.children import end_with_parent
from boilerd.errors import BootError
from boilerd.exitcodes import DONE
from boilerd.failpoints import failpoint
from boilerd.signals import SignalInbox, restore_defaults

logger = logging.getLogger("boilerd.supervisor")

#: After the shutdown timeout a worker puts its task back by itself; then comes SIGKILL.
KILL_MARGIN_S = 0.5
#: A second TERM or INT after this long stops at once. Ctrl-C and systemd may send two together.
SECOND_SIGNAL_S = 1.0
#: How long the scheduler and the broker get to end after a second signal.
HURRY_S = 2.0
#: How often the loop looks at process states while something is about to happen.
BUSY_POLL_S = 0.05


class StoppedEarly(Exception):  # noqa: N818 - a request
    """A TERM came before the daemon had started."""


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
        self.rpcinterface_factories: list[Any] = [("supervisor", ControlInterface, {})]
        self.inbox: SignalInbox | None = None
        self.poller: Any = _Poller(self.poller)

    def setsignals(self) -> None:
        """Supervisor's handlers, and a pipe that ends its poll when one has run."""
        super().setsignals()
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        self.inbox = SignalInbox([])
        asyncore.socket_map[self.inbox.read_fd] = _Wakeup(self.inbox)

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
        # A daemon that was killed left it; a living one is excluded by the caller's lock.
        self.control_socket.unlink(missing_ok=True)
        try:
            self.httpservers = self.make_http_servers(supervisord)
        except OSError as error:
            raise BootError(f"control socket {self.control_socket}: {error.strerror or error}") from error
        self.unlink_socketfiles = True

    def process_config(self, do_usage: bool = True) -> None:
        """`supervisorctl reread` and `update`: there is no file of Supervisor's."""
        raise ValueError("boilerd has no supervisord.conf; change boilerd.toml and restart")

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


class Daemon(Supervisor):  # type: ignore[misc]
    """Supervisor's loop with a boot step, drains that end in time, and lines that tell.

    Args:
        first: Started first and stopped last: the embedded broker. May be none.
        boot: Called when `first` was started; raises BootError, or returns the other groups.
        on_output: Gets each line that a program of `first` printed.
        on_drain: Called when a drain begins.
    """

    def __init__(
        self,
        options: Options,
        *,
        first: Sequence[ProcessGroupConfig],
        boot: Callable[["Daemon"], Sequence[ProcessGroupConfig]],
        on_output: Callable[[str], None],
        on_drain: Callable[[], None],
        is_burst: bool = False,
    ) -> None:
        super().__init__(options)
        options.process_group_configs = list(first)
        self._boot = boot
        self._on_output = on_output
        self._on_drain = on_drain
        self._is_burst = is_burst
        self._drain_since_s: float | None = None
        self._partial = b""

    def runforever(self) -> None:
        """Boot, then serve until a drain has ended."""
        events.subscribe(events.ProcessLogStdoutEvent, self._print)
        events.subscribe(events.SupervisorStoppingEvent, self._begin_drain)
        events.subscribe(events.ProcessStateFatalEvent, _log_fatal)
        events.subscribe(events.ProcessStateBackoffEvent, _log_backoff)
        try:
            for group in self.process_groups.values():
                group.transition()
            for config in self._boot(self):
                self.add_process_group(config)
            self.options.inbox.wake()  # or the first child would start after a second
            super().runforever()
        except StoppedEarly:
            self._kill_all()
            logger.info("stopped while starting")
        except BaseException:
            # Whatever it was: a broker that nobody supervises must not stay behind.
            self._kill_all()
            raise

    def serve_briefly(self, timeout_s: float) -> None:
        """While booting: handle what comes, for at most `timeout_s`; raises StoppedEarly on a TERM."""
        self.options.inbox.wait(timeout_s)
        for fd, dispatcher in self.get_process_map().items():
            if dispatcher.readable() and _is_readable(fd):
                dispatcher.handle_read_event()
        self.reap()
        if self.options.get_signal() in {signal.SIGTERM, signal.SIGINT}:
            raise StoppedEarly

    def handle_signal(self) -> None:
        """TERM and INT drain; once more, a second later: stop now."""
        signum = self.options.get_signal()
        if signum in {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}:
            self._drain_or_kill(signal.Signals(signum).name)
        elif signum == signal.SIGHUP:
            logger.warning("reload is not supported; restart the daemon instead")
        if self._is_burst and self._workers_are_done():
            self.options.mood = SupervisorStates.SHUTDOWN

    def is_about_to_act(self) -> bool:
        """Whether a state will change by the clock soon, so that the loop must not sleep long."""
        if self.options.mood < SupervisorStates.RUNNING:
            return True
        waiting = (ProcessStates.STARTING, ProcessStates.BACKOFF, ProcessStates.STOPPING)
        return any(p.state in waiting for group in self.process_groups.values() for p in group.processes.values())

    def _drain_or_kill(self, name: str) -> None:
        now_s = time.monotonic()
        if self._drain_since_s is None:
            self._drain_since_s = now_s
            self.options.mood = SupervisorStates.SHUTDOWN
        elif now_s - self._drain_since_s >= SECOND_SIGNAL_S:
            logger.warning("stopping now, running tasks go back to their queues", extra={"signal": name})
            self._hurry()

    def _hurry(self) -> None:
        """Kill the workers; the scheduler puts their tasks back, the broker gets little time to end."""
        for name, group in self.process_groups.items():
            for process in group.processes.values():
                process.config.stopwaitsecs = min(process.config.stopwaitsecs, HURRY_S)
                if name == "worker" and process.pid:
                    process.kill(signal.SIGKILL)
                elif process.state == ProcessStates.STOPPING:
                    process.delay = min(process.delay, time.time() + HURRY_S)

    def _begin_drain(self, event: object) -> None:
        """Whoever asked for it: a signal, supervisorctl, or the end of a burst."""
        if self._drain_since_s is None:
            self._drain_since_s = time.monotonic()
        # What an administrator cut short long ago is no part of this drain.
        self.options.timed_out.clear()
        self._on_drain()
        failpoint("supervisor-drains")
        logger.info("worker stopped accepting new tasks")

    def _workers_are_done(self) -> bool:
        """In a burst: each has said so, or will not come back."""
        processes = self.process_groups["worker"].processes.values() if "worker" in self.process_groups else ()
        return bool(processes) and all(_is_over(process) for process in processes)

    def _print(self, event: events.ProcessLogStdoutEvent) -> None:
        *lines, self._partial = (self._partial + event.data).split(b"\n")
        for line in lines:
            self._on_output(line.decode("utf-8", "backslashreplace").strip())

    def _kill_all(self) -> None:
        """After a failed boot: leave nothing behind."""
        for pid in list(self.options.pidhistory):
            os.kill(pid, signal.SIGTERM)
        deadline_s = time.monotonic() + 5
        while self.options.pidhistory and time.monotonic() < deadline_s:
            self.options.inbox.wait(BUSY_POLL_S)
            self.reap()
        for pid in list(self.options.pidhistory):
            os.kill(pid, signal.SIGKILL)


class ControlInterface(SupervisorNamespaceRPCInterface):  # type: ignore[misc]
    """What supervisorctl can ask for. The broker is not stopped under the workers that need it."""

    def restart(self) -> bool:
        """`supervisorctl reload` would read Supervisor's own configuration again; there is none."""
        raise RPCError(Faults.FAILED, "reload is not supported; restart the daemon")

    def stopProcess(self, name: str, wait: bool = True) -> Any:  # noqa: N802
        """Stop one, unless it is a broker that is needed."""
        if name.partition(":")[0] == "valkey" and self._has_workers():
            raise RPCError(Faults.FAILED, "workers need it; stop them first, or shut the daemon down")
        return super().stopProcess(name, wait)

    def stopProcessGroup(self, name: str, wait: bool = True) -> Any:  # noqa: N802
        """Stop a group, unless it is a broker that is needed."""
        if name == "valkey" and self._has_workers():
            raise RPCError(Faults.FAILED, "workers need it; stop them first, or shut the daemon down")
        return super().stopProcessGroup(name, wait)

    def _getAllProcesses(self, lexical: bool = False) -> Any:  # noqa: N802
        """By priority, for `stop all` and `start all`: all but the broker. Lexical, for `status`: all."""
        pairs = super()._getAllProcesses(lexical)
        return pairs if lexical else [pair for pair in pairs if pair[0].config.name != "valkey"]

    def _has_workers(self) -> bool:
        group = self.supervisord.process_groups.get("worker")
        return bool(group and group.get_unstopped_processes())


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


class _Poller:
    """Supervisor's poller, with a shorter sleep while something is about to happen."""

    def __init__(self, poller: Any) -> None:
        self._poller = poller
        self.daemon: Daemon | None = None

    def poll(self, timeout: float) -> Any:
        if self.daemon is not None and self.daemon.is_about_to_act():
            timeout = BUSY_POLL_S
        return self._poller.poll(timeout)

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


def run(daemon: Daemon) -> None:
    """Run until a drain has ended.

    Raises:
        BootError: The daemon could not start.
    """
    daemon.options.poller.daemon = daemon
    with suppress(asyncore.ExitNow):
        daemon.main()


def _is_readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def _log_backoff(event: events.ProcessStateBackoffEvent) -> None:
    process = event.process
    fields = {"child": process.full_name, "tries": process.backoff, "delay_s": process.backoff}
    logger.warning("process crashed at start, trying again", extra=fields)


def _log_fatal(event: events.ProcessStateFatalEvent) -> None:
    if not event.process.system_stop or event.process.config.options.mood < SupervisorStates.RUNNING:
        return
    hint = "supervisorctl start it again when the cause is gone"
    logger.error("process crashed too often, giving up on it", extra={"child": event.process.full_name, "hint": hint})


def _is_over(process: Any) -> bool:
    if process.state == ProcessStates.EXITED:
        return bool(process.exitstatus == DONE)
    return process.state == ProcessStates.FATAL or bool(process.state == ProcessStates.STOPPED and process.laststart)

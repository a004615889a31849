"""The embedded broker: a real Valkey server that the daemon brings along.

It listens on a Unix socket only, keeps an append-only file in the state directory, and lives
as long as the daemon. Supervisor restarts it as any child.
"""

import errno
import logging
import os
import re
import select
import shlex
import signal
import socket
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

import redis
from supervisor.options import ProcessGroupConfig
from supervisor.states import ProcessStates

from boilerd import ground
from boilerd.broker import append_file
from boilerd.broker.connection import connect_as_daemon
from boilerd.broker.embedded import read_secret, secret_path
from boilerd.daemon.append_file_holes import fill_holes
from boilerd.daemon.directories import usable_socket
from boilerd.daemon.reserve import Reserve
from boilerd.daemon.valkey_program import find_server
from boilerd.daemon.valkey_users import write_users
from boilerd.errors import BootError, BrokerError, NoBrokerError
from boilerd.process.identity import send
from boilerd.process.scoreboard import VALKEY_ROW, Scoreboard
from boilerd.process.signals import ENDS_BROKER
from boilerd.settings.definitions import Settings
from boilerd.settings.urls import socket_url
from boilerd.supervision.groups import VALKEY
from boilerd.supervision.handover import Handover, RunningValkey
from boilerd.supervision.options import Options
from boilerd.supervision.program import program_group
from boilerd.supervision.supervisor import DaemonSupervisor

logger = logging.getLogger("boilerd.valkey")

#: A starting server answers in 20 ms; one that loads a large file says so and may take longer.
START_TIMEOUT_S = 20.0
#: On its end the server writes what is left of its file.
STOP_S = 30.0
#: A server that starts with less on its disk can write no more than the workers' names.
LEAST_ROOM_BYTES = 256 * 1024
#: Below those of the scheduler and the workers: Supervisor starts it first and stops it last.
PRIORITY = 100

#: `1234:M 24 Nov 2026 02:00:00.000 # message`, where # marks warnings.
_LINE = re.compile(r"\d+:\w \d+ \w+ \d+ [\d:.]+ ([.\-*#]) (.*)")
#: Lines that it prints when it ends on request.
_FAREWELL = re.compile(r"Received SIGINT|User requested shutdown|There is a child .* Killing it|ready to exit")


class EmbeddedValkey:
    """The server of one state directory. The caller holds the lock on that.

    The program is looked for when this is made: before anything of the application's is found.

    Args:
        state_dir: The server's files are in the folder ``valkey`` there.
        socket_path: Where it listens.
        group: The group that may open the socket; empty: none, and whoever opens it may do all.

    Raises:
        BootError: There is no server program.
    """

    def __init__(self, state_dir: Path, socket_path: Path, group: str = "") -> None:
        self._program = find_server()
        self._state_dir = state_dir
        self._data_dir = state_dir / "valkey"
        self._socket = socket_path
        self._reserve = Reserve(state_dir)
        self._is_told = False
        self._secret = secret_path(socket_path)
        self._group = group
        #: Its latest lines, for the error when it does not start.
        self._output: list[str] = []

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The server that the settings want."""
        return cls(settings.state_path(), settings.valkey_socket(), settings.group or "")

    def find_running(self, handover: Handover) -> RunningValkey | None:
        """The server that runs already, from before a reload; None if there is none, or with other paths."""
        running = handover.valkey
        wanted = (str(self._socket), str(self._state_dir), self._group)
        if running is None or (running.socket, running.state_dir, running.group) != wanted:
            return None
        return running if not self._group or read_secret(self._secret) else None

    def hand_over(self, supervisor: DaemonSupervisor) -> RunningValkey | None:
        """The server that runs now, for the program after a reload; None if it does not run."""
        process = supervisor.process_groups[VALKEY].processes[VALKEY]
        if not process.pid or process.pipes["stdout"] is None:
            return None
        stdout_fd = process.pipes["stdout"]
        return RunningValkey(str(self._socket), process.pid, stdout_fd, str(self._state_dir), self._group)

    def group(self, options: Options, scoreboard: Scoreboard, running: RunningValkey | None) -> ProcessGroupConfig:
        """The group of the server's process, for Supervisor.

        Args:
            options: Supervisor's.
            scoreboard: Where to note its process ID.
            running: The server that runs already; None starts a new one.

        Raises:
            BootError: The server cannot be started.
        """
        usable_socket(self._socket)
        command = self.command(is_running=running is not None)
        return program_group(
            options, VALKEY, command,
            priority=PRIORITY, scoreboard=scoreboard, row=VALKEY_ROW, stop_wait_s=STOP_S, running=running,
            why_not_stop=self.why_not_stop,
        )  # fmt: skip

    def wait_until_ready(self, supervisor: DaemonSupervisor) -> None:
        """Wait until the server answers, while the supervisor serves; raises BootError."""
        process = supervisor.process_groups[VALKEY].processes[VALKEY]
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                if self.is_ready():
                    self._renew_rights()
                    return
            except redis.BusyLoadingError:
                # It reads its file, however large that is.
                deadline_s = time.monotonic() + START_TIMEOUT_S
            supervisor.serve_briefly(0.01)
            if process.state not in {ProcessStates.STARTING, ProcessStates.RUNNING}:
                # A full disk will have room again; any other cause will be there the next time, too.
                kind = NoBrokerError if os.strerror(errno.ENOSPC) in self._last_output() else BootError
                raise kind(f"the embedded Valkey ended at once: {self._last_output()}")
            if time.monotonic() > deadline_s:
                raise NoBrokerError(
                    f"the embedded Valkey did not answer in {START_TIMEOUT_S:g} s: {self._last_output()}"
                )

    def _renew_rights(self) -> None:
        """Have a server that runs from before a reload read the file of users again, which may be of a new version."""
        if self._group:
            with suppress(redis.RedisError), _connect(self._socket) as client:  # its members keep the rights they had
                client.acl_load()

    def command(self, *, is_running: bool = False) -> str:
        """The command line that starts the server; stops one that a killed daemon left running.

        Args:
            is_running: True if the server runs already, as a child of this process.

        Raises:
            BootError: The directory cannot be used.
            NoBrokerError: Its disk is full.
        """
        try:
            os.close(ground.open_directory(self._data_dir, makes=True))
        except OSError as error:
            raise BootError(f"state directory {self._data_dir}: {error.strerror}") from error
        if not os.access(self._data_dir, os.W_OK | os.X_OK):
            raise BootError(f"state directory {self._data_dir}: cannot be written; set state_dir to one that can")
        if not is_running:
            self._stop_orphan()
            self._check_room()
            self._mend_file()
        self._reserve.make()
        options = {
            "port": "0", "unixsocket": str(self._socket), "dir": str(self._data_dir), **self._access(),
            "appendonly": "yes", "appendfsync": "everysec", "save": "", "maxmemory-policy": "noeviction",
            "daemonize": "no", "loglevel": "notice", "always-show-logo": "no", "set-proc-title": "yes",
            "proc-title-template": "boilerd: valkey {unixsocket}",
        }  # fmt: skip
        return shlex.join([self._program, *(word for name, value in options.items() for word in (f"--{name}", value))])

    def _access(self) -> dict[str, str]:
        """The options that say who may do what; raises BootError where the secret cannot be written."""
        if not self._group:
            self._secret.unlink(missing_ok=True)
            return {"unixsocketperm": "700"}
        users = self._data_dir / "users.acl"
        try:
            write_users(users, self._secret)
        except OSError as error:
            raise BootError(f"group: cannot write {error.filename or self._secret}: {error.strerror}") from error
        return {"unixsocketperm": "770", "aclfile": str(users)}

    def is_ready(self) -> bool:
        """True if it answers, if only that its disk is full; raises BusyLoadingError while it reads its file."""
        try:
            with _connect(self._socket) as client:
                return bool(client.ping())
        except redis.BusyLoadingError:
            raise
        except redis.ResponseError:
            return True
        except redis.RedisError:
            return False

    def make_room(self, _event: object = None) -> None:
        """At the beginning of a drain: where its disk is full, accept no new task and give it what was kept for this.

        So what was accepted gets to the disk, and so do the outcomes of the drain.
        """
        with suppress(BrokerError), _connect(self._socket) as client:
            if append_file.unwritten_bytes(client):
                append_file.refuse_new(client)
                self._reserve.give_up()

    def why_not_stop(self) -> str:
        """Why the server must not be ended now: accepted tasks are in its memory only; empty: it may be."""
        try:
            with _connect(self._socket) as client:
                left_bytes = append_file.close(client)
        except BrokerError:
            return ""  # it ended by itself, or hangs
        if not left_bytes:
            return ""
        reason = f"{left_bytes} bytes that were accepted are not on the disk of {self._data_dir}: make room there"
        if not self._is_told:
            self._is_told = True
            logger.error("the disk is full, waiting until all accepted tasks are written", extra={"error": reason})
        return reason

    def finish_writing(self) -> None:
        """Wait until a server that is to be ended has written all; raises NoBrokerError where it cannot."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        self.make_room()
        while reason := self.why_not_stop():
            if time.monotonic() > deadline_s:
                raise NoBrokerError(f"a Valkey of a former daemon cannot be ended: {reason}")
            select.select([], [], [], 0.1)

    def log(self, line: str) -> None:
        """Log one line that the server printed."""
        if not line:
            return
        match = _LINE.fullmatch(line)
        sign, message = match.groups() if match else ("#", line)
        self._output = [*self._output[-2:], message]
        if sign != "#" or _FAREWELL.search(message):
            level = logging.DEBUG
        else:
            # Lines with this prefix are advice that it gives at every start.
            level = logging.INFO if message.startswith("WARNING ") else logging.WARNING
        logger.log(level, "%s", message)

    def remove_socket(self) -> None:
        """Remove the socket of a server that ended by itself; commands would take it for one that runs."""
        with suppress(OSError):  # it may be none of the server's, and the reason why that ended
            self._socket.unlink(missing_ok=True)

    def _last_output(self) -> str:
        return "; ".join(self._output) or "it said nothing"

    def _check_room(self) -> None:
        """Say at once that the disk is full: the server would start, and then let nobody through."""
        disk = os.statvfs(self._data_dir)
        free_bytes = disk.f_frsize * (disk.f_bavail if os.geteuid() else disk.f_bfree)  # root may take the rest, too
        if free_bytes < LEAST_ROOM_BYTES:
            raise NoBrokerError(f"state directory {self._data_dir}: its disk is full, {free_bytes} bytes are free;"
                                " make room there")  # fmt: skip

    def _mend_file(self) -> None:
        try:
            mended = fill_holes(self._data_dir)
        except OSError as error:
            raise NoBrokerError(f"state directory {self._data_dir}: its file cannot be mended: {error}") from error
        if mended:
            logger.warning("mended the file of a server whose disk was full", extra={"files": [*map(str, mended)]})

    def _stop_orphan(self) -> None:
        """End the server that a killed daemon left; nobody else uses it, because this daemon holds the lock.

        Its process ID comes from the socket, which works even when the server hangs.

        Raises:
            BootError: The server does not end. A second one on its files would destroy them.
        """
        if (pid := _pid_behind(self._socket)) is None:
            return
        logger.warning("stopping the server that a killed daemon left", extra={"child_pid": pid})
        self.finish_writing()
        for signum, timeout_s in ((ENDS_BROKER, START_TIMEOUT_S), (signal.SIGKILL, 5.0)):
            send(pid, signum)
            deadline_s = time.monotonic() + timeout_s
            while time.monotonic() < deadline_s:
                if _pid_behind(self._socket) is None:
                    self._socket.unlink(missing_ok=True)
                    return
                select.select([], [], [], 0.02)
        raise BootError(f"a Valkey of a former daemon (pid {pid}) holds {self._data_dir} and does not end; kill it")


def _pid_behind(path: Path) -> int | None:
    """The process that listens on the socket; None if there is none."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError as error:
            raise BootError(f"{path}: {error.strerror or error}; see what listens there") from error
        if sys.platform != "linux":
            return int(_connect(path).info("server")["process_id"])
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[0])


def _connect(path: Path) -> redis.Redis:
    """A client of the server that listens there, which may hang."""
    return connect_as_daemon(socket_url(path), timeout_s=1.0)

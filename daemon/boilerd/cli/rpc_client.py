"""The command line's end of the control socket."""

import http.client
import socket
import xmlrpc.client
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

from boilerd.process.scoreboard import LATE_HEARTBEAT_S

#: How long the daemon may take to answer.
TIMEOUT_S = 5.0
#: Supervisor's names for the states of a process that runs.
UP = frozenset({"STARTING", "RUNNING"})


def ask(control_socket: Path, method: str, *args: Any) -> Any:
    """Call a method of the daemon's, such as ``boilerd.info`` or ``supervisor.getAllProcessInfo``.

    Raises:
        TimeoutError: Somebody is there, who does not answer; the message says who.
        OSError: Nobody is.
        ValueError: The daemon refuses; the message says why.
    """
    transport = _UnixTransport(control_socket)
    try:
        with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as proxy:
            return getattr(proxy, method)(*args)
    except (TimeoutError, BlockingIOError) as error:  # the second: so many have asked already
        raise TimeoutError(f"{_owner(control_socket)} does not answer; it may still do what was asked") from error
    except xmlrpc.client.Fault as fault:
        raise ValueError(fault.faultString.removeprefix("FAILED: ")) from fault
    except (http.client.HTTPException, xmlrpc.client.Error, ExpatError) as error:  # the last: it was cut off
        raise ConnectionError(str(error)) from error


@dataclass(frozen=True)
class Seen:
    """What a daemon says of itself.

    Attributes:
        info: What `supervision.Daemon.info` tells; empty when it does not answer.
        processes: Name, state, pid and start time of each; none when it does not answer.
        silence: Why it does not answer; empty when it does.
    """

    info: dict[str, Any]
    processes: list[dict[str, Any]]
    silence: str = ""

    @property
    def told(self) -> str:
        """How it is, in one line."""
        return self.silence or str(self.info["status"])

    def up(self) -> int:
        """How many of its processes run."""
        return sum(process["state"] in UP for process in self.processes)

    def troubles(self) -> list[str]:
        """What keeps it from its tasks, a line for each thing."""
        is_whole = self.up() == len(self.processes)
        if self.silence or self.info["state"] in {"starting", "draining"}:
            return [f"daemon: {self.told}"]
        if self.info["state"] == "reloading" and not is_whole:
            return [f"daemon: {self.told}"]
        troubles = [f"{p['name']}: {p['state'].lower()}" for p in self.processes if p["state"] not in UP]
        # What a daemon does not tell that was started before an upgrade is no trouble.
        if self.info.get("is_broker_away"):
            troubles.append("daemon: the broker does not let its processes through; its log says why")
        if (age_s := self.info.get("heartbeat_age_s", 0.0)) > LATE_HEARTBEAT_S:
            troubles.append(f"scheduler: no heartbeat for {age_s:.0f} s, so that leases end and nothing is forwarded")
        return troubles


def look(control_socket: Path) -> Seen:
    """See how the daemon is; a silent one is asked only once."""
    try:
        return Seen(ask(control_socket, "boilerd.info"), _processes(control_socket))
    except TimeoutError as error:
        return Seen({}, [], str(error))
    except PermissionError as error:
        return Seen({}, [], f"not to be seen by this user ({control_socket}: {error.strerror})")
    except OSError:
        return Seen({}, [], f"not running (nobody answers at {control_socket})")
    except ValueError as error:
        return Seen({}, [], str(error))


def _processes(control_socket: Path) -> list[dict[str, Any]]:
    return [
        {
            "name": info["name"] if info["name"] == info["group"] else f"{info['group']}:{info['name']}",
            "state": info["statename"],
            "pid": info["pid"],
            "started": info["start"],
        }
        for info in ask(control_socket, "supervisor.getAllProcessInfo")
    ]


def _owner(control_socket: Path) -> str:
    """The daemon that listens there, by what it wrote into its lock."""
    with suppress(OSError):
        if pid := (control_socket.parent / "boilerd.lock").read_text("ascii", "replace").strip():
            return f"pid {pid} (from boilerd.lock)"
    return f"whoever listens at {control_socket}"


class _UnixTransport(xmlrpc.client.Transport):
    """XML-RPC over the control socket. Supervisor's own transport would load all of Supervisor."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = _UnixConnection(self._path)
        self._connection = host, connection  # what close() closes
        return connection


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

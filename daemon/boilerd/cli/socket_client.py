"""The command line's end of the control socket."""

import http.client
import socket
import xmlrpc.client
from contextlib import suppress
from pathlib import Path
from typing import Any

#: How long the daemon may take to answer.
TIMEOUT_S = 5.0


def ask(control_socket: Path, method: str, *args: Any) -> Any:
    """Call a method of the daemon's, such as ``boilerd.info`` or ``supervisor.getAllProcessInfo``.

    Raises:
        OSError: Nobody answers.
        ValueError: The daemon refuses; the message says why.
    """
    transport = _UnixTransport(control_socket)
    try:
        with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as proxy:
            return getattr(proxy, method)(*args)
    except xmlrpc.client.Fault as fault:
        raise ValueError(fault.faultString.removeprefix("FAILED: ")) from fault
    except (http.client.HTTPException, xmlrpc.client.Error) as error:
        raise ConnectionError(str(error)) from error


def daemon_info(control_socket: Path) -> dict[str, Any]:
    """What `supervision.Daemon.info` tells; empty when no daemon answers, or it is starting."""
    with suppress(OSError, ValueError):
        info: dict[str, Any] = ask(control_socket, "boilerd.info")
        return info
    return {}


def daemon_processes(control_socket: Path) -> list[dict[str, Any]]:
    """Name, state, pid and start time of each process; empty when no daemon answers."""
    try:
        infos = ask(control_socket, "supervisor.getAllProcessInfo")
    except OSError:
        return []
    return [
        {
            "name": info["name"] if info["name"] == info["group"] else f"{info['group']}:{info['name']}",
            "state": info["statename"],
            "pid": info["pid"],
            "started": info["start"],
        }
        for info in infos
    ]


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

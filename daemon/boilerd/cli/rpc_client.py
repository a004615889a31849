"""Call the running daemon over its control socket; `supervision.rpc` is the end that answers."""

import http.client
import re
import socket
import time
import xmlrpc.client
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NotRequired, Self, TypedDict

import msgspec

from boilerd.errors import RefusedError
from boilerd.process.scoreboard import LATE_HEARTBEAT_S
from boilerd.verdict.facts import UP, Silence

#: How long the daemon may take to answer.
TIMEOUT_S = 5.0
#: Bytes of an answer; the processes of 1,000 workers are 1.2 MB.
MOST_ANSWER_BYTES = 16 * 1024 * 1024


class Info(TypedDict):
    """What commands read of the answer to ``boilerd.info``; daemons of other versions have more or fewer fields."""

    state: str
    status: str
    generation: int
    trouble: str
    is_broker_away: NotRequired[bool]
    heartbeat_age_s: NotRequired[float]


class _Process(TypedDict):
    """What is read of ``supervisor.getAllProcessInfo``, for each process."""

    name: str
    group: str
    statename: str
    pid: int
    start: int


def ask(control_socket: Path, method: str, *args: Any, kind: Any = Any) -> Any:
    """Call a method of the daemon, such as ``boilerd.info`` or ``supervisor.getAllProcessInfo``.

    Args:
        control_socket: Where it listens.
        method: Its name.
        args: Its arguments.
        kind: The type that the answer must have: who knows what listens there.

    Raises:
        TimeoutError: A process listens there but does not answer; the message names it.
        OSError: No process listens there.
        RefusedError: The daemon refuses; the message says why.
    """
    transport = _UnixTransport(control_socket)
    try:
        with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as proxy:
            answer = getattr(proxy, method)(*args)
            msgspec.convert(answer, kind)
            return answer
    except (TimeoutError, BlockingIOError) as error:  # the second: the socket's backlog is full
        raise TimeoutError(f"{_owner(control_socket)} does not answer; it may still do what was asked") from error
    except xmlrpc.client.Fault as fault:
        raise RefusedError(str(fault.faultString).removeprefix("FAILED: ")) from fault
    except (http.client.HTTPException, xmlrpc.client.Error, ValueError) as error:
        raise ConnectionError("the answer was cut off, or is not a daemon's") from error


@dataclass(frozen=True)
class DaemonStatus:
    """The status of a daemon, as it reports it.

    Attributes:
        info: The answer to ``boilerd.info``; empty if it does not answer.
        processes: Name, state, pid and start time of each; empty if it does not answer.
        silence: Why it does not answer; empty if it does.
        cause: The same as one of the few reasons that there are.
    """

    info: dict[str, Any]
    processes: list[dict[str, Any]]
    silence: str = ""
    cause: Silence = Silence.NONE

    @property
    def summary(self) -> str:
        """The status in one line."""
        return self.silence or str(self.info["status"])

    def with_pending(self, pending: int) -> Self:
        """The same with what waits now: the daemon counts every few seconds."""
        if self.silence:
            return self
        status = re.sub(r"[\d,]+ pending", f"{pending:,} pending", str(self.info["status"]))
        return replace(self, info={**self.info, "status": status, "pending": pending})

    def count_up(self) -> int:
        """Count the processes that run."""
        return sum(process["state"] in UP for process in self.processes)

    def failed_starts(self) -> dict[str, str]:
        """Of each worker whose start the application lets fail, the words to put behind its state."""
        return {name: f", starting failed: {why}" for name, why in self.info.get("failed_starts", {}).items()}

    def problems(self) -> list[str]:
        """List what keeps the daemon from its tasks, a line each."""
        starts = self.failed_starts()
        is_whole = self.count_up() == len(self.processes)
        if self.silence or self.info["state"] in {"starting", "draining"}:
            return [f"daemon: {self.summary}", *_not_serving(starts)]
        if self.info["state"] == "reloading" and not is_whole:
            return [f"daemon: {self.summary}"]
        problems = [
            f"{p['name']}: {p['state'].lower()}{starts.pop(p['name'], '')}"
            for p in self.processes
            if p["state"] not in UP
        ]
        # A daemon that was started before an upgrade may lack newer fields; that is no problem.
        if self.info.get("is_broker_away"):
            problems.append(
                "daemon: its processes wait for the broker, which is away or refuses them; its log says which"
            )
        if not self.info.get("is_broker_away"):  # or they wait for that
            told = {process["name"] for process in self.processes if process["state"] not in UP}
            missing = [name for name in self.info.get("missing", []) if name not in told | starts.keys()]
            entering = self.info.get("entering", [])
            problems += [
                f"{name}: does not serve, it enters its lifespans"
                if name in entering
                else f"{name}: does not serve, it crashes or hangs at its start; the log says why"
                for name in missing
            ]
        problems += _not_serving(starts)
        problems += [
            f"{name}: stopped by a signal, and does nothing until `kill -CONT`" for name in self.info.get("halted", [])
        ]
        problems += [
            f"{name}: hangs, it neither works nor waits; it is replaced in some seconds"
            for name in self.info.get("hanging", [])
        ]
        if lost := self.info.get("lost_lines"):
            problems.append(f"log: {lost} lines were lost; whoever reads stdout has stopped, or the disk is full")
        if (age_s := self.info.get("heartbeat_age_s", 0.0)) > LATE_HEARTBEAT_S:
            problems.append(f"scheduler: no heartbeat for {age_s:.0f} s, so that leases end and nothing is forwarded")
        return problems


def _not_serving(starts: Mapping[str, str]) -> list[str]:
    return [f"{name}: does not serve{why}" for name, why in starts.items()]


def read_status(control_socket: Path) -> DaemonStatus:
    """Ask a daemon for its status; one that does not answer is asked only once."""
    try:
        return DaemonStatus(ask(control_socket, "boilerd.info", kind=Info), _processes(control_socket))
    except TimeoutError as error:
        return DaemonStatus({}, [], str(error), Silence.MUTE)
    except PermissionError as error:
        silence = f"not to be seen by this user ({control_socket}: {error.strerror})"
        return DaemonStatus({}, [], silence, Silence.CLOSED)
    except OSError:
        return DaemonStatus({}, [], f"not running (nobody answers at {control_socket})", Silence.ABSENT)
    except RefusedError as error:
        return DaemonStatus({}, [], str(error), Silence.MUTE)


def _processes(control_socket: Path) -> list[dict[str, Any]]:
    return [
        {
            "name": info["name"] if info["name"] == info["group"] else f"{info['group']}:{info['name']}",
            "state": info["statename"],
            "pid": info["pid"],
            "started": info["start"],
        }
        for info in ask(control_socket, "supervisor.getAllProcessInfo", kind=list[_Process])
    ]


def _owner(control_socket: Path) -> str:
    """Name the daemon that listens there, by the process ID in its lock file."""
    with suppress(OSError):
        if pid := (control_socket.parent / "boilerd.lock").read_text("ascii", "replace").strip():
            return f"pid {pid} (from boilerd.lock)"
    return f"whoever listens at {control_socket}"


class _UnixTransport(xmlrpc.client.Transport):
    """XML-RPC over the control socket. Supervisor's own transport would import all of Supervisor."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = _UnixConnection(self._path)
        self._connection = host, connection  # close() of the parent closes it
        return connection

    def parse_response(self, response: Any) -> Any:
        """The answer, from whatever listens there; raises ValueError or OSError where it is none."""
        try:
            parser, unmarshaller = self.getparser()
            parser.feed(_read(response))
            parser.close()
            return unmarshaller.close()
        except (OSError, xmlrpc.client.Fault):
            raise
        except Exception as error:  # their errors are of as many kinds as there are ways to write no XML-RPC
            raise ValueError("no answer") from error


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _read(response: http.client.HTTPResponse) -> bytes:
    """The body of an answer; raises ValueError if it is too long, TimeoutError if it does not end."""
    deadline_s = time.monotonic() + TIMEOUT_S
    body = bytearray()
    while part := response.read1(65536):
        body += part
        if len(body) > MOST_ANSWER_BYTES:
            raise ValueError("too long")
        if time.monotonic() > deadline_s:
            raise TimeoutError
    return bytes(body)

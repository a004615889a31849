"""Call the running daemon over its control socket; `supervision.rpc` is the end that answers."""

import http.client
import socket
import time
import xmlrpc.client
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from boilerd.errors import RefusedError

#: How long the daemon may take to answer.
TIMEOUT_S = 5.0
#: Bytes of an answer; the processes of 1,000 workers are 1.2 MB.
MOST_ANSWER_BYTES = 16 * 1024 * 1024


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

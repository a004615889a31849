"""The control socket: Supervisor's XML-RPC server, with limits of size, time and number.

Supervisor serves it from the loop that watches the children, so whoever is served for long keeps it from them. Its own
server takes a body of any size, parses it, writes it to the log, and never closes a connection.

Limits are looked at before anything is read or parsed. Where there are too many connections, the one that was silent
for longest makes way, so that a new one is served however many are idle.
"""

import logging
import os
import socket
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from supervisor.http import deferring_http_channel, supervisor_af_unix_http_server
from supervisor.medusa import asyncore_25 as asyncore
from supervisor.medusa.xmlrpc_handler import collector
from supervisor.xmlrpc import SystemNamespaceRPCInterface, supervisor_xmlrpc_handler

from boilerd.supervision.rpc import Questions

logger = logging.getLogger("boilerd.supervisor")

#: Tells who is at the other end; not every system has it.
_PEER: int | None = getattr(socket, "SO_PEERCRED", None)
#: Bytes of a request's body; the names of 1,000 workers to restart are 45 kB.
MOST_BODY_BYTES = 64 * 1024
#: Bytes of a request's head; those of XML-RPC clients have about 200.
MOST_HEAD_BYTES = 8 * 1024
#: Connections at one time; each takes a file descriptor of the supervisor.
MOST_CONNECTIONS = 32
#: How long a client may take to send a request, or to take the next part of an answer.
REQUEST_S = 10.0
#: How long a connection may be silent after an answer; tools keep theirs for the next question.
IDLE_S = 300.0
#: When the system had no file for a connection, the next one is taken after so long: the loop would spin.
ACCEPT_PAUSE_S = 1.0
#: Characters of a remark of Supervisor's that are logged, of its begin and of its end; it quotes what clients send.
MOST_QUOTED = 200


def open_control_socket(
    path: Path, supervisord: Any, interfaces: Sequence[tuple[str, Any]], *, is_for_group: bool = False
) -> "ControlServer":
    """Listen at the path, for its owner, and for questions of the directory's group; raises OSError.

    Args:
        path: Where no socket is.
        supervisord: The supervisor.
        interfaces: Namespace of the methods → what has them.
        is_for_group: True if the group may ask; where the system does not tell who asks, it may not.
    """
    server = ControlServer(str(path), 0o770 if is_for_group and _PEER is not None else 0o700, (-1, -1), _Remarks())
    # The one that is installed last is asked first.
    questions = [(name, Questions(name, interface)) for name, interface in interfaces]
    for handler, offered in ((_Requests, interfaces), (_GuestsRequests, questions)):
        server.install_handler(handler(supervisord, [*offered, ("system", SystemNamespaceRPCInterface(offered))]))
    return server


def shortened(message: str) -> str:
    """The message without its middle, where it is long."""
    return message if len(message) <= 2 * MOST_QUOTED else f"{message[:MOST_QUOTED]} … {message[-MOST_QUOTED:]}"


class _Channel(deferring_http_channel):  # type: ignore[misc]
    """A connection.

    Attributes:
        heard_s: When the client last began a request, or took a part of an answer, on the monotonic clock.
        expires_s: When it must have sent the whole request, or taken the next part of the answer.
        is_guest: True if the client is neither root nor our own user, and so may only look.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._is_refused = False
        self.is_guest = _is_guest(self.socket)
        self._allow(REQUEST_S)

    def check_maintenance(self) -> None:
        """Do nothing: medusa's looks by the wall clock, whose step could end any connection; see `close_late`."""

    @property
    def waits_for_client(self) -> bool:
        """False while the supervisor owes an answer, as until a process has stopped."""
        return not self.delay

    def refuse(self, request: Any, status: int) -> None:
        """Answer with an HTTP status, and read no more: what follows may be the body, or anything."""
        self._is_refused = True
        self.ac_in_buffer = b""
        request.error(status)
        self.close_when_done()

    def log_info(self, message: str, type: str = "info") -> None:  # noqa: A002 - medusa's name
        """Log a remark of medusa's, such as on a client that went away; its own would print it."""
        logger.debug("control socket: %s", shortened(message))

    def readable(self) -> bool:
        """True if more of the client is wanted, which is not before it took its last answer."""
        return not self._is_refused and not self.ac_out_buffer and super().readable()

    def collect_incoming_data(self, data: bytes) -> None:
        """Take a part of a request; close the connection where it is too long, or comes before the answer."""
        if not self.in_buffer and not self.current_request:
            self._allow(REQUEST_S)
        is_long = not self.current_request and len(self.in_buffer) + len(data) > MOST_HEAD_BYTES
        if is_long or not self.waits_for_client:
            self.ac_in_buffer = b""
            self.close()
        else:
            super().collect_incoming_data(data)

    def send(self, data: bytes) -> int:
        """Send a part of an answer."""
        sent: int = super().send(data)
        if sent:
            self._allow(IDLE_S if sent == len(self.ac_out_buffer) else REQUEST_S)
        return sent

    def _allow(self, seconds: float) -> None:
        self.heard_s = time.monotonic()
        self.expires_s = self.heard_s + seconds


class ControlServer(supervisor_af_unix_http_server):  # type: ignore[misc]
    """Supervisor's server on a Unix socket, which takes a limited number of connections."""

    channel_class = _Channel
    _deaf_until_s = 0.0

    def readable(self) -> bool:
        """True if a client that connects can be served; until then it waits in the socket's backlog."""
        is_full = len(self._channels()) >= MOST_CONNECTIONS and self._longest_silent() is None
        return bool(self.accepting) and not is_full and time.monotonic() >= self._deaf_until_s

    def handle_accept(self) -> None:
        """Take a connection, in place of the longest silent one where there are too many."""
        super().handle_accept()
        if len(self._channels()) > MOST_CONNECTIONS and (channel := self._longest_silent()):
            channel.close()

    def accept(self) -> Any:
        """As asyncore's; pauses where the system refuses."""
        try:
            return super().accept()
        except OSError as error:
            self._deaf_until_s = time.monotonic() + ACCEPT_PAUSE_S
            logger.warning("control socket takes no connection", extra={"error": str(error)})
            raise

    def close_late(self) -> None:
        """Close the connections whose clients take too long."""
        now_s = time.monotonic()
        for channel in self._channels():
            if channel.waits_for_client and now_s > channel.expires_s:
                channel.close()

    def log_info(self, message: str, type: str = "info") -> None:  # noqa: A002 - medusa's name
        """Log a remark of medusa's."""
        logger.log(logging.ERROR if type == "error" else logging.DEBUG, "control socket: %s", shortened(message))

    def _longest_silent(self) -> _Channel | None:
        waiting = (channel for channel in self._channels() if channel.waits_for_client)
        return min(waiting, key=lambda channel: channel.heard_s, default=None)

    def _channels(self) -> list[_Channel]:
        return [each for each in asyncore.socket_map.values() if isinstance(each, _Channel)]


class _Requests(supervisor_xmlrpc_handler):  # type: ignore[misc]
    """Takes all requests, and refuses those that are no calls before their body is read."""

    def match(self, request: Any) -> bool:
        """Take each: no pages are served here."""
        return True

    def handle_request(self, request: Any) -> None:
        """Look at the head of a request."""
        if status := self._refusal(request):
            request.channel.refuse(request, status)
        else:
            request.collector = collector(self, request)

    def continue_request(self, data: str, request: Any) -> None:
        """Carry out a call whose body is there; Supervisor's would log all of one that it cannot read."""
        if not self._is_call(data):
            logger.debug("control socket: a request was no XML-RPC call", extra={"size_bytes": len(data)})
            request.channel.refuse(request, 400)
        else:
            super().continue_request(data, request)

    def _refusal(self, request: Any) -> int:
        """The HTTP status for a request that is not read; 0 for one that is."""
        length = request.get_header("content-length") or ""
        if not request.uri.startswith(self.path):
            return 404
        if request.command != "POST":
            return 400
        if request.get_header("transfer-encoding") or not length:
            return 411
        if not (length.isascii() and length.isdecimal() and length.strip("0")):
            return 400
        return 413 if len(length) > 9 or int(length) > MOST_BODY_BYTES else 0

    def _is_call(self, data: str) -> bool:
        if "<!DOCTYPE" in data:  # its entities could make megabytes of a few bytes
            return False
        try:
            _, method = self.loads(data)
        except Exception:  # noqa: BLE001 - as many kinds as there are ways to write no XML-RPC
            return False
        return bool(method)


class _GuestsRequests(_Requests):
    """Takes the requests of those who may only look."""

    def match(self, request: Any) -> bool:
        """Take those of guests."""
        return bool(request.channel.is_guest)


def _is_guest(connection: socket.socket) -> bool:
    """True if the other end is of another user than root and our own; the socket's mode says who can open it at all."""
    if _PEER is None:
        return False
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, _PEER, struct.calcsize("3i")))
    return uid not in {0, os.geteuid()}


class _Remarks:
    """Where medusa's server writes each request, and what it finds odd."""

    def log(self, message: str) -> None:
        """Log it."""
        logger.debug("control socket: %s", shortened(message.strip()))

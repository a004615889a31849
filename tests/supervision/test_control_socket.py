"""The control socket's limits: sizes, times and numbers, and what stays served whoever holds a connection."""

import errno
import itertools
import logging
import socket
import time
import xmlrpc.client
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from supervisor.http import NOT_DONE_YET
from supervisor.medusa import asyncore_25 as asyncore
from supervisor.medusa.http_server import http_channel

from boilerd.supervision import control_socket
from boilerd.supervision.control_socket import ControlServer, open_control_socket
from boilerd.supervision.options import LoggerAdapter
from support import StartDaemon, wait_until

# Supervisor (4.3) calls it for each request.
pytestmark = pytest.mark.filterwarnings("ignore:urllib.parse.splitquery:DeprecationWarning")


class Methods:
    """What can be called in these tests."""

    def __init__(self) -> None:
        self.is_done = False

    def echo(self, value: Any) -> Any:
        return value

    def fail(self) -> None:
        raise RuntimeError("x" * 5000)

    def wait(self) -> Callable[[], Any]:
        """An answer that comes when `is_done`."""

        def answer() -> Any:
            return "done" if self.is_done else NOT_DONE_YET

        answer.delay = 0.01  # type: ignore[attr-defined]
        return answer


class Served:
    """A control socket in this process; each look at it is a round of the supervisor's loop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.methods = Methods()
        supervisord = SimpleNamespace(options=SimpleNamespace(logger=LoggerAdapter()))
        self.server: ControlServer = open_control_socket(path, supervisord, [("test", self.methods)])
        self.peers: list[socket.socket] = []

    def round(self) -> None:
        asyncore.poll(0.0)
        self.server.close_late()

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Go round until it is so."""

        def is_so() -> bool:
            self.round()
            return condition()

        wait_until(is_so, what)

    def connect(self) -> socket.socket:
        peer = socket.socket(socket.AF_UNIX)
        self.peers.append(peer)
        peer.connect(str(self.path))
        peer.setblocking(False)
        return peer

    def send(self, peer: socket.socket, data: bytes) -> None:
        with suppress(BlockingIOError, BrokenPipeError):
            peer.send(data)

    def answer(self, peer: socket.socket, end: bytes = b"") -> bytes:
        """What comes until `end`, or until the server closes the connection."""
        got = b""

        def is_whole() -> bool:
            nonlocal got
            self.round()
            try:
                part = peer.recv(1 << 20)
            except BlockingIOError:
                return False
            except ConnectionResetError:  # closed before all that was sent was read
                return True
            got += part
            return not part or bool(end and got.endswith(end))

        wait_until(is_whole, "the whole answer")
        return got

    def call(self, peer: socket.socket, method: str, *args: Any) -> Any:
        """The answer to a call."""
        self.send(peer, post(xmlrpc.client.dumps(args, method).encode()))
        _, _, body = self.answer(peer, b"</methodResponse>\n").partition(b"\r\n\r\n")
        return xmlrpc.client.loads(body)[0][0]

    def is_closed(self, peer: socket.socket) -> bool:
        self.round()
        try:
            return peer.recv(1) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True


def post(body: bytes, *head: bytes) -> bytes:
    lines = head or (b"Content-Length: %d" % len(body),)
    return b"\r\n".join([b"POST /RPC2 HTTP/1.1", b"Host: localhost", *lines, b"", body])


@pytest.fixture
def served(directory: Path) -> Iterator[Served]:
    made = Served(directory / "control.sock")
    yield made
    asyncore.close_all()
    for peer in made.peers:
        peer.close()


CALL = xmlrpc.client.dumps(("hi",), "test.echo").encode()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (post(b"", b"Content-Length: 104857600"), b"413"),
        (post(b"", b"Content-Length: 65537"), b"413"),
        (post(b"", b"Content-Length: " + b"9" * 5000), b"413"),
        (post(b"x", b"Content-Length: 0"), b"400"),
        (post(b"x", b"Content-Length: -5"), b"400"),
        (post(b"x", b"Content-Length: many"), b"400"),
        (post(b"5\r\nhello\r\n0\r\n\r\n", b"Transfer-Encoding: chunked"), b"411"),
        (post(b"x", b"X-Nothing: 1"), b"411"),
        (b"GET /RPC2 HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
    ],
    ids=["100 MiB", "a byte too many", "no number", "0", "-5", "many", "chunked", "no length", "GET", "a page"],
)
def test_what_is_no_call_of_a_fair_size_is_refused_before_its_body_is_read(
    served: Served, sent: bytes, status: bytes
) -> None:
    peer = served.connect()

    served.send(peer, sent)
    answer = served.answer(peer)

    assert answer.split(b" ", 2)[1] == status
    assert served.call(served.connect(), "test.echo", 1) == 1


@pytest.mark.parametrize(
    "head", [b"POST /RPC2 HTTP/1.1\r\n" + b"X-More: 1\r\n" * 1000, b"\xff\r\n\r\n"], ids=["long", "no text"]
)
def test_a_head_that_does_not_end_or_is_no_text_is_cut_off(served: Served, head: bytes) -> None:
    peer = served.connect()

    served.send(peer, head)

    assert served.answer(peer) == b""


@pytest.mark.parametrize(
    "body",
    [
        b"nothing of the kind " * 1000,
        b"<methodCall></methodCall>",
        b"<a>" * 20_000,
        (
            b"<methodCall><methodName>test.echo</methodName><params><param><value><int>x</int></value></param></params>"
            b"</methodCall>"
        ),
        b'<!DOCTYPE x [<!ENTITY e "' + b"e" * 1000 + b'">]><methodCall><methodName>&e;&e;</methodName></methodCall>',
    ],
    ids=["words", "no method", "deep", "a wrong number", "entities"],
)
def test_a_body_that_is_no_call_is_one_short_line_of_the_log(
    served: Served, caplog: pytest.LogCaptureFixture, body: bytes
) -> None:
    caplog.set_level(logging.DEBUG)
    peer = served.connect()

    served.send(peer, post(body))
    answer = served.answer(peer)

    assert answer.split(b" ", 2)[1] == b"400"
    (told,) = [record for record in caplog.records if "no XML-RPC call" in record.getMessage()]
    assert (told.levelno, told.size_bytes) == (logging.DEBUG, len(body))  # type: ignore[attr-defined]
    assert max(len(record.getMessage()) for record in caplog.records) < 500


@pytest.mark.parametrize("method", ["test.fail", "x" * 60_000], ids=["fails", "unknown"])
def test_a_call_that_fails_is_no_long_line_of_the_log(
    served: Served, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    caplog.set_level(logging.DEBUG)
    peer = served.connect()

    served.send(peer, post(xmlrpc.client.dumps((), method).encode(), b"Connection: close", b"Content-Length: 60100"))
    served.send(peer, b" " * 60_100)
    served.answer(peer)

    assert max(len(record.getMessage()) for record in caplog.records) < 500


def test_a_connection_serves_one_call_after_the_other(served: Served) -> None:
    peer = served.connect()

    assert [served.call(peer, "test.echo", number) for number in range(5)] == list(range(5))


def test_a_new_connection_takes_the_place_of_the_one_that_was_silent_longest(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_socket, "MOST_CONNECTIONS", 3)
    used, *idle = [served.connect() for _ in range(3)]
    served.until(lambda: len(asyncore.socket_map) == 4, "all are taken")
    served.call(used, "test.echo", 0)

    newest = [served.connect() for _ in range(2)]
    answers = [served.call(peer, "test.echo", 1) for peer in newest]

    assert answers == [1, 1]
    assert all(served.is_closed(peer) for peer in idle)
    assert served.call(used, "test.echo", 2) == 2


def test_a_client_that_waits_for_its_answer_keeps_its_place_and_others_wait_for_theirs(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_socket, "MOST_CONNECTIONS", 1)
    monkeypatch.setattr(control_socket, "REQUEST_S", 0.7)
    waiting = served.connect()
    served.send(waiting, post(xmlrpc.client.dumps((), "test.wait").encode()))
    served.until(lambda: not served.server.readable(), "its call is carried out")
    late = served.connect()
    served.send(late, post(CALL))

    later_s = time.monotonic() + 0.8
    served.until(lambda: time.monotonic() > later_s, "the time for a request is over")
    served.methods.is_done = True
    first = served.answer(waiting, b"</methodResponse>\n")
    second = served.answer(late, b"</methodResponse>\n")

    assert b"done" in first
    assert b"hi" in second


def test_a_client_that_says_more_before_its_answer_came_is_closed(served: Served) -> None:
    peer = served.connect()
    served.send(peer, post(xmlrpc.client.dumps((), "test.wait").encode()) * 2)

    assert served.answer(peer) == b""


@pytest.mark.parametrize(
    "sent", [b"", b"POST /RP", post(b"<meth", b"Content-Length: 60000")], ids=["nothing", "head", "body"]
)
def test_a_client_that_is_slow_with_its_sentis_closed(
    served: Served, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(control_socket, "REQUEST_S", 0.2)
    peer = served.connect()
    served.send(peer, sent)

    def is_closed() -> bool:
        if sent:
            served.send(peer, b" ")  # a byte now and then buys no time
        return served.is_closed(peer)

    wait_until(is_closed, "it is closed")


def test_a_connection_that_is_silent_after_an_answer_is_closed_later(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_socket, "REQUEST_S", 5.0)
    monkeypatch.setattr(control_socket, "IDLE_S", 0.05)
    fresh, used = served.connect(), served.connect()

    served.call(used, "test.echo", 1)

    wait_until(lambda: served.is_closed(used), "it is closed")
    assert not served.is_closed(fresh)


def test_a_client_that_does_not_take_its_answer_is_closed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_socket, "REQUEST_S", 0.1)
    peer = served.connect()
    calls = [{"methodName": "test.echo", "params": ["x" * 500]}] * 100
    for _ in range(100):  # more than a socket holds
        served.send(peer, post(xmlrpc.client.dumps((calls,), "system.multicall").encode()))
        served.round()

    served.until(lambda: len(asyncore.socket_map) == 1, "only the server is left")


def test_where_the_system_has_no_file_for_a_connection_the_loop_pauses_and_takes_it_later(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_socket, "ACCEPT_PAUSE_S", 1.0)
    peer = served.connect()
    tries = []

    def accept(_: socket.socket) -> Any:
        tries.append(served.server.readable())
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(socket.socket, "accept", accept)
        for _ in range(5):
            served.round()
        is_deaf = not served.server.readable()

    assert (tries, is_deaf) == ([True], True)
    assert served.call(peer, "test.echo", 1) == 1


def test_a_wall_clock_that_is_put_forward_ends_no_connection(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    days = itertools.count()
    monkeypatch.setattr(http_channel, "maintenance_interval", 1)
    was = time.time
    monkeypatch.setattr(time, "time", lambda: was() + next(days) * 86400)

    peers = [served.connect() for _ in range(3)]
    answers = [served.call(peer, "test.echo", 1) for peer in peers]

    assert answers == [1, 1, 1]


def test_a_daemon_that_is_sent_much_by_many_answers_and_drains(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--concurrency", "1").ready()
    peers = [socket.socket(socket.AF_UNIX) for _ in range(200)]
    for peer in peers:
        peer.connect(str(daemon.socket))

    with socket.socket(socket.AF_UNIX) as sender, suppress(BrokenPipeError, ConnectionResetError):
        sender.connect(str(daemon.socket))
        sender.sendall(post(b"", b"Content-Length: 104857600") + b"x" * 104857600)
    shown = daemon.cli("status")

    assert (shown.returncode, shown.stdout.splitlines()[:2]) == (
        0,
        ["healthy", "daemon      1 worker, 0 busy, 0 pending"],
    )
    assert daemon.stop() == 0
    for peer in peers:
        peer.close()

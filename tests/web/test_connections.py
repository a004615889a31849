"""Peers that send nothing, or slowly, or do not read: they end, and keep nobody else out."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import httpx
import pytest
import redis
import uvicorn

from boilerd.web import connections, guard
from browser import web_app
from support import DEADLINE_S, wait_until


@contextmanager
def serving(app: Any, idle_s: float = 0.2) -> Iterator[tuple[uvicorn.Server, int]]:
    """A server that has no patience, and room for few; and its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "IDLE_S", idle_s)
        patch.setattr(connections, "MOST_CONNECTIONS", 10)
        patch.setattr(guard, "BODY_S", 0.2)
        server = connections.make_server(app, grace_s=5)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        wait_until(lambda: server.started, "it serves")
        try:
            yield server, listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(DEADLINE_S)


@pytest.fixture
def port(connection: redis.Redis) -> Iterator[int]:
    """Of such a server of the dashboard."""
    with serving(web_app(connection)) as (_, found):
        yield found


@pytest.fixture
def patience(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a server that lets a connection wait: a test on a busy machine may take long to send."""
    monkeypatch.setattr(connections, "IDLE_S", 3600.0)


def ask(port: int) -> int:
    return httpx.get(f"http://127.0.0.1:{port}/queues", timeout=DEADLINE_S).status_code


def dial(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), DEADLINE_S)


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: local", b"\r\n"])
def test_a_connection_that_sends_no_whole_request_ends(sent: bytes, port: int) -> None:
    with dial(port) as idle:
        idle.sendall(sent)

        assert _is_over(idle)


async def answer_at_length(_scope: Any, _receive: Any, send: Any) -> None:
    """More than the system keeps of an answer that nobody reads."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": bytes(32 << 20)})


def test_a_client_that_does_not_read_its_answer_ends() -> None:
    with serving(answer_at_length, idle_s=1.0) as (server, port), dial(port) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        deaf.recv(1)

        wait_until(lambda: not server.server_state.connections, "nothing is kept for it any more")


@pytest.mark.usefixtures("patience")
def test_those_who_send_nothing_do_not_keep_others_out(port: int) -> None:
    with ExitStack() as stack:
        for _ in range(3 * connections.MOST_CONNECTIONS):
            stack.enter_context(dial(port))
        status = ask(port)

    assert status == 200


@pytest.mark.usefixtures("patience")
def test_a_body_that_does_not_come_is_not_waited_for(port: int) -> None:
    head = b"POST /queues/a/pause HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\na"

    with dial(port) as slow:
        slow.sendall(head)
        answer = slow.recv(100)

    assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.usefixtures("patience")
def test_what_two_servers_may_read_in_two_ways_is_refused_and_nothing_behind_it_is_read(port: int) -> None:
    head = (
        b"POST /queues/a/pause HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
    )

    with dial(port) as smuggler:
        smuggler.sendall(head + b"0\r\n\r\nGET /queues HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answers = b"".join(iter(lambda: smuggler.recv(10_000), b""))

    assert answers.startswith(b"HTTP/1.1 400 ")
    assert answers.count(b"HTTP/1.1 ") == 1


def send(port: int, sent: bytes) -> bytes:
    """All that comes back until the connection ends, whoever ends it."""
    with dial(port) as peer, suppress(ConnectionResetError, BrokenPipeError):
        peer.sendall(sent)
        return _rest(peer)
    return b""


HEAD = b"GET /queues HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize(
    "endless",
    [
        pytest.param(HEAD + b"A: b\r\n" * 50_000, id="headers"),
        pytest.param(HEAD + b"A: " + b"b" * 400_000, id="one header"),
        pytest.param(HEAD + b"A" * 400_000, id="the name of one"),
        pytest.param(b"GET /" + b"a" * 400_000, id="an address"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 50_000, id="trailers"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"a" * 400_000, id="an extension of a chunk"),
    ],
)
def test_what_has_no_end_is_not_kept(endless: bytes, port: int) -> None:
    send(port, endless)  # it returns, as the connection ends

    assert ask(port) == 200


@pytest.mark.usefixtures("patience")
def test_a_head_that_is_too_long_is_told_so(port: int) -> None:
    with dial(port) as peer:
        peer.sendall(HEAD + b"A: " + b"b" * connections.MOST_HEAD)
        answer = peer.recv(10_000)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"has more than 65,536 bytes" in answer


async def tell_headers(scope: Any, receive: Any, send: Any) -> None:
    """The names of a request's headers, once all of it is there."""
    while (await receive()).get("more_body"):
        pass
    told = b" ".join(name for name, _ in scope["headers"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(told))]})
    await send({"type": "http.response.body", "body": told})


def test_what_comes_behind_a_body_is_no_header() -> None:
    body = b"1\r\na\r\n0\r\nX-Forwarded-User: root\r\n\r\n"

    with serving(tell_headers) as (_, port):
        told = send(port, b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + body)

    assert told.endswith(b"\r\n\r\nhost transfer-encoding")


@pytest.mark.usefixtures("patience")
def test_requests_that_come_at_once_are_answered_one_after_another(port: int) -> None:
    answers = send(port, (HEAD + b"\r\n") * 3 + HEAD + b"Connection: close\r\n\r\n")

    assert answers.count(b"HTTP/1.1 200 OK") == 4


@pytest.mark.usefixtures("patience")
def test_more_requests_at_once_than_one_may_send_end_the_connection(port: int) -> None:
    answers = send(port, (HEAD + b"\r\n") * 5_000)

    assert answers.count(b"HTTP/1.1 ") < 50
    assert ask(port) == 200


async def begin_to_answer(_scope: Any, receive: Any, send: Any) -> None:
    """A part of an answer, and no more before the client goes."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"begun", "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass


def test_what_is_no_request_gets_nothing_into_the_answer_to_another() -> None:
    with serving(begin_to_answer) as (_, port), dial(port) as peer:
        peer.sendall(HEAD + b"\r\n")
        begun = peer.recv(10_000)
        peer.sendall(b"?" * 100)
        rest = _rest(peer)

    assert begun.startswith(b"HTTP/1.1 200 OK")
    assert b"HTTP/1.1" not in rest


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize(
    "head",
    [
        pytest.param(HEAD + b"Host: elsewhere\r\nConnection: close\r\n\r\n", id="two hosts"),
        pytest.param(b"GET /queues HTTP/1.1\r\nConnection: close\r\n\r\n", id="no host"),
        pytest.param(HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", id="two lengths"),
        pytest.param(HEAD + b"Content-Length: +1\r\n\r\n", id="a length with a sign"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n", id="not chunked at last"),
        pytest.param(HEAD + b"Transfer-Encoding : chunked\r\n\r\n", id="a space before the colon"),
        pytest.param(HEAD + b"A: b\r\n folded\r\n\r\n", id="a folded header"),
        pytest.param(HEAD + b"A: b\rHost: elsewhere\r\n\r\n", id="a bare carriage return"),
        pytest.param(HEAD.replace(b"\r\n", b"\n") + b"\n", id="bare line feeds"),
        pytest.param(b"GET /queues\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", id="bytes that are no ASCII"),
        pytest.param(b"GET /queues HTTP/1.1 \r\nHost: localhost\r\n\r\n", id="a space behind the version"),
        pytest.param(b"GET /queues\r\n\r\n", id="no version"),
        pytest.param(b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", id="for a tunnel"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="of HTTP/2"),
    ],
)
def test_what_others_might_read_in_another_way_is_refused(head: bytes, port: int) -> None:
    answer = send(port, head)

    assert answer.startswith(b"HTTP/1.1 4")
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.usefixtures("patience")
def test_a_client_that_would_speak_another_protocol_is_answered_in_this_one(port: int) -> None:
    answers = send(port, HEAD + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: a\r\n\r\n")

    assert answers.startswith(b"HTTP/1.1 200 OK")


def _rest(peer: socket.socket) -> bytes:
    """All that comes until the connection ends."""
    found = b""
    with suppress(ConnectionResetError):
        while part := peer.recv(10_000):
            found += part
    return found


def _is_over(peer: socket.socket) -> bool:
    _rest(peer)
    return True

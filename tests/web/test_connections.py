"""Peers that send nothing, or slowly, or do not read: they end, and keep nobody else out."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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


def _is_over(peer: socket.socket) -> bool:
    try:
        while peer.recv(1000):
            pass
    except ConnectionResetError:
        pass
    return True

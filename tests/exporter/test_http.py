"""The exporter's server: one request, one answer, and limits of size, time and number."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from http import HTTPStatus

import pytest

from boilerd.exporter import http
from boilerd.exporter.http import MOST_HEAD_BYTES, Request, Response, Server
from support import DEADLINE_S

#: Asks; takes what is sent, and returns what came until the connection ended.
Ask = Callable[[bytes], Awaitable[bytes]]
GET = b"GET /metrics?x=1 HTTP/1.1\r\nHost: here\r\nAccept: text/plain\r\n\r\n"


async def echo(request: Request) -> Response:
    if request.path == "/fail":
        raise RuntimeError("as told")
    if request.path == "/large":
        return Response(HTTPStatus.OK, b"x" * 20_000_000)
    said = f"{request.method} {request.path} {request.headers.get('accept')}"
    return Response.text(HTTPStatus.OK, said, Vary="Accept")


def served(client: Callable[[int], Awaitable[None]]) -> None:
    """Run a client against a server, which gets its port."""

    async def run() -> None:
        server = await asyncio.start_server(Server(echo).serve, "127.0.0.1", 0, limit=MOST_HEAD_BYTES)
        async with server, asyncio.timeout(DEADLINE_S):
            await client(server.sockets[0].getsockname()[1])

    asyncio.run(run())


async def ask(port: int, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


def answers(*requests: bytes) -> list[bytes]:
    """What a client gets for each."""
    found: list[bytes] = []

    async def client(port: int) -> None:
        found.extend([await ask(port, sent) for sent in requests])

    served(client)
    return found


def test_a_request_is_answered_and_the_connection_ends() -> None:
    (answer,) = answers(GET)

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.splitlines()[0] == b"HTTP/1.1 200 OK"
    assert b"Connection: close" in head.splitlines()
    assert b"Content-Length: 24" in head.splitlines()
    assert b"Vary: Accept" in head.splitlines()
    assert body == b"GET /metrics text/plain\n"


def test_head_gets_the_same_without_the_body() -> None:
    (answer,) = answers(GET.replace(b"GET", b"HEAD"))

    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"Content-Length: 25" in answer.splitlines()
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "sent",
    [b"\r\n\r\n", b"no\r\n\r\n", b"GET / HTTP/2\r\n\r\n", b"GET  / x HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\r\n\r\n"],
)
def test_what_is_no_request_is_told_so(sent: bytes) -> None:
    (answer,) = answers(sent)

    assert answer.startswith(b"HTTP/1.1 400 ")


def test_a_request_without_an_end_is_cut_at_its_limit() -> None:
    (answer,) = answers(b"GET /" + b"x" * (4 * MOST_HEAD_BYTES))

    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")


def test_a_fault_of_a_page_is_an_answer_and_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    failed, well = answers(b"GET /fail HTTP/1.1\r\n\r\n", GET)

    assert failed.startswith(b"HTTP/1.1 500 ")
    assert b"as told" not in failed
    assert well.startswith(b"HTTP/1.1 200 ")
    assert "a request failed" in caplog.text


def test_a_client_that_sends_a_byte_now_and_then_has_its_time_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "REQUEST_S", 0.2)

    async def client(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        ended = asyncio.ensure_future(reader.read())
        while not ended.done():
            writer.write(b"G")
            await asyncio.sleep(0.02)
        with suppress(ConnectionResetError):  # its last byte came behind the end
            assert await ended == b""
        writer.transport.abort()

    served(client)


def test_a_client_that_takes_nothing_of_its_answer_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SEND_S", 0.2)

    async def client(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET /large HTTP/1.1\r\n\r\n")
        await reader.read(1)
        await asyncio.sleep(0.5)  # it reads no further than its own buffer

        size = 0
        with suppress(ConnectionError):
            while part := await reader.read(65536):
                size += len(part)
        assert size < 20_000_000
        writer.transport.abort()

    served(client)


def test_very_many_silent_connections_keep_nobody_from_an_answer() -> None:
    async def client(port: int) -> None:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(http.MOST_CONNECTIONS + 50)]

        answer = await ask(port, GET)

        assert answer.startswith(b"HTTP/1.1 200 ")
        left = [reader for reader, _ in silent if not reader.at_eof()]
        assert len(left) <= http.MOST_CONNECTIONS
        for _, writer in silent:
            writer.transport.abort()

    served(client)


def test_a_hundred_clients_at_once_are_all_served() -> None:
    found: list[bytes] = []

    async def client(port: int) -> None:
        found.extend(await asyncio.gather(*(ask(port, GET) for _ in range(100))))

    served(client)

    assert {answer.partition(b"\r\n")[0] for answer in found} == {b"HTTP/1.1 200 OK"}

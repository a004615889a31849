"""Answers on the control socket that no daemon gives: whatever listens there, commands say one sentence."""

import socket
import threading
import xmlrpc.client
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from boilerd.cli.rpc_client import Info, read_status
from boilerd.supervision import asking
from boilerd.supervision.asking import ask

Listen = Callable[[bytes], Path]


def http(body: bytes, status: bytes = b"200 OK", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return b"HTTP/1.1 %b\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n%b" % (status, size, body)


def answer(value: Any) -> bytes:
    return http(xmlrpc.client.dumps((value,), methodresponse=True, allow_none=True).encode())


def response(inner: bytes) -> bytes:
    return http(b"<methodResponse>%b</methodResponse>" % inner)


@pytest.fixture
def listen(directory: Path) -> Iterator[Listen]:
    """Listen on a socket, and answer whatever comes with the same."""
    listener = socket.socket(socket.AF_UNIX)

    def serve(reply: bytes) -> None:
        with suppress(OSError):
            while True:
                peer, _ = listener.accept()
                with peer, suppress(OSError):
                    asked = b""
                    while b"</methodCall>" not in asked:
                        asked += peer.recv(65536)
                    peer.sendall(reply)

    def start(reply: bytes) -> Path:
        path = directory / "control.sock"
        listener.bind(str(path))
        listener.listen()
        threading.Thread(target=serve, args=[reply], daemon=True).start()
        return path

    yield start
    with suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.mark.parametrize(
    "reply",
    [
        b"\x00\xff" * 100,
        http(b"<html>"),
        http(b"", b"500 Internal Server Error"),
        answer("ready"),
        answer(None),
        answer([1, 2]),
        answer({}),
        answer({"state": 5, "status": [1], "generation": "x", "trouble": {}}),
        response(b"<params><param>" + b"<value><array><data>" * 20_000 + b"</data></array></value>" * 20_000),
        response(b"<fault><value><struct></struct></value></fault>"),
        response(b"<params><param><value><struct><member><name>a</name></member></struct></value></param></params>"),
        http(b'<?xml version="1.0" encoding="nonsense"?><methodResponse/>'),
        http(b"<methodResponse>", length=1000),
        b"",
    ],
    ids=[
        "noise", "a page", "500", "a text", "nothing", "a list", "no fields", "wrong fields", "deep", "an odd fault",
        "half a field", "an odd encoding", "a part", "the end",
    ],
)  # fmt: skip
def test_an_answer_that_no_daemon_gives_is_told_as_no_daemon(listen: Listen, reply: bytes) -> None:
    path = listen(reply)

    seen = read_status(path)

    assert seen.problems() == [f"daemon: not running (nobody answers at {path})"]
    with pytest.raises(ConnectionError):
        ask(path, "boilerd.info", kind=Info)


def test_an_answer_that_is_too_long_is_not_read_to_its_end(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "MOST_ANSWER_BYTES", 100_000)
    path = listen(http(b" " * 1_000_000, length=1 << 40))

    with pytest.raises(ConnectionError, match=r"is not a daemon's"):
        ask(path, "boilerd.info")


def test_an_answer_that_comes_too_slowly_is_not_waited_for(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    path = listen(answer(1))
    monkeypatch.setattr("time.monotonic", iter(range(0, 1000, 10)).__next__)

    with pytest.raises(TimeoutError, match=r"does not answer"):
        ask(path, "boilerd.info")

"""As much of HTTP/1.1 as scrapers and probes need: one request without a body, one answer, and the connection ends.

The standard library's server has a thread for each connection and a limit for each read, so that whoever sends a byte
now and then keeps a thread for ever. Here one loop serves all, and a request and an answer have a time as a whole.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

logger = logging.getLogger("boilerd.exporter")

#: Bytes of a request; those of Prometheus have about 300.
MOST_HEAD_BYTES = 8 * 1024
#: Connections at one time; each takes a file descriptor and some kilobytes.
MOST_CONNECTIONS = 128
#: Bytes of an answer that wait for one client; the rest is there once for all.
PART_BYTES = 64 * 1024
#: How long a client may take to send its request, and to take the answer.
REQUEST_S, SEND_S = 5.0, 10.0
#: How long an answer may take to be made; a Redis that hangs takes some seconds.
ANSWER_S = 30.0


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks.

    Attributes:
        method: As it was sent.
        path: Without a query.
        headers: By names in small letters; of several with one name, the last.
        peer: The client's IP address; empty: it came by a Unix socket.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    peer: str = ""

    @classmethod
    def read(cls, head: bytes, peer: str) -> "Request":
        """The request of this head; raises ValueError where it is none of HTTP/1."""
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, target, version = first.split(" ")
        if not version.startswith("HTTP/1."):
            raise ValueError(version)
        pairs = [line.partition(":") for line in lines]
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        return cls(method, target.partition("?")[0], headers, peer)


@dataclass(frozen=True, slots=True)
class Response:
    """What it is told; a body without a content type is text."""

    status: HTTPStatus
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def text(cls, status: HTTPStatus, text: str, **headers: str) -> "Response":
        """One line of text."""
        return cls(status, f"{text}\n".encode("utf-8", "backslashreplace"), headers)

    def head(self) -> bytes:
        """What is sent before the body."""
        headers = {
            "Content-Type": "text/plain; charset=utf-8", **self.headers, "Content-Length": str(len(self.body)),
            "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Connection": "close",
        }  # fmt: skip
        lines = [f"HTTP/1.1 {self.status.value} {self.status.phrase}", *(f"{k}: {v}" for k, v in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")


class Server:
    """Serves connections, with limits of size, time and number.

    Args:
        answer: Makes the answer to a request.
    """

    def __init__(self, answer: Callable[[Request], Awaitable[Response]]) -> None:
        self._answer = answer
        self._connections = 0
        #: Those whose request is not there yet, the one that has waited longest first.
        self._reading: dict[asyncio.StreamWriter, None] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection; where there are too many, the one whose request is longest on its way makes room."""
        self._connections += 1
        try:
            if self._connections <= MOST_CONNECTIONS or self._make_room():
                await self._serve(reader, writer)
        except (OSError, EOFError):  # the client was too slow, or has gone
            pass
        finally:
            self._connections -= 1
            writer.transport.abort()

    def _make_room(self) -> bool:
        """End the connection whose request is longest on its way; False: all wait for answers."""
        if (oldest := next(iter(self._reading), None)) is None:
            return False
        del self._reading[oldest]
        oldest.transport.abort()
        return True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(high=0)  # so that `drain` waits until all is sent
        request = await self._read(reader, writer)
        if isinstance(request, Response):
            response, has_body = request, True
        else:
            response, has_body = await self._answered(request), request.method != "HEAD"
        async with asyncio.timeout(SEND_S):
            writer.write(response.head())
            for start in range(0, len(response.body) if has_body else 0, PART_BYTES):
                writer.write(response.body[start : start + PART_BYTES])
                await writer.drain()
            await writer.drain()
            writer.close()
            await writer.wait_closed()

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | Response:
        """The request, or what its client is told where it is none; raises TimeoutError, EOFError or OSError."""
        self._reading[writer] = None
        try:
            async with asyncio.timeout(REQUEST_S):
                head = await reader.readuntil(b"\r\n\r\n")
            return Request.read(head, _peer_of(writer))
        except asyncio.LimitOverrunError:
            return Response.text(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request is too long")
        except ValueError:
            return Response.text(HTTPStatus.BAD_REQUEST, "this is no request of HTTP/1.1")
        finally:
            self._reading.pop(writer, None)

    async def _answered(self, request: Request) -> Response:
        try:
            async with asyncio.timeout(ANSWER_S):
                return await self._answer(request)
        except TimeoutError:
            return Response.text(HTTPStatus.SERVICE_UNAVAILABLE, "Redis or the daemon does not answer in time")
        except Exception:  # a fault of boilerd's own must not end the process for all others
            logger.exception("a request failed", extra={"path": request.path[:100]})
            return Response.text(HTTPStatus.INTERNAL_SERVER_ERROR, "this failed; the daemon's log says why")


def _peer_of(writer: asyncio.StreamWriter) -> str:
    found = writer.get_extra_info("peername")
    return str(found[0]) if isinstance(found, tuple) else ""

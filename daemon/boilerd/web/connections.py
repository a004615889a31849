"""Connections of `boilerd web`: nobody keeps others out by opening many and sending or reading nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

#: Connections, and requests that are served or wait, at once; beyond, a client is told to come later.
MOST_CONNECTIONS = 256
#: Bytes that a client may send before its parser has made something whole of them, as of the head of a request; and
#: requests that may wait behind the one that is served.
MOST_HEAD, MOST_WAITING = 64 * 1024, 16
#: How long a connection lives that sends nothing, no whole request, or does not read its answer.
IDLE_S = 10.0
#: How long requests have at the end.
GRACE_S = 5
#: How often the server's loop tells that it gets on.
TELL_EVERY_S = 1


class Connection(HttpToolsProtocol):
    """One that ends where nothing moves, and makes room for another where there are too many.

    uvicorn's parser in C takes half as long as the one in Python, and sets no limit to what it keeps.
    """

    _unparsed = 0
    _began_s: float
    _seen: tuple[object, int] = (None, 0)
    _timer: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Begin to look at it."""
        self._make_room()
        super().connection_made(transport)
        self._began_s = self.loop.time()
        self._timer = self.loop.call_later(IDLE_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended."""
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed > MOST_HEAD:
            self.send_400_response(f"The head of this request has more than {MOST_HEAD:,} bytes.")

    def on_headers_complete(self) -> None:
        """A request begins; what comes behind its body in the place of headers is none of it."""
        self._unparsed = 0
        self.scope["headers"] = [*self.headers]
        super().on_headers_complete()
        if len(self.pipeline) > MOST_WAITING:
            raise ValueError("too many requests at once")

    def on_body(self, body: bytes) -> None:
        """A part of its body has come."""
        self._unparsed = 0
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, and end; in the middle of another's answer nothing may be said."""
        if self._is_idle:
            super().send_400_response(msg)
        else:
            self.transport.abort()

    def _look(self) -> None:
        """End it if it waits for its peer, and nothing has moved since the last look."""
        seen = (self.cycle, self.transport.get_write_buffer_size())
        if self._waits() and seen == self._seen:
            self.transport.abort()
            return
        self._seen = seen
        self._timer = self.loop.call_later(IDLE_S, self._look)

    def _waits(self) -> bool:
        """Whether the peer is to send or to read; if not, a page is being made."""
        return self._is_idle or self.transport.get_write_buffer_size() > 0

    @property
    def _is_idle(self) -> bool:
        """Whether no request is served."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def _make_room(self) -> None:
        """End the one that waits for its peer for longest, if there are too many."""
        if len(self.connections) < MOST_CONNECTIONS - 1:
            return
        left = [each for each in self.connections if isinstance(each, Connection) and not each.transport.is_closing()]
        waiting = [each for each in left if each._waits()]  # noqa: SLF001
        if waiting and len(left) >= MOST_CONNECTIONS - 1:
            min(waiting, key=lambda each: each._began_s).transport.abort()  # noqa: SLF001


def make_server(
    app: Any, grace_s: int = GRACE_S, show_life: Callable[[], Awaitable[None]] | None = None
) -> uvicorn.Server:
    """The server of an ASGI application.

    Args:
        app: The application.
        grace_s: How long requests have at the end.
        show_life: Called once a second by its loop.
    """
    return uvicorn.Server(
        uvicorn.Config(
            app, http=Connection, ws="none", loop="asyncio", lifespan="off", log_config=None, access_log=False,
            proxy_headers=False, server_header=False, limit_concurrency=MOST_CONNECTIONS,
            timeout_keep_alive=int(IDLE_S), timeout_graceful_shutdown=grace_s,
            callback_notify=show_life, timeout_notify=TELL_EVERY_S,
        )
    )  # fmt: skip

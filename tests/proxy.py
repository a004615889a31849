"""A proxy between a process and its broker that cuts, stalls and delays what passes through."""

import random
import select
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self


class Proxy:
    """Passes on what comes to a Unix socket of its own; one thread serves all connections.

    Attributes:
        delay_s: How long each chunk is held back.
        cut_probability: How likely a chunk of a reply is lost together with its connection.
        halves: Whether such a chunk is passed on by half, before the connection is cut.
        cuts_reply_to: The reply to the next request that holds these bytes is lost with its connection.
    """

    def __init__(self, directory: Path, upstream: Path) -> None:
        self.url = f"unix://{directory / 'proxy.sock'}"
        self.delay_s = 0.0
        self.cut_probability = 0.0
        self.halves = False
        self.cuts_reply_to = b""
        self.cuts = 0
        self._upstream = upstream
        self._is_stalled = False
        self._is_refusing = False
        self._random = random.Random(1)
        #: Each socket → its other side; those in `_doomed` lose the next reply.
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._servers: set[socket.socket] = set()
        self._doomed: set[socket.socket] = set()
        self._frozen: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._wake, self._woken = socket.socketpair()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / "proxy.sock"))
        self._listener.listen(64)
        self._thread = threading.Thread(target=self._serve, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._wake.close()
        self._thread.join()
        self.cut()
        self._listener.close()
        self._woken.close()

    def cut(self) -> None:
        """Close every connection."""
        with self._lock:
            for side in list(self._pairs):
                self._close(side)

    def stall(self) -> None:
        """Pass nothing on any more, and close nothing."""
        self._is_stalled = True

    def resume(self) -> None:
        """Pass everything on again."""
        self._is_stalled = False
        self._frozen.clear()
        self._wake.send(b".")

    def refuse(self) -> None:
        """Close every connection, those that come as well."""
        self._is_refusing = True
        self.cut()

    def accept(self) -> None:
        """Take connections again."""
        self._is_refusing = False

    def half_open(self) -> None:
        """The connections of this moment hang for ever; new ones are fine."""
        with self._lock:
            self._frozen |= set(self._pairs)

    def _serve(self) -> None:
        while True:
            with self._lock:
                ready = [] if self._is_stalled else [side for side in self._pairs if side not in self._frozen]
            readable, _, _ = select.select([self._woken, self._listener, *ready], [], [], 0.05)
            for side in readable:
                if side is self._woken:
                    if not side.recv(64):
                        return
                elif side is self._listener:
                    self._accept()
                elif not self._is_stalled:
                    with self._lock, suppress(OSError):
                        self._pass_on(side)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if self._is_refusing:
            client.close()
            return
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(str(self._upstream))
        except OSError:
            client.close()
            return
        with self._lock:
            self._pairs |= {client: server, server: client}
            self._servers.add(server)

    def _pass_on(self, side: socket.socket) -> None:
        other = self._pairs.get(side)
        if other is None:
            return
        chunk = side.recv(65536)
        if not chunk:
            self._close(side)
            return
        if self.delay_s:
            select.select([], [], [], self.delay_s)
        if side not in self._servers:
            if self.cuts_reply_to and self.cuts_reply_to in chunk:
                self.cuts_reply_to = b""
                self._doomed.add(other)
        elif side in self._doomed or self._random.random() < self.cut_probability:
            self.cuts += 1
            if self.halves:
                other.sendall(chunk[: len(chunk) // 2])
            self._close(side)
            return
        other.sendall(chunk)

    def _close(self, side: socket.socket) -> None:
        other = self._pairs.pop(side, None)
        for end in (side, other):
            if end is not None:
                self._pairs.pop(end, None)
                self._servers.discard(end)
                self._doomed.discard(end)
                self._frozen.discard(end)
                end.close()

"""A pool of connections that a call of a script uses more quickly than redis-py's.

All that reaches into redis-py's connections and sockets is here; `ScriptPool` is what others see of it.
"""

import _socket
import os
import socket
import ssl
import struct
import threading
from contextlib import suppress
from typing import Any, Protocol

import redis

from boilerd.broker.spin import Spin


class ScriptPool(Protocol):
    """The pool of a client, as calls of scripts use it."""

    def take_for_script(self) -> Any:
        """A connection that is open, or is opened when it is used; the caller releases it."""

    def stay_awake(self, connection: Any) -> None:
        """Wait a moment for an answer that may come soon, without falling asleep; takes nothing out."""

    def release(self, connection: Any) -> None:
        """Take a connection back, open or closed."""


def script_pool(pool: redis.ConnectionPool) -> ScriptPool:
    """The pool itself if `connect` made it; any other is used as redis-py uses it."""
    return pool if isinstance(pool, ConnectionStack) else _ForeignPool(pool)


class _ForeignPool:
    """A pool that the application made, with classes and limits of its own."""

    def __init__(self, pool: redis.ConnectionPool) -> None:
        self.take_for_script = pool.get_connection
        self.release = pool.release

    def stay_awake(self, connection: Any) -> None:
        """Return at once: nothing is known of how its connections wait."""


class ConnectionStack(redis.ConnectionPool):
    """A pool that keeps its idle connections on a stack.

    redis-py notes for its metrics where each connection is, which is a sixth of the CPU time of an enqueue. The first
    connection is made early, and opened when it is used: in a forked child, which shares the memory that its making
    touched.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._first: list[Any] = []
        self._spin = Spin()

    def prepare(self) -> None:
        """Make the first connection; raises TypeError or ValueError where the options make no sense."""
        self._first = [self.make_connection()]

    def count_commands(self) -> "CommandCount":
        """Count from now on what all connections send that are not open yet."""
        count = CommandCount()
        self.connection_class = _counting(self.connection_class, count)
        self._first = []
        return count

    def reset(self) -> None:
        """After a fork, leave all connections to the parent, but for a first one that was not used."""
        self._lock = threading.RLock()  # redis-py (8.1) takes it here, and another thread may have held it at the fork
        super().reset()
        self._idle: list[Any] = []

    def get_connection(self, *args: Any, **options: Any) -> Any:
        """A connection as redis-py's commands expect it; each thread that asks gets one of its own."""
        connection = self._take(*args, **options)
        try:
            _wait_in_python(connection)
        except BaseException:
            self._take_back(connection)
            raise
        return connection

    def take_for_script(self) -> Any:
        """A connection whose timeout the kernel keeps if it is open: an enqueue takes an eighth less. Not with TLS.

        Python's own timeout polls the socket before each read and each write. The kernel's counts from the last
        progress, and anew after each signal that has a handler.
        """
        connection = self._take()
        try:
            _wait_in_kernel(connection)
        except BaseException:
            self._take_back(connection)
            raise
        return connection

    def stay_awake(self, connection: Any) -> None:
        """Wait for an answer without falling asleep, unless other threads wait as well and keep Redis awake."""
        sock = connection._sock  # noqa: SLF001 - redis-py (8.1) offers no other way to it
        # None: another thread closed it. TLS without a timeout: to look at what is there takes it out.
        can_look = sock is not None and sock.gettimeout() is None and not isinstance(sock, ssl.SSLSocket)
        if can_look and len(self._in_use_connections) - len(self._idle) == 1:
            self._spin.wait(sock)

    def release(self, connection: Any) -> None:
        """Take a connection back, open or closed; `disconnect` finds it among those in use all the time."""
        self._idle.append(connection)

    def _take(self, *args: Any, **options: Any) -> Any:
        if self.pid != os.getpid():
            self._checkpid()
        try:
            connection = self._idle.pop()
        except IndexError:
            return self._new_connection(*args, **options)
        try:
            _check(connection)
        except BaseException:
            self._take_back(connection)
            raise
        return connection

    def _take_back(self, connection: Any) -> None:
        """After an error, or an interrupt by a signal handler: a lost connection counts against the limit for ever."""
        connection.disconnect()
        self.release(connection)

    def _new_connection(self, *args: Any, **options: Any) -> Any:
        with suppress(IndexError):
            first = self._first.pop()
            first.pid = self.pid
            self._in_use_connections.add(first)
            return first
        return super().get_connection(*args, **options)


class CommandCount:
    """How many commands were sent; beside other threads about so many."""

    commands = 0


def _counting(kind: Any, count: CommandCount) -> Any:
    """The kind of connections that counts; what is sent at once is a command, or those of a pipeline."""

    class Counting(kind):  # type: ignore[misc]
        def send_packed_command(self, *args: Any, **options: Any) -> Any:
            count.commands += 1
            return super().send_packed_command(*args, **options)

        def pack_commands(self, commands: Any) -> Any:
            several = list(commands)
            count.commands += len(several) - 1
            return super().pack_commands(several)

    return Counting


def _check(connection: Any) -> None:
    """Close the connection if the server closed its end, or data is left in it; its next user opens it anew."""
    try:
        is_clean = not connection.can_read()
    except (redis.ConnectionError, OSError):
        is_clean = False
    if not is_clean:
        connection.disconnect()


def _wait_in_kernel(connection: Any) -> None:
    """Move the timeout of an open connection from Python into the kernel."""
    sock = connection._sock  # noqa: SLF001
    # gevent's sockets never wait in the kernel, so they would wait for ever.
    waits_there = isinstance(sock, _socket.socket) and not isinstance(sock, ssl.SSLSocket)
    if waits_there and sock.gettimeout():
        with suppress(OSError):  # Python keeps the timeout where the kernel writes a time in another form
            _set_kernel_timeout(sock, sock.gettimeout())
            sock.settimeout(None)


def _wait_in_python(connection: Any) -> None:
    """Restore Python's timeout, which redis-py expects; connections of subscribers may have none."""
    sock = connection._sock  # noqa: SLF001
    if sock is not None and sock.gettimeout() is None and connection.socket_timeout:
        _set_kernel_timeout(sock, 0.0)
        sock.settimeout(connection.socket_timeout)


def _set_kernel_timeout(sock: socket.socket, timeout_s: float) -> None:
    whole_s, part_s = divmod(timeout_s, 1)
    timeval = struct.pack("@ll", int(whole_s), int(part_s * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)

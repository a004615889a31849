"""A connection on which Redis tells by itself that a key has changed: client-side caching, as RESP3 has it.

What was read on it is remembered by Redis, which says once that it has changed, been deleted or expired. Any number of
keys costs a server nothing but that memory, and a new one needs nobody to be woken; a blocked XREAD has to be woken for
each, and is made anew for all its streams whenever one of them gets an entry.
"""

import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import hiredis
import redis
from redis.connection import DefaultParser

from boilerd.broker.refusals import NoAnswerError
from boilerd.broker.script_connection import packed

#: Without a timeout of the connection's own, an answer may take so long.
DEFAULT_TIMEOUT_S = 5.0
#: Questions that are under way at one time: answers hold results, and all stand in the server's memory until they are
#: read. Where that has a limit for a client, it would close the connection, again and again.
AT_ONCE = 32
_NOTHING = object()
_READ_BYTES = 65536

OnAnswers = Callable[[list[Any]], None]


class WatchConnection:
    """One connection, apart from the client's own; for one thread.

    Args:
        client: Says where Redis is, and who asks.
        on_change: Gets a key that was read here and is not any more what it was; None: any of them.

    Attributes:
        is_told: False where the server, or the user's rights, know no such messages: then one has to ask again.

    Raises:
        redis.RedisError: Redis did not answer, or refused.
    """

    def __init__(self, client: redis.Redis, on_change: Callable[[bytes | None], None]) -> None:
        pool = client.connection_pool
        # Not taken from the pool: it would be missing there, and count against its limit.
        self._connection = pool.connection_class(**pool.connection_kwargs)
        self._timeout_s: float = pool.connection_kwargs.get("socket_timeout") or DEFAULT_TIMEOUT_S
        self._reader = hiredis.Reader(
            replyError=DefaultParser.parse_error, protocolError=redis.InvalidResponse, notEnoughData=_NOTHING
        )
        self._on_change = on_change
        self._unsent: deque[tuple[OnAnswers, Sequence[Sequence[str | bytes]]]] = deque()
        #: Of each question whose answers have not all come: who gets them, how many there are, and when it was sent.
        self._asked: deque[tuple[OnAnswers, int, float]] = deque()
        self._answers: list[Any] = []
        self._connection.connect()
        self._socket: socket.socket = self._connection._sock  # noqa: SLF001 - redis-py (8.1) offers no other way to it
        self.is_told = False
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def ask(self, commands: Sequence[Sequence[str | bytes]], on_answers: OnAnswers) -> None:
        """Send commands with the next `receive`, or when it is their turn; errors are among their answers."""
        self._unsent.append((on_answers, commands))

    def receive(self, timeout_s: float, ear: socket.socket | None = None) -> None:
        """Send what is to be asked, then wait until something comes, here or at the ear; hands out what came.

        Raises:
            redis.RedisError: The connection was lost, or an answer does not come.
        """
        self._send()
        if self._asked:
            timeout_s = min(timeout_s, self._silence_left_s())
        poll = select.poll()
        for each in filter(None, (self._socket, ear)):
            poll.register(each, select.POLLIN)
        poll.poll(max(0.0, timeout_s) * 1000)
        if self._read() == 0 and self._asked and self._silence_left_s() <= 0:
            raise NoAnswerError(self._timeout_s)

    def close(self) -> None:
        """Close it; in a child of a fork, the parent's stays open."""
        self._connection.disconnect()

    def _begin(self) -> None:
        """Have Redis tell; it was asked who we are before."""
        answers: list[Any] = []
        self.ask([("HELLO", "3"), ("CLIENT", "TRACKING", "ON")], answers.extend)
        while not answers:
            self.receive(self._timeout_s)
        self.is_told = not any(isinstance(answer, Exception) for answer in answers)

    def _silence_left_s(self) -> float:
        return self._asked[0][2] + self._timeout_s - time.monotonic()

    def _send(self) -> None:
        data = b""
        while self._unsent and len(self._asked) < AT_ONCE:
            on_answers, commands = self._unsent.popleft()
            data += b"".join(map(packed, commands))
            self._asked.append((on_answers, len(commands), time.monotonic()))
        try:
            self._socket.settimeout(self._timeout_s)
            self._socket.sendall(data)
        except TimeoutError as error:
            raise NoAnswerError(self._timeout_s) from error
        except OSError as error:
            raise redis.ConnectionError(str(error)) from error
        finally:
            with suppress(OSError):
                self._socket.settimeout(0)

    def _read(self) -> int:
        """Hand out all that has come; how many bytes that was."""
        count = 0
        try:
            while data := self._socket.recv(_READ_BYTES):
                count += len(data)
                self._reader.feed(data)
                self._hand_out()
        except (BlockingIOError, ssl.SSLWantReadError):
            return count
        except OSError as error:
            raise redis.ConnectionError(str(error)) from error
        raise redis.ConnectionError("Connection closed by server.")

    def _hand_out(self) -> None:
        while (message := self._reader.gets()) is not _NOTHING:
            if isinstance(message, hiredis.PushNotification):
                self._note_changes(message)
                continue
            self._answers.append(message)
            on_answers, count, _ = self._asked[0]
            if len(self._answers) == count:
                self._asked.popleft()
                answers, self._answers = self._answers, []
                on_answers(answers)

    def _note_changes(self, message: Sequence[Any]) -> None:
        if message[0] == b"invalidate":
            for key in [None] if message[1] is None else message[1]:
                self._on_change(key)

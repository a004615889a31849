"""While Redis takes commands and answers none, one of them waits for it, and whoever else asks is told at once.

A page sends several commands, one after the other, each of which could wait for the whole time limit; and whoever waits
holds a thread that others need.
"""

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import redis

from boilerd.broker.connection import DEFAULT_TIMEOUT_S
from boilerd.broker.connection_pool import ConnectionStack
from boilerd.broker.refusals import KnownSilenceError, NoAnswerError

#: So long after a command had no answer, the next one is sent.
PAUSE_S = 1.0


def wait_one_at_a_time(client: redis.Redis) -> redis.Redis:
    """Have the connections of a client that was not used yet share what they know of a hang; the same client."""
    pool = client.connection_pool
    pool.connection_class = _sharing(pool.connection_class, Hang())
    if isinstance(pool, ConnectionStack):
        pool.prepare()  # its first connection was of the other kind
    return client


class Hang:
    """Knows whether Redis hangs, and whose turn it is to ask it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_on = False
        #: While it is on: nobody asks before; then the thread whose turn it is, until the turn is over.
        self._until_s = 0.0
        self._turn: int | None = None
        #: When anybody last heard of Redis.
        self._answered_s = -math.inf

    def check(self, limit_s: float) -> None:
        """Raise KnownSilenceError while Redis hangs and it is not this thread's turn.

        Args:
            limit_s: For how long a command waits.
        """
        thread = threading.get_ident()
        with self._lock:
            if not self._is_on or self._turn == thread:  # opening a connection may be several commands
                return
            now_s = time.monotonic()
            if now_s < self._until_s:
                raise KnownSilenceError(limit_s)
            self._turn, self._until_s = thread, now_s + limit_s + PAUSE_S

    def note(self, *, answered: bool) -> None:
        """Note what came of a command."""
        if answered:
            self._answered_s = time.monotonic()
            if not self._is_on:
                return
        with self._lock:
            self._is_on, self._turn, self._until_s = not answered, None, time.monotonic() + PAUSE_S

    def note_failure(self, error: Exception, began_s: float, limit_s: float) -> None:
        """Note a command that failed: late, as Redis hangs; or early, as where nobody listens, and as it will again.

        One that failed late while others had answers tells nothing of Redis: a firewall forgot its connection, or it
        waits on purpose.
        """
        if isinstance(error, KnownSilenceError):
            return
        # The time to connect may be a shorter one; the kernel's timeout is no TimeoutError.
        is_late = isinstance(error, redis.TimeoutError) or time.monotonic() - began_s >= limit_s / 2
        if not is_late or self._answered_s < began_s:
            self.note(answered=not is_late)


def _sharing(kind: Any, hang: Hang) -> Any:
    """The kind of connections that shares what is known of a hang."""

    class Sharing(kind):  # type: ignore[misc]
        def connect(self) -> None:
            hang.check(_limit_s(self))
            self._noting(super().connect)

        def send_packed_command(self, *args: Any, **options: Any) -> None:
            hang.check(_limit_s(self))
            self._noting(super().send_packed_command, *args, **options)

        def read_response(self, *args: Any, **options: Any) -> Any:
            try:
                answer = self._noting(super().read_response, *args, **options)
            except redis.ResponseError:
                hang.note(answered=True)
                raise
            except redis.TimeoutError as error:
                raise NoAnswerError(_limit_s(self)) from error
            hang.note(answered=True)
            return answer

        def _noting(self, work: Callable[..., Any], *args: Any, **options: Any) -> Any:
            began_s = time.monotonic()
            try:
                return work(*args, **options)
            except (redis.ConnectionError, redis.TimeoutError) as error:
                hang.note_failure(error, began_s, _limit_s(self))
                raise

    return Sharing


def _limit_s(connection: Any) -> float:
    limit_s: float | None = connection.socket_timeout
    return limit_s or DEFAULT_TIMEOUT_S

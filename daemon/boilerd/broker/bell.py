"""The bell of a worker's queues, on a connection of its own, for a thread that also waits for other things."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import redis

from boilerd.broker import keys
from boilerd.broker.connection import raw, text
from boilerd.broker.constants import BELL_TTL_S
from boilerd.broker.refusals import translated
from boilerd.broker.script_connection import packed
from boilerd.errors import BrokerRefusedError


class Bell:
    """Hears of new tasks: one connection that is in a BLPOP, or does nothing.

    Args:
        client: Says where Redis is, and who asks; the commands that go beside the BLPOP use its connections.

    Attributes:
        is_listening: True from `listen` until the answer was read.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._connection: Any = None
        self._id = 0
        self._is_told = False
        self.is_listening = False

    def fileno(self) -> int:
        """The socket that can be read when the bell has rung; only while it listens."""
        return int(self._connection._sock.fileno())  # noqa: SLF001 - redis-py (8.1) offers no other way to it

    def listen(self, queues: Sequence[str], timeout_s: float) -> None:
        """Begin to wait for a token of one of the queues; raises BrokerError."""
        with translated():
            if self._connection is None:
                self._connect()
            command = ("BLPOP", *map(keys.bell, queues), repr(timeout_s))
            try:
                self._connection.send_packed_command([packed(command)])
            except BaseException:
                self.close()
                raise
        self.is_listening, self._is_told = True, False

    def hear(self) -> str | None:
        """Read the answer, which must have begun to come; the queue whose token it took, or None: its time was over.

        Raises:
            BrokerError: The connection is gone, and nobody knows whether it had a token.
        """
        self.is_listening = False
        with translated():
            try:
                answer = self._connection.read_response()
            except BaseException:
                self.close()
                raise
        return None if answer is None else text(answer[0].removeprefix(raw(keys.bell(""))))

    def stop(self) -> None:
        """Have the answer come now: the worker can take no task, and a token would be missing elsewhere."""
        if not self.is_listening or self._is_told:
            return
        self._is_told = True
        try:
            with translated():
                self._client.client_unblock(self._id)
        except BrokerRefusedError:  # the user of Redis may not do that
            self.close()

    def ring_again(self, queue: str) -> None:
        """Give back a token that this worker cannot use; raises BrokerError."""
        with translated(), self._client.pipeline(transaction=False) as pipeline:
            pipeline.lpush(keys.bell(queue), "1")
            pipeline.expire(keys.bell(queue), BELL_TTL_S)
            pipeline.execute()

    def close(self) -> None:
        """Close the connection; the next `listen` opens another one."""
        self.is_listening = False
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with suppress(redis.RedisError, OSError):
                connection.disconnect()

    def _connect(self) -> None:
        pool = self._client.connection_pool
        # Not taken from the pool, as it stays in a wait. Sentinels make theirs with the pool.
        connection: Any = pool.make_connection()
        connection.connect()
        connection.send_command("CLIENT", "ID")
        self._id = int(connection.read_response())
        self._connection = connection

"""RQ's command channel: stop-job, as its tools and `Client.cancel` send it."""

import logging
import os
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
import redis

from boilerd import keys
from boilerd.board import Board
from boilerd.broker import Broker
from boilerd.errors import BrokerError

logger = logging.getLogger("boilerd.subscriber")


class Subscriber:
    """Listens for all workers of the host, in a thread of the scheduler.

    The task is marked as cancelled in Redis, then its worker gets SIGUSR1: in the handler of that
    signal it looks whether the task that it runs is marked. So a worker that has gone on to
    another task meanwhile leaves that alone.
    """

    def __init__(self, connection: redis.Redis, worker_names: Sequence[str], board: Board) -> None:
        self._connection = connection
        self._slots = {keys.channel(name): slot for slot, name in enumerate(worker_names)}
        self._board = board
        self._is_stopping = threading.Event()

    def start(self) -> None:
        """Begin to listen."""
        threading.Thread(target=self._listen, name="subscriber", daemon=True).start()

    def stop(self) -> None:
        """Listen no more."""
        self._is_stopping.set()

    def _listen(self) -> None:
        """Subscribe, and again after every outage; commands sent meanwhile are lost, as RQ's are."""
        while not self._is_stopping.is_set():
            try:
                with self._connection.pubsub(ignore_subscribe_messages=True) as channel:  # type: ignore[no-untyped-call]
                    channel.subscribe(**dict.fromkeys(self._slots, self._handle))
                    while not self._is_stopping.is_set():
                        channel.get_message(timeout=5.0)
            except redis.RedisError as error:
                logger.debug("command channel is down", extra={"error": str(error)})
                self._is_stopping.wait(1.0)
            except Exception:
                # The scheduler closes connections under this thread when it stops.
                if not self._is_stopping.is_set():
                    logger.exception("command channel failed")
                self._is_stopping.wait(1.0)

    def _handle(self, message: dict[str, Any]) -> None:
        slot = self._slots.get(message["channel"].decode())
        try:
            command = msgspec.json.decode(message["data"], type=dict[str, Any])
        except msgspec.DecodeError:
            logger.warning("a command that is not JSON was ignored")
            return
        if slot is None or command.get("command") != "stop-job" or not isinstance(command.get("job_id"), str):
            logger.warning("a command that is not supported was ignored", extra={"command": str(command)[:200]})
            return
        try:
            Broker(self._connection).mark_cancelled(command["job_id"])
        except BrokerError:
            logger.warning("a cancellation was lost, the broker is unavailable", extra={"task_id": command["job_id"]})
            return
        if pid := self._board.pid(slot):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)

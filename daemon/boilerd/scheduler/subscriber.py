"""The subscriber: takes stop-job, which RQ's tools and `Client.cancel` send, from RQ's command channel."""

import logging
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import redis

from boilerd.broker.broker import Broker
from boilerd.broker.command_channel import channel_of
from boilerd.errors import BrokerError
from boilerd.process.folding import Folding
from boilerd.process.identity import send
from boilerd.process.scoreboard import Scoreboard

logger = logging.getLogger("boilerd.subscriber")

#: After so long a silence the broker is sent a PING; after as long again without an answer, the connection is dead.
QUIET_S = 5.0
#: Pause before the next try where the user has no right to the channel.
FORBIDDEN_PAUSE_S = 30.0


class Subscriber:
    """Listens for all workers of the host, in a thread of the scheduler.

    It marks the task as cancelled in Redis, then sends its worker SIGUSR1; in that signal's handler the worker looks
    whether the task that it runs is marked. So a worker that has gone on to another task leaves that alone.

    Args:
        connection: Its pool gives the thread a connection of its own.
        worker_names: RQ's name of the worker in each row.
        scoreboard: Tells each worker's process ID.
        quiet_s: Silence after which the broker is asked.
    """

    def __init__(
        self, connection: redis.Redis, worker_names: Sequence[str], scoreboard: Scoreboard, *, quiet_s: float = QUIET_S
    ) -> None:
        self._connection = connection
        self._quiet_s = quiet_s
        self._rows = {channel_of(name): row for row, name in enumerate(worker_names)}
        self._scoreboard = scoreboard
        self._is_stopping = threading.Event()
        # Whoever may publish can send thousands of commands in a second.
        self._ignored = Folding(logger)

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._listen, name="subscriber", daemon=True).start()

    def stop(self) -> None:
        """Have the thread end, within `quiet_s`."""
        self._is_stopping.set()

    def _listen(self) -> None:
        """Subscribe, and again after every outage; commands sent meanwhile are lost, as they are with RQ's workers."""
        is_logged = False
        while not self._is_stopping.is_set():
            try:
                with self._connection.pubsub(ignore_subscribe_messages=True) as channel:  # type: ignore[no-untyped-call]
                    channel.subscribe(**dict.fromkeys(self._rows, self._handle))
                    self._take_commands(channel)
            except redis.exceptions.NoPermissionError as error:
                if not is_logged:
                    hint = f"allow the user &{channel_of('*')}; until then a running task is cancelled within 5 s"
                    logger.warning("no right to the command channel", extra={"error": str(error), "hint": hint})
                is_logged = True
                self._is_stopping.wait(FORBIDDEN_PAUSE_S)
            except redis.RedisError as error:
                logger.debug("command channel is down", extra={"error": str(error)})
                self._is_stopping.wait(1.0)
            except Exception:
                # The scheduler closes connections under this thread when it stops.
                if not self._is_stopping.is_set():
                    logger.exception("command channel failed")
                self._is_stopping.wait(1.0)

    def _take_commands(self, channel: Any) -> None:
        """Take commands, and send a PING after a silence: on a dead connection nothing would ever come."""
        is_asked = False
        while not self._is_stopping.is_set():
            began_s = time.monotonic()
            self._ignored.tell()
            if channel.get_message(timeout=self._quiet_s) is not None:
                is_asked = False
            elif time.monotonic() - began_s > self._quiet_s / 2:
                if is_asked:
                    raise redis.ConnectionError("the command channel does not answer")
                channel.ping()
                is_asked = True

    def _handle(self, message: dict[str, Any]) -> None:
        row = self._rows.get(message["channel"].decode())
        try:
            command = msgspec.json.decode(message["data"], type=dict[str, Any])
        except msgspec.DecodeError:
            with self._ignored:
                logger.warning("a command that is not JSON was ignored")
            return
        if row is None or command.get("command") != "stop-job" or not isinstance(command.get("job_id"), str):
            with self._ignored:
                logger.warning("a command that is not supported was ignored", extra={"command": str(command)[:200]})
            return
        try:
            Broker(self._connection).mark_cancelled(command["job_id"])
        except BrokerError:
            logger.warning("a cancellation was lost, the broker is unavailable", extra={"task_id": command["job_id"]})
            return
        if pid := self._scoreboard.pid(row):
            send(pid, signal.SIGUSR1)

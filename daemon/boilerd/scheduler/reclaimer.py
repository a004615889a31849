"""The reclaimer: a thread of the scheduler that ends the batches of its host in which a task turned out to be slow."""

import logging
import os
import select
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from boilerd.broker.broker import Broker
from boilerd.process.scoreboard import Scoreboard
from boilerd.worker.prefetch import SLOW_S
from boilerd.worker.settlement import sort_batch

logger = logging.getLogger("boilerd.prefetch")


class Reclaimer:
    """Gives back the tasks that wait behind a slow one, and acknowledges those before it.

    While a worker has a batch, it looks at the scoreboard every 50 ms: whatever a handler does to its process's signals
    and timers cannot keep it from that. The worker's timer wakes it sooner, through the scoreboard's pipe: C code
    writes there, also while the worker's code does not return to Python. While there is no batch it sleeps; the worker
    that claims the next one writes to the pipe.

    Args:
        broker: Its pool gives this thread a connection of its own.
        scoreboard: Tells how far each worker is in its batch.
        worker_names: RQ's name of the worker in each row.
        child_of: Of a row, what log lines call its worker.
    """

    def __init__(
        self,
        broker: Broker,
        scoreboard: Scoreboard,
        worker_names: Sequence[str],
        child_of: Callable[[int], str] = "worker:{}".format,
    ) -> None:
        self._child_of = child_of
        self._broker = broker
        self._scoreboard = scoreboard
        self._names = worker_names
        self._ended: dict[int, int] = {}  # row → number of the batch that was ended last
        self._thread = threading.Thread(target=self._watch, name="reclaimer", daemon=True)

    def start(self) -> None:
        """Start the thread; it ends with the process."""
        self._thread.start()

    def _watch(self) -> None:
        was_needed = True
        while True:
            # At once: a task may have become slow before there was a scheduler.
            is_needed = self._look()
            self._scoreboard.watch_batches(is_watching=is_needed)
            # It sleeps without an end only after a second look: a worker may have missed that nobody watches.
            self._await_alarm(SLOW_S if is_needed or was_needed else None)
            was_needed = is_needed

    def _await_alarm(self, timeout_s: float | None) -> None:
        alarm_fd = self._scoreboard.alarm_fds[0]
        select.select([alarm_fd], [], [], timeout_s)
        with suppress(BlockingIOError):
            os.read(alarm_fd, 4096)

    def _look(self) -> bool:
        """End each batch whose running task is slow; False if there is no batch left to look after."""
        rows = [row for row in range(len(self._names)) if self._scoreboard.has_open_batch(row)]
        answers = [self._is_to_be_watched(row) for row in rows]  # of each, not up to the first
        return any(answers)

    def _is_to_be_watched(self, row: int) -> bool:
        """End the row's batch if its running task is slow; False if it was ended. In an outage it is tried again."""
        batch = self._scoreboard.batch(row)
        if self._ended.get(row) == batch.number:
            return False
        # A little early is right: the timer and this clock do not tick together.
        if batch.running_ms < SLOW_S * 800:
            return True
        try:
            self.end_batch(row, batch.number)
        except Exception as error:  # noqa: BLE001 - a connection that another thread closes may raise anything
            logger.debug("tasks beside a slow one stay where they are", extra={"error": str(error)})
            return True
        self._ended[row] = batch.number
        return False

    def end_batch(self, row: int, number: int) -> None:
        """Acknowledge the batch's tasks that have ended, and give back those that have not begun."""
        name = self._names[row]
        held = self._broker.held(name)
        now = self._scoreboard.revoke(row, number)
        if now.number != number:
            return  # the worker has gone on to its next batch
        ended, waiting, _ = sort_batch(held, now)
        if ended:
            self._broker.acknowledge(name, ended)
        if waiting:
            self._broker.release(name, only=waiting)
        fields = {"child": self._child_of(row), "ended": len(ended), "released": len(waiting)}
        logger.debug("batch ended beside a slow task", extra=fields)

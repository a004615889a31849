"""End batches in which a task turned out to be slow: the scheduler's thread for all workers of its host."""

import logging
import os
import select
import threading
from collections.abc import Sequence
from contextlib import suppress

from boilerd.broker.broker import Broker
from boilerd.process.scoreboard import Scoreboard
from boilerd.worker.prefetch import SLOW_S
from boilerd.worker.settlement import sort_batch

logger = logging.getLogger("boilerd.prefetch")


class Reclaimer:
    """Gives back the tasks that wait behind a slow one, and acknowledges those before it; a thread of the scheduler.

    It sleeps until a timer of a worker writes to the scoreboard's pipe: at the level of C, so also
    while the worker's code does not return to Python.

    Args:
        broker: Used for a connection of the thread's own.
        scoreboard: Where the workers say how far they are.
        worker_names: RQ's name of the worker in each slot.
    """

    def __init__(self, broker: Broker, scoreboard: Scoreboard, worker_names: Sequence[str]) -> None:
        self._broker = broker
        self._scoreboard = scoreboard
        self._names = worker_names
        self._done: dict[int, int] = {}
        self._thread = threading.Thread(target=self._run, name="reclaimer", daemon=True)

    def start(self) -> None:
        """Begin; it ends with the process."""
        self._thread.start()

    def _run(self) -> None:
        alarm_fd = self._scoreboard.alarm_fds[0]
        timeout_s: float | None = 0.0  # at the start: what happened before there was a scheduler
        while True:
            select.select([alarm_fd], [], [], timeout_s)
            with suppress(BlockingIOError):
                os.read(alarm_fd, 4096)
            # In an outage it is tried again while the slow task runs.
            answers = [self._look_at(slot) for slot in range(len(self._names))]
            timeout_s = None if all(answers) else SLOW_S

    def _look_at(self, slot: int) -> bool:
        """End what does not run in this slot's batch; False: the broker did not answer."""
        batch = self._scoreboard.batch(slot)
        # A little early is right: the timer and this clock do not tick together.
        if batch.size < 2 or batch.running_ms < SLOW_S * 800 or self._done.get(slot) == batch.number:
            return True
        try:
            self._end_batch(slot, batch.number)
        except Exception as error:  # noqa: BLE001 - also what a connection says that another thread closes
            logger.debug("tasks beside a slow one stay where they are", extra={"error": str(error)})
            return False
        self._done[slot] = batch.number
        return True

    def _end_batch(self, slot: int, number: int) -> None:
        """Acknowledge what has ended, and give back what has not begun."""
        name = self._names[slot]
        held = self._broker.held(name)
        now = self._scoreboard.revoke(slot, number)
        if now.number != number:
            return  # the worker was faster
        ended, waiting, _ = sort_batch(held, now)
        if ended:
            self._broker.acknowledge(name, ended)
        if waiting:
            self._broker.release(name, only=waiting)
        fields = {"child": f"worker:{slot}", "ended": len(ended), "released": len(waiting)}
        logger.debug("batch ended beside a slow task", extra=fields)

"""Claim more than one task at a time, and give back in time what cannot begin soon.

A round trip for every task is most of what a short task costs. So a worker claims as many as it
expects to begin within a few milliseconds: none but the one that it runs while tasks take longer. Expectations
fail, so the rest of a batch goes back to the head of its queue

* when it was not begun 10 ms after its claim: the worker does that between two tasks;
* when one task runs for 50 ms: the scheduler of the host does that, because the worker's code may be anywhere.
  It also acknowledges what has ended: a unique lock, or a timeout, shall not last as long as the slow task.
"""

import logging
import os
import select
import threading
from collections.abc import Sequence
from contextlib import suppress

from boilerd.board import Board
from boilerd.broker import Broker
from boilerd.jobs import Completion, batch_place

logger = logging.getLogger("boilerd.prefetch")

#: A worker claims what it expects to begin within this time.
EXPECTED_S = 0.008
#: It begins no task of a batch later than this after its claim.
HOLD_S = 0.010
#: A task that runs for so long keeps no others waiting.
SLOW_S = 0.050
#: Tasks in one batch.
MOST = 32
#: Share of the last duration in what is expected.
_WEIGHT = 0.3


class Prefetch:
    """How many tasks a worker claims at once, judged by how long its last ones took.

    One slow task raises the expectation at once, short ones lower it little by little.

    Args:
        is_on: False: always one.
    """

    def __init__(self, *, is_on: bool = True) -> None:
        self._is_on = is_on
        self._expected_s = HOLD_S

    def limit(self) -> int:
        """How many to claim now."""
        if not self._is_on or self._expected_s >= EXPECTED_S:
            return 1
        return min(MOST, 1 + int(EXPECTED_S / max(self._expected_s, 1e-6)))

    def note(self, duration_s: float) -> None:
        """Learn from a task that has ended."""
        self._expected_s = max(duration_s, (1 - _WEIGHT) * self._expected_s + _WEIGHT * duration_s)

    def note_late(self) -> None:
        """Learn that a batch took longer than its tasks did, as on a machine with too much to do."""
        self._expected_s = max(self._expected_s, EXPECTED_S)


class Reclaimer:
    """Gives back the tasks that wait behind a slow one, and acknowledges those before it; a thread of the scheduler.

    It sleeps until a timer of a worker writes to the board's pipe: at the level of C, so also
    while the worker's code does not return to Python.

    Args:
        broker: Used for a connection of the thread's own.
        board: Where the workers say how far they are.
        worker_names: RQ's name of the worker in each slot.
    """

    def __init__(self, broker: Broker, board: Board, worker_names: Sequence[str]) -> None:
        self._broker = broker
        self._board = board
        self._names = worker_names
        self._done: dict[int, int] = {}
        self._thread = threading.Thread(target=self._run, name="reclaimer", daemon=True)

    def start(self) -> None:
        """Begin; it ends with the process."""
        self._thread.start()

    def _run(self) -> None:
        alarm_fd = self._board.alarm_fds[0]
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
        batch = self._board.batch(slot)
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
        now = self._board.revoke(slot, number)
        if now.number != number:
            return  # the worker was faster
        ended, waiting = [], []
        for claim in held:
            held_number, place = batch_place(claim.execution_id)
            if held_number != number:
                continue
            # What has a result to be kept was acknowledged by the worker.
            if place < now.finished and not claim.retention_s:
                ended.append(Completion(claim))
            elif place >= now.finished + now.is_running:
                waiting.append(claim.execution_id)
        if ended:
            self._broker.acknowledge(name, ended)
        if waiting:
            self._broker.release(name, only=waiting)
        fields = {"child": f"worker:{slot}", "ended": len(ended), "released": len(waiting)}
        logger.debug("batch ended beside a slow task", extra=fields)

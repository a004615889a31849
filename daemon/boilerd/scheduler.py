"""The scheduler: the process that keeps a host's claims alive.

Heartbeater: every 5 s it extends the leases of all live workers, and renews their presence
in RQ's registry. Attempts that are past their timeout, although SIGALRM should have ended
them, sit in code that never returns to Python: their workers are killed.
"""

import logging
import os
import signal
import time

from setproctitle import setproctitle

from boilerd.board import Board
from boilerd.broker import Broker, Overdue
from boilerd.errors import BrokerError
from boilerd.exitcodes import OK
from boilerd.logs import log_context
from boilerd.outage import Patience
from boilerd.signals import SignalInbox

logger = logging.getLogger("boilerd.scheduler")

#: A lease lasts 30 s, so it survives five missed heartbeats.
HEARTBEAT_S = 5.0
#: The worker's own SIGALRM comes first; this long after the timeout it is killed.
KILL_AFTER_S = 5.0


class Scheduler:
    """Runs the host's duties until told to stop.

    Args:
        broker: Of this process alone.
        board: Tells which workers live.
        worker_names: RQ's name of the worker in each slot, in order.
    """

    def __init__(self, broker: Broker, *, board: Board, worker_names: list[str]) -> None:
        self._broker = broker
        self._board = board
        self._worker_names = worker_names
        self._inbox = SignalInbox([signal.SIGTERM, signal.SIGINT])
        self._patience = Patience(self._pause)
        self._parent = os.getppid()
        self._is_stopping = False

    def run(self) -> int:
        """Work until told to stop; the exit status."""
        setproctitle("boilerd: scheduler")
        next_s = time.monotonic()
        try:
            while not self._is_stopping and os.getppid() == self._parent:
                if time.monotonic() >= next_s:
                    next_s = time.monotonic() + self._patience.call(self._extend)
                # Woken once a second to see whether the parent is still there.
                self._pause(min(1.0, max(0.0, next_s - time.monotonic())))
            self._patience.call(self._release_leftovers)
        except BrokerError as error:
            logger.warning("stopped while the broker is unavailable", extra={"error": str(error)})
        return OK

    def _extend(self) -> float:
        """One heartbeat; seconds until the next."""
        names = {self._worker_names[slot]: slot for slot in self._live_slots()}
        due_s = HEARTBEAT_S
        for overdue in self._broker.extend(list(names)):
            left_s = KILL_AFTER_S - overdue.late_s
            if left_s <= 0:
                self._kill(overdue, names[overdue.worker])
            due_s = min(due_s, max(left_s, 0.1))
        return due_s

    def _kill(self, overdue: Overdue, slot: int) -> None:
        pid = self._board.pid(slot)
        if pid:
            with log_context(task_id=overdue.task_id):
                fields = {"child": f"worker:{slot}", "late_s": round(overdue.late_s, 3)}
                logger.error("worker killed, its task ignores the timeout", extra=fields)
            os.kill(pid, signal.SIGKILL)

    def _release_leftovers(self) -> None:
        """Put back what killed workers held: in a drain all of them have ended before this process is told to."""
        live = self._live_slots()
        for slot, name in enumerate(self._worker_names):
            if slot not in live:
                for task_id in self._broker.release(name):
                    fields = {"task_id": task_id, "child": f"worker:{slot}"}
                    logger.warning("task released, it will run again", extra=fields)

    def _live_slots(self) -> set[int]:
        return {slot for slot in self._board.live() if slot < len(self._worker_names)}

    def _pause(self, seconds: float) -> bool:
        """Sleep; False when told to stop."""
        if self._inbox.wait(seconds) in {signal.SIGTERM, signal.SIGINT}:
            self._is_stopping = True
        return not self._is_stopping

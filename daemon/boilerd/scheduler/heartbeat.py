"""The heartbeater: renews the leases of the host's live workers, and kills those whose task ignores its timeout."""

import functools
import logging
import math
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from boilerd.broker.broker import Broker
from boilerd.broker.claims import Overdue, batch_place
from boilerd.errors import BrokerError
from boilerd.process import debugging
from boilerd.process.identity import Look, is_alive, look_at, send
from boilerd.process.logs import log_context
from boilerd.process.out_of_memory import oom_kills
from boilerd.process.scoreboard import KillReason, Scoreboard
from boilerd.worker.settlement import HOOK_LIMIT_S

if TYPE_CHECKING:
    from boilerd.scheduler.slotted_heartbeat import SlottedHeartbeater

logger = logging.getLogger("boilerd.scheduler")

#: A lease lasts 30 s, so it survives five missed heartbeats.
HEARTBEAT_S = 5.0
#: The worker's own SIGALRM comes first; this long after the limit the worker is killed.
KILL_AFTER_S = 5.0
#: A worker whose task was taken away is interrupted at each heartbeat, and killed when it has gone on for so long.
KILL_TAKEN_AFTER_S = 10.0
#: A worker that calls the application's hooks is killed after so long; they end by themselves in half the time.
KILL_IN_HOOKS_AFTER_S = 4 * HOOK_LIMIT_S


class Heartbeater:
    """Renews leases, and the workers' presence in RQ's registry.

    An attempt past its timeout, although SIGALRM should have ended it, sits in code that never returns
    to Python: its worker is killed. Workers with several slots have a heartbeat of their own.

    Args:
        broker: Of this process alone.
        scoreboard: Tells which workers live, and which attempt each runs.
        worker_names: RQ's name of the worker in each row.
        on_gap: Called at the first heartbeat, and at each one after a gap: leases may have ended meanwhile.
        child_of: Of a row, what log lines call its worker.
    """

    def __init__(
        self,
        broker: Broker,
        scoreboard: Scoreboard,
        worker_names: Sequence[str],
        on_gap: Callable[[], None],
        child_of: Callable[[int], str] = "worker:{}".format,
    ) -> None:
        self._broker = broker
        self._scoreboard = scoreboard
        self._worker_names = worker_names
        self._on_gap = on_gap
        self._child_of = child_of
        self._beat_s = -math.inf
        self._unwanted: dict[int, tuple[tuple[int, int, int], float]] = {}  # row → its attempt, and since when

    def has_slotted(self) -> bool:
        """Whether a pool has workers with several slots; one such pool always has a row."""
        return any(self._scoreboard.slots(row) > 1 for row in range(len(self._worker_names)))

    @functools.cached_property
    def slotted(self) -> "SlottedHeartbeater":
        """The heartbeat of workers with several slots."""
        from boilerd.scheduler.slotted_heartbeat import SlottedHeartbeater  # noqa: PLC0415 - only where a pool has slots

        return SlottedHeartbeater(self._broker, self._scoreboard, self._worker_names)

    def beat(self) -> float:
        """Renew the leases; seconds until the next heartbeat is due."""
        if (count := oom_kills()) is not None:
            self._scoreboard.note_oom_kills(count)
        # A stopped worker does nothing: its lease runs out, and another worker takes the task over.
        looks = {row: self._look_at(row) for row in self._rows_of_one_slot()}
        rows = {self._worker_names[row]: row for row, look in looks.items() if not look.is_stopped}
        loads = {name: looks[row].load for name, row in rows.items()}
        overdue, unwanted = self._broker.extend(list(rows), self._running(rows), loads)
        self._note_beat()
        for worker in unwanted:
            self._interrupt(rows[worker], worker)
        return min([HEARTBEAT_S, *(self._end_overdue(rows[attempt.worker], attempt) for attempt in overdue)])

    def _look_at(self, row: int) -> Look:
        look = look_at(self._scoreboard.pid(row))
        self._scoreboard.mark_halted(row, is_halted=look.is_stopped)
        if look.load:
            self._scoreboard.note_resident(row, look.load.rss_bytes)
        return look

    def keep_leases_of_orphans(self) -> None:
        """Renew the leases until all workers have ended: the supervisor was killed, so they drain."""
        logger.warning("the supervisor is gone, waiting for the workers to end")
        next_s = step_s = time.monotonic()
        while any(is_alive(self._scoreboard.pid(row)) for row in self._live_rows()):
            if time.monotonic() >= next_s:
                with suppress(BrokerError):  # the workers end within shutdown_timeout, with or without it
                    self._broker.extend([self._worker_names[row] for row in self._rows_of_one_slot()])
                next_s = time.monotonic() + HEARTBEAT_S
            if self.has_slotted() and time.monotonic() >= step_s:
                step_s = time.monotonic() + self._step_of_slotted()
            select.select([], [], [], 0.05)

    def _step_of_slotted(self) -> float:
        with suppress(BrokerError):
            return self.slotted.beat()
        return 1.0

    def _running(self, rows: Mapping[str, int]) -> dict[str, tuple[int, int]]:
        """Which claim each worker runs, of those whose handler has not returned."""
        batches = {name: self._scoreboard.batch(row) for name, row in rows.items() if self._scoreboard.is_busy(row)}
        return {name: (batch.number, batch.finished) for name, batch in batches.items() if batch.is_running}

    def _interrupt(self, row: int, worker: str) -> None:
        """Have a task that is not wanted any more end; kill its worker if it ignores that the task was taken away.

        One that was cancelled keeps its claim, and may take its time: its timeout counts.
        """
        if not (pid := self._scoreboard.pid(row)):
            return
        batch = self._scoreboard.batch(row)
        attempt, now_s = (pid, batch.number, batch.finished), time.monotonic()
        seen, since_s = self._unwanted.get(row, (attempt, now_s))
        self._unwanted[row] = attempt, (since_s if seen == attempt else now_s)
        if now_s - self._unwanted[row][1] < KILL_TAKEN_AFTER_S or self._holds_running(row, worker):
            # At each heartbeat: the command may have been sent while nobody listened.
            send(pid, signal.SIGUSR1)
            return
        logger.error("worker killed, its task was taken away and goes on", extra={"child": self._child_of(row)})
        self._scoreboard.note_kill(row, KillReason.TAKEN)
        send(pid, signal.SIGKILL)

    def _holds_running(self, row: int, worker: str) -> bool:
        """True unless the worker's handler runs without a claim."""
        held = {batch_place(claim.execution_id) for claim in self._broker.held(worker)}
        batch = self._scoreboard.batch(row)
        return not self._scoreboard.is_busy(row) or (batch.number, batch.finished) in held

    def _note_beat(self) -> None:
        now_s = time.monotonic()
        if now_s - self._beat_s > 2 * HEARTBEAT_S:
            self._on_gap()
        self._beat_s = now_s
        self._scoreboard.beat()

    def _end_overdue(self, row: int, attempt: Overdue) -> float:
        """Kill the worker if its attempt is too far past its timeout; seconds until the next look."""
        if debugging.is_on():
            return HEARTBEAT_S
        batch = self._scoreboard.batch(row)
        if not batch.is_running or batch_place(attempt.execution_id) != (batch.number, batch.finished):
            return HEARTBEAT_S  # another claim of its batch, which has ended or not begun
        if not self._scoreboard.is_busy(row) and self._scoreboard.in_hooks_s(row) < KILL_IN_HOOKS_AFTER_S:
            return HEARTBEAT_S  # it ended, and its outcome is not written yet; or its worker did: the next settles it
        # On the host's own clock too: Redis's may have been put forward.
        late_s = min(attempt.late_s, batch.running_ms / 1000 - attempt.limit_s)
        left_s = KILL_AFTER_S - late_s
        if left_s <= 0:
            self._kill(row, attempt, late_s)
        return min(max(left_s, 0.1), HEARTBEAT_S)

    def _kill(self, row: int, attempt: Overdue, late_s: float) -> None:
        pid = self._scoreboard.pid(row)
        if pid:
            with log_context(**self._fields(attempt)):
                fields = {"child": self._child_of(row), "late_s": round(late_s, 3)}
                logger.error("worker killed, its task ignores the timeout", extra=fields)
            self._scoreboard.note_kill(row, KillReason.LIMIT, limit_s=attempt.limit_s)
            send(pid, signal.SIGKILL)

    def _fields(self, attempt: Overdue) -> dict[str, Any]:
        held = self._broker.held(attempt.worker)
        found = (claim.log_fields for claim in held if claim.execution_id == attempt.execution_id)
        return next(found, {"task_id": attempt.task_id})

    def _rows_of_one_slot(self) -> set[int]:
        return {row for row in self._live_rows() if self._scoreboard.slots(row) == 1}

    def _live_rows(self) -> set[int]:
        return {row for row in self._scoreboard.live() if row < len(self._worker_names)}

"""The pool of workers: how many are wanted, and which of them are leaving.

Supervisor has a fixed list of processes for each group; the pool adds processes to it and takes them out. A request
only notes what is wanted. `reconcile`, which the daemon's loop calls, gets there step by step by Supervisor's own
means: a worker that leaves is stopped as in a drain.
"""

import logging
import signal
import time
from collections.abc import Callable
from typing import Any

from supervisor.process import ProcessGroup
from supervisor.states import STOPPED_STATES, ProcessStates

from boilerd.errors import RefusedError, shown
from boilerd.process.exit_status import DONE
from boilerd.process.scoreboard import Scoreboard
from boilerd.supervision.children import ForkedConfig
from boilerd.supervision.groups import WORKER

logger = logging.getLogger("boilerd.supervisor")

#: A worker that is recycled, or killed, is there again sooner.
MISSING_AFTER_S = 5.0
#: A daemon in which so many starts of each worker failed, and none ever served, does not start.
MOST_FAILED_STARTS = 3
#: The settings allow as many.
MOST_WORKERS = 1000


class Pool:
    """The group of worker processes.

    Args:
        group: Supervisor's group; its processes have their rows as names.
        make_worker: A row → the configuration of its process.
        scoreboard: Where the workers note that they have booted.
        on_growth: Called when there are more rows than ever before.

    Attributes:
        size: How many workers are wanted.
    """

    def __init__(
        self,
        group: ProcessGroup,
        make_worker: Callable[[int], ForkedConfig],
        scoreboard: Scoreboard,
        on_growth: Callable[[], None],
    ) -> None:
        self._group = group
        self._make_worker = make_worker
        self._scoreboard = scoreboard
        self._on_growth = on_growth
        self._leaving: set[str] = set()
        self._restarting: set[str] = set()
        self._since_s = time.monotonic()
        self._has_served = False
        self.size = self._scoreboard.rows = len(group.processes)

    def scale(self, size: int) -> None:
        """Have `size` workers; those with the highest rows leave, after their tasks.

        Raises:
            RefusedError: Fewer than one, or more than the settings allow.
        """
        if not 1 <= size <= MOST_WORKERS:
            raise RefusedError(
                f"{size} workers: give a number from 1 to {MOST_WORKERS}; `quiet` stops them from claiming"
            )
        if size != self.size:
            logger.info("scaling", extra={"workers": size, "before": self.size})
        self.size = size
        if size > self._scoreboard.rows:
            self._scoreboard.rows = size
            self._on_growth()

    def restart(self, names: list[str] | None = None) -> None:
        """Replace these workers by fresh ones, each when its task has ended; all of them without names.

        Raises:
            RefusedError: There is no such worker.
        """
        processes = self._group.processes
        for name in names or []:
            if _row_of(name) not in processes:
                raise RefusedError(f"no worker {shown(name)}; there are {WORKER}:0 to {WORKER}:{len(processes) - 1}")
        for row in [_row_of(name) for name in names or processes]:
            _stop(process := processes[row])
            if process.state in STOPPED_STATES:
                process.spawn()  # now, or Supervisor may do it first, and the next stop would be taken for this one
            else:
                self._restarting.add(row)

    def reconcile(self) -> None:
        """Take the next step towards the workers that are wanted."""
        processes = self._group.processes
        for name, process in list(processes.items()):
            if int(name) >= self.size:
                self._leaving.add(name)
            if name in self._leaving:
                _stop(process)  # in each round: Supervisor may have forked it anew, if it had just ended
                if process.state in STOPPED_STATES:
                    del processes[name]
                    self._leaving.discard(name)
            elif name in self._restarting and process.state in STOPPED_STATES:
                self._restarting.discard(name)
                process.spawn()
        for row in range(self.size):
            if str(row) not in processes:
                processes[str(row)] = self._make_worker(row).make_process(self._group)

    def is_ready(self) -> bool:
        """True if every worker serves, except those that crash at the start, or that the system has no room for."""
        workers = [(self._scoreboard.has_booted(int(name)), p) for name, p in self._group.processes.items()]
        is_settled = all(has_booted or p.state == ProcessStates.FATAL or p.has_no_room for has_booted, p in workers)
        return is_settled and any(has_booted for has_booted, _ in workers)

    def given_up(self) -> int:
        """How many workers crashed at the start too often, and wait for another try."""
        return sum(process.state == ProcessStates.FATAL for process in self._group.processes.values())

    def missing(self) -> list[str]:
        """The workers that have not served for a while: fewer run than are wanted, or one does not get to its tasks."""
        latest_s = time.monotonic() - MISSING_AFTER_S
        return [
            f"{WORKER}:{name}"
            for name, process in self._group.processes.items()
            if process.served_s < latest_s and not self._scoreboard.has_booted(int(name))
        ]

    def failed_starts(self) -> dict[str, str]:
        """Why those workers do not serve whose lifespans, or whose hook before the fork, failed."""
        return {
            f"{WORKER}:{name}": f"{process.start_error}, {process.failed_starts} time{'s'[: process.failed_starts > 1]}"
            for name, process in self._group.processes.items()
            if process.failed_starts and not self._scoreboard.has_booted(int(name))
        }

    def entering(self) -> list[str]:
        """The workers that enter their lifespans."""
        return [f"{WORKER}:{row}" for row in range(self._scoreboard.rows) if self._scoreboard.is_starting(row)]

    def why_none_starts(self, limit_s: float) -> str:
        """Why no worker has ever served: each has failed several times, or once and the time is over; else empty."""
        processes = self._group.processes.items()
        self._has_served = self._has_served or any(
            process.has_served or self._scoreboard.has_booted(int(name)) for name, process in processes
        )
        tries = min((process.failed_starts for _, process in processes), default=0)
        if self._has_served or not tries:
            return ""
        if tries < MOST_FAILED_STARTS and time.monotonic() - self._since_s < limit_s:
            return ""
        return f"no worker has started: {next(iter(self.failed_starts().values()))}"

    def is_lost(self) -> bool:
        """True if all of them crashed too often."""
        return 0 < len(self._group.processes) == self.given_up()

    def is_done(self) -> bool:
        """True if, in a burst, each worker has found the queues empty or will not come back."""
        processes = self._group.processes.values()
        return bool(processes) and all(_is_over(process) for process in processes)

    def set_quiet(self, *, is_quiet: bool) -> None:
        """Let the workers claim nothing, or claim again."""
        if is_quiet != self._scoreboard.is_quiet:
            logger.info("worker stopped accepting new tasks" if is_quiet else "worker accepts new tasks again")
        self._scoreboard.is_quiet = is_quiet


def _row_of(name: str) -> str:
    return name.removeprefix(f"{WORKER}:")


def _is_over(process: Any) -> bool:
    if process.state == ProcessStates.EXITED:
        return bool(process.exitstatus == DONE)
    return process.state == ProcessStates.FATAL or bool(process.state == ProcessStates.STOPPED and process.laststart)


def _stop(process: Any) -> None:
    """Have a worker end after its task, unless it is stopping or has stopped."""
    if process.state in {ProcessStates.RUNNING, ProcessStates.STARTING}:
        process.stop()
    elif process.state == ProcessStates.BACKOFF:
        process.give_up()


def signal_children(groups: Any, signum: signal.Signals) -> None:
    """Send a signal to each forked child in these groups."""
    for group in groups:
        for process in group.processes.values():
            if process.pid and isinstance(process.config, ForkedConfig):
                process.signal(signum)

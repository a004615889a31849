"""A pool of workers: how many are wanted, and which of them are leaving.

Supervisor has a fixed list of processes for each group; the pool adds processes to it and takes them out. A request
only notes what is wanted. `reconcile`, which the daemon's loop calls, gets there step by step by Supervisor's own
means: a worker that leaves is stopped as in a drain.

A worker has the number of its row on the scoreboard for a name, whatever its pool. A pool that grows takes the lowest
rows that no process has. One whose worker retires takes one more at once: the worker may go on for long with the tasks
that it has, and claims no others.
"""

import itertools
import logging
import signal
import time
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from supervisor.options import ProcessGroupConfig
from supervisor.process import ProcessGroup
from supervisor.states import STOPPED_STATES, ProcessStates

from boilerd.errors import RefusedError
from boilerd.process.exit_status import DONE
from boilerd.process.scoreboard import DASHBOARD_ROW, Scoreboard
from boilerd.supervision.children import ForkedConfig
from boilerd.supervision.groups import DEFAULT_POOL

logger = logging.getLogger("boilerd.supervisor")

#: A worker that is recycled, or killed, is there again sooner.
MISSING_AFTER_S = 5.0
#: A daemon in which so many starts of each worker failed, and none ever served, does not start.
MOST_FAILED_STARTS = 3
#: The settings allow as many, in all pools together.
MOST_WORKERS = 1000


class PoolPlan(NamedTuple):
    """A pool as it is to be started.

    Attributes:
        name: ``default``, or another.
        group: Supervisor's group, with a process for each worker; these have their rows as names.
        make_worker: A row → the configuration of its process, for workers that are added later.
        slots: How many tasks each worker runs at once.
        is_quiet: True if it is to claim nothing at first.
    """

    name: str
    group: ProcessGroupConfig
    make_worker: Callable[[int], ForkedConfig]
    slots: int = 1
    is_quiet: bool = False


class Pool:
    """A group of worker processes.

    Args:
        group: Supervisor's group; its processes have their rows as names.
        make_worker: A row → the configuration of its process.
        scoreboard: Where the workers note that they have booted.
        on_growth: Called when there are more rows than ever before.
        name: Of the pool.
        slots: How many tasks each worker runs at once.
        taken: The rows that the processes of all pools have.

    Attributes:
        size: How many workers are wanted.
        is_quiet: True if they are to claim nothing.
    """

    def __init__(
        self,
        group: ProcessGroup,
        make_worker: Callable[[int], ForkedConfig],
        scoreboard: Scoreboard,
        on_growth: Callable[[], None],
        *,
        name: str = DEFAULT_POOL,
        slots: int = 1,
        taken: Callable[[], Collection[int]] = tuple,
    ) -> None:
        self.name = name
        self.slots = slots
        self._group = group
        self._make_worker = make_worker
        self._scoreboard = scoreboard
        self._on_growth = on_growth
        self._taken = taken
        self._leaving: set[str] = set()
        self._restarting: set[str] = set()
        #: Those that claim nothing more and end by themselves, with their process IDs.
        self._retiring: dict[str, int] = {}
        self._since_s = time.monotonic()
        self._has_served = self.is_quiet = False
        self.size = len(group.processes)
        self._scoreboard.rows = max(self._scoreboard.rows, 1 + max(self.rows))

    @property
    def group_name(self) -> str:
        """The name of Supervisor's group."""
        return str(self._group.config.name)

    @property
    def rows(self) -> list[int]:
        """The rows of its processes."""
        return [int(name) for name in self._group.processes]

    @property
    def span(self) -> str:
        """The names of its workers: ``worker:0 to worker:9, worker:12``."""
        runs = itertools.groupby(enumerate(sorted(self.rows)), lambda pair: pair[1] - pair[0])
        ends = [(rows[0], rows[-1]) for _, run in runs if (rows := [row for _, row in run])]
        return ", ".join(" to ".join(map(self.name_of, sorted({*pair}))) for pair in ends)

    def name_of(self, row: int | str) -> str:
        """The name of a worker, such as ``worker:3``."""
        return f"{self.group_name}:{row}"

    def row_of(self, name: str) -> str | None:
        """The row, as its process's name, of the worker that somebody calls so; None: it is none of this pool."""
        row = name.removeprefix(f"{self.group_name}:")
        return row if row in self._group.processes else None

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
            logger.info("scaling", extra={"workers": size, "before": self.size, **self.log_fields})
        self.size = size
        self._fill()

    def restart(self, names: list[str] | None = None) -> None:
        """Replace these workers by fresh ones, each when its task has ended; all of them without names."""
        processes = self._group.processes
        for row in [row for row in map(self.row_of, names or list(processes)) if row]:
            _stop(process := processes[row])
            if process.state in STOPPED_STATES:
                process.spawn()  # now, or Supervisor may do it first, and the next stop would be taken for this one
            else:
                self._restarting.add(row)

    def reconcile(self) -> None:
        """Take the next step towards the workers that are wanted."""
        self._see_who_goes()
        for name, process in list(self._group.processes.items()):
            if name in self._leaving:
                _stop(process)  # in each round: Supervisor may have forked it anew, if it had just ended
            if process.state not in STOPPED_STATES:
                continue
            if name in self._leaving or name in self._retiring:
                self._remove(name)
            elif name in self._restarting:
                self._restarting.discard(name)
                process.spawn()
        self._fill()

    def _see_who_goes(self) -> None:
        """Note who retires, and of the others those with the highest rows, if there are too many."""
        for name, process in self._group.processes.items():
            if name not in self._leaving and self._scoreboard.is_retiring(int(name)):
                self._retiring.setdefault(name, process.pid)
            elif process.pid and process.pid != self._retiring.get(name):
                self._retiring.pop(name, None)  # Supervisor has forked it anew, before it was seen to have ended
        staying = sorted(
            int(name) for name in self._group.processes if name not in self._leaving | self._retiring.keys()
        )
        self._leaving |= {str(row) for row in staying[self.size :]}

    def _remove(self, name: str) -> None:
        del self._group.processes[name]
        self._leaving.discard(name)
        self._restarting.discard(name)
        self._retiring.pop(name, None)

    def _fill(self) -> None:
        """Add workers until there are as many as are wanted; one that leaves counts until it has ended."""
        while len(self._group.processes) - len(self._retiring) < self.size and self._add():
            pass

    def _add(self) -> bool:
        """Add a worker in the lowest row that is free; False: there is none."""
        taken = {*self._taken(), *self.rows}
        row = next((row for row in range(DASHBOARD_ROW) if row not in taken), None)
        if row is None:
            return False
        self._scoreboard.set_quiet([row], is_quiet=self.is_quiet)
        self._group.processes[str(row)] = self._make_worker(row).make_process(self._group)
        if row >= self._scoreboard.rows:
            self._scoreboard.rows = row + 1
            self._on_growth()
        return True

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
            self.name_of(name)
            for name, process in self._group.processes.items()
            if process.served_s < latest_s and not self._scoreboard.has_booted(int(name))
        ]

    def failed_starts(self) -> dict[str, str]:
        """Why those workers do not serve whose lifespans, or whose hook before the fork, failed."""
        return {
            self.name_of(name): f"{process.start_error}, {process.failed_starts} time{'s'[: process.failed_starts > 1]}"
            for name, process in self._group.processes.items()
            if process.failed_starts and not self._scoreboard.has_booted(int(name))
        }

    def entering(self) -> list[str]:
        """The workers that enter their lifespans."""
        return [self.name_of(row) for row in self.rows if self._scoreboard.is_starting(row)]

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
        of = "" if self.name == DEFAULT_POOL else f" of pool {self.name}"
        return f"no worker{of} has started: {next(iter(self.failed_starts().values()))}"

    def is_lost(self) -> bool:
        """True if all of them crashed too often."""
        return 0 < len(self._group.processes) == self.given_up()

    def is_done(self) -> bool:
        """True if, in a burst, each worker has found the queues empty or will not come back."""
        processes = self._group.processes.values()
        return bool(processes) and all(_is_over(process) for process in processes)

    def has_claimed(self) -> bool:
        """True if any of its workers that have ended, and may start again, had claimed a task."""
        ended = [name for name, process in self._group.processes.items() if process.state == ProcessStates.EXITED]
        return any(self._scoreboard.has_claimed(int(name)) for name in ended)

    def start_again(self) -> None:
        """Start the workers that have ended."""
        for process in self._group.processes.values():
            if process.state == ProcessStates.EXITED:
                process.spawn()

    def set_quiet(self, *, is_quiet: bool) -> None:
        """Let the workers claim nothing, or claim again."""
        self.is_quiet = is_quiet
        self._scoreboard.set_quiet(self.rows, is_quiet=is_quiet)

    def info(self) -> dict[str, Any]:
        """Its state, in numbers."""
        return {
            "name": self.name, "group": self.group_name, "workers": self.size, "slots": self.slots,
            "running": sum(map(self._scoreboard.running, self.rows)),
            "stuck": sum(map(self._scoreboard.stuck, self.rows)),
            "is_quiet": self.is_quiet,
        }  # fmt: skip

    @property
    def log_fields(self) -> dict[str, str]:
        """The fields that tell in a log line which pool is meant; none for `default`."""
        return {} if self.name == DEFAULT_POOL else {"pool": self.name}


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

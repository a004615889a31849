"""The workers as a pool: how many there shall be, and which are on their way out.

Changes are wishes; `reconcile`, which the daemon's loop calls, makes them true step by step
with Supervisor's own means: each worker that goes is stopped like in a drain.
"""

import logging
import signal
from collections.abc import Callable
from typing import Any

from supervisor.process import ProcessGroup
from supervisor.states import STOPPED_STATES, ProcessStates

from boilerd.errors import RefusedError
from boilerd.process.scoreboard import Scoreboard
from boilerd.supervision.children import ForkedConfig
from boilerd.supervision.groups import WORKER

logger = logging.getLogger("boilerd.supervisor")

#: As many as the settings allow.
MOST_WORKERS = 1000


class Pool:
    """The group of worker processes.

    Args:
        group: Of Supervisor's; its processes have their slots as names.
        make_worker: A slot → what Supervisor needs to know of its process.
        scoreboard: Tells which have booted.
        on_growth: Called when there are more slots than ever before.

    Attributes:
        size: How many workers there shall be.
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
        self.size = self._scoreboard.slots = len(group.processes)

    def scale(self, size: int) -> None:
        """Have `size` workers; those with the highest slots go, after their tasks.

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
        if size > self._scoreboard.slots:
            self._scoreboard.slots = size
            self._on_growth()

    def restart(self, names: list[str] | None = None) -> None:
        """Replace these workers by fresh ones, each when its task has ended; all of them without names.

        Raises:
            RefusedError: There is no such worker.
        """
        processes = self._group.processes
        for name in names or []:
            if name.removeprefix(f"{WORKER}:") not in processes:
                raise RefusedError(f"no worker {name!r}; there are {WORKER}:0 to {WORKER}:{len(processes) - 1}")
        for name in [name.removeprefix(f"{WORKER}:") for name in names or processes]:
            _stop(process := processes[name])
            if process.state in STOPPED_STATES:
                process.spawn()  # now, or Supervisor may do it first, and the next stop would be taken for this one
            else:
                self._restarting.add(name)

    def reconcile(self) -> None:
        """Take the next step towards what is wished."""
        processes = self._group.processes
        for name, process in list(processes.items()):
            if int(name) >= self.size:
                self._leaving.add(name)
            if name in self._leaving:
                _stop(process)  # each time: one that had just ended is forked anew between two rounds
                if process.state in STOPPED_STATES:
                    del processes[name]
                    self._leaving.discard(name)
            elif name in self._restarting and process.state in STOPPED_STATES:
                self._restarting.discard(name)
                process.spawn()
        for slot in range(self.size):
            if str(slot) not in processes:
                processes[str(slot)] = self._make_worker(slot).make_process(self._group)

    def is_ready(self) -> bool:
        """Whether every worker serves, but for those that Supervisor gave up on."""
        states = [(self._scoreboard.has_booted(int(n)), p.state) for n, p in self._group.processes.items()]
        is_settled = all(has_booted or state == ProcessStates.FATAL for has_booted, state in states)
        return is_settled and any(has_booted for has_booted, _ in states)

    def given_up(self) -> int:
        """How many crashed at start too often."""
        return sum(process.state == ProcessStates.FATAL for process in self._group.processes.values())

    def hush(self, *, is_quiet: bool) -> None:
        """Let the workers claim nothing, or go on."""
        if is_quiet != self._scoreboard.is_quiet:
            logger.info("worker stopped accepting new tasks" if is_quiet else "worker accepts new tasks again")
        self._scoreboard.is_quiet = is_quiet


def _stop(process: Any) -> None:
    """Let it end its task, unless it is stopping or has stopped."""
    if process.state in {ProcessStates.RUNNING, ProcessStates.STARTING}:
        process.stop()
    elif process.state == ProcessStates.BACKOFF:
        process.give_up()


def signal_children(groups: Any, signum: signal.Signals) -> None:
    """Send a signal to each forked child."""
    for group in groups:
        for process in group.processes.values():
            if process.pid and isinstance(process.config, ForkedConfig):
                process.signal(signum)

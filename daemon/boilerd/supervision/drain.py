"""The drain: claim nothing new, let running tasks end, stop the children in order, exit."""

import logging
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

from supervisor.states import SupervisorStates

from boilerd.supervision.groups import are_workers
from boilerd.supervision.options import Options

logger = logging.getLogger("boilerd.supervisor")

#: A second TERM or INT after this long stops at once. Ctrl-C and systemd may send two together.
SECOND_SIGNAL_S = 1.0
#: How long the scheduler and the broker get to end after a second signal.
HURRY_S = 2.0


class Drain:
    """When the daemon ends, and how fast.

    Supervisor's loop stops the groups in reverse order of their priority, once `options.mood` says so;
    `supervisorctl shutdown` sets that without asking us.

    Args:
        options: Supervisor's; their `mood` is below RUNNING in a drain.
        groups: Returns Supervisor's groups of processes, by their names.
    """

    def __init__(self, options: Options, groups: Callable[[], Mapping[str, Any]]) -> None:
        self._options = options
        self._groups = groups
        self._since_s: float | None = None

    @property
    def is_under_way(self) -> bool:
        """True from the request on, whoever made it."""
        return bool(self._options.mood < SupervisorStates.RUNNING)

    def request(self) -> None:
        """Have Supervisor's loop begin the drain in its next round."""
        self._note_start()
        self._options.mood = SupervisorStates.SHUTDOWN

    def on_stop_signal(self, signum: signal.Signals) -> None:
        """Drain at the first signal; stop at once at a second one, but for HUP: kernel and shell send one each."""
        if self._since_s is None:
            if signum == signal.SIGHUP:
                logger.warning("the terminal was closed, stopping")
            self.request()
        elif signum == signal.SIGHUP:
            return
        elif time.monotonic() - self._since_s >= SECOND_SIGNAL_S:
            logger.warning("stopping now, running tasks go back to their queues", extra={"signal": signum.name})
            self._hurry()
        else:
            hint = "one more, a second after the first, stops at once"
            logger.info(
                "draining already, a second signal so soon is none", extra={"signal": signum.name, "hint": hint}
            )

    def begin(self) -> None:
        """Note that Supervisor's loop has begun the drain."""
        self._note_start()
        # Children that an administrator's `stop` cut short long ago are no part of this drain.
        self._options.timed_out.clear()

    def _note_start(self) -> None:
        if self._since_s is None:
            self._since_s = time.monotonic()

    def _hurry(self) -> None:
        """Kill the workers; the scheduler puts their tasks back, the broker gets little time to end."""
        for name, group in self._groups().items():
            for process in group.processes.values():
                # Also of one that is stopping: it waits no longer than this from now.
                process.config.stopwaitsecs = min(process.config.stopwaitsecs, HURRY_S)
                if are_workers(name) and process.pid:
                    process.kill(signal.SIGKILL)

"""A child of the daemon that executes another program: the embedded broker."""

import time
from collections.abc import Callable
from typing import Any

from supervisor.dispatchers import POutputDispatcher
from supervisor.events import ProcessCommunicationStdoutEvent
from supervisor.options import ProcessGroupConfig, ServerOptions
from supervisor.process import Subprocess
from supervisor.states import ProcessStates

from boilerd.process.scoreboard import Scoreboard
from boilerd.process.signals import ENDS_BROKER, HELD_FROM_BROKER, restore_defaults
from boilerd.supervision.children import NO_PIPES, Child, ChildConfig
from boilerd.supervision.handover import RunningValkey


class Program(Child):
    """A child that executes another program, the embedded broker.

    It outlives a parent that was killed, until the orphaned scheduler has seen the workers
    end: they write their last outcomes to it. So nobody but the daemon may end it: a TERM to all of the daemon's
    processes stays blocked, and ENDS_BROKER ends it. Changed here: it may run already, from before a reload,
    and it may have to go on for a while when it is to stop.
    """

    def __init__(self, config: "ProgramConfig") -> None:
        super().__init__(config)
        self._stop_wait_s = config.stopwaitsecs

    def spawn(self) -> int | None:
        """Start the program; the first time, take over the child that the daemon started before a reload."""
        if self.config.running is None:
            return super().spawn()
        self.laststart = time.time()
        self.change_state(ProcessStates.STARTING)
        self.dispatchers, self.pipes = self.config.make_dispatchers(self)
        pid, self.config.running = self.config.running.pid, None
        return self._spawn_as_parent(pid)

    def stop(self) -> str | None:
        """Stop the program, unless it must go on: then say why. In a drain, Supervisor's loop tries each round."""
        # A second signal to the daemon cuts the wait of all children, and waits for nothing else either.
        is_in_haste = self.config.stopwaitsecs < self._stop_wait_s
        if not is_in_haste and (reason := self.config.why_not_stop()):
            return str(reason)
        stopped: str | None = super().stop()
        return stopped

    def _prepare_child_fds(self) -> None:
        super()._prepare_child_fds()
        restore_defaults(held=HELD_FROM_BROKER)


class ProgramConfig(ChildConfig):
    """The configuration of a program whose output lines are logged.

    Args:
        running: A child that runs the program already.
        why_not_stop: Returns why the program must go on; empty: it may be stopped.
    """

    process_class = Program

    def __init__(
        self, options: ServerOptions, *, running: RunningValkey | None, why_not_stop: Callable[[], str], **params: Any
    ) -> None:
        super().__init__(options, stdout_events_enabled=True, redirect_stderr=True, **params)
        self.running = running
        self.why_not_stop = why_not_stop

    def make_dispatchers(self, proc: Subprocess) -> tuple[dict[int, object], dict[str, int | None]]:
        """Supervisor's pipes; for a program that runs already, the one that it prints to."""
        if self.running is None:
            dispatchers: tuple[dict[int, object], dict[str, int | None]] = super().make_dispatchers(proc)
            return dispatchers
        fd = self.running.stdout_fd
        return {fd: POutputDispatcher(proc, ProcessCommunicationStdoutEvent, fd)}, NO_PIPES | {"stdout": fd}


def program_group(
    options: ServerOptions,
    name: str,
    command: str,
    *,
    priority: int,
    scoreboard: Scoreboard,
    row: int,
    stop_wait_s: float,
    running: RunningValkey | None,
    why_not_stop: Callable[[], str],
) -> ProcessGroupConfig:
    """A group of one program."""
    config = ProgramConfig(
        options, scoreboard=scoreboard, row=row, running=running, why_not_stop=why_not_stop,
        name=name, command=command, priority=priority, stopwaitsecs=stop_wait_s, stopsignal=ENDS_BROKER,
    )  # fmt: skip
    return ProcessGroupConfig(options, name, priority, [config])

"""The daemon's child processes as Supervisor sees them: forked functions, and one program.

The seam in Supervisor: a ProcessConfig whose `make_process` returns a Subprocess of our own.
Written against Supervisor 4.3; the source is the documentation.
"""

import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from supervisor.datatypes import RestartUnconditionally, RestartWhenExitUnexpected
from supervisor.dispatchers import POutputDispatcher
from supervisor.events import ProcessCommunicationStdoutEvent
from supervisor.options import ProcessConfig, ProcessGroupConfig, ServerOptions
from supervisor.process import Subprocess
from supervisor.states import ProcessStates

from boilerd.process.exit_status import DONE, OK, RECYCLED, STOPPED_BY_DAEMON, TIMED_OUT, describe_exit
from boilerd.process.failpoints import failpoint
from boilerd.process.scoreboard import Scoreboard
from boilerd.process.signals import hold_signals, release_signals, restore_defaults
from boilerd.supervision.handover import RunningValkey

logger = logging.getLogger("boilerd.supervisor")

#: Crashes within a second of the start that are tried again before Supervisor gives up.
START_RETRIES = 5
#: Supervisor's names for the pipes of a child.
NO_PIPES: dict[str, int | None] = dict.fromkeys(
    ("stdin", "stdout", "stderr", "child_stdin", "child_stdout", "child_stderr")
)


class Child(Subprocess):  # type: ignore[misc]
    """A child process that stands on the scoreboard, and whose end is told in one line.

    Attributes:
        backoff: Supervisor's: how many starts in a row have failed.
    """

    backoff: int

    def spawn(self) -> int | None:
        """Fork with our signals held back, until the child has its own handlers or none."""
        hold_signals()
        try:
            pid: int | None = super().spawn()
        finally:
            # Runs in the parent; the child unblocks in restore_defaults.
            release_signals()
        if pid is None:
            # The system had no process or file descriptor to spare, which is no reason to give up on this one.
            self.backoff = min(self.backoff, self.config.startretries)
        return pid

    def _spawn_as_parent(self, pid: int) -> int:
        failpoint("supervisor-forked")
        self.config.scoreboard.put(self.config.slot, pid)
        logger.debug("process started", extra={"child": self.full_name, "child_pid": pid})
        return int(super()._spawn_as_parent(pid))

    def finish(self, pid: int, sts: int) -> None:
        """Note how the child ended, then let Supervisor decide what follows."""
        status = os.waitstatus_to_exitcode(sts)
        is_stopping = self.state == ProcessStates.STOPPING
        had_booted = self.config.scoreboard.clear(self.config.slot, STOPPED_BY_DAEMON if is_stopping else status)
        fields = {"child": self.full_name, "child_pid": pid, "exit": describe_exit(status)}
        if is_stopping or status in {RECYCLED, DONE}:
            logger.debug("process exited", extra=fields)
        else:
            logger.warning("process died", extra=fields)
        if is_stopping and status in {TIMED_OUT, -signal.SIGKILL}:
            self.config.options.timed_out.append(self.full_name)
        if status not in {OK, RECYCLED, DONE}:
            # It led a group of its own; programs that its task started must not outlive their cause.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        if had_booted:
            # Whatever ended it, starting was not the trouble: Supervisor shall not back off and
            # give up on the slot because of tasks that kill their workers.
            self.laststart = time.time() - self.config.startsecs - 1
        super().finish(pid, sts)
        # Supervisor reaps after it has looked what to start: let it look again at once, not after its poll.
        self.config.options.inbox.wake()

    def give_up(self) -> None:
        """Leave it stopped: it crashed too often, or waited for its next try when it was told to stop."""
        if self.backoff > self.config.startretries:
            hint = "boilerd restart starts it again when the cause is gone"
            fields = {"child": self.full_name, "hint": hint}
            logger.error("process crashed too often, giving up on it", extra=fields)
        super().give_up()

    @property
    def full_name(self) -> str:
        """As supervisorctl shows it: ``worker:3``, and ``scheduler`` for a process named as its group."""
        group = self.group.config.name
        return str(group if group == self.config.name else f"{group}:{self.config.name}")


class ForkedProcess(Child):
    """A child that runs a Python function of this program."""

    def get_execv_args(self) -> tuple[str, list[str]]:
        """Nothing is executed; the name serves in messages."""
        return self.config.name, [self.config.name]

    def _spawn_as_child(self, filename: str, argv: Sequence[str]) -> None:
        status = 1
        try:
            # Signals to the terminal's foreground group are for the parent only.
            self.config.options.setpgrp()
            self.config.options.leave_parent()
            status = self.config.target()
        except BaseException:
            # Our own error, and no task's: it is for Supervisor to say when it has come too often.
            self.config.scoreboard.mark_booted(self.config.slot, has_booted=False)
            logger.critical("process crashed", exc_info=True, extra={"child": self.full_name})
        finally:
            # Not sys.exit: the parent's cleanup handlers and stack are none of the child's business.
            os._exit(status)


class ForkedConfig(ProcessConfig):  # type: ignore[misc]
    """What Supervisor needs to know of a forked child.

    Args:
        target: Runs in the child; what it returns is the exit status.
        scoreboard: Where others look up its process ID.
        slot: Its cell there.
    """

    def __init__(
        self, options: ServerOptions, *, target: Callable[[], int], scoreboard: Scoreboard, slot: int, **params: Any
    ) -> None:
        super().__init__(options, **_process_params(**params))
        self.target = target
        self.slot = slot
        self.scoreboard = scoreboard

    def make_process(self, group: object = None) -> ForkedProcess:
        """Supervisor's hook."""
        process = ForkedProcess(self)
        process.group = group
        return process

    def make_dispatchers(self, proc: Subprocess) -> tuple[dict[int, object], dict[str, int | None]]:
        """No pipes: children write to the parent's stdout, so lines go straight to the journal."""
        return {}, dict(NO_PIPES)


class Program(Child):
    """A child that executes another program.

    It outlives a parent that was killed, until the orphaned scheduler has seen the workers to
    their end: their last outcomes are for this program.
    """

    def spawn(self) -> int | None:
        """Start it; the first time, take over the one that the daemon started before a reload."""
        if self.config.running is None:
            return super().spawn()
        self.laststart = time.time()
        self.change_state(ProcessStates.STARTING)
        self.dispatchers, self.pipes = self.config.make_dispatchers(self)
        pid, self.config.running = self.config.running.pid, None
        return self._spawn_as_parent(pid)

    def _prepare_child_fds(self) -> None:
        super()._prepare_child_fds()
        restore_defaults()


class ProgramConfig(ProcessConfig):  # type: ignore[misc]
    """A program whose output lines are logged.

    Args:
        running: A child that runs it already.
    """

    def __init__(
        self, options: ServerOptions, *, scoreboard: Scoreboard, slot: int, running: RunningValkey | None, **params: Any
    ) -> None:
        super().__init__(options, **_process_params(stdout_events_enabled=True, redirect_stderr=True, **params))
        self.scoreboard, self.slot, self.running = scoreboard, slot, running

    def make_process(self, group: object = None) -> Program:
        """Supervisor's hook."""
        process = Program(self)
        process.group = group
        return process

    def make_dispatchers(self, proc: Subprocess) -> tuple[dict[int, object], dict[str, int | None]]:
        """Pipes; of a program that runs already, the one that it prints to."""
        if self.running is None:
            dispatchers: tuple[dict[int, object], dict[str, int | None]] = super().make_dispatchers(proc)
            return dispatchers
        fd = self.running.stdout_fd
        return {fd: POutputDispatcher(proc, ProcessCommunicationStdoutEvent, fd)}, NO_PIPES | {"stdout": fd}


def forked_config(
    options: ServerOptions,
    name: str,
    target: Callable[[], int],
    *,
    priority: int,
    scoreboard: Scoreboard,
    slot: int,
    stop_wait_s: float,
    restarts_always: bool = True,
) -> ForkedConfig:
    """A forked child and what it runs."""
    return ForkedConfig(
        options,
        target=target,
        scoreboard=scoreboard,
        slot=slot,
        name=name,
        command=f"(forked) {name}",
        priority=priority,
        stopwaitsecs=stop_wait_s,
        exitcodes=[DONE],
        autorestart=RestartUnconditionally if restarts_always else RestartWhenExitUnexpected,
    )


def program_group(
    options: ServerOptions,
    name: str,
    command: str,
    *,
    priority: int,
    scoreboard: Scoreboard,
    slot: int,
    stop_wait_s: float,
    running: RunningValkey | None,
) -> ProcessGroupConfig:
    """A group of one program."""
    config = ProgramConfig(
        options, scoreboard=scoreboard, slot=slot, running=running,
        name=name, command=command, priority=priority, stopwaitsecs=stop_wait_s,
    )  # fmt: skip
    return ProcessGroupConfig(options, name, priority, [config])


def _process_params(**chosen: Any) -> dict[str, Any]:
    """All that Supervisor asks of a process, with our defaults."""
    params: dict[str, Any] = {
        "uid": None, "directory": None, "umask": None, "autostart": True, "autorestart": RestartUnconditionally,
        "startsecs": 1, "startretries": START_RETRIES, "stopsignal": signal.SIGTERM, "stopasgroup": False,
        "killasgroup": True, "exitcodes": [0], "redirect_stderr": False,
    }  # fmt: skip
    for stream in ("stdout", "stderr"):
        for name in ("capture_maxbytes", "logfile_backups", "logfile_maxbytes"):
            params[f"{stream}_{name}"] = 0
        params |= {f"{stream}_logfile": None, f"{stream}_events_enabled": False, f"{stream}_syslog": False}
    return params | chosen

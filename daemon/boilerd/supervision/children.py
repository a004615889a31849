"""The daemon's child processes; `program` has the one that executes another program.

Supervisor makes each process by its configuration's `make_process`; ours returns a Subprocess of our own.
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
from supervisor.options import ProcessConfig, ProcessException, ServerOptions
from supervisor.process import Subprocess
from supervisor.states import ProcessStates, SupervisorStates

from boilerd.errors import BoilerdError
from boilerd.process import printed
from boilerd.process.copied_locks import may_be_held, renew_locks
from boilerd.process.exit_status import DONE, RECYCLED, STOPPED_BY_DAEMON, TIMED_OUT, describe_exit
from boilerd.process.failpoints import failpoint
from boilerd.process.scoreboard import KillReason, Scoreboard
from boilerd.process.signals import hold_signals, release_signals
from boilerd.process.terminal import ignore_background_stops, leave_stops_to_parent
from boilerd.supervision.groups import are_workers

logger = logging.getLogger("boilerd.supervisor")

#: How many starts in a row may crash within a second before the child is FATAL.
START_RETRIES = 5
#: How long a FATAL child waits for its next try; twice as long after each that fails.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 60.0
#: Supervisor's names for the pipes of a child.
NO_PIPES: dict[str, int | None] = dict.fromkeys(
    ("stdin", "stdout", "stderr", "child_stdin", "child_stdout", "child_stderr")
)


class Child(Subprocess):  # type: ignore[misc]
    """A child process that has a row on the scoreboard.

    Supervisor forks it, and decides by its exit status and age whether to start it again. Changed here: signals are
    blocked around the fork; its end is one log line; a child that has booted never counts as a failed start; the time
    until it is killed is by the monotonic clock.

    Attributes:
        backoff: Supervisor's: how many starts in a row have failed.
        served_s: When it was known to serve, on the monotonic clock; at first, when it was made.
        has_no_room: True if the system had no process to spare for it, or the application none, the last time.
        has_served: True if one of its processes has ever served.
        failed_starts: How many starts in a row the application let fail: its lifespans, or its hook before the fork.
        start_error: Why the last of them failed.
    """

    backoff: int
    has_no_room = has_served = False
    failed_starts = 0
    start_error = ""
    _may_copy_held_locks = False

    def __init__(self, config: "ChildConfig") -> None:
        super().__init__(config)
        self.served_s = time.monotonic()
        self._pause_s = FIRST_PAUSE_S
        #: When it is tried again after too many crashes; None: it is not to be tried.
        self._retry_s: float | None = None
        self._kill_s = 0.0

    def transition(self) -> None:
        """Take Supervisor's next step; and try a child again that crashed too often, since its cause may be gone."""
        if self.state == ProcessStates.STOPPING:
            self._kill_if_late()
            return
        if self._retry_s is not None and time.monotonic() >= self._retry_s and self._may_start():
            self.backoff = self.config.startretries  # one try, not as many as at first
            self.spawn()
        if self.state == ProcessStates.STARTING and self._is_starting():
            self.laststart = time.time()  # Supervisor takes it for running a second after that
        super().transition()

    def spawn(self) -> int | None:
        """Fork with signals blocked until the child has its own handlers, or none."""
        self._retry_s = None
        self._may_copy_held_locks = may_be_held()
        hold_signals()
        try:
            pid: int | None = super().spawn()
        finally:
            # Runs in the parent; the child unblocks in leave_parent, but for what is passed on to it.
            release_signals()
        self.has_no_room = pid is None
        if pid is None:
            # The system had no process or file descriptor to spare, which is no reason to give up on this child.
            self.backoff = min(self.backoff, self.config.startretries)
        return pid

    def _spawn_as_parent(self, pid: int) -> int:
        failpoint("supervisor-forked")
        self.config.scoreboard.put(self.config.row, pid)
        logger.debug("process started", extra={"child": self.full_name, "child_pid": pid})
        return int(super()._spawn_as_parent(pid))

    def finish(self, pid: int, sts: int) -> None:
        """Log how the child ended, then let Supervisor decide what follows."""
        status = os.waitstatus_to_exitcode(sts)
        is_stopping = self.state == ProcessStates.STOPPING
        has_failed = self._is_starting() and not is_stopping
        had_booted = self.config.scoreboard.clear(self.config.row, STOPPED_BY_DAEMON if is_stopping else status)
        fields = {"child": self.full_name, "child_pid": pid, "exit": describe_exit(status)}
        if is_stopping or status in {RECYCLED, DONE}:
            logger.debug("process exited", extra=fields)
        else:
            logger.warning("process died", extra=fields)
        if is_stopping and status in {TIMED_OUT, -signal.SIGKILL} and are_workers(self.group.config.name):
            self.config.options.timed_out.append(self.full_name)
        # The child led a process group; processes that its tasks started must not outlive it.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        if had_booted:
            # The start did not fail, whatever ended it: Supervisor must not back off and give up on
            # the row because of tasks that kill their workers.
            self.laststart = time.time() - self.config.startsecs - 1
            self.served_s, self._pause_s = time.monotonic(), FIRST_PAUSE_S
            self.has_served, self.failed_starts = True, 0
        elif has_failed:
            self._note_failed_start(self._describe_failed_start(status))
            # However long it took: it counts as one that exited too soon.
            self.laststart = time.time() - self.config.startsecs / 2
            self.change_state(ProcessStates.STARTING)
        super().finish(pid, sts)
        # Supervisor's loop starts children before it reaps: have it come round at once, not after its poll.
        self.config.options.inbox.wake()

    def _is_starting(self) -> bool:
        return bool(self.config.scoreboard.is_starting(self.config.row))

    def _describe_failed_start(self, status: int) -> str:
        reason, _ = self.config.scoreboard.last_kill(self.config.row)
        if status == -signal.SIGKILL and reason is KillReason.HUNG:
            return "killed, its lifespans hang in code that does not return to Python"
        return describe_exit(status)

    def _note_failed_start(self, error: str) -> None:
        """Count it; `error` is what is known of its cause, where the process itself has told nothing."""
        scoreboard, row = self.config.scoreboard, self.config.row
        if not scoreboard.start_error(row):
            scoreboard.note_start_error(row, error)
        self.failed_starts += 1
        self.start_error = scoreboard.start_error(row)

    def stop(self) -> str | None:
        """Have the child end; it knows that its supervisor wants it.

        Not twice: at a second INT a Valkey exits at once, without having written what it took.
        """
        if self.state == ProcessStates.STOPPING:
            return None
        if self.pid:
            self.config.scoreboard.dismiss(self.config.row)
        error: str | None = super().stop()
        return error

    def kill(self, sig: signal.Signals) -> str | None:
        """Send the signal that ends the child, which has `stopwaitsecs` from now."""
        self._kill_s = time.monotonic() + self.config.stopwaitsecs
        error: str | None = super().kill(sig)
        return error

    def _kill_if_late(self) -> None:
        """Take the place of Supervisor's step: a wall clock that is put forward would end the wait at once."""
        now_s = time.monotonic()
        self._kill_s = min(self._kill_s, now_s + self.config.stopwaitsecs)  # cut by a second signal
        if now_s >= self._kill_s:
            self.kill(signal.SIGKILL)

    def give_up(self) -> None:
        """Leave the child stopped for now, if it crashed too often; for good, if it was told to stop meanwhile."""
        if self.backoff > self.config.startretries:
            self._pause_after_crashes()
        super().give_up()

    def _pause_after_crashes(self) -> None:
        hint = "boilerd restart starts it again when the cause is gone"
        fields: dict[str, Any] = {"child": self.full_name, "hint": hint}
        if self.config.autorestart is not RestartUnconditionally:  # a burst, which shall end
            logger.error("process crashed too often, giving up on it", extra=fields)
            return
        logger.error("process crashed too often, trying again later", extra=fields | {"delay_s": self._pause_s})
        self._retry_s = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _may_start(self) -> bool:
        is_serving = self.config.options.mood > SupervisorStates.RESTARTING
        return bool(is_serving and self.state == ProcessStates.FATAL)

    @property
    def full_name(self) -> str:
        """The name that supervisorctl shows: ``worker:3``, and ``scheduler`` for a process named as its group."""
        group = self.group.config.name
        return str(group if group == self.config.name else f"{group}:{self.config.name}")


class ForkedProcess(Child):
    """A child that runs a Python function of this program; Supervisor knows only children that execute a program."""

    def get_execv_args(self) -> tuple[str, list[str]]:
        """The child's name, for Supervisor's messages; nothing is executed. Where a hook fails, nothing is forked."""
        try:
            self.config.before_fork()
        except BoilerdError as error:
            self.config.scoreboard.note_start_error(self.config.row, str(error))
            self._note_failed_start("")
            raise ProcessException(str(error)) from error
        return self.config.name, [self.config.name]

    def _spawn_as_child(self, filename: str, argv: Sequence[str]) -> None:
        status = 1
        try:
            if self._may_copy_held_locks:
                renew_locks()
            if not self.config.is_in_foreground:
                # The child leaves the terminal's foreground group: Ctrl-C is for the parent only.
                self.config.options.setpgrp()
            self.config.options.leave_parent()
            ignore_background_stops()
            if self.config.is_in_foreground:
                leave_stops_to_parent()
            status = self.config.target()
        except BaseException:
            # An error of boilerd, not of a task: it counts as a failed start, so that it is tried again less and less.
            self.config.scoreboard.mark_booted(self.config.row, has_booted=False)
            logger.critical("process crashed", exc_info=True, extra={"child": self.full_name})
        finally:
            printed.flush()
            # Not sys.exit, which the parent's code around this call would see.
            os._exit(status)


class ChildConfig(ProcessConfig):  # type: ignore[misc]
    """The configuration of a child: its parameters are those of Supervisor's file, with our defaults.

    Args:
        scoreboard: Where the child notes what it does, and others look up its process ID.
        row: Its cell there.
    """

    process_class: type[Child]

    def __init__(self, options: ServerOptions, *, scoreboard: Scoreboard, row: int, **params: Any) -> None:
        super().__init__(options, **_default_params() | params)
        self.scoreboard = scoreboard
        self.row = row

    def make_process(self, group: object = None) -> Child:
        """Supervisor's hook; without our class it would make a Subprocess of its own."""
        process = self.process_class(self)
        process.group = group
        return process


class ForkedConfig(ChildConfig):
    """The configuration of a forked child.

    Args:
        target: Runs in the child; returns the exit status.
        before_fork: Called in the parent before each fork; where it raises a BoilerdError, nothing is forked.
        is_in_foreground: True if the child shares the terminal with this program.
    """

    process_class = ForkedProcess

    def __init__(
        self,
        options: ServerOptions,
        *,
        target: Callable[[], int],
        before_fork: Callable[[], None] = lambda: None,
        is_in_foreground: bool = False,
        **params: Any,
    ) -> None:
        super().__init__(options, killasgroup=not is_in_foreground, **params)
        self.target = target
        self.before_fork = before_fork
        self.is_in_foreground = is_in_foreground

    def make_dispatchers(self, proc: Subprocess) -> tuple[dict[int, object], dict[str, int | None]]:
        """No pipes: children write to the parent's stdout, so lines go straight to the journal."""
        return {}, dict(NO_PIPES)


def forked_config(
    options: ServerOptions,
    name: str,
    target: Callable[[], int],
    *,
    priority: int,
    scoreboard: Scoreboard,
    row: int,
    stop_wait_s: float,
    before_fork: Callable[[], None] = lambda: None,
    restarts_always: bool = True,
    is_in_foreground: bool = False,
) -> ForkedConfig:
    """The configuration of a child that runs `target`; `restarts_always` is False in a burst, whose workers end."""
    return ForkedConfig(
        options,
        target=target,
        before_fork=before_fork,
        is_in_foreground=is_in_foreground,
        scoreboard=scoreboard,
        row=row,
        name=name,
        command=f"(forked) {name}",
        priority=priority,
        stopwaitsecs=stop_wait_s,
        exitcodes=[DONE],
        autorestart=RestartUnconditionally if restarts_always else RestartWhenExitUnexpected,
    )


def _default_params() -> dict[str, Any]:
    """Every parameter of a process that Supervisor asks for."""
    params: dict[str, Any] = {
        "uid": None, "directory": None, "umask": None, "autostart": True, "autorestart": RestartUnconditionally,
        "startsecs": 1, "startretries": START_RETRIES, "stopsignal": signal.SIGTERM, "stopasgroup": False,
        "killasgroup": True, "exitcodes": [0], "redirect_stderr": False,
    }  # fmt: skip
    for stream in ("stdout", "stderr"):
        for name in ("capture_maxbytes", "logfile_backups", "logfile_maxbytes"):
            params[f"{stream}_{name}"] = 0
        params |= {f"{stream}_logfile": None, f"{stream}_events_enabled": False, f"{stream}_syslog": False}
    return params

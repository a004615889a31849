"""A reload: try the new settings and the new code first, then drain, then become the new program."""

import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import IO, Any

from boilerd.process.exit_status import describe_exit
from boilerd.process.failpoints import failpoint
from boilerd.process.signals import STOP_SIGNALS
from boilerd.supervision.groups import SCHEDULER, WORKER
from boilerd.supervision.handover import Handover, hold_signals, release_signals
from boilerd.supervision.options import Options
from boilerd.supervision.report import Report

logger = logging.getLogger("boilerd.supervisor")

#: How long the trial may take: it imports the application.
CHECK_TIMEOUT_S = 60.0
#: What stands before an error on the command line.
_ERROR = "boilerd: error: "


class Reload:
    """A reload's way from the request to the new program; the daemon's loop takes it step by step.

    Args:
        options: Supervisor's, which knows the children, and those whose tasks were cut short.
        group: Name → Supervisor's group of processes.
        report: Told how it goes.
        hand_over: What the new program, or the trial of it, is to be told.

    Attributes:
        trouble: Why the last one came to nothing; empty: it did not.
    """

    def __init__(
        self, options: Options, group: Callable[[str], Any], report: Report, hand_over: Callable[[], Handover]
    ) -> None:
        self._options = options
        self._group = group
        self._report = report
        self._hand_over = hand_over
        self._check: Check | None = None
        self.is_draining = False
        self.trouble = ""

    @property
    def is_under_way(self) -> bool:
        """Whether one was asked for and is not decided yet."""
        return self._check is not None or self.is_draining

    def begin(self) -> None:
        """Try the new settings and the new code. The caller makes sure that nothing is under way."""
        logger.info("reloading, checking the settings and the application first")
        self.trouble = ""
        self._report.reload_begins()
        try:
            self._check = Check(self._options.pidhistory, self._hand_over().environ())
        except OSError as error:  # no process or file descriptor is to be had, which is no reason to end
            self._refuse(f"there is no way to try it: {error}")

    def step(self) -> None:
        """See to what is under way."""
        if self._check is not None:
            self._judge(self._check)
        else:
            self._report.needs_time()
            self._drain()

    def abandon(self) -> None:
        """The daemon drains for good."""
        if self._check is not None:
            self._check.abandon()

    def _judge(self, check: "Check") -> None:
        """When the trial is over, drain, or go on as before."""
        check.hurry()
        if not check.is_over:
            return
        self._check = None
        if check.error:
            self._refuse(check.error, check.traceback)
        else:
            logger.info("reloading, draining the workers")
            self._options.timed_out.clear()
            self.is_draining = True

    def _refuse(self, error: str, traceback: str | None = None) -> None:
        logger.error("reload refused, going on as before", extra={"error": error, "traceback": traceback})
        self.trouble = f"reload refused: {error}"
        self._report.goes_on()

    def _drain(self) -> None:
        """Stop the workers, then the scheduler, then become the new program."""
        for name in (WORKER, SCHEDULER):
            group = self._group(name)
            if group.get_unstopped_processes():
                group.stop_all()
                return
        if self._options.timed_out:
            logger.warning("reload cut tasks short, they run again", extra={"children": self._options.timed_out})
        self._become_new()

    def _become_new(self) -> None:
        failpoint("supervisor-becomes-new")
        hold_signals()
        try:
            if STOP_SIGNALS.isdisjoint(self._options.signal_receiver._signals_recvd):  # noqa: SLF001 - has no look-ahead
                self._report.live()
                self._hand_over().execute()
        except OSError as error:
            self.trouble = f"reload failed: {error}"
            logger.exception("reload failed, going on as before")
        finally:
            release_signals()
        # Still here: the old workers go on.
        self.is_draining = False
        self._report.goes_on()
        for name in (SCHEDULER, WORKER):
            for process in self._group(name).processes.values():
                process.spawn()


class Check:
    """``boilerd run --check`` with this daemon's arguments, as a child that Supervisor reaps.

    Args:
        pids: Supervisor's children, by their process IDs.
        environ: The child's environment.

    Attributes:
        error: What was wrong, when it is over; empty: nothing.
        traceback: What it printed before that; None: nothing.

    Raises:
        OSError: There is no process or file descriptor for it.
    """

    def __init__(self, pids: dict[int, Any], environ: Mapping[str, str]) -> None:
        self.error = ""
        self.traceback: str | None = None
        self.is_over = self._is_late = False
        self._since_s = time.monotonic()
        self._said = _memory_file()
        self._pid = os.posix_spawn(
            sys.executable,
            [sys.executable, *sys.orig_argv[1:], "--check"],
            environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, self._said.fileno(), 2),
            ],
            setpgroup=0,
        )
        pids[self._pid] = self

    def hurry(self) -> None:
        """End it when it takes too long."""
        if time.monotonic() - self._since_s > CHECK_TIMEOUT_S:
            self._is_late = True
            self.abandon()

    def abandon(self) -> None:
        """End it."""
        if not self.is_over:
            os.killpg(self._pid, signal.SIGKILL)  # and programs that the application started

    def finish(self, pid: int, sts: int) -> None:
        """Supervisor's hook: it ended."""
        self.is_over = True
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").strip().split("\n")
        self._said.close()
        status = os.waitstatus_to_exitcode(sts)
        if status == 0:
            return
        # Code of the application's that runs at the end may have printed more behind it.
        told = max((n for n, line in enumerate(lines) if line.startswith(_ERROR)), default=len(lines) - 1)
        self.traceback = "\n".join(lines[:told]) or None
        if self._is_late:
            self.error = f"the check took longer than {CHECK_TIMEOUT_S:g} s; see what the import of app waits for"
        elif lines[told].startswith(_ERROR):
            self.error = lines[told].removeprefix(_ERROR)
        else:
            self.error = ": ".join(filter(None, (f"the check ended with {describe_exit(status)}", lines[told])))


def _memory_file() -> IO[bytes]:
    """For what the trial says: not on a disk, which may be full."""
    if sys.platform != "linux":
        return tempfile.TemporaryFile()
    return os.fdopen(os.memfd_create("boilerd-check"), "w+b")

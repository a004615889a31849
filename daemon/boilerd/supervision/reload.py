"""A reload: check the new settings and the new code, drain the workers, then execute the new program.

Supervisor's own reload stops everything and starts again; this one is checked first, and keeps the process ID, the
locks and the embedded broker.
"""

import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any

from boilerd.process import logs
from boilerd.process.exit_status import describe_exit
from boilerd.process.failpoints import failpoint
from boilerd.process.signals import hold_signals, release_signals
from boilerd.process.terminal import is_stop
from boilerd.supervision.children import NO_PIPES
from boilerd.supervision.groups import DASHBOARD, EXPORTER, SCHEDULER, WATCHER, worker_groups
from boilerd.supervision.handover import Handover
from boilerd.supervision.options import Options
from boilerd.supervision.report import Report
from boilerd.supervision.sd_notify import IMPORT_LIMIT_S

logger = logging.getLogger("boilerd.supervisor")

#: How long the check may take: it imports the application, then tries the broker.
CHECK_TIMEOUT_S = IMPORT_LIMIT_S + 10.0
#: How long the status tells why a reload failed. Whether the cause is gone nobody knows before the next one.
TELL_ERROR_S = 600.0
#: The command line's prefix of an error.
_ERROR_PREFIX = "boilerd: error: "
#: The groups that need neither workers nor the scheduler, and that need not be there.
_OTHERS = (DASHBOARD, EXPORTER, WATCHER)


class Reload:
    """The reload that is under way, if any, from the request to the new program; the daemon's loop calls `step`.

    Args:
        options: Supervisor's; they know the children, and which of them were cut short.
        groups: Returns Supervisor's groups of processes, by their names.
        report: Gets the begin and the end of a reload.
        hand_over: Returns what the new program, or the check of it, takes over.

    Attributes:
        is_draining: True from a successful check until the new program runs, or could not be executed.
        last_error: Why the last reload failed; empty if it did not, or if that was long ago.
    """

    def __init__(
        self,
        options: Options,
        groups: Callable[[], Mapping[str, Any]],
        report: Report,
        hand_over: Callable[[], Handover],
    ) -> None:
        self._options = options
        self._groups = groups
        self._report = report
        self._hand_over = hand_over
        self._check: Check | None = None
        self.is_draining = False
        self._must_check_again = False
        self._last_error = ""
        self._tell_until_s = 0.0

    @property
    def last_error(self) -> str:  # noqa: D102 - see the class
        return self._last_error if time.monotonic() < self._tell_until_s else ""

    @last_error.setter
    def last_error(self, error: str) -> None:
        self._last_error = error
        self._tell_until_s = time.monotonic() + TELL_ERROR_S

    @property
    def is_under_way(self) -> bool:
        """True from the request until the reload was refused, has failed, or has replaced this program."""
        return self._check is not None or self.is_draining

    def begin(self) -> None:
        """Begin with the check. The caller makes sure that no reload is under way."""
        logger.info("reloading, checking the settings and the application first")
        self.last_error = ""
        self._report.reload_begins()
        self._begin_check()

    def _begin_check(self) -> None:
        self._must_check_again = False
        try:
            self._check = Check(self._options.pidhistory, self._hand_over().environ())
        except OSError as error:  # no process or file descriptor is free, which is no reason to end
            self._refuse(f"there is no way to try it: {error}")

    def check_again(self) -> None:
        """While it drains: what was checked has changed since, so check it once more before it is executed."""
        if not self._must_check_again:
            logger.info("reloading, checking once more when the workers have ended")
        self._must_check_again = True

    def step(self) -> None:
        """Take the next step of the reload that is under way."""
        self._report.extend_timeout()
        if self._check is not None:
            self._follow_check(self._check)
        else:
            self._drain()

    def abandon(self) -> None:
        """End the check, if one is under way: the daemon drains for good."""
        if self._check is not None:
            self._check.stop()

    def _follow_check(self, check: "Check") -> None:
        """Once the check is over, begin to drain, or go on with that, or refuse the reload."""
        check.end_if_late()
        if not check.is_over:
            return
        self._check = None
        if check.error:
            self._refuse(check.error, check.traceback)
        elif not self.is_draining:
            logger.info("reloading, draining the workers")
            self._options.timed_out.clear()
            self.is_draining = True

    def _refuse(self, error: str, traceback: str | None = None) -> None:
        logger.error("reload refused, going on as before", extra={"error": error, "traceback": traceback})
        self.last_error = f"reload refused: {error}"
        self._go_on()

    def _drain(self) -> None:
        """Stop the workers, then the scheduler, then what else there is, then execute the new program."""
        groups = self._groups()
        if _stop(worker_groups(groups.values())) or _stop([groups[SCHEDULER]]):
            return
        if self._must_check_again:
            self._begin_check()
            return
        if _stop(filter(None, map(groups.get, _OTHERS))):
            return
        if self._options.timed_out:
            logger.warning("reload cut tasks short, they run again", extra={"children": self._options.timed_out})
        self._execute()

    def _execute(self) -> None:
        failpoint("supervisor-becomes-new")
        hold_signals()
        try:
            if not any(map(is_stop, self._options.signal_receiver._signals_recvd)):  # noqa: SLF001 - has no look-ahead
                self._report.feed_watchdog()
                logs.flush()
                self._hand_over().execute()
        except OSError as error:
            self.last_error = f"reload failed: {error}"
            logger.exception("reload failed, going on as before")
        finally:
            release_signals()
        self._go_on()

    def _go_on(self) -> None:
        """The old program goes on; if its workers have drained, with new ones."""
        if self.is_draining:
            self.is_draining = False
            known = self._groups()
            groups = filter(None, [known.get(SCHEDULER), *worker_groups(known.values()), *map(known.get, _OTHERS)])
            for process in (process for group in groups for process in group.processes.values() if not process.pid):
                process.spawn()
        self._report.reload_refused()


class Check:
    """``boilerd run --check`` with this daemon's arguments, as a child that Supervisor reaps.

    It stands in Supervisor's table of children, so it has what is asked of each of them: `pipes`, which a forked child
    closes, `stop` and `finish`.

    Args:
        pids: Supervisor's children, by their process IDs.
        environ: The child's environment.

    Attributes:
        is_over: True when the child has ended.
        error: Why the daemon cannot reload, once the check is over; empty if it can.
        traceback: The output before the error; None if there was none.

    Raises:
        OSError: No process or file descriptor is free.
    """

    def __init__(self, pids: dict[int, Any], environ: Mapping[str, str]) -> None:
        self.error = ""
        self.traceback: str | None = None
        self.is_over = self._is_late = False
        self._since_s = time.monotonic()
        self._output = _memory_file()
        self.pipes = NO_PIPES | {"stdout": self._output.fileno()}
        self._pid = os.posix_spawn(
            sys.executable,
            [sys.executable, *sys.orig_argv[1:], "--check"],
            environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, self._output.fileno(), 2),
            ],
            setpgroup=0,
        )
        pids[self._pid] = self

    def end_if_late(self) -> None:
        """End the check if it takes too long."""
        if time.monotonic() - self._since_s > CHECK_TIMEOUT_S:
            self._is_late = True
            self.stop()

    def stop(self) -> None:
        """End the check now."""
        if not self.is_over:
            os.killpg(self._pid, signal.SIGKILL)  # and programs that the application started

    def finish(self, pid: int, sts: int) -> None:
        """Supervisor's hook: the child has ended."""
        self.is_over = True
        self._output.seek(0)
        lines = self._output.read().decode("utf-8", "replace").strip().split("\n")
        self._output.close()
        status = os.waitstatus_to_exitcode(sts)
        if status == 0:
            return
        # Code of the application that runs at the exit may have printed more after the error.
        last = max((n for n, line in enumerate(lines) if line.startswith(_ERROR_PREFIX)), default=len(lines) - 1)
        self.traceback = "\n".join(lines[:last]) or None
        if self._is_late:
            self.error = f"the check took longer than {CHECK_TIMEOUT_S:g} s; see what the import of app waits for"
        elif lines[last].startswith(_ERROR_PREFIX):
            self.error = lines[last].removeprefix(_ERROR_PREFIX)
        else:
            self.error = ": ".join(filter(None, (f"the check ended with {describe_exit(status)}", lines[last])))


def _stop(groups: Iterable[Any]) -> bool:
    """Have the processes of these groups end; False: they have."""
    unstopped = [group for group in groups if group.get_unstopped_processes()]
    for group in unstopped:
        group.stop_all()
    return bool(unstopped)


def _memory_file() -> IO[bytes]:
    """A file for the check's output, in memory: a disk may be full."""
    if sys.platform != "linux":
        return tempfile.TemporaryFile()
    return os.fdopen(os.memfd_create("boilerd-check"), "w+b")

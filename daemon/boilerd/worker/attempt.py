"""Run one attempt: the handler, inside its time limits, to an outcome."""

import math
import operator
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec

from boilerd.errors import (
    DeadlineExceededError,
    DeadlineInterrupt,
    ShutdownTimeoutError,
    TaskCancelledError,
    TaskInterrupt,
    TaskTimeoutError,
    describe,
)
from boilerd.process.signals import install_handler, reinstall_handlers
from boilerd.tasks.coroutines import strike
from boilerd.tasks.mux import Handler
from boilerd.tasks.task import Runtime, Task

_moment = operator.itemgetter(0)
#: Larger results are not kept; Redis would refuse far larger ones, and loop the worker.
MAX_RESULT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Completed:
    """The handler returned."""

    result: Any = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The handler raised, or was interrupted: at its timeout or deadline, or because it was cancelled."""

    error: BaseException
    traceback: str

    @property
    def line(self) -> str:
        """The error in one line."""
        return describe(self.error)


@dataclass(frozen=True, slots=True)
class Released:
    """The drain ended before the handler did; the attempt does not count."""


Outcome = Completed | Failed | Released


class AttemptRunner:
    """Runs handlers in this process's main thread, one at a time.

    All limits, the task's timeout, its deadline and the end of a drain, share the process's
    one interval timer: SIGALRM raises an exception in the handler's Python code, which
    `except Exception` does not swallow. So does SIGUSR1, when the task was cancelled. Code that
    never returns to Python is ended from outside, by SIGKILL.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._limits: list[tuple[float, TaskInterrupt]] = []
        self._drain_until: float | None = None
        self._alert_at: float | None = None
        self._runtime: Runtime | None = None
        self._is_running = False
        self._struck: TaskInterrupt | None = None
        self._pid = os.getpid()
        install_handler(signal.SIGALRM, self._cut)
        install_handler(signal.SIGUSR1, self._look_for_cancellation)

    def run(
        self,
        task: Task,
        runtime: Runtime | None = None,
        *,
        deadline_in_s: float | None = None,
        alert_in_s: float | None = None,
    ) -> Outcome:
        """Run one attempt; never raises.

        Args:
            task: What to run.
            runtime: What the attempt can tell the task; None: nothing.
            deadline_in_s: Seconds until the task's deadline, by Redis's clock.
            alert_in_s: Seconds until a SIGALRM that does nothing but arrive, for the process's wakeup fd.
        """
        if deadline_in_s is not None and deadline_in_s <= 0:
            late = DeadlineExceededError(f"the deadline passed {-deadline_in_s:.1f} s before the attempt began")
            return Failed(late, describe(late))
        try:
            try:
                self._alert_at = None if alert_in_s is None else time.monotonic() + alert_in_s
                self._begin(task, runtime, deadline_in_s)
                task.attach(runtime)
                result = self._handler(task)
            finally:
                if os.getpid() != self._pid:
                    _end_fork()
                self._end()
            return Completed(result)
        except BaseException as error:  # noqa: BLE001 - sys.exit() in a handler must not end the worker
            if self._is_running:
                self._end()  # an interrupt came just before it
            # A handler may have put another error in the interrupt's place.
            interrupt = self._struck
            if isinstance(interrupt, ShutdownTimeoutError):
                return Released()
            return Failed(_plain(interrupt or error), _format(error))

    def drain(self, timeout_s: float) -> None:
        """End the running handler in `timeout_s` seconds at the latest; call it from a signal handler."""
        self._drain_until = time.monotonic() + timeout_s
        if self._is_running:
            self._arm()

    def remaining_s(self) -> float:
        """Seconds until the running attempt is cut."""
        limit = self._next_limit()
        return math.inf if limit is None else max(0.0, limit[0] - time.monotonic())

    def _begin(self, task: Task, runtime: Runtime | None, deadline_in_s: float | None) -> None:
        now = time.monotonic()
        self._limits, self._struck = [], None
        if task.timeout_s is not None:
            error: TaskInterrupt = TaskTimeoutError("the attempt took longer than the task's timeout")
            self._limits.append((now + task.timeout_s, error))
        if deadline_in_s is not None:
            error = DeadlineInterrupt("the task's deadline has passed")
            self._limits.append((now + deadline_in_s, error))
        self._runtime, self._is_running = runtime, True
        self._arm()

    def _end(self) -> None:
        self._is_running = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        reinstall_handlers()

    def _arm(self) -> None:
        limit, moment = self._next_limit(), self._alert_at
        if limit and (moment is None or limit[0] < moment):
            moment = limit[0]
        if moment is not None:
            # 0 would disarm the timer.
            signal.setitimer(signal.ITIMER_REAL, max(1e-6, moment - time.monotonic()))

    def _next_limit(self) -> tuple[float, TaskInterrupt] | None:
        limits = self._limits
        if self._drain_until is not None:
            limits = [*limits, (self._drain_until, ShutdownTimeoutError("the shutdown timeout is over"))]
        return min(limits, key=_moment, default=None)

    def _cut(self, signum: int, frame: object) -> None:
        if not self._is_running:
            return
        now = time.monotonic()
        if self._alert_at is not None and now >= self._alert_at:
            self._alert_at = None
        limit = self._next_limit()
        if limit is not None and now >= limit[0]:
            self._interrupt(limit[1])
        else:
            self._arm()

    def _look_for_cancellation(self, signum: int, frame: object) -> None:
        """The scheduler says that a task of this worker was cancelled: the one that runs now?"""
        if self._is_running and self._runtime and (reason := self._runtime.cancellation()):
            self._interrupt(TaskCancelledError(reason))

    def _interrupt(self, error: TaskInterrupt) -> None:
        """Raise it in the handler, or have its coroutine cancelled."""
        self._struck = error
        if not strike(error):
            raise error


def _end_fork() -> NoReturn:
    """End a child that a handler forked and that came back from it: the attempt is its parent's."""
    error = sys.exception()
    status = 0 if error is None else 1
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        traceback.print_exception(error)
    with suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def encode_result(result: Any) -> bytes:
    """The result as JSON, empty for None; a note where it cannot be kept: a task that succeeded stays so."""
    if result is None:
        return b""
    try:
        encoded = msgspec.json.encode(result)
    except Exception:  # noqa: BLE001 - any object may refuse in any way
        return msgspec.json.encode(f"not JSON: {type(result).__name__}")
    if len(encoded) > MAX_RESULT_BYTES:
        return msgspec.json.encode(f"too large: {len(encoded)} bytes")
    return encoded


def _plain(error: BaseException) -> BaseException:
    """Interrupts as what they mean for the task."""
    return DeadlineExceededError(str(error)) if isinstance(error, DeadlineInterrupt) else error


def _format(error: BaseException) -> str:
    """The traceback without boilerd's own frames on top, at most 64 KiB."""
    frames = error.__traceback__
    while frames and str(frames.tb_frame.f_globals.get("__name__")).startswith("boilerd."):
        frames = frames.tb_next
    frames = frames or error.__traceback__
    try:
        lines = traceback.format_exception(type(error), error, frames)
    except Exception:  # noqa: BLE001 - notes, and what else the application may have put there
        lines = ["Traceback (most recent call last):\n", *traceback.format_tb(frames), describe(error), "\n"]
    return "".join(lines)[-65536:]

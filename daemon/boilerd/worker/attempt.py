"""Run one attempt: the handler, within its time limits, to an outcome."""

import functools
import logging
import math
import operator
import os
import signal
import time
import traceback
from typing import Any

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
from boilerd.process import debugging
from boilerd.process.forks import end_child
from boilerd.process.signals import install_handler, reinstall_handlers
from boilerd.process.surroundings import Surroundings
from boilerd.tasks.coroutines import interrupt
from boilerd.tasks.current import CURRENT
from boilerd.tasks.mux import Handler
from boilerd.tasks.payload import as_base
from boilerd.tasks.task import Runtime, Task

logger = logging.getLogger("boilerd.task")

_moment = operator.itemgetter(0)
#: Whoever waits for a result may want what a model computes.
_as_base = functools.partial(as_base, comes_back=False)
#: Larger results are not kept: Redis would refuse far larger ones, and the worker would send them for ever.
MAX_RESULT_BYTES = 16 * 1024 * 1024


class Completed(msgspec.Struct, frozen=True):
    """The handler returned."""

    result: Any = None


class Failed(msgspec.Struct, frozen=True):
    """The handler raised, or was interrupted: at its timeout or deadline, or because it was cancelled."""

    error: BaseException
    traceback: str

    @property
    def line(self) -> str:
        """The error in one line."""
        return describe(self.error)


class Released(msgspec.Struct, frozen=True):
    """The drain ended before the handler; the attempt does not count."""


Outcome = Completed | Failed | Released


class AttemptRunner:
    """Runs handlers in this process's main thread, one at a time.

    All limits, the task's timeout, its deadline and the end of a drain, share the process's
    one interval timer: SIGALRM raises an interrupt in the handler's Python code, which
    `except Exception` does not swallow. SIGUSR1 raises one too, when the task was cancelled. Code that
    never returns to Python is ended from outside, by SIGKILL.

    Args:
        handler: Runs a task.
        surroundings: To be put back after each attempt; None: those in which it begins to listen.
        listens: False before a fork; the child calls `listen`.
    """

    def __init__(self, handler: Handler, *, surroundings: Surroundings | None = None, listens: bool = True) -> None:
        self._handler = handler
        self._surroundings = surroundings
        self._limits: list[tuple[float, TaskInterrupt]] = []
        self._drain_until_s: float | None = None
        self._alert_at_s: float | None = None
        self._runtime: Runtime | None = None
        self._is_running = False
        self._interrupt: TaskInterrupt | None = None
        self._pid = 0
        self._is_debugging = False
        if listens:
            self.listen()

    def listen(self) -> None:
        """Take the signals of this process from now on."""
        self._pid = os.getpid()
        self._is_debugging = debugging.is_on()
        self._surroundings = self._surroundings or Surroundings()
        # A signal handler may do little: as a rule it notes a request (see process/signals). These two may do more
        # while an attempt runs, because the code that they come upon is then the application's: they may raise, which
        # ends it, and SIGUSR1 may ask Redis, on another connection where the application uses the first. They log
        # nothing: a line may be half written. Between two attempts they do nothing.
        install_handler(signal.SIGALRM, self._on_alarm)
        install_handler(signal.SIGUSR1, self._on_cancellation)

    # When a signal comes during `run`, in four moments:
    #
    # The signal comes           | _is_running | Effect
    # ---------------------------+-------------+-------------------------------------------------------------------
    # 1. before `_begin` sets it | False       | Nothing is raised. `drain` notes its limit, which `_begin` sees.
    # 2. from there to the end   | True        | It is raised there, or the coroutine is cancelled; the handler may
    #    of the handler          |             | clean up. `finally` ends the attempt, `except` makes the outcome.
    # 3. in `finally`, before    | True        | It is raised there, and `_end` is not reached: `except` calls it. A
    #    `_end` clears it        |             | handler that has just returned counts as interrupted.
    # 4. after that              | False       | Nothing is raised: the attempt has its outcome.
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
            task: The task to run.
            runtime: Answers the task's questions about the attempt; None: nobody does.
            deadline_in_s: Seconds until the task's deadline, by Redis's clock.
            alert_in_s: Seconds until a SIGALRM that only wakes the reclaimer, through the wakeup fd.
        """
        if deadline_in_s is not None and deadline_in_s <= 0:
            return too_late(deadline_in_s)
        try:
            try:
                self._alert_at_s = None if alert_in_s is None else time.monotonic() + alert_in_s
                self._begin(task, runtime, deadline_in_s)
                task.attach(runtime)
                CURRENT.set(task)  # until the end of the context, which is this attempt's own
                result = self._handler(task)
            finally:
                if os.getpid() != self._pid:
                    end_child()
                self._end()
            return Completed(result)
        except BaseException as error:  # noqa: BLE001 - sys.exit() in a handler must not end the worker
            if self._is_running:
                self._end()
            return self._outcome_of(error)

    def drain(self, timeout_s: float) -> None:
        """Interrupt the running handler in `timeout_s` seconds at the latest; call it from a signal handler."""
        self._drain_until_s = time.monotonic() + timeout_s
        if self._is_running:
            self._arm()

    def put_back(self) -> None:
        """Undo what code of the application has done to this process."""
        reinstall_handlers()
        if self._surroundings:
            self._surroundings.put_back()

    def keep_surroundings(self) -> None:
        """Put back from now on what is here now."""
        self._surroundings = Surroundings()

    def remaining_s(self) -> float:
        """Seconds until the running attempt is interrupted."""
        limit = self._next_limit()
        return math.inf if limit is None else max(0.0, limit[0] - time.monotonic())

    def _begin(self, task: Task, runtime: Runtime | None, deadline_in_s: float | None) -> None:
        now_s = time.monotonic()
        self._limits, self._interrupt = [], None
        if task.timeout_s is not None and not self._is_debugging:
            error: TaskInterrupt = TaskTimeoutError("the attempt took longer than the task's timeout")
            self._limits.append((now_s + task.timeout_s, error))
        if deadline_in_s is not None and not self._is_debugging:
            error = DeadlineInterrupt("the task's deadline has passed")
            self._limits.append((now_s + deadline_in_s, error))
        self._runtime, self._is_running = runtime, True
        self._arm()

    def _end(self) -> None:
        self._is_running = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.put_back()

    def _outcome_of(self, error: BaseException) -> Outcome:
        """The outcome of an attempt that raised; the interrupt is its cause, whatever the handler made of it."""
        if isinstance(self._interrupt, ShutdownTimeoutError):
            return Released()
        return failed(error, self._interrupt)

    def _arm(self) -> None:
        """Set the timer to the next limit, or to the alert before it."""
        limit, moment_s = self._next_limit(), self._alert_at_s
        if limit and (moment_s is None or limit[0] < moment_s):
            moment_s = limit[0]
        if moment_s is not None:
            # 0 would disarm the timer.
            signal.setitimer(signal.ITIMER_REAL, max(1e-6, moment_s - time.monotonic()))

    def _next_limit(self) -> tuple[float, TaskInterrupt] | None:
        """When to interrupt the handler next, and with what."""
        limits = self._limits
        # Not kept in the list: a TERM may come while `_begin` makes a new one.
        if self._drain_until_s is not None:
            limits = [*limits, (self._drain_until_s, ShutdownTimeoutError("the shutdown timeout is over"))]
        return min(limits, key=_moment, default=None)

    def _on_alarm(self, signum: int, frame: object) -> None:
        if not self._is_running:
            return
        now_s = time.monotonic()
        if self._alert_at_s is not None and now_s >= self._alert_at_s:
            self._alert_at_s = None
        limit = self._next_limit()
        if limit is not None and now_s >= limit[0]:
            self._raise_in_handler(limit[1])
        else:
            self._arm()

    def _on_cancellation(self, signum: int, frame: object) -> None:
        """The scheduler says that a task of this worker was cancelled: ask whether it is the running one."""
        if self._is_running and self._runtime and (reason := self._runtime.cancellation()):
            self._raise_in_handler(TaskCancelledError(reason))

    def _raise_in_handler(self, error: TaskInterrupt) -> None:
        """Raise it in the handler, or have its coroutine cancelled."""
        self._interrupt = error
        if not interrupt(error):
            raise error


def too_late(deadline_in_s: float) -> Failed:
    """The outcome of an attempt that may not begin any more."""
    late = DeadlineExceededError(f"the deadline passed {-deadline_in_s:.1f} s before the attempt began")
    return Failed(late, describe(late))


def failed(error: BaseException, interrupt: TaskInterrupt | None = None) -> Failed:
    """The outcome of an attempt that raised; `interrupt` is what led to it, if something did."""
    return Failed(_for_users(interrupt or error), _format(error))


def encode_result(result: Any, task: Task | None = None) -> bytes:
    """The result as JSON, empty for None; a note where it cannot be kept: the task completed all the same."""
    if result is None:
        return b""
    try:
        encoded = msgspec.json.encode(result, enc_hook=_as_base)
    except BaseException as error:  # noqa: BLE001 - any object may refuse in any way, with sys.exit() as well
        return _note(task, f"not JSON: {type(result).__name__}", error)
    if len(encoded) > MAX_RESULT_BYTES:
        return _note(task, f"too large: {len(encoded)} bytes")
    return encoded


def _note(task: Task | None, why: str, error: BaseException | None = None) -> bytes:
    """What is kept in place of a result, after a warning."""
    fields = task.log_fields if task else {}
    told = f"{why} ({describe(error)})" if error else why
    logger.warning("result not kept, return what JSON can hold", extra={**fields, "error": told})
    return msgspec.json.encode(why)


def _for_users(error: BaseException) -> BaseException:
    """The error as users know it: an interrupt at the deadline is a DeadlineExceededError."""
    return DeadlineExceededError(str(error)) if isinstance(error, DeadlineInterrupt) else error


def _format(error: BaseException) -> str:
    """The traceback without boilerd's own frames on top, at most 64 KiB."""
    frames = error.__traceback__
    while frames and str(frames.tb_frame.f_globals.get("__name__")).startswith("boilerd."):
        frames = frames.tb_next
    frames = frames or error.__traceback__
    try:
        lines = traceback.format_exception(type(error), error, frames)
    except Exception:  # noqa: BLE001 - notes, and whatever else the application may have put there
        lines = ["Traceback (most recent call last):\n", *traceback.format_tb(frames), describe(error), "\n"]
    return "".join(lines)[-65536:]

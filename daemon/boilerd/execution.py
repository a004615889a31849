"""Run one attempt: the handler, inside its time limits, to an outcome."""

import signal
import time
import traceback
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec

from boilerd.errors import BoilerdError, ShutdownTimeoutError, TaskInterrupt, TaskTimeoutError, describe
from boilerd.mux import Handler
from boilerd.task import Task


@dataclass(frozen=True, slots=True)
class Completed:
    """The handler returned; `result` is what it returned as JSON, empty for None."""

    result: bytes = b""


@dataclass(frozen=True, slots=True)
class Failed:
    """The handler raised, or was interrupted at its timeout."""

    error: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Released:
    """The drain ended before the handler did; the attempt does not count."""


Outcome = Completed | Failed | Released


class Execution:
    """Runs handlers in this process's main thread, one at a time.

    Both limits, the task's timeout and the end of a drain, share the process's one interval
    timer: SIGALRM raises an exception in the handler's Python code, which `except Exception`
    does not swallow. Code that never returns to Python is ended from outside, by SIGKILL.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._timeout_at: float | None = None
        self._drain_until: float | None = None
        self._is_cut = False
        signal.signal(signal.SIGALRM, self._interrupt)

    def run(self, task: Task) -> Outcome:
        """Run one attempt; never raises."""
        self._is_cut = False
        try:
            self._timeout_at = time.monotonic() + task.timeout_s
            try:
                self._arm()
                result = self._handler(task)
            finally:
                self._timeout_at = None
                signal.setitimer(signal.ITIMER_REAL, 0)
            return Completed(_encode_result(result))
        except BaseException as error:  # noqa: BLE001 - sys.exit() in a handler must not end the worker
            # A clean-up that fails on the way out may have put another error in the interrupt's place.
            return Released() if self._is_cut else Failed(describe(error), _format(error))

    def drain(self, timeout_s: float) -> None:
        """End the running handler in `timeout_s` seconds at the latest; call it from a signal handler."""
        self._drain_until = time.monotonic() + timeout_s
        if self._timeout_at is not None:
            self._arm()

    def _arm(self) -> None:
        limits = [at for at in (self._timeout_at, self._drain_until) if at is not None]
        # 0 would disarm the timer.
        signal.setitimer(signal.ITIMER_REAL, max(1e-6, min(limits) - time.monotonic()))

    def _interrupt(self, signum: int, frame: object) -> None:
        if self._timeout_at is None:
            return  # the handler has just ended
        raise self._reason()

    def _reason(self) -> TaskInterrupt:
        if self._drain_until is not None and time.monotonic() >= self._drain_until:
            self._is_cut = True
            return ShutdownTimeoutError("the shutdown timeout is over")
        return TaskTimeoutError("the attempt took longer than the task's timeout")


def run(task_type: str, payload: Any = None) -> NoReturn:  # noqa: ARG001 - the call as it is stored
    """What RQ's record of a task names as its function; only a plain RQ worker would call it.

    Raises:
        BoilerdError: Always. Such a worker knows neither the handlers nor our guarantees.
    """
    raise BoilerdError(f"task {task_type!r} runs in boilerd's workers only; stop the plain RQ worker on its queue")


def _encode_result(result: Any) -> bytes:
    """The result as JSON, or its type where it has no JSON form: a task that succeeded stays so."""
    if result is None:
        return b""
    try:
        return msgspec.json.encode(result)
    except Exception:  # noqa: BLE001 - any object may refuse in any way
        return msgspec.json.encode(f"not JSON: {type(result).__name__}")


def _format(error: BaseException) -> str:
    """The traceback without boilerd's own frames on top, at most 64 KiB."""
    frames = error.__traceback__
    while frames and str(frames.tb_frame.f_globals.get("__name__")).startswith("boilerd."):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames or error.__traceback__))[-65536:]

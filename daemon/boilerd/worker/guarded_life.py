"""A worker's lifespans with what guards them: time limits, a stop, the log, and what the supervisor knows of them."""

# Those of `signal` make enums: see `process.signals`.
import _signal  # type: ignore[import-not-found]
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NoReturn

from boilerd.errors import describe
from boilerd.process import debugging, printed
from boilerd.process.exit_status import FAILED, OK, RECYCLED
from boilerd.process.logs import log_stacks, put_back
from boilerd.process.scoreboard import Scoreboard
from boilerd.process.signals import Stopped, StopRequest, reinstall_handlers
from boilerd.tasks.coroutines import interrupt
from boilerd.tasks.life import Life, WorkerContext
from boilerd.tasks.task import NO_STATE
from boilerd.worker.limits import Limits
from boilerd.worker.lives import entered

logger = logging.getLogger("boilerd.worker")

#: What lifespans get at least to leave, where a task has used up all of the drain.
LEAST_STOP_S = 2.0
#: What ignores that its time to leave is over, gets so much more.
GRACE_S = 0.3


class GuardedLife:
    """Enters a worker's lifespans when it starts, and leaves them when it ends.

    Args:
        life: The application's.
        worker: What they are told of the worker.
        limits: How long they may take.
        stop: Ends a start; its age tells what is left of a drain.
        scoreboard: Where it notes for how long the worker may be silent, and why it did not start.

    Attributes:
        state: `task.state` of the worker's tasks.
        has_lifespans: False: there is nothing to enter.
    """

    def __init__(
        self, life: Life, worker: WorkerContext, limits: Limits, stop: StopRequest, scoreboard: Scoreboard
    ) -> None:
        self._life = life
        self._worker = worker
        self._limits = limits
        self._stop = stop
        self._scoreboard = scoreboard
        self._guard = _Guard()
        self._lived: AbstractContextManager[Mapping[str, Any]] | None = None
        self._is_entering = False
        self.state = NO_STATE
        self.has_lifespans = bool(life.parts)

    def enter(self) -> bool:
        """Enter the lifespans; False: the worker was told to stop, or it could not start, and the log says why."""
        if self._stop or not self.has_lifespans:
            return not self._stop
        limits, began_s = self._limits, time.monotonic()
        self._scoreboard.begin_start(self._worker.number, limits.start_s + limits.stop_s)
        error = TimeoutError(f"lifespans took longer than start_timeout, {limits.start_s:g} s")
        lived = entered(self._life, self._worker)
        try:
            self._is_entering = True
            with self._guard.limit(limits.start_s, error, limits.stop_s, self._give_up_start):
                if self._stop:  # it came before the guard was there
                    return False
                self.state = lived.__enter__()
        except BaseException as error:  # noqa: BLE001 - sys.exit() in it must not end the process without a word
            self._tell_failure(error)
            return False
        finally:
            self._is_entering = False
        reinstall_handlers()
        put_back()  # the daemon's logging, for the next line
        self._lived = lived
        logger.info("worker entered its lifespans", extra={"seconds": round(time.monotonic() - began_s, 3)})
        return True

    def leave(self, status: int) -> int:
        """Leave the lifespans that were entered; the exit status of a worker that would end with `status`."""
        if self._lived is None:
            return status
        lived, self._lived = self._lived, None
        failed = FAILED if status in {OK, RECYCLED} else status
        limit_s = self._stop_limit_s()
        self._scoreboard.allow_silence(self._worker.number, limit_s + GRACE_S)
        error = TimeoutError(f"lifespans took longer to leave than {limit_s:.3g} s, of stop_timeout or of the drain")
        try:
            with self._guard.limit(limit_s, error, GRACE_S, lambda: _give_up("worker ends in its lifespans", failed)):
                lived.__exit__(None, None, None)
        except BaseException as error:  # as above
            put_back()
            logger.exception("worker left its lifespans with an error", extra={"error": describe(error)})
            return failed
        return status

    def on_stop(self) -> None:
        """In the signal handler of a stop: end a start, or tell the application that the worker drains."""
        if self._is_entering:
            self._guard.end(Stopped())
        elif self._lived is not None or not self.has_lifespans:
            for hook in self._life.drains:
                try:
                    hook(self._worker)
                except (Exception, SystemExit):
                    logger.exception("on_drain raised")

    def _stop_limit_s(self) -> float:
        limits = self._limits
        if not self._stop:
            return limits.stop_s
        return min(limits.stop_s, max(LEAST_STOP_S, limits.drain_s - self._stop.age_s()))

    def _tell_failure(self, error: BaseException) -> None:
        if self._stop:
            return
        put_back()
        line = describe(error)
        self._scoreboard.note_start_error(self._worker.number, line)
        logger.error("worker did not start", exc_info=error, extra={"error": line})

    def _give_up_start(self) -> None:
        line = "lifespans ignored start_timeout"
        self._scoreboard.note_start_error(self._worker.number, line)
        _give_up("worker did not start", FAILED, error=line)


def _give_up(message: str, status: int, **fields: str) -> NoReturn:
    logger.error(message, extra={"hint": "its code does not end; the stacks tell where it is", **fields})
    log_stacks()
    printed.flush()
    os._exit(status)


class _Guard:
    """Ends code of the application that runs in the main thread, its coroutine included."""

    def __init__(self) -> None:
        self._is_inside = self._is_ending = False

    @contextmanager
    def limit(
        self, seconds: float, error: BaseException, grace_s: float, give_up: Callable[[], None]
    ) -> Iterator[None]:
        """Raise `error` in the block after so many seconds; call `give_up` if it goes on for `grace_s` after that."""
        self._error, self._grace_s, self._give_up = error, grace_s, give_up
        self._is_ending = False
        before = _signal.signal(signal.SIGALRM, self._on_alarm)
        try:
            self._is_inside = True
            self._set_timer(seconds)
            yield
        finally:
            self._is_inside = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            _signal.signal(signal.SIGALRM, before)

    def end(self, error: BaseException) -> None:
        """Raise `error` in the block; call it from a signal handler."""
        if self._is_inside and not self._is_ending:
            self._is_ending = True
            self._set_timer(self._grace_s)
            if not interrupt(error):
                raise error

    def _on_alarm(self, *_: object) -> None:
        if self._is_inside and self._is_ending:
            self._give_up()
        self.end(self._error)

    def _set_timer(self, seconds: float) -> None:
        if not debugging.is_on():
            signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))  # 0 would disarm it

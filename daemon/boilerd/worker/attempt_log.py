"""The middleware that logs each attempt."""

import functools
import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import ContextVar
from typing import Any, Protocol

from boilerd.errors import ShutdownTimeoutError, TaskInterrupt, describe, interrupt_in
from boilerd.process.folding import Folding
from boilerd.process.logs import log_context, put_back
from boilerd.tasks.callables import is_async
from boilerd.tasks.mux import Handler
from boilerd.tasks.retry import is_misfit
from boilerd.tasks.task import Task

logger = logging.getLogger("boilerd.task")


def fold_attempts(most: int) -> Folding:
    """Fold the lines of attempts that go well, beyond so many a second; 0: none."""
    messages = ("task started", "task completed")
    return Folding(logger, most=dict.fromkeys(messages, most) if most else {})


class Interruptible(Protocol):
    """An attempt of a worker with slots, as far as its lines need it."""

    @property
    def reason(self) -> TaskInterrupt | None:
        """What it was interrupted with: its handler gets a cancellation, or an interrupt without words."""


#: The attempt that runs here, in a worker with slots; set by who runs it.
ATTEMPT: ContextVar[Interruptible | None] = ContextVar("boilerd_attempt", default=None)


def log_attempts(
    next_handler: Handler,
    folding: Folding | None = None,
    misfits: Folding | None = None,
    has_handler: Callable[[str], bool] = lambda _: True,
) -> Handler:
    """Log ``task started``, then ``task completed`` or ``task failed`` with the duration.

    The messages are boiler-go's. The worker puts this one outermost around every mux, so
    that each attempt has its lines whatever middleware an application uses. It is no generator, as an
    application's would be: that takes 0.3 µs more.

    Args:
        next_handler: Runs the attempt; where it is ``async def``, so is what this returns.
        folding: Folds the lines of attempts that go well; None: none are folded, here and below.
        misfits: Folds those of tasks that cannot run here.
        has_handler: Whether tasks of the type run.
    """
    known = logger.info if folding is None else functools.partial(_log_folded, folding)
    unknown = known if misfits is None else functools.partial(_log_folded, misfits)

    def handler(task: Task) -> Any:
        log = known if has_handler(task.type) else unknown
        with _fields(task):
            log("task started")
            started_s = time.perf_counter()
            try:
                result = next_handler(task)
            except BaseException as error:
                _log_failed(error, started_s, misfits)
                raise
            put_back()  # or the line might go nowhere
            log("task completed", extra={"duration_ms": _ms_since(started_s)})
            return result

    async def async_handler(task: Task) -> Any:
        log = known if has_handler(task.type) else unknown
        with _fields(task):
            log("task started")
            started_s = time.perf_counter()
            try:
                result = await next_handler(task)
            except BaseException as error:
                _log_failed(error, started_s, misfits)
                raise
            put_back()
            log("task completed", extra={"duration_ms": _ms_since(started_s)})
            return result

    return async_handler if is_async(next_handler) else handler


def _fields(task: Task) -> log_context:
    return log_context(
        task_id=task.id, task_type=task.type, queue=task.queue, attempt=task.attempt, request_id=task.request_id
    )


def _log_failed(error: BaseException, started_s: float, misfits: Folding | None) -> None:
    put_back()
    attempt = ATTEMPT.get()
    cause = (attempt and attempt.reason) or error
    if isinstance(interrupt_in(cause), ShutdownTimeoutError):
        return  # neither completed nor failed: the worker logs that it releases the task
    fields = {"duration_ms": _ms_since(started_s), "error": describe(cause)}
    # The traceback is kept with the task in Redis; people who watch the log want one line.
    with misfits if misfits and is_misfit(cause) else nullcontext():
        logger.error("task failed", extra=fields)


def _log_folded(folding: Folding, message: str, **options: Any) -> None:
    with folding:
        logger.info(message, **options)


def _ms_since(started_s: float) -> float:
    return round((time.perf_counter() - started_s) * 1000, 3)

"""The middleware that logs each attempt."""

import functools
import logging
import time
from typing import Any

from boilerd.errors import ShutdownTimeoutError, describe, interrupt_in
from boilerd.process.folding import Folding
from boilerd.process.logs import log_context, put_back
from boilerd.tasks.mux import Handler
from boilerd.tasks.task import Task

logger = logging.getLogger("boilerd.task")


def fold_attempts(most: int) -> Folding:
    """Fold the lines of attempts that go well, beyond so many a second; 0: none."""
    messages = ("task started", "task completed")
    return Folding(logger, most=dict.fromkeys(messages, most) if most else {})


def log_attempts(next_handler: Handler, folding: Folding | None = None) -> Handler:
    """Log ``task started``, then ``task completed`` or ``task failed`` with the duration.

    The messages are boiler-go's. The worker puts this one outermost around every mux, so
    that each attempt has its lines whatever middleware an application uses.

    Args:
        next_handler: Runs the attempt.
        folding: Folds the lines of attempts that go well.
    """
    log = logger.info if folding is None else functools.partial(_log_folded, folding)

    def handler(task: Task) -> Any:
        with log_context(
            task_id=task.id, task_type=task.type, queue=task.queue, attempt=task.attempt, request_id=task.request_id
        ):
            log("task started")
            started_s = time.perf_counter()
            try:
                result = next_handler(task)
            except BaseException as error:
                put_back()  # or the line might go nowhere
                if isinstance(interrupt_in(error), ShutdownTimeoutError):
                    raise  # neither completed nor failed: the worker logs that it releases the task
                fields = {"duration_ms": _ms_since(started_s), "error": describe(error)}
                # The traceback is kept with the task in Redis; people who watch the log want one line.
                logger.error("task failed", extra=fields)  # noqa: TRY400
                raise
            put_back()
            log("task completed", extra={"duration_ms": _ms_since(started_s)})
            return result

    return handler


def _log_folded(folding: Folding, message: str, **options: Any) -> None:
    with folding:
        logger.info(message, **options)


def _ms_since(started_s: float) -> float:
    return round((time.perf_counter() - started_s) * 1000, 3)

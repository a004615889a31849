"""The middleware that logs each attempt."""

import logging
import time
from typing import Any

from boilerd.errors import ShutdownTimeoutError, describe, interrupt_in
from boilerd.process.logs import log_context
from boilerd.tasks.mux import Handler
from boilerd.tasks.task import Task

logger = logging.getLogger("boilerd.task")


def log_attempts(next_handler: Handler) -> Handler:
    """Log ``task started``, then ``task completed`` or ``task failed`` with the duration.

    The messages are boiler-go's. The worker puts this one outermost around every mux, so
    that each attempt has its lines whatever middleware an application uses.
    """

    def handler(task: Task) -> Any:
        with log_context(
            task_id=task.id, task_type=task.type, queue=task.queue, attempt=task.attempt, request_id=task.request_id
        ):
            logger.info("task started")
            started_s = time.perf_counter()
            try:
                result = next_handler(task)
            except BaseException as error:
                if isinstance(interrupt_in(error), ShutdownTimeoutError):
                    raise  # neither completed nor failed: the worker logs that it releases the task
                fields = {"duration_ms": _ms_since(started_s), "error": describe(error)}
                # The traceback is kept with the task in Redis; people who watch the log want one line.
                logger.error("task failed", extra=fields)  # noqa: TRY400
                raise
            logger.info("task completed", extra={"duration_ms": _ms_since(started_s)})
            return result

    return handler


def _ms_since(started_s: float) -> float:
    return round((time.perf_counter() - started_s) * 1000, 3)

"""Run one attempt in the foreground, for a person who looks at a handler: nothing of it is written anywhere."""

import logging
import math
from collections.abc import Mapping
from contextvars import copy_context
from typing import Any

import msgspec

from boilerd.process import debugging
from boilerd.tasks.life import Life, WorkerContext
from boilerd.tasks.progress import TaskProgress
from boilerd.tasks.task import Task
from boilerd.worker.attempt import AttemptRunner, Outcome, encode_result
from boilerd.worker.lives import entered
from boilerd.worker.settlement import Rules

logger = logging.getLogger("boilerd.task")


class _Runtime(msgspec.Struct, frozen=True):
    """Answers the task's questions: it has all the time it wants, and nobody else has it."""

    task: Task
    state: Mapping[str, Any]

    def remaining_s(self) -> float:
        """Seconds until the attempt is interrupted: nobody does."""
        return math.inf

    def cancellation(self) -> str:
        """Why the handler should end: it need not."""
        return ""

    def write_result(self, result: Any) -> bool:
        """Warn of a result that could not be kept, as in a worker."""
        encode_result(result, self.task)
        return True

    def progress(self, progress: TaskProgress) -> None:
        """Show it in the log."""
        told = {"done": progress.done, "total": progress.total, "note": progress.note}
        logger.info("progress", extra={**self.task.log_fields, **told})


def run_here(rules: Rules, life: Life, worker: WorkerContext, task: Task) -> Outcome:
    """Run one attempt in the application's lifespans, with its middleware and without time limits.

    The hooks of a failure are not asked: they decide about the task's record.

    Raises:
        Exception: A lifespan did.
    """
    debugging.turn_on()
    with entered(life, worker) as state:
        runner = AttemptRunner(rules.middleware(rules.handler))
        return copy_context().run(runner.run, task, _Runtime(task, state))

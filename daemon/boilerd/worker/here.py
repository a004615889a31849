"""Run one attempt in the foreground, for a person who looks at a handler: nothing of it is written anywhere."""

import math
from contextvars import copy_context
from typing import Any

import msgspec

from boilerd.process import debugging
from boilerd.tasks.task import Task
from boilerd.worker.attempt import AttemptRunner, Outcome, encode_result
from boilerd.worker.settlement import Rules


class _Runtime(msgspec.Struct, frozen=True):
    """Answers the task's questions: it has all the time it wants, and nobody else has it."""

    task: Task

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


def run_here(rules: Rules, task: Task) -> Outcome:
    """Run one attempt with the application's middleware, without time limits; never raises.

    The hooks of a failure are not asked: they decide about the task's record.
    """
    debugging.turn_on()
    runner = AttemptRunner(rules.middleware(rules.handler))
    return copy_context().run(runner.run, task, _Runtime(task))

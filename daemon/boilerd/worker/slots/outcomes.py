"""What becomes of the outcomes of a worker with slots: completions to the hand, failures over the judge to the desk."""

import logging
from collections.abc import Iterable
from dataclasses import replace

from boilerd.broker.claims import Completion, Failure
from boilerd.errors import ShutdownTimeoutError, describe
from boilerd.worker.attempt import Completed, Failed, encode_result, failed
from boilerd.worker.slots.attempt import SlotAttempt
from boilerd.worker.slots.desk import Desk
from boilerd.worker.slots.intake import Intake
from boilerd.worker.slots.judge import Judge
from boilerd.worker.slots.runtime import SlotRuntime

logger = logging.getLogger("boilerd.worker")


class Outcomes:
    """Sorts outcomes; the keeper's.

    Args:
        intake: Acknowledges completions.
        desk: Writes the rest.
        judge: Decides about failures.
    """

    def __init__(self, intake: Intake, desk: Desk, judge: Judge) -> None:
        self._intake = intake
        self._desk = desk
        self._judge = judge

    def take(self, attempt: SlotAttempt) -> None:
        """Take an attempt that has ended."""
        claim, outcome, runtime = attempt.claim, attempt.outcome, attempt.runtime
        if isinstance(runtime, SlotRuntime) and runtime.unsent:
            self._desk.tell(claim, runtime.unsent)  # before the outcome: whoever waits sees it
        if isinstance(outcome, Completed):
            # A result that nobody can look at is not sent.
            result = encode_result(outcome.result, attempt.task) if claim.retention_s else b""
            self._intake.complete(Completion(claim, result, attempt.ran_s, attempt.held_s))
        elif isinstance(outcome, Failed):
            self.fail(attempt, outcome)
        else:
            self._desk.cut.append(claim)

    def fail(self, attempt: SlotAttempt, outcome: Failed) -> None:
        """Have it decided what becomes of a failed attempt, and written."""
        if failure := self._judge.ask(attempt, outcome):
            self._write(attempt, failure)

    def collect(self) -> None:
        """Take the decisions that are there."""
        for attempt, failure in self._judge.decided():
            self._write(attempt, failure)

    def settle(self, running: Iterable[SlotAttempt], *, is_hurried: bool) -> None:
        """Give back what runs when the worker ends; what is stuck has failed by what it ignored.

        Args:
            running: It.
            is_hurried: True if nobody can wait for hooks.
        """
        rest = []
        for attempt in running:
            if attempt.is_stuck and attempt.reason and not isinstance(attempt.reason, ShutdownTimeoutError):
                logger.error("task failed", extra={**attempt.task.log_fields, "error": describe(attempt.reason)})
                self.fail(attempt, failed(attempt.reason))
            else:
                rest.append(attempt.claim)
        self._desk.sort_cut(rest)
        for attempt, failure in self._judge.decide_all() if is_hurried else ():
            self._write(attempt, failure)

    def _write(self, attempt: SlotAttempt, failure: Failure) -> None:
        failure = replace(failure, run_s=attempt.ran_s, held_s=attempt.held_s)
        self._desk.failures.append((attempt.claim, failure))

    @property
    def undecided(self) -> int:
        """How many failed attempts wait for their decision."""
        return len(self._judge)

    def has_unwritten(self) -> bool:
        """True if something is left that must be written."""
        hand = self._intake.hand
        return bool(hand.completions) or hand.is_unsure or self.undecided > 0 or not self._desk.is_empty()

    def has_outcome(self) -> bool:
        """True if there is an outcome that nobody else could write."""
        return bool(self._intake.hand.completions or self._desk.failures)

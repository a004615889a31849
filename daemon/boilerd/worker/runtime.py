"""The answers to a running task's questions about its own attempt."""

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from boilerd.broker.broker import Broker
from boilerd.broker.claims import Claim
from boilerd.errors import BrokerError
from boilerd.tasks.progress import TaskProgress
from boilerd.tasks.task import NO_STATE
from boilerd.worker.attempt import AttemptRunner, encode_result

#: Between two notes of progress that are sent, in the long run; so many more may follow each other at once before that.
PROGRESS_EVERY_S = 0.2
PROGRESS_BURST = 5
#: After a note that the broker did not take, none is sent for so long: each may take its whole timeout.
PROGRESS_PAUSE_S = 5.0


class AttemptRuntime(msgspec.Struct):
    """The claim of the running task, and who can tell more of it.

    It uses the worker's client, whose connection is free: a handler runs between two commands of the worker.
    An outage is not waited for: the handler decides what an error means to it.

    Attributes:
        unsent: The last progress, if it came too soon after the one before it.
    """

    broker: Broker
    claim: Claim
    runner: AttemptRunner
    state: Mapping[str, Any] = NO_STATE
    unsent: TaskProgress | None = None
    _due_s: float = 0.0

    def remaining_s(self) -> float:
        """Seconds until the attempt is interrupted."""
        return self.runner.remaining_s()

    def cancellation(self) -> str:
        """Why the task is not wanted any more; empty also when the broker does not answer: the heartbeat asks again."""
        try:
            return self.broker.cancellation(self.claim)
        except BrokerError:
            return ""

    def write_result(self, result: Any) -> bool:
        """Show a result so far; False when the lease is lost."""
        return self.broker.write_result(self.claim, encode_result(result, self.claim.task))

    def progress(self, progress: TaskProgress) -> None:
        """Show how far the attempt is, if that was not done too often lately; `send_progress` does it at the end."""
        self.unsent = progress
        now_s = time.monotonic()
        if self._due_s <= now_s:
            self._due_s = max(self._due_s, now_s - PROGRESS_EVERY_S * (PROGRESS_BURST - 1)) + PROGRESS_EVERY_S
            self.send_progress()

    def send_progress(self) -> None:
        """Show the last progress now; nothing where the broker is away."""
        progress, self.unsent = self.unsent, None
        try:
            if progress:
                self.broker.write_progress(self.claim, progress)
        except BrokerError:
            self._due_s = time.monotonic() + PROGRESS_PAUSE_S

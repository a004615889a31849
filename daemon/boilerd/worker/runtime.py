"""The answers to a running task's questions about its own attempt."""

from collections.abc import Mapping
from typing import Any

import msgspec

from boilerd.broker.broker import Broker
from boilerd.broker.claims import Claim
from boilerd.errors import BrokerError
from boilerd.tasks.task import NO_STATE
from boilerd.worker.attempt import AttemptRunner, encode_result


class AttemptRuntime(msgspec.Struct, frozen=True):
    """The claim of the running task, and who can tell more of it.

    It uses the worker's client, whose connection is free: a handler runs between two commands of the worker.
    An outage is not waited for: the handler decides what an error means to it.
    """

    broker: Broker
    claim: Claim
    runner: AttemptRunner
    state: Mapping[str, Any] = NO_STATE

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

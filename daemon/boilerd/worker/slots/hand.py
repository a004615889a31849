"""The hand of a worker with slots: the completions that it has not acknowledged, and its calls to claim.

Each call is a *turn* of this process's *life*: Redis refuses one of another life, and one whose turn is over. When an
answer is lost, Redis may have claimed tasks of which this process knows nothing. The hand is then *unsure*: before its
next call it takes the turn back, which gives back what it claimed, and from then on the lost call is refused if Redis
comes to run it later. Completions are sent again, which is harmless where Redis has taken them.
"""

import itertools
import logging
import secrets
from collections.abc import Callable, Sequence

from boilerd.broker.broker import Broker
from boilerd.broker.claims import Claim, Completion
from boilerd.worker.tally import Tally

logger = logging.getLogger("boilerd.worker")

#: Completions in one call, and about how many bytes their results may have: bounds how long Redis serves nobody else.
MOST_COMPLETIONS = 250
MOST_BYTES = 8 * 1024 * 1024
#: Calls in a row that are refused for another life, before this one gives way.
MOST_STALE = 3


class StaleLifeError(Exception):
    """Another process has taken over this worker's name, and claims under it."""


class SlotHand:
    """Acknowledges and claims; for one thread.

    Args:
        broker: Makes each call once.
        name: The worker's name.
        parts: Among how many processes a queue's tasks are shared.
        slots: Of the worker.
        register: Puts the worker of the life that it gets into RQ's registry.
        tally: Counts the completions that Redis has taken.

    Attributes:
        completions: Not acknowledged yet. Only the hand takes some away.
        is_unsure: True if Redis may have claimed what this process does not know.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        name: str,
        parts: int,
        slots: int,
        register: Callable[[str], None],
        tally: Tally,
    ) -> None:
        self._broker = broker
        self._name = name
        self._parts = parts
        self._slots = slots
        self._register = register
        self._tally = tally
        self._life = secrets.token_hex(8)
        self._turn = 0
        self.is_unsure = False
        self._stale_calls = 0
        #: How many of the completions Redis may have taken already.
        self._sent = 0
        self.completions: list[Completion] = []

    def register(self) -> None:
        """Register the worker, with a life that no process has had; raises BrokerError."""
        self._register(self._life)

    def settle(self) -> None:
        """Take back a call whose answer was lost, if there was one; raises BrokerError."""
        if self.is_unsure:
            self._broker.take_back_turn(self._name, self._life, self._turn)
            self.is_unsure = False

    def serve(self, queues: Sequence[str], limit: int, suspects: Sequence[int] = (), *, ahead: int = 0) -> list[Claim]:
        """Acknowledge completions, and claim up to `limit` tasks; raises BrokerError.

        Args:
            queues: In the order to try; none: claim nothing.
            limit: How many to claim at most.
            suspects: See `Broker.serve`.
            ahead: See there.
        """
        self.settle()
        done = self._next_completions()
        may_be_acknowledged = {completion.claim.task_id for completion in done[: self._sent]}
        self._turn += 1
        self.is_unsure, self._sent = True, max(self._sent, len(done))
        answer = self._broker.serve(
            self._name, self._life, self._turn, queues, done,
            limit=limit, parts=self._parts, slots=self._slots, suspects=suspects, ahead=ahead,
        )  # fmt: skip
        self.is_unsure = False
        del self.completions[: len(done)]
        self._sent = max(0, self._sent - len(done))
        lost = set(answer.lost) - may_be_acknowledged
        self._tally.count_completed(done, lost)
        if lost:
            self._tell_lost(done, lost)
        if answer.is_stale or not answer.is_registered:
            self._begin_again(is_stale=answer.is_stale and answer.is_registered)
        elif queues:
            self._stale_calls = 0
        return answer.claims

    def _next_completions(self) -> list[Completion]:
        """Those of one call, at least one if there is any."""
        if len(self.completions) <= 1:
            return self.completions[:]
        sizes = itertools.accumulate(len(done.result) for done in self.completions[:MOST_COMPLETIONS])
        return self.completions[: max(1, sum(size <= MOST_BYTES for size in sizes))]

    def _begin_again(self, *, is_stale: bool) -> None:
        """Redis has forgotten this worker, or its life: after a FLUSHALL, or when it came back with older data."""
        self._stale_calls += is_stale
        if self._stale_calls > MOST_STALE:
            raise StaleLifeError(f"another process claims as worker {self._name}; end one of the two daemons")
        logger.warning("the broker had forgotten this worker, registering again")
        # Redis has forgotten the turn as well: a call of the old life that comes late must be refused.
        self._life, self._turn = secrets.token_hex(8), 0
        self.register()

    def _tell_lost(self, done: Sequence[Completion], lost: set[str]) -> None:
        for claim in (each.claim for each in done if each.claim.task_id in lost):
            logger.warning("outcome dropped, the lease was lost", extra=claim.log_fields)

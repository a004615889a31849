"""A worker's hand: the claims that it has not begun, and the completions that it has not acknowledged.

One call to Redis, `Broker.advance`, acknowledges and claims. When its answer is lost, because the connection
broke or a signal ended the wait for it, Redis may have done both. The hand is then *unsure*: before its next
call it releases what Redis holds for this worker and the hand does not know. None of that has begun. It sends
its completions again, which is harmless where Redis has taken them.
"""

import logging
import signal
import time
from collections import deque
from collections.abc import Callable

from boilerd.broker.claims import Claim, Completion, batch_place
from boilerd.process.scoreboard import Scoreboard
from boilerd.process.signals import StopRequest
from boilerd.tasks.queues import ClaimOrder
from boilerd.worker.prefetch import HOLD_S, Prefetch
from boilerd.worker.resilient_broker import ResilientBroker
from boilerd.worker.tally import Tally

logger = logging.getLogger("boilerd.worker")


class Hand:
    """Claims tasks in batches, hands them out one by one, and acknowledges those that completed.

    Args:
        broker: Waits for the end of an outage. When it gives up, its error is raised, and the hand may be unsure.
        name: The worker's name.
        order: Which queues to try for each claim.
        prefetch: How many tasks to claim at once.
        scoreboard: Shows how far the batch is; the scheduler takes the rest from it there.
        row: The worker's cells there.
        stop: Nothing is claimed once this is requested.
        register: Puts the worker into RQ's registry again, where Redis has forgotten it.
        tally: Counts the completions that Redis has taken.

    Attributes:
        claims: Claimed and not begun, the next one first. Only the hand changes it.
        completions: Not acknowledged yet. Only the hand changes it.
        claimed_s: When the last claims came, on the monotonic clock.
    """

    def __init__(
        self,
        broker: ResilientBroker,
        *,
        name: str,
        order: ClaimOrder,
        prefetch: Prefetch,
        scoreboard: Scoreboard,
        row: int,
        stop: StopRequest,
        register: Callable[[], None],
        tally: Tally,
    ) -> None:
        self._broker = broker
        self._name = name
        self._order = order
        self._prefetch = prefetch
        self._scoreboard = scoreboard
        self._row = row
        self._stop = stop
        self._register = register
        self._tally = tally
        self.claims: deque[Claim] = deque()
        self.completions: list[Completion] = []
        self._is_unsure = False
        self.claimed_s = 0.0

    def take(self) -> Claim | None:
        """The task to run now, marked as begun: the next of the batch, else the first of a new one.

        None: no task waits, or the worker is to stop or to be quiet.
        """
        while not self._stop and not self._scoreboard.is_quiet_at(self._row):
            if not self.claims:
                self._broker.together(self._advance)
            elif time.monotonic() > self.claimed_s + HOLD_S:
                self._prefetch.note_late()
                self.give_back()
                continue
            if not self.claims:
                return None
            if self._scoreboard.begin(self._row):
                return self.claims.popleft()
            self.claims.clear()  # the scheduler gave them back
            self._scoreboard.shorten_batch(self._row)
        return None

    def wait(self, timeout_s: float) -> None:
        """Sleep until the bell rings, or for `timeout_s`, then claim; a stop ends it at once."""
        if not self._stop.interruptibly(lambda: self._broker.together(lambda: self._advance(wait_s=timeout_s))):
            self.forget_answer()

    def complete(self, done: Completion) -> None:
        """Note that the task taken last completed; the next call to Redis acknowledges it."""
        self.completions.append(done)
        if done.claim.retention_s and self.claims:
            # If this process died while the next tasks run, nobody else would have the result.
            self._broker.together(lambda: self._advance(may_claim=False, is_busy=True))
        self.finish()

    def finish(self) -> None:
        """Note that the task taken last has ended, and its outcome is written or a completion."""
        self._scoreboard.finish(self._row)

    def give_back(self) -> None:
        """Release the claims that have not begun: they go to the head of their queue."""
        if self.claims:
            only = [claim.execution_id for claim in self.claims]
            self.claims.clear()
            self._broker.release(self._name, only)
            self._scoreboard.shorten_batch(self._row)

    def acknowledge(self) -> None:
        """Acknowledge the completions, release what Redis may hold beside them, claim nothing."""
        if self.completions or self._is_unsure:
            self._broker.together(lambda: self._advance(may_claim=False))

    def rest(self) -> None:
        """The same, and have the worker's record say that it is suspended, also where all it had was given back."""
        self._broker.together(lambda: self._advance(may_claim=False))

    def forget_answer(self) -> None:
        """Be unsure from now on: a signal came while an answer was read, or noted here."""
        self.claims.clear()
        self._is_unsure = True

    def _advance(self, *, may_claim: bool = True, is_busy: bool = False, wait_s: float = 0.0) -> None:
        """Acknowledge the completions and, unless told to stop, claim the next batch; one try.

        Args:
            may_claim: True only while the hand has no claims.
            is_busy: True if the worker goes on with the rest of its batch.
            wait_s: Sleep so long first, until a task comes.
        """
        if self._is_unsure:
            self._release_unknown()
        # The completions may be with Redis already: an unsure hand sends them again, and the scheduler
        # acknowledges from behind a slow task. Redis then calls them lost, and they are not.
        may_be_acknowledged = self._is_unsure or self._scoreboard.is_revoked(self._row)
        self._is_unsure = True  # until the answer is here
        queues = self._order.draw() if may_claim and not self._stop else ()
        limit = 0 if is_busy else self._prefetch.limit()
        answer = self._broker.once.advance(self._name, queues, self.completions, limit=limit, wait_s=wait_s)
        self._is_unsure = answer.holds_more
        lost = () if may_be_acknowledged else answer.lost
        for claim in (done.claim for done in self.completions if done.claim.task_id in lost):
            logger.warning("outcome dropped, the lease was lost", extra=claim.log_fields)
        self._tally.count_completed(self.completions, lost)
        self.completions.clear()
        if not answer.is_registered:
            logger.warning("the broker had forgotten this worker, registering again")
            self._register()
        if answer.claims:
            self._open_batch(answer.claims)

    def _open_batch(self, claims: list[Claim]) -> None:
        self.claims.extend(claims)
        self.claimed_s = time.monotonic()
        number, _ = batch_place(claims[0].execution_id)
        self._scoreboard.open_batch(self._row, number, len(claims))
        if len(claims) > 1:
            # For each batch: a task's code may have set its own.
            signal.set_wakeup_fd(self._scoreboard.alarm_fds[1], warn_on_full_buffer=False)

    def _release_unknown(self) -> None:
        """Release what Redis holds for this worker beside the hand's claims and completions: it has not begun."""
        known = [*self.claims, *(done.claim for done in self.completions)]
        self._broker.once.release(self._name, keep=[claim.execution_id for claim in known])

"""The desk of a worker with slots: what is to be written to Redis, but for completions."""

import logging
from collections import deque
from collections.abc import Iterable

from boilerd.broker.broker import Broker
from boilerd.broker.claims import Claim, Failure, batch_place
from boilerd.tasks.progress import TaskProgress
from boilerd.worker.settlement import Rules, record_failure

logger = logging.getLogger("boilerd.worker")

#: Claims in one call that gives them back: about 5 ms of Redis.
BACK_AT_ONCE = 100
#: What is told in passing, in one round: progress, and results so far.
TOLD_AT_ONCE = 100


class Desk:
    """Each thing lies here until Redis has it; all but `tell` and `show_result` are the keeper's.

    Args:
        broker: Makes each call once.
        name: The worker's.
        rules: Say how a job is archived that cannot run.

    Attributes:
        failures: Decided.
        refused: Jobs that cannot run.
        unstarted: Claims to be given back at once.
        cut: Claims to be given back when the worker ends: what the end of the drain interrupted.
    """

    def __init__(self, broker: Broker, name: str, rules: Rules) -> None:
        self._broker = broker
        self._name = name
        self._rules = rules
        #: Of each attempt and kind the last alone: a handler on the loop may tell faster than Redis takes it.
        self._told: dict[tuple[str, type], tuple[Claim, TaskProgress | bytes]] = {}
        self.failures: deque[tuple[Claim, Failure]] = deque()
        self.refused: deque[Claim] = deque()
        self.unstarted: list[Claim] = []
        self.cut: list[Claim] = []

    def tell(self, claim: Claim, what: TaskProgress | bytes) -> None:
        """Have a progress written, or a result so far; from any thread."""
        self._told[claim.execution_id, type(what)] = claim, what

    def show_result(self, claim: Claim, result: bytes) -> bool:
        """Write a result so far now, in the calling thread; False if the lease is lost. Raises BrokerError."""
        return self._broker.write_result(claim, result)

    def is_empty(self) -> bool:
        """True if nothing lies here that must be written."""
        return not (self.failures or self.refused or self.unstarted or self.cut)

    def write(self, *, is_last: bool) -> bool:
        """Write all but what was told; True if there was something, so that places may be free in the queues.

        Args:
            is_last: True if the worker ends.

        Raises:
            BrokerError: What is not written stays.
        """
        count = 0
        while self.refused:
            self._rules.archive_unrunnable(self._broker, self._name, self.refused[0])
            self.refused.popleft()
            count += 1
        while self.failures:
            claim, failure = self.failures[0]
            with self._rules.folded(failure):
                record_failure(self._broker, self._name, claim, failure, tally=self._rules.tally)
            self.failures.popleft()
            count += 1
        while self.unstarted:
            count += self._give_back(self.unstarted, have_begun=False)
        while is_last and self.cut:
            count += self._give_back(self.cut, have_begun=True)
        return count > 0

    def sort_cut(self, claims: Iterable[Claim]) -> None:
        """Add claims, and bring all into their order."""
        self.cut += claims
        self.cut.sort(key=lambda claim: (float(claim.started), batch_place(claim.execution_id)[1]))

    def write_told(self) -> None:
        """Write what was told, before the outcomes: whoever waits sees it. What an outage loses, the next makes good.

        Raises:
            BrokerError: See above.
        """
        for key in list(self._told)[:TOLD_AT_ONCE]:
            claim, what = self._told.pop(key)
            if isinstance(what, bytes):
                self._broker.write_result(claim, what)
            else:
                self._broker.write_progress(claim, what)

    def _give_back(self, claims: list[Claim], *, have_begun: bool) -> int:
        """Give the last of them back to the heads of their queues, so that in the end the first stand in front."""
        some = claims[-BACK_AT_ONCE:]
        back = set(self._broker.give_back(self._name, some))
        del claims[-BACK_AT_ONCE:]
        for claim in some:
            if have_begun and claim.task_id in back:
                self._rules.tally.count(claim, "put_back")
                logger.warning("task released, it will run again", extra=claim.log_fields)
        return len(some)

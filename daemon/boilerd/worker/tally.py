"""What a process counts for the metrics: attempts by their outcomes, how long they ran and their tasks waited.

It adds up here, and what has come together goes to Redis once a second at most, in front of a call that is made anyway.
What a process had not sent when it was killed is lost.
"""

import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable

from boilerd.broker.claims import OWN_CALL_BYTES, Claim, Completion
from boilerd.broker.constants import MOST_PAIRS, OTHER
from boilerd.tasks.histogram import BOUNDS_BYTES, BOUNDS_S
from boilerd.tasks.metric_record import (
    DONE,
    LATER_BOUNDS,
    LATER_BUCKETS,
    MOST_RUN_US,
    OUTCOME_KEYS,
    PAYLOAD_BUCKETS,
    PAYLOAD_BYTES,
    RUN_BUCKETS,
    RUN_US,
    WAIT_BUCKETS,
    WAIT_US,
    Record,
    encode,
    pack_pair,
)

logger = logging.getLogger("boilerd.metrics")

#: What was counted waits so long at most for a call that takes it along, and so long at least after the last.
SEND_EVERY_S = 1.0
#: Pairs that go with one call: a millisecond of Redis.
MOST_SENT = 100
#: One more than the largest key of a record.
_KEYS = PAYLOAD_BUCKETS + len(BOUNDS_BYTES) + 1


class Tally:
    """Counts. One thread does so; another may take what there is, at the risk of what is added in that moment.

    Args:
        clock: Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: Queue and type → a record, at each place the number of that key: counting is on the way of each task.
        self._records: dict[tuple[str, str], list[float]] = {}
        self._due_s = 0.0
        self._is_refused = False

    def add(self, queue: str, task_type: str, outcome: str) -> list[float]:
        """Count an attempt that has ended, of whose times nobody knows.

        Args:
            queue: Of its task.
            task_type: The same.
            outcome: One of `OUTCOMES`.

        Returns:
            What is counted of this queue and type.
        """
        record = self._records.get((queue, task_type)) or self._new_record(queue, task_type)
        record[OUTCOME_KEYS[outcome]] += 1
        return record

    def count(self, claim: Claim, outcome: str, run_s: float | None = None, held_s: float = 0.0) -> None:
        """Count the attempt of a claim.

        Args:
            claim: It.
            outcome: One of `OUTCOMES`.
            run_s: How long it ran; None: it did not, or nobody knows. Then nothing is said of its task's wait either.
            held_s: How long it lay here before it began.
        """
        task = claim.task
        record = self.add(claim.queue, task.type if task else OTHER, outcome)
        if run_s is None or task is None:
            _count_later(record, task.runs if task else 1, outcome)
            return
        record[RUN_US] += run_s
        record[RUN_BUCKETS + bisect_left(BOUNDS_S, run_s)] += 1
        record[MOST_RUN_US] = max(record[MOST_RUN_US], run_s)
        if task.runs == 1:
            wait_s = claim.waited_s() + held_s
            record[WAIT_US] += wait_s
            record[WAIT_BUCKETS + bisect_left(BOUNDS_S, wait_s)] += 1
            size_bytes = claim.data_bytes - OWN_CALL_BYTES - len(task.type)
            record[PAYLOAD_BYTES] += size_bytes
            record[PAYLOAD_BUCKETS + bisect_left(BOUNDS_BYTES, size_bytes)] += 1
        else:
            _count_later(record, task.runs, outcome)

    def count_completed(self, completions: Iterable[Completion], lost: Collection[str] = ()) -> None:
        """Count what Redis has taken; not these tasks, whose leases were lost: others count their attempts."""
        for done in completions:
            if done.claim.task_id not in lost:
                self.count(done.claim, "completed", done.ran_s, done.held_s)

    def is_due(self) -> bool:
        """True if something was counted that should wait no longer."""
        return bool(self._records) and self._clock() >= self._due_s

    def is_late(self) -> bool:
        """True if no call has taken it along for as long, since it was due."""
        return bool(self._records) and self._clock() >= self._due_s + SEND_EVERY_S

    def take(self) -> list[bytes]:
        """What was counted, as arguments of metrics.lua; it is forgotten here."""
        self._due_s = self._clock() + SEND_EVERY_S
        args: list[bytes] = []
        for pair in list(self._records)[:MOST_SENT]:
            if numbers := self._records.pop(pair, None):  # or another thread was faster
                args += pack_pair(*pair), encode(_packable(numbers))
        return args

    def note_refused(self, error: Exception) -> None:
        """Tell once that there are no metrics; tasks are none the worse for it."""
        if not self._is_refused:
            self._is_refused = True
            logger.warning("metrics not written, the broker refused them", extra={"error": str(error)})

    def _new_record(self, queue: str, task_type: str) -> list[float]:
        """The record of a pair that has none yet; there may be many of them while Redis is away."""
        if not self._records:
            self._due_s = max(self._due_s, self._clock())  # after a lull, it is not late at once
        pair = queue, task_type
        if len(self._records) >= MOST_PAIRS:
            pair = queue, OTHER
        if len(self._records) >= 2 * MOST_PAIRS:
            pair = OTHER, OTHER
        return self._records.setdefault(pair, [0] * _KEYS)


def _count_later(record: list[float], runs: int, outcome: str) -> None:
    """Count a task that was done with at another attempt than its first."""
    if runs > 1 and outcome in DONE:
        record[LATER_BUCKETS + bisect_left(LATER_BOUNDS, runs)] += 1


def _packable(numbers: list[float]) -> Record:
    """The record of what was added up: times were so in seconds."""
    for key in (RUN_US, WAIT_US, MOST_RUN_US):
        numbers[key] *= 1e6
    return {key: int(number) for key, number in enumerate(numbers) if number >= 1}

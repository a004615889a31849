"""What a process counts for the metrics: attempts by their outcomes, how long they ran and their tasks waited.

It adds up here, and what has come together goes to Redis once a second at most, in front of a call that is made anyway.
What a process had not sent when it was killed is lost.
"""

import logging
import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from itertools import islice

import redis

from boilerd.broker.claims import Claim
from boilerd.broker.constants import MOST_PAIRS, OTHER
from boilerd.tasks.histogram import BOUNDS_BYTES, BOUNDS_S
from boilerd.tasks.metric_record import (
    MOST_PAYLOAD_BYTES,
    MOST_RUN_US,
    MOST_WAIT_US,
    OUTCOME_KEYS,
    PAYLOAD_BUCKETS,
    PAYLOAD_BYTES,
    RUN_BUCKETS,
    RUN_US,
    WAIT_BUCKETS,
    WAIT_US,
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
    """Counts; any thread may do so.

    Args:
        clock: Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        #: Queue and type → a record, at each place the number of that key: counting is on the way of each task.
        self._records: dict[tuple[str, str], list[int]] = {}
        self._due_s = 0.0
        self._is_refused = False

    def add(  # noqa: PLR0917 - the way of each task, where names cost
        self,
        queue: str,
        task_type: str,
        outcome: str,
        run_s: float | None = None,
        wait_s: float | None = None,
        payload_bytes: int | None = None,
    ) -> None:
        """Count an attempt that has ended.

        Args:
            queue: Of its task.
            task_type: The same.
            outcome: One of `OUTCOMES`.
            run_s: How long it ran; None: it did not, or nobody knows.
            wait_s: How long its task waited for it; None: it was not the first.
            payload_bytes: Size of the payload, to be given once for each task.
        """
        with self._lock:
            record = self._records.get((queue, task_type)) or self._new_record(queue, task_type)
            record[OUTCOME_KEYS[outcome]] += 1
            if run_s is not None:
                run_us = int(run_s * 1e6)
                record[RUN_US] += run_us
                record[MOST_RUN_US] = max(record[MOST_RUN_US], run_us)
                record[RUN_BUCKETS + bisect_left(BOUNDS_S, run_s)] += 1
            if wait_s is not None:
                wait_us = int(wait_s * 1e6)
                record[WAIT_US] += wait_us
                record[MOST_WAIT_US] = max(record[MOST_WAIT_US], wait_us)
                record[WAIT_BUCKETS + bisect_left(BOUNDS_S, wait_s)] += 1
            if payload_bytes is not None:
                record[PAYLOAD_BYTES] += payload_bytes
                record[MOST_PAYLOAD_BYTES] = max(record[MOST_PAYLOAD_BYTES], payload_bytes)
                record[PAYLOAD_BUCKETS + bisect_left(BOUNDS_BYTES, payload_bytes)] += 1

    def count(self, claim: Claim, outcome: str, run_s: float | None = None, held_s: float = 0.0) -> None:
        """Count the attempt of a claim.

        Args:
            claim: It.
            outcome: One of `OUTCOMES`.
            run_s: See `add`; if it did not run, nothing is said of its task's wait either.
            held_s: How long it lay here before it began.
        """
        task = claim.task
        if task is None:
            self.add(claim.queue, OTHER, outcome, run_s)
        elif run_s is None or task.runs > 1:
            self.add(claim.queue, task.type, outcome, run_s)
        else:
            self.add(claim.queue, task.type, outcome, run_s, claim.waited_s + held_s, claim.payload_bytes)

    def is_due(self) -> bool:
        """True if something was counted that should wait no longer."""
        return bool(self._records) and self._clock() >= self._due_s

    def is_late(self) -> bool:
        """True if no call has taken it along for as long again."""
        return bool(self._records) and self._clock() >= self._due_s + SEND_EVERY_S

    def take(self) -> list[bytes]:
        """What was counted, as arguments of metrics.lua; it is forgotten here."""
        with self._lock:
            self._due_s = self._clock() + SEND_EVERY_S
            pairs = list(islice(self._records, MOST_SENT))
            found = [(pair, self._records.pop(pair)) for pair in pairs]
        args: list[bytes] = []
        for (queue, task_type), record in found:
            args += pack_pair(queue, task_type), encode({key: number for key, number in enumerate(record) if number})
        return args

    def note_refused(self, error: redis.ResponseError) -> None:
        """Tell once that there are no metrics; tasks are none the worse for it."""
        if not self._is_refused:
            self._is_refused = True
            logger.warning("metrics not written, the broker refused them", extra={"error": str(error)})

    def _new_record(self, queue: str, task_type: str) -> list[int]:
        """The record of a pair that has none yet; there may be many of them while Redis is away."""
        pair = queue, task_type
        if len(self._records) >= MOST_PAIRS:
            pair = queue, OTHER
        if len(self._records) >= 2 * MOST_PAIRS:
            pair = OTHER, OTHER
        return self._records.setdefault(pair, [0] * _KEYS)

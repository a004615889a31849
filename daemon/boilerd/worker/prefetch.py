"""Claim more than one task at a time, and give back in time what cannot begin soon.

A round trip for every task is most of what a short task costs. So a worker claims as many as it
expects to begin within a few milliseconds: none but the one that it runs while tasks take longer. Expectations
fail, so the rest of a batch goes back to the head of its queue

* when it was not begun 10 ms after its claim: the worker does that between two tasks;
* when one task runs for 50 ms: the scheduler of the host does that (`reclaimer`), because the worker's code may be
  anywhere. It also acknowledges what has ended: a unique lock, or a timeout, shall not last as long as the slow task.
"""

#: A worker claims what it expects to begin within this time.
EXPECTED_S = 0.008
#: It begins no task of a batch later than this after its claim.
HOLD_S = 0.010
#: A task that runs for so long keeps no others waiting.
SLOW_S = 0.050
#: Tasks in one batch.
MOST = 32
#: Share of the last duration in what is expected.
_WEIGHT = 0.3


class Prefetch:
    """How many tasks a worker claims at once, judged by how long its last ones took.

    One slow task raises the expectation at once, short ones lower it little by little.

    Args:
        is_on: False: always one.
    """

    def __init__(self, *, is_on: bool = True) -> None:
        self._is_on = is_on
        self._expected_s = HOLD_S

    def limit(self) -> int:
        """How many to claim now."""
        if not self._is_on or self._expected_s >= EXPECTED_S:
            return 1
        return min(MOST, 1 + int(EXPECTED_S / max(self._expected_s, 1e-6)))

    def note(self, duration_s: float) -> None:
        """Learn from a task that has ended."""
        self._expected_s = max(duration_s, (1 - _WEIGHT) * self._expected_s + _WEIGHT * duration_s)

    def note_late(self) -> None:
        """Learn that a batch took longer than its tasks did, as on a machine with too much to do."""
        self._expected_s = max(self._expected_s, EXPECTED_S)

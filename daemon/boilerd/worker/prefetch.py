"""Claim several tasks at a time, and give back in time those that cannot begin soon.

A round trip for every task is most of what a short task costs. So a worker claims as many as it expects to
begin within a few milliseconds; while tasks take longer, only one. Expectations fail, so the rest of a batch
goes back to the head of its queue

* when 10 ms have passed since the claim: the worker does that between two tasks;
* when one task has run for 50 ms: the scheduler of the host does that (`reclaimer`), because the worker is inside
  of the application's code. It also acknowledges the completions: a unique lock, or a timeout, must not last as
  long as the slow task.
"""

#: A worker claims what it expects to begin within this time.
EXPECTED_S = 0.008
#: It begins no task of a batch later than this after the claim.
HOLD_S = 0.010
#: When a task has run for so long, the tasks behind it go back.
SLOW_S = 0.050
#: Tasks in one batch.
MOST = 32
#: Share of the last duration in the expected one.
WEIGHT = 0.3


class Prefetch:
    """Decides how many tasks a worker claims at once, by how long its last ones took.

    One slow task raises the expectation at once, short ones lower it little by little.

    Args:
        is_on: False: one task at a time, always.
    """

    def __init__(self, *, is_on: bool = True) -> None:
        self._is_on = is_on
        self._expected_s = HOLD_S

    def limit(self) -> int:
        """How many tasks to claim now."""
        if not self._is_on or self._expected_s >= EXPECTED_S:
            return 1
        return min(MOST, 1 + int(EXPECTED_S / max(self._expected_s, 1e-6)))

    def note(self, duration_s: float) -> None:
        """Learn from a task that has ended."""
        self._expected_s = max(duration_s, (1 - WEIGHT) * self._expected_s + WEIGHT * duration_s)

    def note_late(self) -> None:
        """Learn that a batch was late although its tasks were short, as on a machine with too much to do."""
        self._expected_s = max(self._expected_s, EXPECTED_S)

"""How many tasks a worker with slots claims ahead of its threads, so that one that ends a task begins the next at once.

A claim takes a third of a millisecond, and a thread's way to the keeper and back as much: a slot that waits for both
after each task of 20 ms stands empty for a twentieth of its time. So a few tasks are claimed while all slots are taken,
as many as are expected to begin within 20 ms, where there are more than one call brings. They are *held*: each has its
claim and its lease, and takes no slot. What has not begun after 50 ms goes back to the head of its queue, uncounted,
and nothing is claimed ahead for a second, nor before another short task has ended: the tasks that run are longer than
those before them.

Only plain tasks are held, because the threads take the next ones themselves; the loop's are begun by the keeper.
"""

import math

from boilerd.worker.prefetch import MOST, SLOW_S, WEIGHT
from boilerd.worker.slots.attempt import SlotAttempt

#: As many are held as are expected to begin within this time: about as many as there are slots, for tasks of 20 ms, as
#: slots that have begun together end together.
EXPECTED_S = 0.020
#: A task that has not begun goes back so long after its claim; where tasks take longer, none is claimed ahead.
HOLD_S = SLOW_S
#: Nothing is claimed ahead for so long after that went wrong.
REST_S = 1.0


class Ahead:
    """Decides how many tasks are held at most, by how long the last ones took; the keeper's.

    Args:
        slots: Of the worker.
        is_on: False: none, always.

    Attributes:
        limit: How many.
    """

    def __init__(self, slots: int, *, is_on: bool) -> None:
        self._slots = slots
        self._is_on = is_on
        self._expected_s = HOLD_S
        self._rests_until_s = 0.0
        self.limit = 0

    def look(self, now_s: float) -> None:
        """Say it anew."""
        is_short = self._is_on and self._expected_s < HOLD_S and now_s >= self._rests_until_s
        self.limit = min(MOST, int(self._slots * EXPECTED_S / max(self._expected_s, 1e-6))) if is_short else 0

    def note(self, attempt: SlotAttempt, now_s: float) -> None:
        """Learn from an attempt that has ended: a long one raises the expectation at once, short ones lower it."""
        if attempt.is_on_loop:
            self.rest(now_s)
        elif attempt.ran_s is not None:
            self._expected_s = max(attempt.ran_s, (1 - WEIGHT) * self._expected_s + WEIGHT * attempt.ran_s)

    def note_late(self, now_s: float) -> None:
        """Learn that what was held went back: the tasks that run are long, and say so themselves only at their end."""
        self._expected_s = max(self._expected_s, HOLD_S)
        self.rest(now_s)

    def rest(self, now_s: float) -> None:
        """Claim nothing ahead for a while."""
        self._rests_until_s = now_s + REST_S
        self.limit = 0

    @property
    def enough(self) -> float:
        """So many that are missing make a call at once; infinity: none is claimed ahead."""
        return (self.limit + 1) // 2 if self.limit else math.inf

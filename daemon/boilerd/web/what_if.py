"""How long a queue's backlog would take with more workers, by what those that it has did lately."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from boilerd.broker.overview import QueueOverview
from boilerd.web.lately import PACE_MINUTES, Minute, of_late, pace_of


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What would come of it.

    Attributes:
        more: How many workers more.
        workers: How many it has.
        pace: As that of a queue; empty: nothing can be said.
        drained_s: As that of a queue.
        why: Why nothing can be said; empty: it can.
    """

    more: int
    workers: int
    pace: str
    drained_s: float | None
    why: str


def what_if(more: int, queue: QueueOverview, minutes: Sequence[Minute], *, is_suspended: bool = False) -> WhatIf:
    """What would come of so many workers more, if each did what one of the others does on average.

    Args:
        more: How many.
        queue: The queue, with the workers that it has.
        minutes: What was done lately.
        is_suspended: Whether RQ's tools hold all workers.
    """
    times = Fraction(queue.workers + more, queue.workers or 1)
    late = of_late(minutes, queue.name)
    why = _why_not(queue, times, late.counts.left, is_suspended=is_suspended)
    if why:
        return WhatIf(more, queue.workers, "", None, why)
    return WhatIf(more, queue.workers, *pace_of(queue.detail.counts.pending, late, times), "")


def _why_not(queue: QueueOverview, times: Fraction, left: int, *, is_suspended: bool) -> str:
    """Why nothing can be said; empty: it can."""
    counts, workers, most = queue.detail.counts, queue.workers, queue.detail.max_active
    reasons = (
        (not counts.pending, "nothing is pending"),
        (counts.is_paused, "it is paused"),
        (is_suspended, "`rq suspend` holds all workers"),
        (not workers, "it has no workers now to go by"),
        (not left, f"its workers were done with nothing in the last {PACE_MINUTES} minutes"),
        (queue.aside >= counts.pending, "all that is pending waits for its concurrency key"),
        # Workers with slots run several each, and so would the new ones.
        (most and max(counts.active, workers) * times > most, f"no more than {most:,} of its tasks run at once"),
    )
    return next((why for is_so, why in reasons if is_so), "")

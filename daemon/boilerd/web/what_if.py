"""How long a queue's backlog would take with more workers, by what those that it has did lately."""

from dataclasses import dataclass

from boilerd.broker.views import QueueDetail
from boilerd.web.lately import PACE_MINUTES, pace_by


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


def what_if(more: int, found: QueueDetail, workers: int, in_per_s: float, out_per_s: float) -> WhatIf:
    """What would come of so many workers more, if each did what one of the others does on average.

    Args:
        more: How many.
        found: The queue.
        workers: How many it has.
        in_per_s: Tasks that came lately, a second.
        out_per_s: Tasks that were done with lately, a second.
    """
    why = _why_not(more, found, workers, out_per_s)
    if why:
        return WhatIf(more, workers, "", None, why)
    pace = pace_by(found.counts.pending, in_per_s, out_per_s * (workers + more) / workers, 1.0)
    return WhatIf(more, workers, *pace, "")


def _why_not(more: int, found: QueueDetail, workers: int, out_per_s: float) -> str:
    """Why nothing can be said; empty: it can."""
    counts = found.counts
    if not counts.pending:
        return "nothing is pending"
    if counts.is_paused:
        return "it is paused"
    if not workers:
        return "it has no workers now to go by"
    if not out_per_s:
        return f"its workers were done with nothing in the last {PACE_MINUTES} minutes"
    if found.max_active and max(counts.active, workers) + more > found.max_active:
        return f"no more than {found.max_active:,} of its tasks run at once"
    return ""

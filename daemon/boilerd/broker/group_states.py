"""Count where the tasks of failure groups are now: nothing leads from a group to all of them, so some are looked at."""

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from boilerd.broker.bulk_actions import CHUNK, BulkActions, Choice
from boilerd.broker.inspection import Inspection
from boilerd.broker.states import ONE_REGISTRY
from boilerd.tasks.task import TaskState

#: The states in which a task of a group is that has not succeeded since.
STATES = (TaskState.ARCHIVED, TaskState.RETRY)


@dataclass(frozen=True, slots=True)
class GroupStates:
    """Where the tasks of all failure groups are, by their last failure.

    Attributes:
        counts: Fingerprint → state → how many of the tasks that were looked at.
        looked: How many these are.
        is_exact: Whether these are all that there are.
    """

    counts: Mapping[str, Mapping[TaskState, int]] = field(default_factory=dict)
    looked: int = 0
    is_exact: bool = True

    def of(self, fingerprint: str) -> dict[str, int]:
        """Those of one group, by the word for the state."""
        found = self.counts.get(fingerprint, {})
        return {state.value: found.get(state, 0) for state in STATES}


def count_states(inspection: Inspection, bulk: BulkActions, looks: int, within_s: float) -> GroupStates:
    """Look at up to so many archived tasks and retries of all queues, for so long: two round trips for 100 of them."""
    until_s = time.monotonic() + within_s
    counts: dict[str, Counter[TaskState]] = {}
    looked, is_exact = 0, True
    # The shortest lists first: what they leave of their share is for the longer ones.
    places = sorted(_places(inspection), key=lambda place: place[1])
    for place, (choice, total) in enumerate(places):
        seen, end, share = 0, total, math.ceil((looks - looked) / (len(places) - place))
        while seen < min(end, share) and time.monotonic() < until_s:
            count, ids = bulk.chosen(choice, seen, min(CHUNK, share - seen))
            for fingerprint in filter(None, bulk.groups.of_tasks(ids)):
                counts.setdefault(fingerprint, Counter())[choice.state] += 1
            seen += count
            if not count:
                end = seen  # they have gone meanwhile
        looked += seen
        is_exact = is_exact and seen >= end
    return GroupStates(counts, looked, is_exact)


def _places(inspection: Inspection) -> Iterator[tuple[Choice, int]]:
    for queue in inspection.counts(inspection.queue_names()[0]):
        for state in STATES:
            if total := queue.scheduled if state in ONE_REGISTRY else queue.archived:
                yield Choice(queue.name, state), total

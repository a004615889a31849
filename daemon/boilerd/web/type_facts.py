"""What is known of task types from elsewhere than metrics: timeouts from failure groups, handlers from daemons."""

import math
from collections.abc import Mapping, Sequence

from boilerd.broker.constants import FAILURE_DAYS, FAILURE_HOURS, MOST_FAILURES
from boilerd.broker.failure_groups import FailureGroup
from boilerd.broker.type_metrics import TypeLine
from boilerd.errors import TaskTimeoutError
from boilerd.web.visit import Visit

#: The error of failure groups of attempts that took longer than their timeout.
TIMEOUT = f"{TaskTimeoutError.__module__}.{TaskTimeoutError.__qualname__}"
#: How long it is shown before it is read again.
FRESH_S = 60.0
HOUR_S, DAY_S = 3600, 86400


def timeouts_of(visit: Visit, age_s: float, *, is_over: bool) -> Mapping[str, int] | None:
    """Type → how many attempts timed out, by the failure groups of timeouts; None: that is not kept, as of a time that
    is over.
    """  # noqa: D205 - one sentence
    hours, days = math.ceil(age_s / HOUR_S), math.ceil(age_s / DAY_S)
    if is_over or days > FAILURE_DAYS:
        return None
    found: dict[str, int] = {}
    for group in visit.sharing("timeouts", FRESH_S, lambda: _groups_of_timeouts(visit)):
        kept = group.hours[-hours:] if hours <= FAILURE_HOURS else group.days[-days:]
        found[group.type] = found.get(group.type, 0) + (group.last_hour if hours == 1 else sum(kept))
    return found


def _groups_of_timeouts(visit: Visit) -> list[FailureGroup]:
    """Few of all that are kept: those stand in memory."""
    return [group for group in visit.inspector.failures(MOST_FAILURES) if group.error == TIMEOUT]


def timeout_share(line: TypeLine, timeouts: Mapping[str, int] | None) -> float | None:
    """Which part of the attempts timed out; None: it is not known, or none ended."""
    ended = line.numbers.ended
    return min(timeouts.get(line.type, 0) / ended, 1.0) if timeouts is not None and ended else None


def patterns_of(visit: Visit) -> list[tuple[str, ...]]:
    """The patterns of each daemon that lives and tells them."""
    return [tuple(daemon.types) for daemon in visit.inspector.daemons() if daemon.types]


def daemons_of(name: str, handled: Sequence[tuple[str, ...]]) -> int | None:
    """How many daemons have a handler for the type; None: none of them tells."""
    return sum(name.startswith(patterns) for patterns in handled) if handled else None

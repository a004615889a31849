"""Find task types that fail suddenly: most of their last attempts did, and the day before hardly any.

Types that always fail much are left out, as their owners know that, and so are those with few attempts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from boilerd.broker.failure_groups import FailureGroup, FailureGroups
from boilerd.broker.metrics import Metrics, Series
from boilerd.tasks.metric_record import Numbers

#: The time that is looked at, and that with which it is compared.
LATELY, BEFORE = timedelta(minutes=15), timedelta(days=1)
#: So many attempts are needed in each: of fewer many may fail by chance.
ENOUGH_LATELY, ENOUGH_BEFORE = 20, 100
#: From which part of them on a type fails, and up to which part it did not before.
FAILS_FROM, FAILED_UP_TO = 0.5, 0.1
#: Groups that were seen last, of which one may be muted.
MOST_GROUPS = 100


@dataclass(frozen=True, slots=True)
class SuddenFailure:
    """A task type that fails suddenly.

    Attributes:
        type: Its name.
        failed: How many attempts failed in the last 15 minutes; `ended`: of how many.
        share_before: Which part of them failed in the day before.
    """

    type: str
    failed: int
    ended: int
    share_before: float


def sudden_failures(metrics: Metrics) -> list[SuddenFailure]:
    """Those of all queues together, by name; two round trips, and ten more where some type fails much.

    A type of which all failure groups that were seen meanwhile are muted is left out.
    """
    series = metrics.series(LATELY, step_s=60)
    lately = _by_type(series)
    failing = {name: numbers for name, numbers in lately.items() if fails_much(numbers.failed, numbers.ended)}
    if not failing:
        return []
    day = _by_type(metrics.series(BEFORE, step_s=3600))
    found = (_compared(name, numbers, day.get(name, numbers)) for name, numbers in sorted(failing.items()))
    sudden = [each for each in found if each]
    if not sudden:
        return []
    groups = FailureGroups(metrics.connection).latest(MOST_GROUPS)
    seen = [group for group in groups if group.last_seen >= series.until - LATELY]
    return [each for each in sudden if not _is_muted([group for group in seen if group.type == each.type])]


def fails_much(failed: int, ended: int) -> bool:
    """Whether a type fails with so many failures among its last attempts, maybe not suddenly."""
    return ended >= ENOUGH_LATELY and failed >= FAILS_FROM * ended


def _is_muted(groups: Sequence[FailureGroup]) -> bool:
    return bool(groups) and all(group.muted_at for group in groups)


def _compared(name: str, lately: Numbers, day: Numbers) -> SuddenFailure | None:
    """What the type does now beside the rest of the day."""
    ended, failed = day.ended - lately.ended, day.failed - lately.failed
    if ended < ENOUGH_BEFORE or failed > FAILED_UP_TO * ended:
        return None
    return SuddenFailure(name, lately.failed, lately.ended, max(failed, 0) / ended)


def _by_type(series: Series) -> dict[str, Numbers]:
    found: dict[str, list[Numbers]] = {}
    for pair, numbers in series.total().items():
        found.setdefault(pair.type, []).append(numbers)
    return {name: Numbers.sum_of(several) for name, several in found.items()}

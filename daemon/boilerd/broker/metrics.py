"""Read metrics: what was done by queue and task type, in each minute, ten minutes, hour and day that Redis keeps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from boilerd.broker.script_calls import ScriptCalls
from boilerd.tasks.metric_record import Numbers, Pair


@dataclass(frozen=True, slots=True)
class Period:
    """What was done in some time.

    Attributes:
        start: When it began.
        step_s: How long it lasts.
        numbers: By queue and type; only of those of which there is something.
    """

    start: datetime
    step_s: int
    numbers: Mapping[Pair, Numbers]


@dataclass(frozen=True, slots=True)
class Series:
    """What was done, period by period.

    Attributes:
        step_s: How long each lasts.
        periods: The earliest first, without gaps; the last may not be over.
        skipped: What of it could not be read, and why.
    """

    step_s: int
    periods: Sequence[Period]
    skipped: Sequence[str] = ()

    def total(self) -> dict[Pair, Numbers]:
        """All periods together, by queue and type."""
        pairs = dict.fromkeys(pair for period in self.periods for pair in period.numbers)
        return {
            pair: Numbers.sum_of(period.numbers[pair] for period in self.periods if pair in period.numbers)
            for pair in pairs
        }


class Metrics(ScriptCalls):
    """Reads them; raises BrokerError."""

    def series(
        self,
        since: datetime | timedelta,
        until: datetime | None = None,
        step_s: int | None = None,
        queue: str | None = None,
        task_type: str | None = None,
    ) -> Series:
        """What was done since then, period by period."""
        raise NotImplementedError

    def totals(self) -> dict[Pair, Numbers]:
        """What was done ever since, by queue and type; none of the numbers falls."""
        return {}

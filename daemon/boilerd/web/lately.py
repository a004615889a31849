"""What each queue did in each of the last minutes, for the charts that everybody sees.

A minute that is over changes no more, but for what workers and schedulers had not sent yet: so all is read once, then
the last minutes alone. Now and then all is read again, as Redis may have been emptied. Where there are many types that
takes many readings, so that none of them keeps anybody waiting; what is not read yet is not shown.
"""

import time
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from fractions import Fraction
from typing import NamedTuple

import msgspec

from boilerd.broker.metrics import Period
from boilerd.broker.sudden_failures import LATELY, fails_much
from boilerd.errors import BrokerRefusedError
from boilerd.inspector import Inspector
from boilerd.tasks.metric_record import ENQUEUED, FAILED, OUTCOME_KEYS

#: Minutes that are shown.
MINUTES = 180
#: Of the last of them it is added what each type did.
TYPE_MINUTES = 60
#: A minute is read again for so long after its end: by then its counts have come.
SETTLED = timedelta(minutes=3)
#: How often the last minutes are read, and all of them.
FRESH_S, WHOLE_S = 10.0, 600.0
#: Of all of them so many are read at once, and no more in this reading once they had so many records: a millisecond for
#: each two hundred; but as many as the pace is taken of.
AT_ONCE, MOST_RECORDS = 5, 500
#: Minutes of which the present pace is taken.
PACE_MINUTES = 15
#: What a packed number holds.
_MOST = 2**64 - 1
_FAILED = tuple(OUTCOME_KEYS[outcome] for outcome in FAILED)
_LEFT = tuple(OUTCOME_KEYS[outcome] for outcome in ("completed", "archived", "dropped", "cancelled"))


class Counts(msgspec.Struct, frozen=True, gc=False):
    """What was counted; the garbage collector need not look at some ten thousand of them.

    Attributes:
        enqueued: Enqueued tasks.
        ended: Ended attempts.
        failed: Those of them that failed.
        left: Those after which the task was done with: it is not tried again.
    """

    enqueued: int = 0
    ended: int = 0
    failed: int = 0
    left: int = 0


NOTHING = Counts()


class Ends(NamedTuple):
    """Ended attempts of a task type, and those of them that failed."""

    ended: int = 0
    failed: int = 0


class Minute(NamedTuple):
    """A minute that is over, with what each queue did."""

    start: datetime
    queues: Mapping[str, Counts]
    whole: Counts | None = None

    def total(self) -> Counts:
        """All queues together."""
        # Added once: each poll asks for that of all minutes.
        return added(self.queues.values()) if self.whole is None else self.whole


class Pace(NamedTuple):
    """How a queue's length changes.

    Attributes:
        word: ``empty``, ``drains``, ``grows``, ``steady`` (as many come as are done with) or ``stands still``.
        drained_s: In how many seconds nothing is pending any more, if all goes on like this; None: it does not drain.
    """

    word: str
    drained_s: float | None = None


class _Types(NamedTuple):
    """What each type did in a minute, packed: with hundreds of types it would be most of what stands in memory."""

    names: Sequence[str]
    ended: "array[int]"
    failed: "array[int]"


class Lately:
    """Reads the last minutes; raises BrokerError, but where Redis refuses them: then there are none.

    Attributes:
        types: What each type did in the last `TYPE_MINUTES` of what was read.
    """

    def __init__(self, inspector: Inspector) -> None:
        self.types: Mapping[str, Ends] = {}
        self._inspector = inspector
        self._minutes: dict[datetime, Minute] = {}
        #: Of the last `TYPE_MINUTES`, and of the minute that is not over.
        self._types: dict[datetime, _Types] = {}
        self._this: datetime | None = None
        #: How many minutes back all is read anew.
        self._back = 0
        self._fresh_until_s = self._whole_until_s = 0.0
        self._read: Sequence[Minute] = ()

    def read(self) -> Sequence[Minute]:
        """The last minutes that are over, the earliest first, without gaps."""
        now_s = time.monotonic()
        if now_s >= self._fresh_until_s:
            with suppress(BrokerRefusedError):
                self._read_last(now_s)
            self._fresh_until_s = now_s + FRESH_S
        if self._this and self._back < MINUTES:
            with suppress(BrokerRefusedError):
                self._read_older(self._this)
        return self._read

    def has_failing(self) -> bool:
        """Whether some type may fail suddenly, as of the last reading: it fails much, with what is not over yet."""
        lately = [types for start, types in self._types.items() if self._this and start >= self._this - LATELY]
        return any(fails_much(ends.failed, ends.ended) for ends in _added_types(lately).values())

    def _read_last(self, now_s: float) -> None:
        (*last, now) = self._periods(SETTLED)
        if self._this is None or now.start - self._this > SETTLED or now_s >= self._whole_until_s:
            self._back, self._whole_until_s = 0, now_s + WHOLE_S
        if self._this is None or now.start - self._this > SETTLED:  # nobody looked meanwhile
            self._minutes.clear()
        self._this = now.start
        self._put(now.start, last)
        self._types[now.start] = _minute(now)[1]

    def _read_older(self, this: datetime) -> None:
        """Read on from where the last reading stopped."""
        records = 0
        while self._back < MINUTES and (records <= MOST_RECORDS or len(self._minutes) < PACE_MINUTES):
            first, last = (this - timedelta(minutes=back) for back in (self._back + AT_ONCE, self._back))
            found = self._periods(first, last)
            self._back += AT_ONCE
            records += sum(len(period.numbers) for period in found)
            self._put(this, found)

    def _put(self, this: datetime, found: Iterable[Period]) -> None:
        """Show these, too, up to this minute and without gaps."""
        for period in found:
            self._minutes[period.start], self._types[period.start] = _minute(period)
        starts = [this - timedelta(minutes=back) for back in range(MINUTES, 0, -1)]
        first = min(self._minutes, default=this)  # what is older has not been read yet
        self._minutes = {
            start: self._minutes.get(start) or Minute(start, {}, NOTHING) for start in starts if start >= first
        }
        self._read = tuple(self._minutes.values())
        shown = [start for start in starts[-TYPE_MINUTES:] if start in self._types]
        self.types = _added_types(self._types[start] for start in shown)
        self._types = {start: self._types[start] for start in [*shown, this] if start in self._types}

    def _periods(self, since: datetime | timedelta, until: datetime | None = None) -> Sequence[Period]:
        return self._inspector.metrics(since, until, step_s=60).periods


class Late(NamedTuple):
    """What a queue did lately, in so many minutes."""

    counts: Counts
    minutes: int


def of_late(minutes: Sequence[Minute], queue: str) -> Late:
    """What the queue did in the last `PACE_MINUTES` of these."""
    last = minutes[-PACE_MINUTES:]
    return Late(added(minute.queues.get(queue, NOTHING) for minute in last), len(last))


def pace_of(pending: int, late: Late, times: Fraction | int = 1) -> Pace:
    """How a queue's length changes, by the enqueued tasks and those that were done with lately.

    Args:
        pending: Its length.
        late: What was done.
        times: As if so many times as many had been done with.
    """
    enqueued, left = late.counts.enqueued, late.counts.left * times
    if not pending:
        return Pace("empty")
    if not (left or enqueued):
        return Pace("stands still")
    if left <= enqueued:
        return Pace("grows" if left < enqueued else "steady")
    return Pace("drains", pending * 60.0 * late.minutes / (left - enqueued))


def added(several: Iterable[Counts]) -> Counts:
    """All of them together."""
    found = list(several)
    return Counts(
        sum([one.enqueued for one in found]), sum([one.ended for one in found]), sum([one.failed for one in found]),
        sum([one.left for one in found]),
    )  # fmt: skip


def _added_types(minutes: Iterable[_Types]) -> dict[str, Ends]:
    ended, failed = Counter[str](), Counter[str]()
    for minute in minutes:
        for name, number, bad in zip(minute.names, minute.ended, minute.failed, strict=True):
            ended[name] += number
            failed[name] += bad
    return {name: Ends(number, failed[name]) for name, number in ended.items()}


def _minute(period: Period) -> tuple[Minute, _Types]:
    queues: dict[str, Counts] = {}
    ended, failed = Counter[str](), Counter[str]()
    for pair, numbers in period.numbers.items():
        counts = _counts(numbers.record)
        queues[pair.queue] = _plus(queues.get(pair.queue, NOTHING), counts)
        ended[pair.type] += counts.ended
        failed[pair.type] += counts.failed
    packed = [array("Q", (min(number, _MOST) for number in found.values())) for found in (ended, failed)]
    return Minute(period.start, queues, added(queues.values())), _Types(tuple(ended), *packed)


def _plus(one: Counts, other: Counts) -> Counts:
    # Without a loop: there may be fifty thousand of them.
    return Counts(
        one.enqueued + other.enqueued, one.ended + other.ended, one.failed + other.failed, one.left + other.left
    )


def _counts(record: Mapping[int, int]) -> Counts:
    """Straight from the record: there may be fifty thousand of them."""
    get = record.get
    left = sum(get(key, 0) for key in _LEFT)
    retried, lost = get(OUTCOME_KEYS["retried"], 0), get(OUTCOME_KEYS["lost"], 0)
    return Counts(
        enqueued=get(ENQUEUED, 0), ended=left + retried + lost, failed=sum(get(key, 0) for key in _FAILED), left=left
    )

"""Read metrics: what was done by queue and task type, in each minute, ten minutes, hour and day that Redis keeps.

Workers write to the minute alone. The scheduler adds closed minutes, which change no more, to their ten minutes, hour
and day and to the totals, and notes how far it is. Readers add what it has not come to: of a number that is read with
the note, in one transaction, it is known which minutes it lacks, and those are there to be read afterwards.

Redis serves nobody else for a tenth of a millisecond at a time, however much is read.
"""

import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import redis

from boilerd.broker import keys
from boilerd.broker.connection import raw, text
from boilerd.broker.constants import METRIC_PERIODS, MOST_OTHERS, MOST_PAIRS, OTHER
from boilerd.broker.refusals import is_wrong_kind, translated
from boilerd.broker.script_calls import ScriptCalls
from boilerd.errors import MisplacedKeyError
from boilerd.tasks import metric_record
from boilerd.tasks.metric_record import Numbers, Pair, Record

#: Fields of a hash that are read; one with more is none of boilerd's.
MOST_FIELDS = 4 * MOST_PAIRS
#: Hashes in one round trip: a megabyte, where all are full.
_CHUNK = 20
#: A scheduler that has not been there for longer leaves out what was before.
_MOST_MINUTES = METRIC_PERIODS["minute"][1] // 60
#: A scheduler that is further ahead has been there while Redis's clock was wrong.
_MOST_AHEAD = 60
_STEPS = {step_s: name for name, (step_s, _) in METRIC_PERIODS.items()}

_to_pair = functools.lru_cache(4 * MOST_PAIRS)(metric_record.unpack_pair)
Records = dict[Pair, Record]
#: The same, packed or not.
Packed = Mapping[Pair, bytes | Record]


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

    def total(self) -> Numbers:
        """What was done by all queues and types together."""
        return Numbers.sum_of(self.numbers.values())


@dataclass(frozen=True, slots=True)
class Series:
    """What was done, period by period.

    Attributes:
        step_s: How long each lasts.
        periods: The earliest first, without gaps.
        until: When the last one ends, or now, while that goes on.
        skipped: What of it could not be read, and why.
    """

    step_s: int
    periods: Sequence[Period]
    until: datetime
    skipped: Sequence[str] = ()

    @property
    def lasting_s(self) -> float:
        """How long all periods are together; 0: there are none."""
        return (self.until - self.periods[0].start).total_seconds() if self.periods else 0.0

    def total(self) -> dict[Pair, Numbers]:
        """All periods together, by queue and type."""
        found: Records = {}
        for period in self.periods:
            _add(found, ((pair, numbers.record) for pair, numbers in period.numbers.items()))
        return {pair: Numbers(record) for pair, record in found.items()}


class Metrics(ScriptCalls):
    """Reads them; raises BrokerError."""

    def series(
        self,
        since: datetime | timedelta,
        until: datetime | None = None,
        step_s: int | None = None,
        queue: str | None = None,
        task_type: str | None = None,
        *,
        each: Callable[[Period], None] | None = None,
    ) -> Series:
        """What was done since then, period by period; a round trip for 20 periods or so.

        What is called with each of them has its numbers, and the series has not: of many pairs they are megabytes.
        """
        if step_s is not None and step_s not in _STEPS:
            raise ValueError(f"step {step_s} s: there are {', '.join(map(str, _STEPS))}")
        reader = _Reader(self.connection, queue, task_type, opens=each is not None)
        now_s, rolled = reader.place()
        since_s = now_s - since.total_seconds() if isinstance(since, timedelta) else since.timestamp()
        step_s = step_s or _finest(now_s - since_s)
        since_s = max(since_s, now_s - METRIC_PERIODS[_STEPS[step_s]][1])
        until_s = min(until.timestamp(), now_s) if until else now_s
        wanted = range(int(since_s // step_s), math.ceil(until_s / step_s) if since_s < until_s else 0)
        periods: list[Period] = []
        for number, found in _read(reader, step_s, wanted, rolled, int(now_s // 60)):
            start, numbers = _moment(number * step_s), {pair: Numbers(record) for pair, record in found.items()}
            periods.append(Period(start, step_s, {} if each else numbers))
            if each:
                each(Period(start, step_s, numbers))
        ends_s = min(wanted.stop * step_s, now_s) if wanted else now_s
        return Series(step_s, periods, _moment(ends_s), tuple(reader.skipped))

    def totals(self) -> dict[Pair, Numbers]:
        """What was done ever since, by queue and type; none of the numbers falls.

        Nothing, where another program's key stands in the place of the totals: the last minutes alone would be less
        than what was told before.
        """
        reader = _Reader(self.connection)
        now_s, rolled, found = reader.with_place(keys.METRICS_TOTAL)
        if reader.skipped and not found:
            return {}
        for _, packed in reader.minutes(rolled, int(now_s // 60)):
            records = _opened(packed)
            for pair in sorted(records, key=lambda pair: metric_record.pack_pair(*pair)):
                metric_record.merge(found.setdefault(_pair_in(found, pair), {}), records[pair])
        return {pair: Numbers(record) for pair, record in found.items()}


class _Rolled(NamedTuple):
    """How far the scheduler is: all minutes before this one are rolled up, and of this one so many pairs."""

    minute: int
    pairs: int


def _read(
    reader: "_Reader", step_s: int, wanted: range, rolled: _Rolled, this_minute: int
) -> Iterator[tuple[int, Records | Packed]]:
    """The records of each wanted period, in their order."""
    name = _STEPS[step_s]
    if step_s == 60:
        yield from zip(wanted, reader.many([keys.metrics(name, number) for number in wanted]), strict=True)
        return
    found: dict[int, Records] = {number: {} for number in wanted}
    # One period lacks minutes; those behind it have none yet but what stands in the minutes.
    while (growing := rolled.minute * 60 // step_s) in wanted:
        _, rolled, found[growing] = reader.with_place(keys.metrics(name, growing))
        if rolled.minute * 60 // step_s == growing:
            break
        found[growing] = {}
    for minute, packed in reader.minutes(rolled, this_minute):
        if (number := minute * 60 // step_s) in found:
            _add(found[number], _opened(packed).items())
    closed = range(wanted.start, min(wanted.stop, growing))
    yield from zip(closed, reader.many([keys.metrics(name, number) for number in closed]), strict=True)
    yield from ((number, found[number]) for number in wanted[len(closed) :])


class _Reader:
    """Reads hashes of records, all of them or those of a queue or type, and notes what it has to skip.

    With `opens` it leaves them open, as it has to open each: where all are kept, they are kept packed.
    """

    def __init__(
        self, connection: redis.Redis, queue: str | None = None, task_type: str | None = None, *, opens: bool = False
    ) -> None:
        self.skipped: list[str] = []
        self._opens = opens
        self._connection: Any = connection
        self._queue, self._type = queue, task_type

    def place(self) -> tuple[float, _Rolled]:
        """Redis's time, and how far the scheduler is."""
        now, rolled = self._ask([("TIME",), ("GET", keys.METRICS_ROLLED)])
        return _seconds(now), self._rolled(rolled, now)

    def with_place(self, key: str) -> tuple[float, _Rolled, Records]:
        """The same, and the records of a hash, of one moment."""
        commands = [("TIME",), ("GET", keys.METRICS_ROLLED), _scan(key)]
        now, rolled, found = self._ask(commands, is_one_moment=True)
        return _seconds(now), self._rolled(rolled, now), _opened(self._records(key, self._fields(key, found)))

    def many(self, names: Sequence[str]) -> Iterator[Packed]:
        """The records of each of these hashes."""
        for first in range(0, len(names), _CHUNK):
            chunk = names[first : first + _CHUNK]
            for key, answer in zip(chunk, self._ask([self._command(key) for key in chunk]), strict=True):
                yield self._records(key, self._fields(key, answer))

    def minutes(self, rolled: _Rolled, this_minute: int) -> Iterator[tuple[int, Packed]]:
        """The minutes that are not rolled up, each with its records, or with what is left of them."""
        if rolled.pairs:
            key = keys.metrics("minute", rolled.minute)
            fields = self._fields(key, *self._ask([_scan(key)]))
            left = sorted(fields)[rolled.pairs :]
            yield rolled.minute, self._records(key, {name: fields[name] for name in left})
            rolled = _Rolled(rolled.minute + 1, 0)
        # Where the clock was put back, workers write to the first minute that is not rolled up.
        last = max(this_minute, rolled.minute + 1)
        numbers = range(max(rolled.minute, this_minute - _MOST_MINUTES), last + 1)
        yield from zip(numbers, self.many([keys.metrics("minute", number) for number in numbers]), strict=True)

    def _rolled(self, answer: object, now: tuple[int, int]) -> _Rolled:
        """How far the scheduler is, by the rules of measures.lua."""
        this_minute = now[0] // 60
        if answer is None:
            return _Rolled(this_minute - _MOST_MINUTES, 0)
        minute, _, pairs = text(answer).partition(":") if isinstance(answer, bytes | str) else ("", "", "")
        if not all(part.isascii() and part.isdigit() and len(part) < 16 for part in (minute, pairs)):
            self._skip(f"{keys.METRICS_ROLLED} is none of boilerd's, remove it")
        elif int(minute) <= this_minute + _MOST_AHEAD:
            return _Rolled(int(minute), int(pairs))
        return _Rolled(this_minute - 1, MOST_PAIRS)

    def _command(self, key: str) -> tuple[Any, ...]:
        """What reads the hash, or what of it may be wanted."""
        if self._queue is None:
            return _scan(key) if self._type is None else (*_scan(key), "MATCH", b"*:" + _as_pattern(self._type))
        if self._type is None:
            return (*_scan(key), "MATCH", _as_pattern(text(metric_record.pack_pair(self._queue, ""))) + b"*")
        return ("HGET", raw(key), metric_record.pack_pair(self._queue, self._type))

    def _fields(self, key: str, answer: Any) -> Mapping[bytes, bytes]:
        """The fields of an answer."""
        if isinstance(answer, tuple):
            cursor, fields = answer
            if not cursor:
                return fields  # type: ignore[no-any-return] # redis-py cannot type it
            self._skip(f"{key} has more than {MOST_FIELDS:,} fields, and is none of boilerd's, remove it")
        elif isinstance(answer, redis.ResponseError):
            self._skip(str(MisplacedKeyError(key, "hash")))
        elif isinstance(answer, bytes):
            return {metric_record.pack_pair(self._queue or "", self._type or ""): answer}
        return {}

    def _records(self, key: str, fields: Mapping[bytes, bytes]) -> Packed:
        """The records of a hash that are wanted, which can be opened; of others is told."""
        found: dict[Pair, bytes | Record] = {}
        strange = 0
        for name, packed in fields.items():
            pair, record = _to_pair(name), metric_record.decode(packed)
            if pair is None or record is None:
                strange += 1
            elif self._queue in {None, pair.queue} and self._type in {None, pair.type}:
                found[pair] = record if self._opens else packed
        if strange:
            self._skip(f"{key} has {strange:,} field{'s' * (strange > 1)} of another program's")
        return found

    def _skip(self, reason: str) -> None:
        if reason not in self.skipped:
            self.skipped.append(reason)

    def _ask(self, commands: Iterable[tuple[Any, ...]], *, is_one_moment: bool = False) -> list[Any]:
        """The answers; also those that say that a key is of another kind."""
        with translated(), self._connection.pipeline(transaction=is_one_moment) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            answers: list[Any] = pipeline.execute(raise_on_error=False)
            for answer in answers:
                if isinstance(answer, redis.RedisError) and not is_wrong_kind(answer):
                    raise answer
        return answers


def _scan(key: str) -> tuple[Any, ...]:
    """Reads a whole hash, but no more than one of boilerd's has."""
    return ("HSCAN", raw(key), 0, "COUNT", MOST_FIELDS)


def _as_pattern(name: str) -> bytes:
    """A pattern of Redis's that this name alone fits."""
    return re.sub(rb"([*?\[\]\\])", rb"\\\1", raw(name))


def _finest(age_s: float) -> int:
    """The shortest period that is kept for so long."""
    return next((step_s for step_s, kept_s in METRIC_PERIODS.values() if age_s <= kept_s), max(_STEPS))


def _pair_in(totals: Records, pair: Pair) -> Pair:
    """As which pair it will be counted in the totals, which have room for so many, by the rules of measures.lua."""
    if pair in totals or len(totals) < MOST_PAIRS - MOST_OTHERS:
        return pair
    beside = Pair(pair.queue, OTHER)
    return beside if beside in totals or len(totals) < MOST_PAIRS - 1 else Pair(OTHER, OTHER)


def _opened(packed: Packed) -> Records:
    return {
        pair: metric_record.decode(record) or {} if isinstance(record, bytes) else record
        for pair, record in packed.items()
    }


def _add(into: Records, more: Iterable[tuple[Pair, Mapping[int, int]]]) -> None:
    for pair, record in more:
        metric_record.merge(into.setdefault(pair, {}), record)


def _seconds(now: tuple[int, int]) -> float:
    return now[0] + now[1] / 1e6


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)

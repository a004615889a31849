"""What was counted of a queue and task type in some time: one record, as Redis keeps it, and as people read it.

A record is a flat map of small numbers, packed with msgpack, so that a script merges two without knowing what they
mean: it adds them key by key, but for `MAXIMA`. A zero is never stored. Keys begin at 10: Lua's cmsgpack takes a map
with the keys 1, 2, 3 … for an array.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, NamedTuple

import msgspec

from boilerd.tasks.histogram import BOUNDS_BYTES, BOUNDS_S, Histogram

#: How an attempt ends.
OUTCOMES = ("completed", "retried", "archived", "dropped", "cancelled", "put_back", "lost")
#: Those of the attempts that failed.
FAILED = ("retried", "archived", "dropped", "lost")
#: Those with which a task is done with. One whose last worker died is not told from one that runs again: both are lost.
DONE = ("completed", "archived", "dropped")

#: The keys of a record; each is packed in one byte, as it is below 128, and means the same for ever.
OUTCOME_KEYS = {outcome: 10 + number for number, outcome in enumerate(OUTCOMES)}
_ENDED = tuple(key for outcome, key in OUTCOME_KEYS.items() if outcome != "put_back")
ENQUEUED = 17
#: Sums of run times and waiting times in microseconds, and of payloads in bytes.
RUN_US, WAIT_US, PAYLOAD_BYTES = 18, 19, 20
#: The highest of each; workers tell that of run times alone, as each takes 3 % more memory.
MOST_RUN_US, MOST_WAIT_US, MOST_PAYLOAD_BYTES = MAXIMA = (21, 22, 23)
#: Tasks that were done with at a later attempt than the first, by its number: 2, 3, 4 to 5, 6 to 10, more. Of the first
#: nothing is counted, as that is what most tasks take: it has the rest. The key is that of the first of 5 buckets.
LATER_BUCKETS, LATER_BOUNDS = 25, (2, 3, 5, 10)
#: Key of the first bucket; the next ones follow.
RUN_BUCKETS, WAIT_BUCKETS, PAYLOAD_BUCKETS = 30, 71, 112

#: Key → number.
Record = dict[int, int]

#: One that has all keys, each with the greatest number, takes 1.1 kB.
_MOST_RECORD_BYTES = 4096
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(dict[int, Annotated[int, msgspec.Meta(ge=0)]])


class Pair(NamedTuple):
    """A queue and a task type."""

    queue: str
    type: str


def encode(record: Mapping[int, int]) -> bytes:
    """Pack a record."""
    return _encoder.encode(record)


def decode(packed: bytes) -> Record | None:
    """Unpack a record, whoever wrote it; None: it is none."""
    if len(packed) > _MOST_RECORD_BYTES:
        return None
    try:
        return _decoder.decode(packed)
    except (msgspec.DecodeError, RecursionError):
        return None


def merge(into: Record, other: Mapping[int, int]) -> None:
    """Add a record to another; a page adds ten thousand of them."""
    if not into:
        into.update(other)
        return
    get = into.get
    most = {key: max(get(key, 0), other[key]) for key in MAXIMA if key in other}
    for key, number in other.items():
        into[key] = get(key, 0) + number
    into.update(most)


def pack_pair(queue: str, task_type: str) -> bytes:
    """The name under which Redis keeps a pair's record: ``7:default:email:send``, the number says where the type
    begins, whatever characters are in either.
    """  # noqa: D205 - one sentence
    name = queue.encode("utf-8", "surrogateescape")
    return b"%d:%b:%b" % (len(name), name, task_type.encode("utf-8", "surrogateescape"))


def unpack_pair(name: bytes) -> Pair | None:
    """The pair of this name; None: it names none."""
    length, _, rest = name.partition(b":")
    if not (length.isdigit() and len(length) < 10) or rest[int(length) : int(length) + 1] != b":":
        return None
    queue, task_type = rest[: int(length)], rest[int(length) + 1 :]
    return Pair(queue.decode("utf-8", "surrogateescape"), task_type.decode("utf-8", "surrogateescape"))


class Numbers(msgspec.Struct, frozen=True, eq=False):
    """What was counted of a queue and type, or of several, in some time.

    Attributes:
        kept: The record; or that packed, which takes a twentieth of the memory: of a day there are ten thousands.
    """

    kept: Mapping[int, int] | bytes = msgspec.field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Numbers) and self.record == other.record

    __hash__ = None  # type: ignore[assignment] # it may be a dict

    @property
    def record(self) -> Mapping[int, int]:
        """As Redis keeps it."""
        return decode(self.kept) or {} if isinstance(self.kept, bytes) else self.kept

    @classmethod
    def sum_of(cls, several: "Iterable[Numbers]") -> "Numbers":
        """All of them together."""
        found: Record = {}
        for one in several:
            merge(found, one.record)
        return cls(found)

    @property
    def attempts(self) -> dict[str, int]:
        """Ended attempts by outcome, also those of which there are none."""
        get = self.record.get
        return {outcome: get(key, 0) for outcome, key in OUTCOME_KEYS.items()}

    @property
    def ended(self) -> int:
        """Ended attempts, but for those that the daemon and not the task ended: their tasks were put back."""
        get = self.record.get
        return sum([get(key, 0) for key in _ENDED])

    @property
    def failed(self) -> int:
        """Attempts that failed, or whose worker died."""
        get = self.record.get
        return sum([get(OUTCOME_KEYS[outcome], 0) for outcome in FAILED])

    @property
    def taken(self) -> tuple[int, ...]:
        """Tasks that were done with, by the attempt that was their last: the first, 2, 3, 4 to 5, 6 to 10, more."""
        get = self.record.get
        done = sum([get(OUTCOME_KEYS[outcome], 0) for outcome in DONE])
        later = [get(LATER_BUCKETS + bucket, 0) for bucket in range(len(LATER_BOUNDS) + 1)]
        return (max(0, done - sum(later)), *later)

    @property
    def enqueued(self) -> int:
        """Enqueued tasks."""
        return self.record.get(ENQUEUED, 0)

    @property
    def run(self) -> Histogram:
        """How long attempts ran, in seconds."""
        return self._histogram(BOUNDS_S, RUN_BUCKETS, RUN_US, MOST_RUN_US, 1e6)

    @property
    def wait(self) -> Histogram:
        """How long tasks waited for their first attempt from when they could run, in seconds."""
        return self._histogram(BOUNDS_S, WAIT_BUCKETS, WAIT_US, MOST_WAIT_US, 1e6)

    @property
    def payload(self) -> Histogram:
        """How large payloads were, in bytes."""
        return self._histogram(BOUNDS_BYTES, PAYLOAD_BUCKETS, PAYLOAD_BYTES, MOST_PAYLOAD_BYTES, 1)

    def _histogram(self, bounds: tuple[float, ...], first: int, total: int, most: int, unit: float) -> Histogram:
        get = self.record.get
        counts = tuple([get(bucket, 0) for bucket in range(first, first + len(bounds) + 1)])
        return Histogram(bounds, counts, get(total, 0) / unit, get(most, 0) / unit)

    def __add__(self, other: "Numbers") -> "Numbers":
        return Numbers.sum_of((self, other))

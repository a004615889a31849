"""Compare metrics with the journal that the handlers of `metric_app` keep."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import redis

from boilerd.broker import keys
from boilerd.broker.constants import LAST_MINUTE
from boilerd.tasks.metric_record import Pair, Record, decode, merge, unpack_pair


class Ended(NamedTuple):
    """An attempt as its handler saw it."""

    pid: int
    at_s: float
    queue: str
    type: str
    outcome: str
    ran_s: float


def journal(directory: Path) -> Iterator[Ended]:
    """All attempts that have ended."""
    for path in directory.iterdir():
        for line in path.read_text().splitlines():
            at_s, queue, kind, outcome, ran_s = line.split()
            yield Ended(int(path.name), float(at_s), queue, kind, outcome, float(ran_s))


def in_bytes(value: bytes | str) -> bytes:
    """What redis-py answers, which its types take for text as well."""
    return value if isinstance(value, bytes) else value.encode()


def counted(connection: redis.Redis, periods: str = "minute:*", *, has_marks: bool = False) -> dict[Pair, Record]:
    """What Redis has of these periods, added; `has_marks`: with the last minutes of totals."""
    found: dict[Pair, Record] = {}
    for key in connection.scan_iter(f"{keys.OWN}:metrics:{periods}"):
        for name, packed in connection.hgetall(key).items():
            pair, record = unpack_pair(in_bytes(name)), decode(in_bytes(packed))
            assert pair is not None, name
            assert record is not None, packed
            if not has_marks:
                record.pop(LAST_MINUTE, None)
            merge(found.setdefault(pair, {}), record)
    return found

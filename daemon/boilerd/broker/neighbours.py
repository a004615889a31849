"""Which applications share this Redis: each worker's record tells what its application declares.

Two applications that share queues take each other's tasks, and each fails those that it has no handler for. Nothing in
Redis forbids that: hosts of one application share queues all day, and their versions may differ for a while.
"""

import functools
import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime

import msgspec
import redis

from boilerd.broker import keys
from boilerd.broker.connection import raw, text
from boilerd.broker.refusals import expecting, translated
from boilerd.broker.worker_records import WorkerRecords
from boilerd.errors import MisplacedKeyError, listed

#: Bytes of what a worker's record tells of its application; of a larger one it tells nothing.
MOST_BYTES = 8192
#: A worker whose heartbeat is older is dead, as a rule; its record lives for some minutes more.
DEAD_S = 30.0
#: Names of each kind that a warning has.
_MOST_NAMED = 3


class Declared(msgspec.Struct, frozen=True):
    """What an application declares.

    Attributes:
        types: The patterns of its handlers; an empty one fits all types.
        crons: The names of its periodic tasks.
    """

    types: tuple[str, ...] = ()
    crons: tuple[str, ...] = ()

    def encoded(self) -> str:
        """As a worker's record holds it."""
        found = msgspec.json.encode(self)
        return found.decode() if len(found) <= MOST_BYTES else ""


class Neighbour(msgspec.Struct, frozen=True):
    """A living worker, of whatever host.

    Attributes:
        declared: What its application declares; None from a worker that does not tell.
    """

    worker: str
    queues: Sequence[str]
    declared: Declared | None


def neighbours(connection: redis.Redis, but: Container[str] = ()) -> list[Neighbour]:
    """Those that there are, by name; four round trips, and more for hundreds of them.

    Args:
        connection: The client of Redis.
        but: Daemons whose workers are left out.
    """
    names: list[str] = []
    with translated():
        seconds, _ = connection.time()
    with suppress(MisplacedKeyError), expecting("set", keys.WORKERS):
        names = sorted(map(text, connection.smembers(keys.WORKERS)))
    prefix = keys.worker("")
    names = [name for name in names if name.removeprefix(prefix).rpartition(".")[0] not in but]
    found = WorkerRecords(connection).read(names, ("queues", "last_heartbeat", "supervisor"))
    records = {name: record for name, record in found.items() if record and _is_living(record[1], seconds)}
    asked = one_of_each({name: record[2] for name, record in records.items()})
    with translated(), connection.pipeline(transaction=False) as pipeline:
        for name in dict.fromkeys(asked.values()):
            pipeline.hget(raw(name), "application")
        told = dict(zip(dict.fromkeys(asked.values()), pipeline.execute(raise_on_error=False), strict=True))
    return [
        Neighbour(name.removeprefix(prefix), text(record[0] or b"").split(","), _told(told[asked[name]]))
        for name, record in records.items()
    ]


def one_of_each(supervisors: Mapping[str, bytes | None]) -> dict[str, str]:
    """Each worker → one of its daemon that tells of its application for all of them: that is the same, and may be long.

    Args:
        supervisors: Of each worker, by its record; None from one that has none, as plain RQ's.
    """
    first: dict[tuple[str, bytes], str] = {}
    return {
        name: first.setdefault((name.rpartition(".")[0], mark), name) if mark else name
        for name, mark in supervisors.items()
    }


def is_living(heartbeat: str, birthmark: str, now_s: float) -> bool:
    """Whether a worker lives whose record has this."""
    return now_s < living_until_s(heartbeat, birthmark)


def living_until_s(heartbeat: str, birthmark: str) -> float:
    """Until when it does, if it gives no other sign; one of plain RQ's gives that every few minutes only."""
    if not birthmark:
        return math.inf
    with suppress(ValueError, OverflowError):
        seen = datetime.fromisoformat(heartbeat)
        return (seen if seen.tzinfo else seen.replace(tzinfo=UTC)).timestamp() + DEAD_S
    return -math.inf


def strangers(own: Declared, queues: Iterable[str], others: Iterable[Neighbour]) -> list[str]:
    """What this application shares with others on the same Redis, a sentence for each of these.

    One that declares all that another does, or less, is taken for another version of the same.
    """
    served, ours, told = set(queues), set(own.types), {}
    for other in others:
        declared = other.declared
        if declared is None or ours <= set(declared.types) or set(declared.types) <= ours:
            continue
        if shared := [*_shared_queues(served, other), *_shared_crons(own, declared)]:
            told[declared] = (
                f"worker {other.worker} belongs to another application, with handlers for"
                f" {_named(set(declared.types) - ours)}, and has {' and '.join(shared)};"
                " give each application a key_prefix of its own"
            )
    return list(told.values())


def _shared_queues(served: set[str], other: Neighbour) -> Iterator[str]:
    if queues := served & set(other.queues):
        yield f"the same queues ({_named(queues)}), so that each takes tasks of the other and fails them"


def _shared_crons(own: Declared, other: Declared) -> Iterator[str]:
    if crons := set(own.crons) & set(other.crons):
        yield f"periodic tasks of the same names ({_named(crons)}), so that each tick is enqueued for one of them"


def _named(names: set[str]) -> str:
    return listed(sorted(names), _MOST_NAMED)


def _is_living(heartbeat: bytes | None, now_s: float) -> bool:
    """Whether a worker gave a sign of life lately; False for a record that is foreign."""
    with suppress(ValueError):
        seen = datetime.fromisoformat(text(heartbeat or b""))
        return now_s - (seen if seen.tzinfo else seen.replace(tzinfo=UTC)).timestamp() < DEAD_S
    return False


def _told(answer: object) -> Declared | None:
    return declared_by(text(answer)) if isinstance(answer, bytes) else None


@functools.lru_cache(64)
def declared_by(encoded: str) -> Declared | None:
    """What a worker's record says that its application declares; None: it does not tell."""
    if len(encoded) > MOST_BYTES:  # no worker of ours wrote it
        return None
    with suppress(ValueError, RecursionError, msgspec.MsgspecError):
        return msgspec.json.decode(encoded, type=Declared)
    return None

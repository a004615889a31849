"""The daemons that live, of all hosts, as each tells of itself; `daemon.published` writes it.

A daemon of a version that tells nothing is not among them; its workers are, in RQ's registry. Redis may hold anything
there: a part that cannot be read is shown as empty, and what is no daemon's at all has a problem.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
import redis

from boilerd.broker import keys
from boilerd.broker.connection import raw, text
from boilerd.broker.refusals import expecting, translated
from boilerd.broker.view_reader import shallow
from boilerd.errors import MisplacedKeyError
from boilerd.tasks.queues import DEFAULT_QUEUE

#: Bytes of what a daemon tells: it tells no more than 0.4 MB, so that more is none's.
MOST_BYTES = 1 << 20
#: Daemons that are read, those that told last.
MOST_DAEMONS = 1000

T = TypeVar("T")


class PoolFacts(msgspec.Struct, frozen=True):
    """A pool of workers as its daemon tells of it.

    Attributes:
        queues: Its queues and their weights.
        processes: How many workers it has now.
        slots: How many tasks each of them runs at once.
    """

    name: str
    queues: dict[str, int] = {}
    processes: int = 0
    slots: int = 1


class CronFacts(msgspec.Struct, frozen=True):
    """A periodic task as a daemon has it; what its tasks carry is not told.

    Attributes:
        options: Of its enqueues, but for the queue and the headers; times in seconds.
    """

    name: str
    spec: str
    timezone: str = "UTC"
    type: str = ""
    queue: str = DEFAULT_QUEUE
    catch_up: bool = False
    options: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class DaemonInfo:
    """A daemon that lives, of any host.

    Attributes:
        name: What the names of its workers begin with, ``HOST.RUN``; each start and reload has another.
        pid: Of its supervisor.
        release: Of its application, as its settings have it; empty: they do not tell.
        started_at: When it was started or reloaded.
        seen_at: When it told last.
        versions: Of ``boilerd``, ``python``, ``rq`` and ``broker``.
        types: The patterns of its handlers; an empty one fits all types.
        schemas: Pattern → the JSON Schema of the payloads that its handler declared.
        crons: Its periodic tasks.
        settings: Name → value as people may see it, with secrets masked; without ``cron``.
        left_out: Part, such as ``schemas`` → how many members of it there was no room for.
        problem: What is wrong where it should tell, and then nothing else is known of it; empty: nothing.
    """

    name: str
    host: str = ""
    pid: int = 0
    release: str = ""
    started_at: datetime | None = None
    seen_at: datetime | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    pools: Sequence[PoolFacts] = ()
    types: Sequence[str] = ()
    schemas: Mapping[str, Any] = field(default_factory=dict)
    crons: Sequence[CronFacts] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    problem: str = ""

    @property
    def processes(self) -> int:
        """How many workers it has now."""
        return sum(pool.processes for pool in self.pools)


def read_daemons(connection: redis.Redis) -> list[DaemonInfo]:
    """Those that live, by name; two round trips."""
    asked: Any = connection  # redis-py's types take no bytes
    try:
        with expecting("sorted set", keys.DAEMONS):
            found = asked.zrevrange(keys.DAEMONS, 0, MOST_DAEMONS - 1, withscores=True)
    except MisplacedKeyError as error:
        return [DaemonInfo(keys.DAEMONS, problem=str(error))]
    scores = {text(name): score for name, score in found}
    with translated(), asked.pipeline(transaction=False) as pipeline:
        for name in scores:
            pipeline.getrange(raw(keys.daemon(name)), 0, MOST_BYTES)
        answers = pipeline.execute(raise_on_error=False)
    told = [_to_daemon(name, answer, scores[name]) for name, answer in zip(scores, answers, strict=True) if answer]
    return sorted(told, key=lambda daemon: daemon.name)


def _to_daemon(name: str, answer: bytes | Exception, seen_s: float) -> DaemonInfo:
    """One that tells something; one that has ended by now tells nothing."""
    if isinstance(answer, Exception):
        return DaemonInfo(name, problem=str(MisplacedKeyError(keys.daemon(name), "string")))
    found = _told(name, answer)
    return found if found.problem else replace(found, seen_at=_since_1970(seen_s))


@functools.lru_cache(64)  # from its start on, a daemon tells the same as a rule
def _told(name: str, answer: bytes) -> DaemonInfo:
    facts = _read(answer)
    if facts is None:
        return DaemonInfo(name, problem=f"key {keys.daemon(name)} holds no facts about a daemon, delete it")
    return DaemonInfo(
        name=name,
        host=_part(facts.get("host"), str, ""),
        pid=_part(facts.get("pid"), int, 0),
        release=_part(facts.get("release"), str, ""),
        started_at=_moment(facts.get("started_at")),
        versions=_part(facts.get("versions"), dict[str, str], {}),
        pools=_members(facts.get("pools"), PoolFacts),
        types=_once(_types, facts.get("types")),
        schemas=_once(_object, facts.get("schemas")),
        crons=_once(_crons, facts.get("crons")),
        settings=_once(_object, facts.get("settings")),
        left_out=_part(facts.get("left_out"), dict[str, int], {}),
    )


def _once(read: Callable[[Any], T], value: Any) -> T:
    """What is read of a value, once for all that are equal: daemons of one application tell the same."""
    return _read_once(read, json.dumps(value))  # type: ignore[no-any-return] # it is what `read` returns


@functools.lru_cache(64)
def _read_once(read: Callable[[Any], Any], told: str) -> Any:
    return read(json.loads(told))


def _types(value: Any) -> list[str]:
    return _members(value, str)


def _crons(value: Any) -> list[CronFacts]:
    return _members(value, CronFacts)


def _object(value: Any) -> dict[str, Any]:
    return _part(value, dict[str, Any], {})


def _read(answer: bytes) -> Mapping[str, Any] | None:
    """The object that a daemon wrote; None where it is none."""
    if len(answer) > MOST_BYTES:
        return None
    with suppress(ValueError, RecursionError):
        # Not by msgspec: it refuses lone surrogates, which stand for bytes of a path that are no text.
        facts = shallow(json.loads(text(answer), parse_constant=_refuse))
        return facts if isinstance(facts, dict) else None
    return None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _part(value: Any, kind: type[T], otherwise: T) -> T:
    with suppress(msgspec.ValidationError):
        return msgspec.convert(value, kind)
    return otherwise


def _members(value: Any, kind: type[T]) -> list[T]:
    """Those that can be read: a later version may tell more, or otherwise."""
    members = value if isinstance(value, list) else []
    found: list[T] = []
    for member in members:
        with suppress(msgspec.ValidationError):
            found.append(msgspec.convert(member, kind))
    return found


def _moment(value: object) -> datetime | None:
    with suppress(TypeError, ValueError):
        moment = datetime.fromisoformat(value)  # type: ignore[arg-type]
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return None


def _since_1970(seconds: float) -> datetime | None:
    with suppress(ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(seconds, UTC)
    return None

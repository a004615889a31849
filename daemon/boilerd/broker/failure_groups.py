"""Read failure groups: what fails, how often, since when."""

import enum
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec

from boilerd.broker import keys
from boilerd.broker.connection import raw, text
from boilerd.broker.constants import FAILURE_DAYS, FAILURE_HOURS, FAILURE_SAMPLES, MOST_FAILURES, MOST_SEARCHED
from boilerd.broker.job_hash import request_id_in
from boilerd.broker.refusals import expecting, sound, translated
from boilerd.broker.script_calls import ScriptCalls
from boilerd.errors import MisplacedKeyError
from boilerd.tasks.fingerprint import FailureKind

if TYPE_CHECKING:
    from boilerd.broker.audit import Actor

#: What a person marks a group with, or takes back.
Mark = Literal["acknowledge", "unacknowledge", "mute", "unmute", "note"]
MARKS: tuple[Mark, ...] = get_args(Mark)
#: A group is new, or has returned, for so long.
FRESH = timedelta(days=1)
#: A group is rising if it failed so often in the last hour, and so many times as often as in an hour of the day before.
RISING_FROM, RISING_TIMES = 10, 3
#: Groups that are read in one round trip; Redis is busy with it for about a millisecond.
_CHUNK = 100


class FailureState(enum.StrEnum):
    """How a failure group has changed lately."""

    CAME_BACK = "came back"
    ACKNOWLEDGED = "acknowledged"
    NEW = "new"
    RETURNED = "returned"
    RISING = "rising"
    STEADY = "steady"


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """All attempts that failed in one way.

    Attributes:
        type: The type of the first task.
        error: The class of the exception, with its module.
        message: That of the first failure, masked.
        frames: The application's functions that ran, the innermost first.
        state: ``came back`` if it failed after somebody has acknowledged it, and ``acknowledged`` if it did not; else
            ``new`` for a day; ``returned`` for a day, if it was not seen for a week before; ``rising`` if the last
            hour had 10 failures or more, and 3 times as many as an hour of the day before; else ``steady``.
        count: Failed attempts since `first_seen`.
        last_hour: Those of the last 60 minutes, estimated from whole hours.
        hours: Those of each of the last 48 hours of the clock, this one last.
        days: Those of each of the last 30 days (UTC), today last.
        first_release: The release that failed first; empty: it had no name.
        last_release: The one that failed last.
        queue: That of the last task; empty: it is gone.
        rise: How many times as often it failed in the last hour as in an hour of the day before; None: then it did
            not fail.
        releases: Release → how often it failed in that, of the last 20 or so; those of older workers are in none.
        acknowledged_at: When somebody said that they know of it; None: nobody did.
        acknowledged_by: Who it was.
        acknowledged_release: The one that had failed last then.
        since_acknowledged: How often it failed since then.
        muted_at: When somebody said that they do not want to hear of it; None: nobody did. It makes no finding then.
        muted_by: Who it was.
        note: What somebody wrote about it; `noted_at` and `noted_by` tell when, and who.
        task_ids: The last tasks, latest first; only if one group was asked for.
        request_ids: ID of a task → the request that it belongs to; of those of `task_ids` that are there and have one.
    """

    fingerprint: str
    type: str
    error: str
    message: str
    frames: Sequence[str]
    state: FailureState
    count: int
    last_hour: int
    first_seen: datetime | None
    last_seen: datetime
    first_release: str
    last_release: str
    hours: Sequence[int]
    days: Sequence[int]
    queue: str = ""
    rise: float | None = None
    releases: Mapping[str, int] = field(default_factory=dict)
    acknowledged_at: datetime | None = None
    acknowledged_by: str = ""
    acknowledged_release: str = ""
    since_acknowledged: int = 0
    muted_at: datetime | None = None
    muted_by: str = ""
    note: str = ""
    noted_at: datetime | None = None
    noted_by: str = ""
    task_ids: Sequence[str] = ()
    request_ids: Mapping[str, str] = field(default_factory=dict)


class FailureGroups(ScriptCalls):
    """Reads them; raises BrokerError."""

    def latest(self, size: int, skipped: list[str] | None = None) -> list[FailureGroup]:
        """The groups that were seen last, latest first; two round trips for 100 of them, and two for their queues.

        Args:
            size: How many at most.
            skipped: Gets why some of them could not be read.
        """
        connection: Any = self.connection
        with expecting("sorted set", keys.FAILURES):
            seen = connection.zrevrange(keys.FAILURES, 0, min(size, MOST_FAILURES) - 1, withscores=True)
        found: list[FailureGroup] = []
        for first in range(0, len(seen), _CHUNK):
            found += self._read(seen[first : first + _CHUNK], skipped=skipped)
        return self._with_queues(found)

    def one(self, fingerprint: str) -> FailureGroup | None:
        """One group with the IDs of its last tasks; None: there is none of this fingerprint.

        Raises:
            MisplacedKeyError: Another program's key stands where it, or these, should.
        """
        connection: Any = self.connection
        with expecting("sorted set", keys.FAILURES):
            score = connection.zscore(keys.FAILURES, raw(fingerprint))
        if score is None:
            return None
        key = keys.failure_tasks(fingerprint)
        with expecting("list", key):
            ids = connection.lrange(raw(key), 0, 2 * FAILURE_SAMPLES)
        latest = [*dict.fromkeys(map(text, ids))][:FAILURE_SAMPLES]
        found = next(iter(self._read([(raw(fingerprint), score)], latest)), None)
        if found is None:
            self._check(keys.failure(fingerprint))
        return found and replace(self._with_queues([found])[0], request_ids=self._request_ids(latest))

    def _check(self, key: str) -> None:
        connection: Any = self.connection
        with expecting("hash", key):
            connection.hlen(raw(key))

    def mark(self, fingerprint: str, mark: Mark, note: str, by: "Actor") -> tuple[str, str]:
        """Mark a group: ``done``, ``same`` where it is so already, or ``unknown``; and why the audit has no entry."""
        args = [raw(fingerprint), mark, raw(note), *map(raw, by.args({"fingerprint": fingerprint}))]
        answer, unaudited = self._run("annotate", args)
        return text(answer), text(unaudited)

    def _with_queues(self, groups: Sequence[FailureGroup]) -> list[FailureGroup]:
        with translated(), self.connection.pipeline(transaction=False) as pipeline:
            for group in groups:
                pipeline.lindex(raw(keys.failure_tasks(group.fingerprint)), 0)
            latest = sound(pipeline.execute(raise_on_error=False))
            for task_id in latest:
                pipeline.hget(raw(keys.job(text(task_id or b""))), "origin")
            queues = sound(pipeline.execute(raise_on_error=False))
        return [replace(group, queue=text(queue or b"")) for group, queue in zip(groups, queues, strict=True)]

    def _request_ids(self, task_ids: Sequence[str]) -> dict[str, str]:
        """The requests of these tasks, but of those with large payloads; two round trips."""
        names = [raw(keys.job(task_id)) for task_id in task_ids]
        small = [name for name, size in self._each(names, "HSTRLEN") if size and size <= MOST_SEARCHED]
        found = dict(self._each(small, "HGET"))
        pairs = (
            (task_id, request_id_in(found.get(name) or b"")) for task_id, name in zip(task_ids, names, strict=True)
        )
        return {task_id: request_id for task_id, request_id in pairs if request_id}

    def _each(self, names: Sequence[bytes], command: str) -> list[tuple[bytes, Any]]:
        """What a command says of the data of each job."""
        connection: Any = self.connection
        with translated(), connection.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.execute_command(command, name, "data")
            return [*zip(names, sound(pipeline.execute(raise_on_error=False)), strict=True)]

    def of_tasks(self, task_ids: Sequence[str]) -> list[str]:
        """The fingerprint of the last failure of each task; empty: it belongs to no group."""
        with translated(), self.connection.pipeline(transaction=False) as pipeline:
            for task_id in task_ids:
                pipeline.hmget(raw(keys.job(task_id)), "fingerprint")
            rows = sound(pipeline.execute(raise_on_error=False))
        return [text(row[0] or b"") if row else "" for row in rows]

    def _read(
        self, seen: Sequence[tuple[bytes, float]], task_ids: Sequence[str] = (), skipped: list[str] | None = None
    ) -> list[FailureGroup]:
        with translated(), self.connection.pipeline(transaction=False) as pipeline:
            pipeline.time()
            for fingerprint, _ in seen:
                pipeline.hgetall(raw(keys.failure(text(fingerprint))))
            (seconds, _), *records = sound(pipeline.execute(raise_on_error=False))
        now = datetime.fromtimestamp(seconds, UTC)
        found: list[FailureGroup] = []
        for (fingerprint, score), record in zip(seen, records, strict=True):
            if group := record and to_group(text(fingerprint), record, score, now, task_ids):
                found.append(group)
            elif skipped is not None and record != {}:  # else it is gone: it was not seen for 30 days
                skipped.append(_strange(keys.failure(text(fingerprint)), record))
        return found


def _strange(key: str, record: Mapping[bytes, bytes] | None) -> str:
    """Why what stands there is no group."""
    kind = "hash" if record is None else "record of a failure group"
    return str(MisplacedKeyError(key, kind))


def to_group(
    fingerprint: str, fields: Mapping[bytes, bytes], last_seen_s: float, now: datetime, task_ids: Sequence[str] = ()
) -> FailureGroup | None:
    """A group from its hash, and when it was last seen; None: the record is none of boilerd's."""
    try:
        about = msgspec.json.decode(fields.get(b"about", b""), type=FailureKind)
    except (ValueError, RecursionError):  # msgspec's errors are of these
        return None
    hour, day = int(now.timestamp()) // 3600, int(now.timestamp()) // 86400
    hours = _counts(fields, [b"h%d" % number for number in range(hour - FAILURE_HOURS + 1, hour + 1)])
    days = _counts(fields, [b"d%d" % number for number in range(day - FAILURE_DAYS + 1, day + 1)])
    last_hour = round(hours[-1] + hours[-2] * (1 - now.timestamp() % 3600 / 3600))
    found = FailureGroup(
        fingerprint, about.type, about.error, about.message, about.frames, FailureState.STEADY,
        _count(fields, b"count"), last_hour, _moment(fields.get(b"first_seen")), _moment(last_seen_s) or now,
        text(fields.get(b"first_release", b"")), text(fields.get(b"last_release", b"")), hours, days,
        rise=_rise(last_hour, hours), releases=_releases(fields), task_ids=task_ids, **_marks(fields),
    )  # fmt: skip
    return replace(found, state=_state(found, now, _moment(fields.get(b"returned"))))


def _marks(fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    """What people have said of the group."""
    moments = {name: _moment(fields.get(name.encode())) for name in ("acknowledged_at", "muted_at", "noted_at")}
    names = ("acknowledged_by", "acknowledged_release", "muted_by", "note", "noted_by")
    texts = {name: text(fields.get(name.encode(), b"")) for name in names}
    since = max(0, _count(fields, b"count") - _count(fields, b"acknowledged_count"))
    return {**moments, **texts, "since_acknowledged": since if moments["acknowledged_at"] else 0}


def _releases(fields: Mapping[bytes, bytes]) -> dict[str, int]:
    return {text(name[2:]): _count(fields, name) for name in fields if name.startswith(b"v:")}


def _rise(last_hour: int, hours: Sequence[int]) -> float | None:
    """How many times as often as before: not the two hours of the clock that the last one is estimated from."""
    before = hours[-26:-2]
    mean = sum(before) / len(before)
    return last_hour / mean if mean else None


def _state(group: FailureGroup, now: datetime, returned: datetime | None) -> FailureState:
    if group.acknowledged_at:
        return FailureState.CAME_BACK if group.since_acknowledged else FailureState.ACKNOWLEDGED
    if group.first_seen and now - group.first_seen < FRESH:
        return FailureState.NEW
    if returned and now - returned < FRESH:
        return FailureState.RETURNED
    return FailureState.RISING if is_rising(group) else FailureState.STEADY


def is_rising(group: FailureGroup) -> bool:
    """Whether it fails much more often than before, whatever else is to be said of it."""
    return group.last_hour >= RISING_FROM and (group.rise is None or group.rise >= RISING_TIMES)


def _counts(fields: Mapping[bytes, bytes], names: Sequence[bytes]) -> list[int]:
    """Counts of these names: most are not there, and a list of groups has thousands."""
    return [_count(fields, name) if name in fields else 0 for name in names]


def _count(fields: Mapping[bytes, bytes], name: bytes) -> int:
    """What Redis has counted; nothing, where somebody else has written what is no count."""
    try:
        number = int(fields.get(name, b"0"))
    except ValueError:
        return 0
    return number if 0 < number < 2**63 else 0


def _moment(seconds: float | bytes | None) -> datetime | None:
    with suppress(TypeError, ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(float(seconds or ""), UTC)
    return None

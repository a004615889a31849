"""Read failure groups: what fails, how often, since when."""

import enum
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from boilerd.broker import keys
from boilerd.broker.connection import raw, text
from boilerd.broker.constants import FAILURE_DAYS, FAILURE_HOURS, FAILURE_SAMPLES, MOST_FAILURES, MOST_SEARCHED
from boilerd.broker.inspection import sound
from boilerd.broker.job_hash import request_id_in
from boilerd.broker.refusals import expecting, translated
from boilerd.broker.script_calls import ScriptCalls
from boilerd.tasks.fingerprint import FailureKind

#: A group is new, or has returned, for so long.
FRESH = timedelta(days=1)
#: A group is rising if it failed so often in the last hour, and so many times as often as in an hour of the day before.
RISING_FROM, RISING_TIMES = 10, 3
#: Groups that are read in one round trip; Redis is busy with it for about a millisecond.
_CHUNK = 100


class FailureState(enum.StrEnum):
    """How a failure group has changed lately."""

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
        state: ``new`` for a day; ``returned`` for a day, if it was not seen for a week before; ``rising`` if the last
            hour had 10 failures or more, and 3 times as many as an hour of the day before; else ``steady``.
        count: Failed attempts since `first_seen`.
        last_hour: Those of the last 60 minutes, estimated from whole hours.
        hours: Those of each of the last 48 hours of the clock, this one last.
        days: Those of each of the last 30 days (UTC), today last.
        first_release: The release that failed first; empty: it had no name.
        last_release: The one that failed last.
        queue: That of the last task; empty: it is gone.
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
    task_ids: Sequence[str] = ()
    request_ids: Mapping[str, str] = field(default_factory=dict)


class FailureGroups(ScriptCalls):
    """Reads them; raises BrokerError."""

    def latest(self, size: int) -> list[FailureGroup]:
        """The groups that were seen last, latest first; two round trips for 100 of them, and two for their queues."""
        connection: Any = self.connection
        with expecting("sorted set", keys.FAILURES):
            seen = connection.zrevrange(keys.FAILURES, 0, min(size, MOST_FAILURES) - 1, withscores=True)
        found: list[FailureGroup] = []
        for first in range(0, len(seen), _CHUNK):
            found += self._read(seen[first : first + _CHUNK])
        return self._with_queues(found)

    def one(self, fingerprint: str) -> FailureGroup | None:
        """One group with the IDs of its last tasks; None: there is none of this fingerprint."""
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
        return found and replace(self._with_queues([found])[0], request_ids=self._request_ids(latest))

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

    def _read(self, seen: Sequence[tuple[bytes, float]], task_ids: Sequence[str] = ()) -> list[FailureGroup]:
        with translated(), self.connection.pipeline(transaction=False) as pipeline:
            pipeline.time()
            for fingerprint, _ in seen:
                pipeline.hgetall(raw(keys.failure(text(fingerprint))))
            (seconds, _), *records = sound(pipeline.execute(raise_on_error=False))
        now = datetime.fromtimestamp(seconds, UTC)
        return [
            group
            for (fingerprint, score), record in zip(seen, records, strict=True)
            if record and (group := to_group(text(fingerprint), record, score, now, task_ids))
        ]


def to_group(
    fingerprint: str, fields: Mapping[bytes, bytes], last_seen_s: float, now: datetime, task_ids: Sequence[str] = ()
) -> FailureGroup | None:
    """A group from its hash, and when it was last seen; None: the record is none of boilerd's."""
    try:
        about = msgspec.json.decode(fields.get(b"about", b""), type=FailureKind)
    except msgspec.DecodeError:
        return None
    hour, day = int(now.timestamp()) // 3600, int(now.timestamp()) // 86400
    hours = _counts(fields, [b"h%d" % number for number in range(hour - FAILURE_HOURS + 1, hour + 1)])
    days = _counts(fields, [b"d%d" % number for number in range(day - FAILURE_DAYS + 1, day + 1)])
    last_hour = round(hours[-1] + hours[-2] * (1 - now.timestamp() % 3600 / 3600))
    first_seen = _moment(fields.get(b"first_seen"))
    return FailureGroup(
        fingerprint, about.type, about.error, about.message, about.frames,
        _state(now, first_seen, _moment(fields.get(b"returned")), last_hour, hours), _count(fields, "count"),
        last_hour, first_seen, _moment(last_seen_s) or now, text(fields.get(b"first_release", b"")),
        text(fields.get(b"last_release", b"")), hours, days, task_ids=task_ids,
    )  # fmt: skip


def _state(
    now: datetime, first_seen: datetime | None, returned: datetime | None, last_hour: int, hours: Sequence[int]
) -> FailureState:
    if first_seen and now - first_seen < FRESH:
        return FailureState.NEW
    if returned and now - returned < FRESH:
        return FailureState.RETURNED
    before = hours[-26:-2]
    if last_hour >= RISING_FROM and last_hour >= RISING_TIMES * sum(before) / len(before):
        return FailureState.RISING
    return FailureState.STEADY


def _counts(fields: Mapping[bytes, bytes], names: Sequence[bytes]) -> list[int]:
    """Counts of these names: most are not there, and a list of groups has thousands."""
    return [_count(fields, name.decode()) if name in fields else 0 for name in names]


def _count(fields: Mapping[bytes, bytes], name: str) -> int:
    with suppress(ValueError):
        return int(fields.get(name.encode(), b"0"))
    return 0


def _moment(seconds: float | bytes | None) -> datetime | None:
    with suppress(TypeError, ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(float(seconds or ""), UTC)
    return None

"""Makes what an Inspector tells, the records of `views`, of RQ's records of tasks, workers and queues.

Redis may hold anything there; a value that cannot be read is shown as missing.
"""

import base64
import functools
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from boilerd.broker.connection import text
from boilerd.broker.job_hash import (
    NUMBER_FIELDS,
    is_own_call,
    name_in,
    read_call,
    read_max_retries,
    read_progress,
    read_retention_s,
)
from boilerd.broker.states import STATE_OF
from boilerd.broker.views import Attempt, CompletedTask, CronInfo, Day, QueueDetail, QueueInfo, TaskDetail, WorkerInfo
from boilerd.broker.worker_records import Run
from boilerd.errors import ConfigError, ForbiddenJobError, InvalidTaskError, MisplacedKeyError
from boilerd.tasks.cron import Schedule
from boilerd.tasks.headers import headers_in
from boilerd.tasks.queues import DEFAULT_POOL
from boilerd.tasks.task import DEFAULT_MAX_RETRIES, TaskState

#: A traceback, or the data of a job, may unpack to this much to be shown.
_MAX_SHOWN_BYTES = 1024 * 1024
#: A value that is nested deeper is not shown: whoever writes it as JSON may run out of stack.
_MOST_LEVELS = 100


def to_task(
    task_id: str, fields: Mapping[bytes, bytes], score: float | None, attempts: Sequence[Attempt]
) -> TaskDetail:
    """A task from its job hash and its score in a registry, or among those that wait for a concurrency key (None: it
    stands in neither); see ARCHITECTURE.md for the fields.
    """  # noqa: D205 - one sentence
    fields = _readable(fields)
    shown = {text(name): text(value) for name, value in fields.items() if name != b"data"}
    state: TaskState | None = STATE_OF.get(shown.get("status", ""))
    if state is TaskState.SCHEDULED and "last_failed_at" in shown:
        state = TaskState.RETRY
    called = _called(fields[b"data"]) if b"data" in fields else _Called(is_foreign=b"task_type" not in fields)
    moment = None if score is None else _moment(score)
    is_waiting = state in {TaskState.SCHEDULED, TaskState.RETRY}
    is_aside = state is TaskState.PENDING and score is not None
    return TaskDetail(
        id=task_id,
        type=shown.get("task_type") or called.type or name_in(shown.get("description", "")),
        queue=shown.get("origin", ""),
        state=state,
        payload=called.payload,
        retried=_int(shown.get("number_of_retries")) or 0,
        max_retries=_max_retries(fields, is_foreign=called.is_foreign),
        timeout_s=seconds if (seconds := _int(shown.get("timeout"))) and seconds > 0 else None,
        retention_s=read_retention_s(fields),
        deadline=_moment(shown.get("deadline")),
        created_at=_time(shown.get("created_at")),
        enqueued_at=_time(shown.get("enqueued_at")),
        started_at=_time(shown.get("started_at")),
        ended_at=_time(shown.get("ended_at")),
        last_error=shown.get("last_error", ""),
        last_failed_at=_time(shown.get("last_failed_at")),
        worker=shown.get("worker_name", ""),
        unique_key=shown.get("unique_key", ""),
        concurrency_key=shown.get("concurrency_key", ""),
        rq_status=shown.get("status", ""),
        waits_for=shown.get("concurrency_key", "") if is_aside else "",
        next_run_at=_without_microseconds(moment) if is_waiting else None,
        expires_at=None if is_waiting or is_aside else moment,
        attempts=attempts,
        result=_result(fields, state, attempts),
        headers=called.headers,
        progress=read_progress(fields) if state is TaskState.ACTIVE else None,
        fingerprint=shown.get("fingerprint", ""),
        concurrency_limit=_int(shown.get("concurrency_limit")) if shown.get("concurrency_key") else None,
        runs=_int(shown.get("runs")) or 0,
        copied_from=shown.get("copied_from", ""),
        is_readable=called.is_readable,
    )


def to_attempt(fields: Mapping[bytes, bytes]) -> Attempt:
    """An attempt from an entry of the results stream."""
    packed = fields.get(b"exc_string", b"")
    error = ""
    with suppress(ValueError, zlib.error):
        error = text(zlib.decompressobj().decompress(base64.b64decode(packed), _MAX_SHOWN_BYTES)) if packed else ""
    result = None
    with suppress(ValueError):
        result = _json(base64.b64decode(fields.get(b"return_value", b"")))
    return Attempt(
        started_at=_moment(text(fields.get(b"execution_started_at", b""))),
        ended_at=_moment(text(fields.get(b"execution_ended_at", b""))),
        worker=text(fields.get(b"worker_name", b"")),
        is_success=fields.get(b"type") == b"1",
        error=error,
        result=result,
    )


def to_completed(note: bytes) -> CompletedTask | None:
    """A task from the note of its completion; None if that cannot be read."""
    with suppress(ValueError, RecursionError, msgspec.DecodeError):
        return msgspec.json.decode(note, type=CompletedTask, strict=False)  # the note's times are seconds since 1970
    return None


#: What of a worker's hash people see, and by what it is known whether it lives; the rest may be long.
WORKER_FIELDS = (
    "hostname", "pid", "state", "queues", "birth", "last_heartbeat", "birthmark", "successful_job_count",
    "failed_job_count", "slots", "pool", "rss", "cpu_ms",
)  # fmt: skip


def to_worker(name: str, shown: Mapping[str, str], run: Run, *, is_alive: bool = True) -> WorkerInfo:
    """A worker from `WORKER_FIELDS` of its hash, and what it runs."""
    slots = max(1, _int(shown["slots"]) or 1)
    return WorkerInfo(
        name=name,
        host=shown["hostname"],
        pid=_int(shown["pid"]) or 0,
        state=shown["state"],
        queues=[name for name in shown["queues"].split(",") if name],
        started_at=_time(shown["birth"]),
        last_seen_at=_time(shown["last_heartbeat"]),
        succeeded=_int(shown["successful_job_count"]) or 0,
        failed=_int(shown["failed_job_count"]) or 0,
        task_id=text(run.task_id or b""),
        task_type=text(run.task_type or b""),
        task_started_at=claimed_at(run),
        slots=slots,
        running=min(run.held, slots),  # of a batch, one runs
        pool=shown["pool"] or DEFAULT_POOL,
        rss_bytes=_int(shown["rss"]),
        cpu_ms=_int(shown["cpu_ms"]),
        is_alive=is_alive,
    )


def claimed_at(run: Run) -> datetime | None:
    """Since when a worker has what it runs; None: that is not known."""
    return _moment(text(run.claimed_at or b""))


def to_cron(name: str, value: bytes, previous_s: float | None, now_s: float) -> CronInfo:
    """A periodic task from its value in boilerd:schedules, ``SINCE TIMEZONE LINE``, and its last tick."""
    since, _, schedule = text(value).partition(" ")
    timezone, _, spec = schedule.partition(" ")
    return CronInfo(name, spec, timezone, _moment(since), _moment(previous_s), next_tick(spec, timezone, now_s))


def next_tick(spec: str, timezone: str, now_s: float) -> datetime | None:
    """The next tick of a line; None where Redis holds one that is none."""
    with suppress(ValueError, OverflowError):
        schedule = schedule_of(spec, timezone)
        return _moment(schedule.next_after(now_s)) if schedule else None
    return None


@functools.lru_cache(400)  # to read a line takes longer than to find its next tick
def schedule_of(spec: str, timezone: str) -> Schedule | None:
    """What a line says; None where Redis holds one that is none."""
    with suppress(ConfigError, ValueError, OverflowError):
        return Schedule.parse(spec, timezone)
    return None


def to_count(value: bytes | None) -> int:
    """A number that stands alone, such as a limit; 0 where there is none."""
    return _int(value) or 0


def to_queue(name: str, row: Sequence[Any]) -> QueueInfo:
    """A queue from its row; look.lua says what is in it."""
    misplaced, is_paused, pending, active, scheduled, completed, archived = row[:7]
    pairs = zip(misplaced[::2], misplaced[1::2], strict=True)
    problem = "; ".join(str(MisplacedKeyError(text(key), text(kind))) for key, kind in pairs)
    return QueueInfo(name, pending, active, scheduled, completed, archived, bool(is_paused), problem)


#: What of a row of look.lua tells of a queue as a whole; behind it stands what is at the ends of its lists.
QUEUE_FIELDS = 15


def to_queue_detail(name: str, row: Sequence[Any], now_s: float) -> QueueDetail:
    """A queue as a whole from its row, and Redis's time."""
    max_active, max_length, processed, failed, dropped, memory_bytes, *enqueued_at = row[7:QUEUE_FIELDS]
    waits_since = [moment for value in enqueued_at if (moment := _time(text(value)))]
    return QueueDetail(
        counts=to_queue(name, row),
        latency_s=max(0.0, now_s - min(waits_since).timestamp()) if waits_since else 0.0,
        memory_bytes=memory_bytes,
        max_active=_int(max_active) or 0,
        max_length=_int(max_length) or 0,
        today=Day(
            datetime.fromtimestamp(now_s, UTC).date(), to_count(processed), to_count(failed), dropped=to_count(dropped)
        ),
    )


def bad_queue(name: str, problem: str) -> QueueInfo:
    """The row of a queue, or of the list of queues, of which nothing can be read."""
    return QueueInfo(name, 0, 0, 0, 0, 0, is_paused=False, problem=problem)


def bad_worker(name: str, problem: str) -> WorkerInfo:
    """The row of a worker, or of the list of workers, of which nothing can be read."""
    return WorkerInfo(name, "", 0, "", (), None, None, 0, 0, problem=problem)


def _readable(fields: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
    """The job hash without damaged numbers, so that the functions that read it for a claim do not raise."""
    return {name: value for name, value in fields.items() if name not in NUMBER_FIELDS or _int(value) is not None}


class _Called(NamedTuple):
    """What a job calls, as far as it can be read.

    Attributes:
        is_foreign: Whether it is a job of plain RQ.
    """

    type: str = ""
    payload: Any = None
    headers: Mapping[str, str] = MappingProxyType({})
    is_foreign: bool = True
    is_readable: bool = True


def _called(data: bytes) -> _Called:
    with suppress(ValueError, RecursionError, ForbiddenJobError):
        function, _, args, kwargs = read_call(data, _MAX_SHOWN_BYTES)
        is_foreign = not is_own_call(function, args)
        payload = {"args": args, "kwargs": kwargs} if is_foreign else args[1]
        found = shallow(payload)
        is_readable = payload is None or found is not None
        if is_foreign:
            return _Called(function, found, {}, True, is_readable)
        return _Called(args[0], found, _headers(kwargs), False, is_readable)
    return _Called(is_readable=False)


def _headers(kwargs: Any) -> Mapping[str, str]:
    with suppress(InvalidTaskError):
        return dict(headers_in(kwargs))
    return {}


def _max_retries(fields: Mapping[bytes, bytes], *, is_foreign: bool) -> int | None:
    if b"task_type" in fields and not {b"max_retries", b"last_failed_at"} & fields.keys():
        return None  # `retries_left` is for RQ's tools until then
    own = read_max_retries(fields)
    # A plain RQ client that wants none says nothing.
    return (0 if is_foreign else DEFAULT_MAX_RETRIES) if own is None else own


def _result(fields: Mapping[bytes, bytes], state: TaskState | None, attempts: Sequence[Attempt]) -> Any:
    """The result; one of an earlier attempt's or worker's may stand in the hash of a completed task."""
    if state is TaskState.COMPLETED:
        return attempts[-1].result if attempts else None
    return _json(fields.get(b"result", b""))


def _json(encoded: bytes) -> Any:
    """A value from JSON; None if it cannot be read or shown."""
    with suppress(ValueError, RecursionError, msgspec.DecodeError):
        return shallow(msgspec.json.decode(encoded))
    return None


def shallow(value: Any) -> Any:
    """The value, or None if it is nested too deep to be shown."""
    level = [value]
    for _ in range(_MOST_LEVELS):
        level = [inner for one in level if isinstance(one, dict | list) for inner in _inside(one)]
        if not level:
            return value
    return None


def _inside(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _int(value: str | bytes | None) -> int | None:
    """A whole number of 64 bits, as Redis counts; None for anything else."""
    if not value:  # most fields of a list are empty, and an error takes its time
        return None
    with suppress(TypeError, ValueError):
        number = int(value)
        return number if -(2**63) <= number < 2**63 else None
    return None


def _moment(seconds: float | str | None) -> datetime | None:
    if not seconds:
        return None
    with suppress(TypeError, ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(float(seconds), UTC)
    return None


def _without_microseconds(moment: datetime | None) -> datetime | None:
    """The moment to the millisecond: microseconds order tasks that are due at once (see common.lua)."""
    return moment and moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _time(value: str | None) -> datetime | None:
    """One of RQ's times; one without a zone, as older versions of RQ wrote it, is in UTC."""
    if not value:
        return None
    with suppress(TypeError, ValueError):
        moment = datetime.fromisoformat(value)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return None

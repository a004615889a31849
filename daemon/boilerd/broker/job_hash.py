"""A task as RQ's job hash: how it is written when it is enqueued, and read when it is claimed or shown.

Everything that is read from Redis is foreign data until it was checked here.
"""

import hashlib
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from math import ceil
from typing import Any, TypeVar

import msgspec

from boilerd.broker import keys
from boilerd.broker.claims import Claim
from boilerd.broker.connection import text
from boilerd.broker.constants import (
    CLAIMED_FIELDS,
    ID_REMEMBERED,
    ID_TAKEN,
    MOST_HEADERS_JSON,
    STORED_PENDING,
    STORED_SCHEDULED,
)
from boilerd.entry_point import ENTRY_POINT, ENTRY_POINTS
from boilerd.errors import (
    BoilerdError,
    DuplicateTaskError,
    ForbiddenJobError,
    InvalidPayloadError,
    InvalidTaskError,
    QueueFullError,
    TaskIdConflictError,
    shown,
)
from boilerd.tasks.headers import NO_HEADERS, headers_in
from boilerd.tasks.options import TaskOptions, UniqueUntil
from boilerd.tasks.payload import DEFAULT_MAX_PAYLOAD, canonical
from boilerd.tasks.progress import TaskProgress
from boilerd.tasks.task import (
    ARCHIVE_TTL_S,
    DEFAULT_MAX_RETRIES,
    DEFAULT_TIMEOUT_S,
    Task,
    TaskState,
    check_type,
)
from boilerd.units import LONGEST_S

#: The fields' names as Redis has them, and the one that comes behind them where it forbids the task.
_CLAIMED_FIELDS = (*(name.encode() for name in CLAIMED_FIELDS), b"concurrency_limit")
#: Fields of a job whose end takes more than to acknowledge it.
_CLEANUP_FIELDS = frozenset({b"unique_key", b"concurrency_key", b"repeats_left"})
#: Fields that hold whole numbers.
NUMBER_FIELDS = frozenset({b"max_retries", b"retries_left", b"number_of_retries", b"result_ttl", b"timeout", b"runs"})
#: RQ's call: ``[function, instance, args, kwargs]``.
Call = tuple[str, Any, list[Any], Any]
#: A call, read: task type, payload (None where it was not read), its request ID, its headers, and the function that a
#: plain RQ client's job calls, which is the task's type as well.
_Read = tuple[str, Any, str | None, Mapping[str, str], str | None]
#: Made once, because that takes as long as eight calls are decoded in.
_CALL: msgspec.json.Decoder[Call] = msgspec.json.Decoder(Call)
#: The same, with everything behind the function as it stands there; and our own arguments, the payload as it stands.
_HEAD = msgspec.json.Decoder(tuple[str, msgspec.Raw, msgspec.Raw, msgspec.Raw])
_OWN_ARGS = msgspec.json.Decoder(tuple[str, msgspec.Raw])
#: The first byte of data that is compressed, as RQ does with that of its own clients.
_ZLIB = b"x"
#: Name of a function with its module, short enough for a task type.
_FUNCTION = re.compile(r"(?=.{1,256}$)([A-Za-z_]\w*\.)+[A-Za-z_]\w*", re.ASCII)
#: A job's data may unpack to this much, as much as a payload has by default; crafted data must not fill the memory.
MAX_DATA_BYTES = DEFAULT_MAX_PAYLOAD
#: Characters of a request_id that the lines of an attempt carry: a payload may come from anybody.
MAX_REQUEST_ID = 128
#: RQ keeps a result this long when its client asks for no time.
RQ_RETENTION_S = 500
#: Defaults as they are sent.
_FAILURE_TTL, _RETRIES = str(ARCHIVE_TTL_S), str(DEFAULT_MAX_RETRIES)

T = TypeVar("T")


class _Traced(msgspec.Struct):
    """What is read of a payload that is not read."""

    request_id: str | None = None


_TRACED = msgspec.json.Decoder(_Traced)


class NewTask(msgspec.Struct, frozen=True):
    """A task to store; its payload is JSON."""

    id: str
    type: str
    payload: bytes
    options: TaskOptions

    @property
    def unique_key(self) -> str:
        """The key of its unique lock: queue, type and payload, as Asynq's, but of the value and not the bytes."""
        digest = hashlib.sha256(canonical(self.payload)).hexdigest()
        return keys.unique(self.options.queue, self.type, digest)


# --- Written


def describe_task(task: NewTask) -> list[str | bytes]:
    """The task as enqueue.lua and tick.lua take it; store.lua reads it."""
    options = task.options
    fields = job_fields(task)
    at = "" if options.process_at is None else repr(options.process_at)
    lock = task.unique_key if options.unique_s else ""
    wait = repr(options.process_in_s) if options.process_in_s else "0"
    unique = repr(options.unique_s) if options.unique_s else "0"
    is_lasting = "1" if options.unique_until == UniqueUntil.TTL else "0"
    once = str(ceil(options.once_s * 1000)) if options.once_s else ""
    return [task.id, options.queue, wait, at, lock, unique, is_lasting, once, str(len(fields)), *fields]


def job_fields(task: NewTask) -> list[str | bytes]:
    """RQ's fields of the job hash, and ours, as names and values in turn, ready to be sent.

    RQ's own tools count `retries_left` down; `max_retries` is written only if the caller gave it, because otherwise
    the handler's policy decides at the time of the failure.
    """
    options = task.options
    own: dict[str, str | float | None] = {
        "max_retries": options.max_retries,
        "deadline": None if options.deadline is None else repr(options.deadline),
        "unique_key": task.unique_key if options.unique_s else None,
        "unique_until": options.unique_until if options.unique_s else None,
        "unique_s": options.unique_s or None,
        "concurrency_key": options.concurrency_key,
        "concurrency_limit": options.concurrency_limit if options.concurrency_key else None,
    }
    # Not by its length, which takes 50 ns more.
    kwargs = b"{}" if options.headers is NO_HEADERS else _kwargs(options.headers)
    fields: list[str | bytes] = [
        "origin", options.queue,
        "description", task.type,
        "task_type", task.type,
        "data", b'["%b",null,["%b",%b],%b]' % (ENTRY_POINT.encode(), task.type.encode(), task.payload, kwargs),
        "timeout", "-1" if options.timeout_s is None else str(options.timeout_s),
        "result_ttl", str(options.retention_s),
        "failure_ttl", _FAILURE_TTL,
        "retries_left", _RETRIES if options.max_retries is None else str(options.max_retries),
    ]  # fmt: skip
    for name, value in own.items():
        if value is not None:
            fields += [name, value if isinstance(value, str) else repr(value)]
    return fields


def to_answer(task: NewTask, answer: int | bytes) -> TaskState | BoilerdError:
    """The state of a stored task, or the reason why it was not stored, from the answer of store.lua."""
    if isinstance(answer, bytes):
        return DuplicateTaskError(text(answer))
    states = {STORED_PENDING: TaskState.PENDING, STORED_SCHEDULED: TaskState.SCHEDULED}
    if answer in states:
        return states[answer]
    if answer in {ID_TAKEN, ID_REMEMBERED}:
        return TaskIdConflictError(task.id, is_remembered=answer == ID_REMEMBERED)
    return QueueFullError(task.options.queue)


# --- Claimed


def claimed_fields(values: Sequence[bytes | None]) -> dict[bytes, bytes]:
    """The fields of a claimed job that are there, as taking.lua answers."""
    return {name: value for name, value in zip(_CLAIMED_FIELDS, values, strict=False) if value is not None}


def to_claim(
    execution_id: str, task_id: str, queue: str, started: str, fields: Mapping[bytes, bytes], *, is_lost: bool = False
) -> Claim:
    """Check the job and make a task of it; a job that cannot be run is a claim with an error.

    The payload of a claim that is lost, which is to be settled and not to be run, is not read.
    """
    retention_s = 0
    task, function, max_retries, error = None, None, None, None
    try:
        # Clients of plain RQ say `sys.maxsize` for 'for ever', which EXPIRE does not take.
        retention_s = min(max(-1, read_retention_s(fields)), LONGEST_S)
        max_retries = _own_max_retries(fields)
        task, function = _to_task(task_id, queue, fields, _to_head if is_lost else _to_call)
    except (ForbiddenJobError, InvalidPayloadError) as refused:
        error = refused
    except (ValueError, OverflowError, OSError, msgspec.DecodeError) as broken:  # OSError: a date that is far off
        error = ForbiddenJobError(f"job {shown(task_id)} is damaged: {broken}")
    except MemoryError:  # small data may unpack to values of many times its size
        error = ForbiddenJobError(f"job {shown(task_id)} takes more memory than its worker may have")
    needs_cleanup = not _CLEANUP_FIELDS.isdisjoint(fields)
    return Claim(
        task_id, execution_id, queue, started, retention_s, task, function, max_retries, error,
        is_missing=not fields, needs_cleanup=needs_cleanup, unread=fields.get(b"data", b"") if is_lost else b"",
        deaths=_deaths(fields[b"alone"]) if b"alone" in fields else 0,
        data_bytes=len(fields.get(b"data", b"")),
        ready_s=_ready_s(fields[b"ready_at"]) if b"ready_at" in fields else 0.0,
    )  # fmt: skip


def to_claim_of_hash(task_id: bytes, execution_id: bytes, queue: bytes, flat: Sequence[bytes]) -> Claim:
    """The claim of a job that was claimed before and is to be settled, from its whole hash: names and values in turn.

    Its payload is not read: that may be what ended the worker.
    """
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    return to_claim(text(execution_id), text(task_id), text(queue), _started_at(fields), fields, is_lost=True)


def _deaths(alone: bytes) -> int:
    """How many workers died with the task, as far as one can read that."""
    return int(alone) if alone.isdigit() and len(alone) < 10 else 1


def _ready_s(ready: bytes) -> float:
    """When the task could run, as far as one can read that."""
    with suppress(ValueError):
        ready_s = float(ready)
        return ready_s if 0 < ready_s < 1e11 else 0.0  # no date is later
    return 0.0


def read_payload(claim: Claim) -> None:
    """Give a claim's task the payload that was not read. Raises ValueError, or MemoryError, where that cannot be."""
    if claim.task and claim.unread:
        try:
            claim.task.fill(_to_call(claim.unread)[1])
        except ForbiddenJobError as error:
            raise ValueError(str(error)) from error


def _started_at(fields: Mapping[bytes, bytes]) -> str:
    """When the job was claimed, in seconds since 1970."""
    with suppress(ValueError):
        return repr(datetime.fromisoformat(fields.get(b"started_at", b"").decode()).timestamp())
    return "0"


def _to_task(
    task_id: str, queue: str, fields: Mapping[bytes, bytes], read: Callable[[bytes], _Read]
) -> tuple[Task, str | None]:
    if not fields:
        raise ForbiddenJobError(f"job {shown(task_id)} has no record; it was deleted or overwritten while it waited")
    if not task_id.isprintable():
        raise ForbiddenJobError(f"job ID {shown(task_id)} is no text")
    if b"concurrency_key" in fields:
        _check_limit(fields.get(b"concurrency_limit", b"1"))
    task_type, payload, request_id, headers, function = read(fields.get(b"data", b""))
    timeout = min(int(fields.get(b"timeout") or DEFAULT_TIMEOUT_S), LONGEST_S)  # as above; a timer has the same limit
    deadline = fields.get(b"deadline")
    enqueued = fields.get(b"enqueued_at")
    intervals = fields.get(b"retry_intervals")
    attempt = int(fields.get(b"number_of_retries") or 0) + 1
    task = Task(
        id=task_id,
        type=task_type,
        payload=payload,
        queue=queue,
        attempt=attempt,
        # Workers of earlier versions do not count runs.
        runs=max(int(fields.get(b"runs") or 0) + 1, attempt),
        timeout_s=float(timeout) if timeout > 0 else None,
        deadline=datetime.fromtimestamp(float(deadline), UTC) if deadline else None,
        enqueued_at=datetime.fromisoformat(enqueued.decode()) if enqueued else None,
        request_id=request_id,
        retry_intervals_s=msgspec.json.decode(intervals, type=tuple[float, ...]) if intervals else (),
        headers=headers,
    )
    return task, function


def request_id_of(payload: Any, headers: Mapping[str, str] = NO_HEADERS) -> str | None:
    """What ties a task to its cause: its header wins over its payload."""
    request_id = payload.get("request_id") if isinstance(payload, dict) else None
    if headers is not NO_HEADERS:
        request_id = headers.get("request_id") or request_id
    return request_id[:MAX_REQUEST_ID] if isinstance(request_id, str) else None


def request_id_in(data: bytes) -> str:
    """What ties a job to its cause, from its data; empty: nothing, or it cannot be read."""
    with suppress(ValueError, MemoryError, ForbiddenJobError, msgspec.DecodeError):
        return _to_head(data)[2] or ""
    return ""


def _check_limit(concurrency_limit: bytes) -> None:
    """Raise ForbiddenJobError if no task could ever run under this limit; one that is no number means 1."""
    with suppress(ValueError):
        if not float(concurrency_limit) >= 1:
            raise ForbiddenJobError(
                f"its concurrency_limit is {text(concurrency_limit)}, so that it could never run; 1 is the least"
            )


def _own_max_retries(fields: Mapping[bytes, bytes]) -> int | None:
    """The number that the task itself asks for; None: its handler's policy decides."""
    if b"task_type" in fields and b"max_retries" not in fields:
        return None  # ours: its `retries_left` is for RQ's tools
    return read_max_retries(fields)


def _to_call(data: bytes) -> _Read:
    """The task that a job's data calls. Nothing is imported, and pickle is never loaded."""
    function, instance, args, kwargs = _read_deep(read_call, data)
    if is_own_call(function, args):
        payload, headers = args[1], _checked_headers(kwargs) if kwargs else NO_HEADERS
        return _checked_type(args[0]), payload, request_id_of(payload, headers), headers, None
    if function in ENTRY_POINTS:
        raise ForbiddenJobError("its arguments are not [task type, payload]")
    if instance is not None:
        raise ForbiddenJobError(
            f"{shown(function)} is a method of an object, which JSON cannot hold; it was not imported"
        )
    if not _FUNCTION.fullmatch(function):
        raise not_registered(function)
    return function, {"args": args, "kwargs": kwargs}, None, NO_HEADERS, function


def _to_head(data: bytes) -> _Read:
    """As `_to_call`, but makes nothing of the payload: its values may take many times the memory of its text."""
    function, _, args, kwargs = _read_deep(_HEAD.decode, _unpacked(data, MAX_DATA_BYTES) if data[:1] == _ZLIB else data)
    if function not in ENTRY_POINTS:
        return function, None, None, NO_HEADERS, function
    task_type, payload = _OWN_ARGS.decode(args)
    headers: Mapping[str, str] = NO_HEADERS
    if len(kwargs) <= MOST_HEADERS_JSON:  # damaged data must not fill the memory
        headers = _checked_headers(_read_deep(msgspec.json.decode, bytes(kwargs)))
    traced: dict[str, Any] = {}
    with suppress(msgspec.DecodeError):  # it is no object, or its request_id no text
        traced["request_id"] = _TRACED.decode(payload).request_id
    return _checked_type(task_type), None, request_id_of(traced, headers), headers, None


def _kwargs(headers: Mapping[str, str]) -> bytes:
    """The keyword arguments of RQ's call."""
    return msgspec.json.encode({"headers": dict(headers)})


def _checked_headers(kwargs: Any) -> Mapping[str, str]:
    try:
        return headers_in(kwargs)
    except InvalidTaskError as error:
        raise ForbiddenJobError(str(error)) from error


def _checked_type(task_type: str) -> str:
    try:
        return check_type(task_type)
    except InvalidTaskError as error:
        raise ForbiddenJobError(str(error)) from error


def _read_deep(read: Callable[[bytes], T], data: bytes) -> T:
    try:
        try:
            return read(data)
        except RecursionError:
            # The frames that lead here count as well, and the client may have had fewer; a thread begins with none.
            with ThreadPoolExecutor(1) as thread:
                return thread.submit(read, data).result()
    except RecursionError as error:
        raise ForbiddenJobError("its data is nested too deep to be read") from error


def not_registered(function: str) -> ForbiddenJobError:
    """Why a job of a plain RQ client is refused."""
    return ForbiddenJobError(f"function {shown(function)} is not a registered task; it was not imported")


# --- Read, for claims and for people; a claim is refused where this raises, and `views` shows the rest


def read_call(data: bytes, most_bytes: int = MAX_DATA_BYTES) -> Call:
    """RQ's call from a job's data, which may be compressed and then unpack to `most_bytes`.

    Raises:
        ForbiddenJobError: It is none.
        RecursionError: It is nested too deep to be read from here.
    """
    try:
        return _CALL.decode(_unpacked(data, most_bytes) if data[:1] == _ZLIB else data)
    except msgspec.DecodeError as error:
        raise ForbiddenJobError(
            "its data is not JSON of a call; pickled jobs are never loaded, enqueue with RQ's JSONSerializer"
        ) from error


def name_in(description: str) -> str:
    """What RQ's description of a job calls, without the arguments, which are payload: not all may see them."""
    return description.partition("(")[0].strip()


def is_own_call(function: str, args: Sequence[Any]) -> bool:
    """True if it is the call of a task of boilerd's; its arguments are the task's type and payload."""
    return function in ENTRY_POINTS and len(args) == 2 and isinstance(args[0], str)


def read_max_retries(fields: Mapping[bytes, bytes]) -> int | None:
    """How many retries the job has in all; None if it does not say so. Raises ValueError."""
    if b"max_retries" in fields:
        return int(fields[b"max_retries"])
    if b"retries_left" not in fields:
        return None
    # A plain RQ client's Retry(max=…), which RQ counts down.
    return int(fields.get(b"number_of_retries") or 0) + int(fields[b"retries_left"])


def read_retention_s(fields: Mapping[bytes, bytes]) -> int:
    """Seconds for which the job is kept after success; -1, for ever. Raises ValueError."""
    return int(fields.get(b"result_ttl") or (0 if b"task_type" in fields else RQ_RETENTION_S))


def read_progress(fields: Mapping[bytes, bytes]) -> TaskProgress | None:
    """How far the job's last attempt came, as progress.lua wrote it: behind the time at which that attempt began."""
    began, _, encoded = fields.get(b"progress", b"").partition(b" ")
    if encoded and began == fields.get(b"started_at"):
        with suppress(ValueError, RecursionError):
            found = msgspec.json.decode(encoded, type=TaskProgress)
            return TaskProgress.of(found.done, found.total, found.note)
    return None


def _unpacked(data: bytes, most_bytes: int) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(data, most_bytes)
    except zlib.error as error:
        raise ForbiddenJobError(f"its data cannot be unpacked: {error}") from error
    if unpacker.unconsumed_tail:
        raise ForbiddenJobError(f"its data unpacks to more than {most_bytes} bytes")
    return data

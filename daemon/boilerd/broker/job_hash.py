"""A task as RQ's record of it: what is written at the enqueue, and what a claim reads.

Whatever is read from Redis is a stranger's data until it was checked here.
"""

import hashlib
import re
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from boilerd.broker import keys
from boilerd.entry_point import ENTRY_POINT, ENTRY_POINTS
from boilerd.errors import ForbiddenJobError, InvalidPayloadError, InvalidTaskError
from boilerd.process.scoreboard import Batch
from boilerd.tasks.options import TaskOptions
from boilerd.tasks.payload import canonical
from boilerd.tasks.retry import Decision
from boilerd.tasks.task import ARCHIVE_TTL_S, DEFAULT_MAX_RETRIES, DEFAULT_TIMEOUT_S, Task, check_type

#: What a claim reads of a job hash, in the order of advance.lua.
CLAIMED_FIELDS = (
    b"data", b"status", b"task_type", b"concurrency_key", b"alone", b"ended_at", b"ttl", b"unique_key", b"timeout",
    b"deadline", b"result_ttl", b"max_retries", b"retries_left", b"number_of_retries", b"retry_intervals",
    b"enqueued_at", b"repeats_left",
)  # fmt: skip
#: Fields of a job whose end has more to see to.
_ENDING = frozenset({b"unique_key", b"concurrency_key", b"repeats_left"})
#: RQ's call; made once, because that takes as long as eight calls are decoded in.
_CALL = msgspec.json.Decoder(tuple[str, Any, list[Any], Any])
#: Name of a function with its module, short enough for a task type.
_FUNCTION = re.compile(r"(?=.{1,256}$)([A-Za-z_]\w*\.)+[A-Za-z_]\w*", re.ASCII)
#: A task's record may unpack to this much; a crafted one must not fill the memory.
MAX_DATA_BYTES = 512 * 1024 * 1024
#: Clients of plain RQ that say nothing have a result kept for so long.
RQ_RETENTION_S = 500
#: Defaults as they are sent.
_FAILURE_TTL, _RETRIES = str(ARCHIVE_TTL_S), str(DEFAULT_MAX_RETRIES)
#: No timeout and no retention is longer, 68 years: clients of plain RQ say `sys.maxsize` for 'for ever', which
#: neither an interval timer nor EXPIRE can take.
LONGEST_S = 2**31 - 1


class Claim(msgspec.Struct, frozen=True):
    """A task that this worker holds, or what stood in its place.

    Attributes:
        started: Redis's time of the claim, in seconds since 1970.
        task: None when the record cannot be run; `error` says why.
        function: What a job of a plain RQ client calls, and so the type of its task; None: it is a task of ours.
        max_retries: The task's own word; None: the handler's policy decides.
        is_missing: The queue held an ID without a record: there is nothing to claim.
        needs_cleanup: Whether it has a unique lock or a concurrency key, which its end gives back, or RQ's repeats.
    """

    task_id: str
    execution_id: str
    queue: str
    started: str
    retention_s: int
    task: Task | None
    function: str | None = None
    max_retries: int | None = None
    error: Exception | None = None
    is_missing: bool = False
    needs_cleanup: bool = False

    @property
    def is_alone(self) -> bool:
        """Whether it was claimed alone, not in a batch."""
        return "-" not in self.execution_id


def batch_place(execution_id: str) -> tuple[int, int]:
    """Number of the batch that a claim is of (28 bits), and its place in it, from 0.

    A claim alone is a batch of one. What is no execution ID of ours is in batch -1.
    """
    number, _, place = execution_id.partition("-")
    try:
        return int(number[:7], 16), int(place or 0)
    except ValueError:
        return -1, 0


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


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that failed, and what becomes of the task.

    Attributes:
        error: One line, for lists.
        traceback: The whole story.
        max_retries: Of the task, after its own word and its handler's policy.
        is_doubtful: Nobody knows whether the attempt had begun: the task is never claimed in a batch again,
            so that the next time it is known.
    """

    error: str
    traceback: str
    decision: Decision
    max_retries: int
    is_doubtful: bool = False


class Completion(msgspec.Struct, frozen=True):
    """A claim that ended well, and its result as JSON (empty: none)."""

    claim: Claim
    result: bytes = b""


def sort_batch(claims: Iterable[Claim], batch: Batch) -> tuple[list[Completion], list[str], list[Claim]]:
    """What of a worker's claims is known by how far it was.

    Returns:
        Those that have ended, and left no result to be kept, which only the worker has; the execution IDs of those
        that have not begun; and all others: the one that runs, and those of another batch.
    """
    ended, unstarted, rest = [], [], []
    for claim in claims:
        number, place = batch_place(claim.execution_id)
        if number == batch.number and place >= batch.finished + batch.is_running:
            unstarted.append(claim.execution_id)
        elif number == batch.number and place < batch.finished and not claim.retention_s:
            ended.append(Completion(claim))
        else:
            rest.append(claim)
    return ended, unstarted, rest


@dataclass(frozen=True, slots=True)
class Overdue:
    """An attempt that is past its task's timeout by so many seconds."""

    worker: str
    task_id: str
    execution_id: str
    late_s: float


def job_fields(task: NewTask) -> list[str | bytes]:
    """RQ's fields of the job hash, and ours, as names and values in turn, ready to be sent.

    RQ's own tools count `retries_left` down; `max_retries` stands only where the caller gave
    it, because otherwise the handler's policy decides at the time of the failure.
    """
    options = task.options
    own: dict[str, str | float | None] = {
        "max_retries": options.max_retries,
        "deadline": None if options.deadline is None else repr(options.deadline),
        "unique_key": task.unique_key if options.unique_s else None,
        "unique_until": options.unique_until if options.unique_s else None,
        "concurrency_key": options.concurrency_key,
        "concurrency_limit": options.concurrency_limit if options.concurrency_key else None,
    }
    fields: list[str | bytes] = [
        "origin", options.queue,
        "description", task.type,
        "task_type", task.type,
        "data", b'["%b",null,["%b",%b],{}]' % (ENTRY_POINT.encode(), task.type.encode(), task.payload),
        "timeout", "-1" if options.timeout_s is None else str(options.timeout_s),
        "result_ttl", str(options.retention_s),
        "failure_ttl", _FAILURE_TTL,
        "retries_left", _RETRIES if options.max_retries is None else str(options.max_retries),
    ]  # fmt: skip
    for name, value in own.items():
        if value is not None:
            fields += [name, value if isinstance(value, str) else repr(value)]
    return fields


def to_claim(execution_id: str, task_id: str, queue: str, started: str, fields: Mapping[bytes, bytes]) -> Claim:
    """Check what Redis held and make a task of it."""
    retention_s = 0
    task, function, max_retries, error = None, None, None, None
    try:
        default_s = 0 if b"task_type" in fields else RQ_RETENTION_S
        retention_s = min(max(-1, int(fields.get(b"result_ttl") or default_s)), LONGEST_S)
        max_retries = _max_retries(fields)
        task, function = _to_task(task_id, queue, fields)
    except (ForbiddenJobError, InvalidPayloadError) as refused:
        error = refused
    except (ValueError, OverflowError, OSError, msgspec.DecodeError) as broken:  # OSError: a date that is far off
        error = ForbiddenJobError(f"job {task_id!r} is damaged: {broken}")
    needs_cleanup = not _ENDING.isdisjoint(fields)
    return Claim(
        task_id, execution_id, queue, started, retention_s, task, function, max_retries, error,
        is_missing=not fields, needs_cleanup=needs_cleanup,
    )  # fmt: skip


def started_at(fields: Mapping[bytes, bytes]) -> str:
    """When a claimed job was claimed, in seconds since 1970."""
    with suppress(ValueError):
        return repr(datetime.fromisoformat(fields.get(b"started_at", b"").decode()).timestamp())
    return "0"


def _to_task(task_id: str, queue: str, fields: Mapping[bytes, bytes]) -> tuple[Task, str | None]:
    if not fields:
        raise ForbiddenJobError(f"job {task_id!r} has no record; it was deleted or overwritten while it waited")
    if not task_id.isprintable():
        raise ForbiddenJobError(f"job ID {task_id!r} is no text")
    task_type, payload, function = _read_data(fields.get(b"data", b""))
    timeout = min(int(fields.get(b"timeout") or DEFAULT_TIMEOUT_S), LONGEST_S)
    deadline = fields.get(b"deadline")
    enqueued = fields.get(b"enqueued_at")
    intervals = fields.get(b"retry_intervals")
    request_id = payload.get("request_id") if isinstance(payload, dict) else None
    task = Task(
        id=task_id,
        type=task_type,
        payload=payload,
        queue=queue,
        attempt=int(fields.get(b"number_of_retries") or 0) + 1,
        timeout_s=float(timeout) if timeout > 0 else None,
        deadline=datetime.fromtimestamp(float(deadline), UTC) if deadline else None,
        enqueued_at=datetime.fromisoformat(enqueued.decode()) if enqueued else None,
        request_id=request_id if isinstance(request_id, str) else None,
        retry_intervals_s=msgspec.json.decode(intervals, type=tuple[float, ...]) if intervals else (),
    )
    return task, function


def _max_retries(fields: Mapping[bytes, bytes]) -> int | None:
    """The task's own word; None: the handler's policy decides."""
    if b"max_retries" in fields:
        return int(fields[b"max_retries"])
    if b"task_type" in fields or b"retries_left" not in fields:
        return None
    # A plain RQ client's Retry(max=…), which RQ counts down.
    return int(fields.get(b"number_of_retries") or 0) + int(fields[b"retries_left"])


def _read_data(data: bytes) -> tuple[str, Any, str | None]:
    """Task type and payload from RQ's call: ``[function, instance, args, kwargs]`` as JSON.

    A call of another function than our own entry point is a task with the function's name as its type, which is the
    last thing here. Nothing is imported, and pickle is never loaded.
    """
    function, instance, args, kwargs = _decode_call(_unpacked(data))
    if function not in ENTRY_POINTS:
        if instance is not None:
            raise ForbiddenJobError(
                f"{function!r} is a method of an object, which JSON cannot hold; it was not imported"
            )
        if _FUNCTION.fullmatch(function):
            return function, {"args": args, "kwargs": kwargs}, function
        raise not_registered(function)
    if len(args) != 2 or not isinstance(args[0], str):
        raise ForbiddenJobError("its arguments are not [task type, payload]")
    try:
        return check_type(args[0]), args[1], None
    except InvalidTaskError as error:
        raise ForbiddenJobError(str(error)) from error


def _unpacked(data: bytes) -> bytes:
    if data[:1] != b"x":  # zlib's first byte; RQ compresses what its own clients enqueue
        return data
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(data, MAX_DATA_BYTES)
    except zlib.error as error:
        raise ForbiddenJobError(f"its data cannot be unpacked: {error}") from error
    if unpacker.unconsumed_tail:
        raise ForbiddenJobError(f"its data unpacks to more than {MAX_DATA_BYTES} bytes")
    return data


def not_registered(function: str) -> ForbiddenJobError:
    """Why a job of a plain RQ client is refused."""
    return ForbiddenJobError(f"function {function!r} is not a registered task; it was not imported")


def _decode_call(data: bytes) -> tuple[str, Any, list[Any], Any]:
    try:
        try:
            return _CALL.decode(data)
        except RecursionError:
            # The calls that lead here count as well, and the client may have had fewer: see payload.NESTING_RESERVE.
            with ThreadPoolExecutor(1) as thread:
                return thread.submit(_CALL.decode, data).result()
    except RecursionError as error:
        raise ForbiddenJobError("its data is nested too deep to be read") from error
    except msgspec.DecodeError as error:
        raise ForbiddenJobError(
            "its data is not JSON of a call; pickled jobs are never loaded, enqueue with RQ's JSONSerializer"
        ) from error

"""The options of an enqueue, and the rules that each must follow."""

import enum
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TypedDict

import msgspec

from boilerd.errors import InvalidTaskError, closest, shown
from boilerd.tasks.headers import NO_HEADERS, check_headers
from boilerd.tasks.queues import DEFAULT_QUEUE, check_queue
from boilerd.tasks.task import DEFAULT_TIMEOUT_S, check_task_id
from boilerd.units import LONGEST_S

_KEY = re.compile(r"[A-Za-z0-9_.:/@-]{1,128}")


class UniqueUntil(enum.StrEnum):
    """When a unique lock is released, if its TTL does not end it before."""

    SUCCESS = "success"  # Asynq's rule: kept by an archived task, so that nobody repeats the mistake
    END = "end"  # any end: success, archive, cancellation
    TTL = "ttl"  # never before


class TaskOptions(msgspec.Struct, frozen=True):
    """The options of a task; made by `task_options`, which checks every value.

    Attributes:
        timeout_s: None: no timeout, because there is a deadline.
        process_in_s: Seconds until it is due; `process_at` wins where it is set.
        process_at: When it is due, in seconds since 1970.
        deadline: Moment after which it may not run, in seconds since 1970.
        unique_s: Longest time for which no other such task is accepted; 0: no lock.
        headers: Those given, and once it is to be stored, those inherited as well.
    """

    queue: str = DEFAULT_QUEUE
    timeout_s: int | None = DEFAULT_TIMEOUT_S
    max_retries: int | None = None
    retention_s: int = 0
    task_id: str | None = None
    process_in_s: float = 0.0
    process_at: float | None = None
    deadline: float | None = None
    unique_s: float = 0.0
    unique_until: UniqueUntil = UniqueUntil.SUCCESS
    concurrency_key: str | None = None
    concurrency_limit: int = 1
    headers: Mapping[str, str] = NO_HEADERS
    inherit: bool = True


#: The options of an enqueue that gives none.
DEFAULT_OPTIONS = TaskOptions()
Seconds = float | timedelta


class EnqueueOptions(TypedDict, total=False):
    """The options that an enqueue may give; `task_options` checks them. Times to wait are seconds or timedeltas.

    Attributes:
        queue: Name of the queue; ``default`` without it.
        timeout: How long one attempt may take, rounded up to whole seconds (RQ stores no
            fractions). Without it 30 min, or with a deadline, until that.
        max_retries: Further attempts after the first; without it the handler's policy decides.
        retention: How long to keep the task and its result after success; 0, or without it, deletes it.
        task_id: Letters, digits, ``_`` and ``-``; a random one without it.
        process_in: Run it after this time.
        process_at: Run it at this moment; a datetime with a time zone.
        deadline: Do not run it after this moment; a datetime with a time zone.
        unique: For this time, counted from when it is due, refuse another task with the same
            queue, type and payload; at least a second.
        unique_until: Event that releases this lock earlier: ``success`` (without it), ``end`` or ``ttl`` (none).
        concurrency_key: At most `concurrency_limit` tasks with this key run at once, on all hosts.
        concurrency_limit: See `concurrency_key`; 1 without it.
        headers: Names and texts that the task carries beside its payload, up to 4 KiB; names have small letters,
            digits, ``-`` and ``_``.
        inherit: False: an enqueue in a handler takes over no header of the task that runs.
    """

    queue: str
    timeout: Seconds | None
    max_retries: int | None
    retention: Seconds
    task_id: str | None
    process_in: Seconds | None
    process_at: datetime | None
    deadline: datetime | None
    unique: Seconds | None
    unique_until: str | None
    concurrency_key: str | None
    concurrency_limit: int | None
    headers: Mapping[str, str] | None
    inherit: bool


def task_options(
    *,
    queue: str = DEFAULT_QUEUE,
    timeout: Seconds | None = None,
    max_retries: int | None = None,
    retention: Seconds = 0,
    task_id: str | None = None,
    process_in: Seconds | None = None,
    process_at: datetime | None = None,
    deadline: datetime | None = None,
    unique: Seconds | None = None,
    unique_until: str | None = None,
    concurrency_key: str | None = None,
    concurrency_limit: int | None = None,
    headers: Mapping[str, str] | None = None,
    inherit: bool = True,
    **unknown: object,
) -> TaskOptions:
    """Check the options of an enqueue, as `EnqueueOptions` has them; `unknown` are all others.

    Raises:
        InvalidTaskError: An option has a value that is not allowed, or lacks another that it belongs to.
        TypeError: There is no such option.
    """
    if unknown:
        raise _unknown_option(next(iter(unknown)))
    if process_in is not None and process_at is not None:
        raise InvalidTaskError("process_in and process_at: give one of them")
    if unique_until is not None and unique is None:
        raise InvalidTaskError("unique_until: there is no lock without unique; give both, or none")
    if concurrency_limit is not None and concurrency_key is None:
        raise InvalidTaskError("concurrency_limit: limits nothing without concurrency_key; give both, or none")
    if not isinstance(inherit, bool):
        raise InvalidTaskError(f"inherit: {shown(inherit)} is neither True nor False")
    return TaskOptions(
        queue=check_queue(queue),
        timeout_s=_timeout_s(timeout, deadline),
        max_retries=None if max_retries is None else _whole("max_retries", max_retries, at_least=0),
        retention_s=_ceil(_seconds("retention", retention)),
        task_id=None if task_id is None else check_task_id(task_id),
        process_in_s=0.0 if process_in is None else _seconds("process_in", process_in),
        process_at=None if process_at is None else _epoch("process_at", process_at),
        deadline=None if deadline is None else _epoch("deadline", deadline),
        unique_s=0.0 if unique is None else _seconds("unique", unique, at_least=1),
        unique_until=UniqueUntil.SUCCESS if unique_until is None else _unique_until(unique_until),
        concurrency_key=None if concurrency_key is None else check_key(concurrency_key),
        concurrency_limit=1
        if concurrency_limit is None
        else _whole("concurrency_limit", concurrency_limit, at_least=1),
        headers=NO_HEADERS if headers is None else check_headers(headers),
        inherit=inherit,
    )


def check_key(key: object) -> str:
    """Return `key` as plain text, or raise InvalidTaskError if it is no concurrency key."""
    text = str.__str__(key) if isinstance(key, str) else str(key)  # such as the number of a customer
    if not _KEY.fullmatch(text):
        raise InvalidTaskError(
            f"concurrency_key {shown(key)}: use letters, digits and any of '_ . : / @ -', at most 128"
        )
    return text


def check_number(name: str, value: object, *, at_least: float) -> None:
    """Raise InvalidTaskError if `value` is no number from `at_least` to LONGEST_S."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not at_least <= value <= LONGEST_S:
        raise InvalidTaskError(f"{name}: {shown(value)} is not a number from {at_least} to {LONGEST_S}")


def _timeout_s(timeout: Seconds | None, deadline: datetime | None) -> int | None:
    if timeout is None:
        return DEFAULT_TIMEOUT_S if deadline is None else None
    seconds = _seconds("timeout", timeout)
    if seconds == 0:
        raise InvalidTaskError("timeout: 0 would end every attempt at once; leave it out for 30 minutes")
    return _ceil(seconds)


def _seconds(name: str, value: Seconds, *, at_least: float = 0) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    check_number(name, seconds, at_least=at_least)
    return float(seconds)


def _whole(name: str, value: int, *, at_least: int) -> int:
    check_number(name, value, at_least=at_least)
    if value != int(value):
        raise InvalidTaskError(f"{name}: {shown(value)} is not a whole number")
    return int(value)


def _epoch(name: str, moment: datetime) -> float:
    if not isinstance(moment, datetime):
        raise InvalidTaskError(f"{name}: {shown(moment)} is not a datetime")
    if moment.utcoffset() is None:
        raise InvalidTaskError(f"{name}: {moment} has no time zone; use datetime.now(UTC) or .astimezone()")
    seconds = moment.timestamp()
    try:
        datetime.fromtimestamp(seconds, UTC)  # as a worker will; datetime.max is rounded up to the year 10000
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidTaskError(f"{name}: {moment} is too far away to be kept; leave it out for no {name}") from error
    return seconds


def _unique_until(value: str) -> UniqueUntil:
    try:
        return UniqueUntil(value)
    except ValueError:
        raise InvalidTaskError(f"unique_until: {shown(value)} is not one of {', '.join(UniqueUntil)}") from None


def _unknown_option(name: str) -> TypeError:
    options = list(task_options.__kwdefaults__ or ())
    close = closest(name, options)
    hint = f", did you mean {close!r}?" if close else ";"
    return TypeError(f"unknown option {shown(name)}{hint} there are: {', '.join(options)}")


def _ceil(seconds: float) -> int:
    return -int(-seconds // 1)

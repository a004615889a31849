"""What a task is: its type, payload and options, and the rules that each must follow."""

import enum
import logging
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from boilerd.errors import InvalidPayloadError, InvalidTaskError
from boilerd.queues import DEFAULT_QUEUE, check_queue

#: Asynq's defaults.
DEFAULT_MAX_RETRIES = 25
DEFAULT_TIMEOUT_S = 30 * 60
#: Archived tasks are kept this long: 90 days.
ARCHIVE_TTL_S = 90 * 24 * 3600

_TYPE = re.compile(r"[A-Za-z0-9_.:/-]{1,256}")
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


class TaskState(enum.StrEnum):
    """Asynq's words; the comment says where RQ keeps such a task."""

    PENDING = "pending"  # queued, in rq:queue:Q
    ACTIVE = "active"  # started, in rq:wip:Q
    SCHEDULED = "scheduled"  # scheduled and never tried, in rq:scheduled:Q
    RETRY = "retry"  # scheduled after a failure, in rq:scheduled:Q
    COMPLETED = "completed"  # finished, in rq:finished:Q
    ARCHIVED = "archived"  # failed, in rq:failed:Q


@dataclass(frozen=True, slots=True)
class Task:
    """What a handler gets.

    Attributes:
        attempt: Which run this is, counted from 1.
        max_retries: How many further attempts follow a first one that failed.
        timeout_s: Seconds that one attempt may take.
        request_id: Ties the task to what caused it; from the payload's ``request_id``.
    """

    id: str
    type: str
    payload: Any = field(default=None, repr=False)
    queue: str = DEFAULT_QUEUE
    attempt: int = 1
    max_retries: int = DEFAULT_MAX_RETRIES
    timeout_s: float = DEFAULT_TIMEOUT_S
    enqueued_at: datetime | None = None
    request_id: str | None = None

    @property
    def logger(self) -> logging.Logger:
        """A logger whose lines carry the task's ID, type, queue and attempt, as all lines of an attempt do."""
        return logging.getLogger("boilerd.task")


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """What the client knows of a task after enqueuing it."""

    id: str
    type: str
    queue: str
    state: TaskState
    max_retries: int
    timeout_s: int
    retention_s: int
    payload: Any = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """How a task is to be run; made by `task_options`, which checks every value."""

    queue: str = DEFAULT_QUEUE
    timeout_s: int = DEFAULT_TIMEOUT_S
    max_retries: int | None = None
    retention_s: int = 0
    task_id: str | None = None


def task_options(
    *,
    queue: str = DEFAULT_QUEUE,
    timeout: float | None = None,
    max_retries: int | None = None,
    retention: float = 0,
    task_id: str | None = None,
) -> TaskOptions:
    """Check the options of an enqueue.

    Args:
        queue: Name of the queue.
        timeout: Seconds one attempt may take, rounded up to whole ones (RQ stores no
            fractions); 30 min without it.
        max_retries: Further attempts after the first; without it the handler's policy decides.
        retention: Seconds to keep the task and its result after success; 0 deletes it.
        task_id: Letters, digits, ``_`` and ``-``; a random one without it.

    Raises:
        InvalidTaskError: An option has a value that is not allowed.
    """
    if task_id is not None:
        check_task_id(task_id)
    if max_retries is not None:
        check_number("max_retries", max_retries, at_least=0)
        if max_retries != int(max_retries):
            raise InvalidTaskError(f"max_retries: {max_retries!r} is not a whole number")
    if timeout is not None:
        check_number("timeout", timeout, at_least=0)
        if timeout == 0:
            raise InvalidTaskError("timeout: 0 would end every attempt at once; leave it out for 30 minutes")
    check_number("retention", retention, at_least=0)
    return TaskOptions(
        queue=check_queue(queue),
        timeout_s=DEFAULT_TIMEOUT_S if timeout is None else _ceil(timeout),
        max_retries=None if max_retries is None else int(max_retries),
        retention_s=_ceil(retention),
        task_id=task_id,
    )


def check_type(task_type: object) -> str:
    """Return `task_type`, or raise InvalidTaskError when it is no task type."""
    if not isinstance(task_type, str) or not _TYPE.fullmatch(task_type):
        raise InvalidTaskError(
            f"task type {task_type!r}: use letters, digits and any of '_ . : / -', at most 256, as in 'email:deliver'"
        )
    return task_type


def check_task_id(task_id: object) -> str:
    """Return `task_id`, or raise InvalidTaskError when it is no task ID."""
    if not isinstance(task_id, str) or not _ID.fullmatch(task_id):
        raise InvalidTaskError(f"task ID {task_id!r}: use letters, digits, '_' and '-', at most 128")
    return task_id


def check_number(name: str, value: object, *, at_least: float) -> None:
    """Raise InvalidTaskError when `value` is no finite number of at least `at_least`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not at_least <= value <= 2**31 - 1:
        raise InvalidTaskError(f"{name}: {value!r} is not a number from {at_least} to {2**31 - 1}")


def encode_payload(payload: Any) -> bytes:
    """The payload as JSON.

    Raises:
        InvalidPayloadError: A value in it has no JSON form.
    """
    try:
        return msgspec.json.encode(payload)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidPayloadError(f"payload: {error}; use what JSON can hold") from error


def _ceil(seconds: float) -> int:
    return -int(-seconds // 1)

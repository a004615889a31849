"""A task as handlers and clients see it, and the rules for task types and IDs."""

import enum
import logging
import math
import re
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, Protocol

import msgspec
from msgspec.structs import force_setattr

from boilerd.errors import InvalidTaskError, TaskNotFoundError, shown
from boilerd.tasks.headers import NO_HEADERS
from boilerd.tasks.queues import DEFAULT_QUEUE

#: Asynq's defaults.
DEFAULT_MAX_RETRIES = 25
DEFAULT_TIMEOUT_S = 30 * 60
#: Archived tasks are kept this long: 90 days.
ARCHIVE_TTL_S = 90 * 24 * 3600
#: Asynq's limit of an archive, per queue.
DEFAULT_ARCHIVE_LIMIT = 10_000

#: What no lifespan has yielded.
NO_STATE: Mapping[str, Any] = MappingProxyType({})

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


class Runtime(Protocol):
    """The attempt that runs a task, as far as the task uses it."""

    def remaining_s(self) -> float:
        """Seconds until the attempt is interrupted."""

    def cancellation(self) -> str:
        """Why the handler should end; empty if it should go on."""

    def write_result(self, result: Any) -> bool:
        """Store a result so far; False if the lease is lost."""

    @property
    def state(self) -> Mapping[str, Any]:
        """What the lifespans of the worker yielded."""


class Task(msgspec.Struct, frozen=True):
    """A task as its handler sees it.

    A Struct, for a worker makes one for each task, twelve times as fast as a dataclass.

    Attributes:
        attempt: Number of this attempt by the retries that are used up, from 1. What uses up none leaves it as it is:
            RetryLater, an error that `is_failure` says is none, a run from the archive.
        max_retries: Attempts that may follow a first one that failed.
        timeout_s: Seconds that one attempt may take; None: only the deadline counts.
        deadline: The moment after which the task may not run.
        runs: Number of this run, from 1. All count that ended, whatever became of them, or whose worker was lost; a run
            that a drain cut does not.
        request_id: Ties the task to its cause; from the header ``request_id``, else from the payload's.
        headers: What it carries beside the payload; read-only.
    """

    id: str
    type: str
    payload: Any = None
    queue: str = DEFAULT_QUEUE
    attempt: int = 1
    max_retries: int = DEFAULT_MAX_RETRIES
    timeout_s: float | None = DEFAULT_TIMEOUT_S
    deadline: datetime | None = None
    enqueued_at: datetime | None = None
    request_id: str | None = None
    retry_intervals_s: tuple[float, ...] = ()
    runtime: Runtime | None = None
    runs: int = 1
    headers: Mapping[str, str] = NO_HEADERS

    def __repr__(self) -> str:
        """Without the payload and the headers, which only the handler may see."""
        return f"Task(id={self.id!r}, type={self.type!r}, queue={self.queue!r}, attempt={self.attempt})"

    def complete(self, max_retries: int) -> None:
        """Fill in max_retries from the handler's policy. Only the worker calls this, before the handler runs.

        In place: a copy would cost as much as all other Python code for a short task.
        """
        force_setattr(self, "max_retries", max_retries)

    def fill(self, payload: Any) -> None:
        """Set a payload that was not read at first. Only whoever settles a lost attempt calls this."""
        force_setattr(self, "payload", payload)

    def attach(self, runtime: Runtime | None) -> None:
        """Set the attempt that runs the task. Only the worker calls this."""
        force_setattr(self, "runtime", runtime)

    @property
    def log_fields(self) -> dict[str, Any]:
        """The fields that each log line about it has."""
        return {
            "task_id": self.id, "task_type": self.type, "queue": self.queue, "attempt": self.attempt,
            "request_id": self.request_id,
        }  # fmt: skip

    @property
    def logger(self) -> logging.Logger:
        """A logger whose lines carry the task's ID, type, queue and attempt, as all lines of an attempt do."""
        return logging.getLogger("boilerd.task")

    @property
    def state(self) -> Mapping[str, Any]:
        """What the lifespans of this worker yielded, such as a pool of connections; all its tasks have the same."""
        return self.runtime.state if self.runtime else NO_STATE

    @property
    def is_cancelled(self) -> bool:
        """True if the task was cancelled while it runs, or another worker took it over.

        For handlers that must end in their own way.
        """
        return self.runtime is not None and bool(self.runtime.cancellation())

    def remaining(self) -> float:
        """Seconds until the attempt is interrupted: by its timeout, its deadline or the end of a drain."""
        return self.runtime.remaining_s() if self.runtime else math.inf

    def write_result(self, result: Any) -> bool:
        """Store `result` (anything with a JSON form) for others to see while the task runs; False if the lease is lost.

        The result that the handler returns replaces it.
        """
        return self.runtime is not None and self.runtime.write_result(result)


class TaskInfo(msgspec.Struct, frozen=True):
    """A task as the client knows it after enqueuing it.

    Attributes:
        max_retries: The task's own, or its handler's where the client knows the mux; else 25, and the handler decides.
    """

    id: str
    type: str
    queue: str
    state: TaskState
    max_retries: int
    timeout_s: int | None
    retention_s: int
    payload: Any = None

    def __repr__(self) -> str:
        """Without the payload."""
        return f"TaskInfo(id={self.id!r}, type={self.type!r}, queue={self.queue!r}, state={str(self.state)!r})"


def check_type(task_type: object) -> str:
    """Return `task_type` as plain text, or raise InvalidTaskError if it is no task type."""
    if not isinstance(task_type, str) or not _TYPE.fullmatch(task_type):
        raise InvalidTaskError(
            f"task type {shown(task_type)}: use letters, digits and any of '_ . : / -', at most 256,"
            " as in 'email:deliver'"
        )
    return str.__str__(task_type)


def check_task_id(task_id: object) -> str:
    """Return `task_id` as plain text, or raise InvalidTaskError if it is no task ID."""
    if not isinstance(task_id, str) or not _ID.fullmatch(task_id):
        raise InvalidTaskError(f"task ID {shown(task_id)}: use letters, digits, '_' and '-', at most 128")
    return str.__str__(task_id)


def no_such_task(task_id: object) -> TaskNotFoundError:
    """The error for a task that was not found; raises InvalidTaskError if no task could have this ID.

    For use after the search only: clients of older versions of RQ store jobs under any ID.
    """
    return TaskNotFoundError(check_task_id(task_id))

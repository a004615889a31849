"""What a handler and a client see of a task, and the rules for task types and task IDs."""

import enum
import logging
import math
import re
from datetime import datetime
from typing import Any, Protocol

import msgspec
from msgspec.structs import force_setattr

from boilerd.errors import InvalidTaskError, TaskNotFoundError
from boilerd.tasks.queues import DEFAULT_QUEUE

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


class Runtime(Protocol):
    """What a task can ask of the attempt that runs it."""

    def remaining_s(self) -> float:
        """Seconds until the attempt is cut."""

    def cancellation(self) -> str:
        """Why the task is not wanted any more; empty when it is."""

    def write_result(self, result: Any) -> bool:
        """Show a result so far; False when the lease is lost."""


class Task(msgspec.Struct, frozen=True):
    """What a handler gets.

    A Struct and no dataclass: a worker makes one for each task, twelve times as fast.

    Attributes:
        attempt: Which run this is, counted from 1.
        max_retries: How many further attempts follow a first one that failed.
        timeout_s: Seconds that one attempt may take; None: only the deadline counts.
        deadline: The moment after which the task may not run.
        request_id: Ties the task to what caused it; from the payload's ``request_id``.
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

    def __repr__(self) -> str:
        """Without the payload, which is nobody's business but the handler's."""
        return f"Task(id={self.id!r}, type={self.type!r}, queue={self.queue!r}, attempt={self.attempt})"

    def complete(self, max_retries: int) -> None:
        """Set what only the application's rules know; for the worker, before anybody else has seen the task.

        In place: a copy would cost as much as all else that is done for a short task in Python.
        """
        force_setattr(self, "max_retries", max_retries)

    def attach(self, runtime: Runtime | None) -> None:
        """Set what the attempt can tell the task; for the worker, as `complete`."""
        force_setattr(self, "runtime", runtime)

    @property
    def logger(self) -> logging.Logger:
        """A logger whose lines carry the task's ID, type, queue and attempt, as all lines of an attempt do."""
        return logging.getLogger("boilerd.task")

    @property
    def is_cancelled(self) -> bool:
        """Whether the task was cancelled while it runs, or taken over by another worker.

        For handlers that must end in their own way.
        """
        return self.runtime is not None and bool(self.runtime.cancellation())

    def remaining(self) -> float:
        """Seconds until the attempt is cut: at its timeout, its deadline or the end of a drain."""
        return self.runtime.remaining_s() if self.runtime else math.inf

    def write_result(self, result: Any) -> bool:
        """Show `result` (anything with a JSON form) while the task runs; False when the lease is lost.

        What the handler returns replaces it in the end.
        """
        return self.runtime is not None and self.runtime.write_result(result)


class TaskInfo(msgspec.Struct, frozen=True):
    """What the client knows of a task after enqueuing it."""

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


def no_such_task(task_id: object) -> TaskNotFoundError:
    """What to raise where none was found; raises InvalidTaskError itself where there could be none.

    Not before the look: clients of older versions of RQ store jobs under any ID.
    """
    return TaskNotFoundError(check_task_id(task_id))

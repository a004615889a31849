"""A task as handlers and clients see it, and the rules for task types and IDs."""

import enum
import functools
import logging
import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, Protocol

import msgspec
from msgspec.structs import force_setattr

from boilerd.errors import InvalidTaskError, TaskNotFoundError, shown
from boilerd.tasks.headers import NO_HEADERS
from boilerd.tasks.progress import TaskProgress
from boilerd.tasks.queues import DEFAULT_QUEUE

# The default keeps a bare Task right under strict rules; typing's own has none before Python 3.13, and that of
# typing_extensions every checker knows. Covariant, so that a helper may take Task[object].
if TYPE_CHECKING:
    from typing_extensions import TypeVar

    P_co = TypeVar("P_co", covariant=True, default=Any)
    R_co = TypeVar("R_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    P_co = TypeVar("P_co", covariant=True)
    R_co = TypeVar("R_co", covariant=True)

#: What a task without a payload has, whatever type it could have.
_NO_PAYLOAD: Any = None

#: Asynq's defaults.
DEFAULT_MAX_RETRIES = 25
DEFAULT_TIMEOUT_S = 30 * 60
#: Archived tasks are kept this long: 90 days.
ARCHIVE_TTL_S = 90 * 24 * 3600
#: Asynq's limit of an archive, per queue.
DEFAULT_ARCHIVE_LIMIT = 10_000

#: What no lifespan has yielded.
NO_STATE: Mapping[str, Any] = MappingProxyType({})
#: A time to wait.
Seconds = float | timedelta
OnProgress = Callable[[TaskProgress], object]

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

    def progress(self, progress: TaskProgress) -> None:
        """Show how far the attempt is, now or a little later."""

    @property
    def state(self) -> Mapping[str, Any]:
        """What the lifespans of the worker yielded."""


class Task(msgspec.Struct, Generic[P_co], frozen=True):
    """A task as its handler sees it; ``Task[Email]`` has an Email as its payload, a bare Task anything.

    A Struct, for a worker makes one for each task, twelve times as fast as a dataclass. It makes a bare one: to call
    ``Task[Email]`` takes ten times as long, and the types are for checkers alone.

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
    payload: P_co = _NO_PAYLOAD
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

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Show how far this attempt is, until it ends: in commands, to the Inspector and to whoever waits.

        It may be called as often as one likes: what comes faster than 5 a second is left out, but for the last one,
        which is shown when the attempt ends. An outage of the broker is none of the handler's business: nothing is
        shown meanwhile.

        Args:
            done: How much is done, in any unit.
            total: How much there is to do; None: nobody knows.
            note: What is being done; the first 500 characters are kept.

        Raises:
            TypeError: A number is none.
            ValueError: A number is not finite.
        """
        progress = TaskProgress.of(done, total, note)
        if self.runtime is not None:
            self.runtime.progress(progress)


class Waits(Protocol):
    """A client that enqueued a task, as far as the task's TaskInfo uses it."""

    @property
    def wait(self) -> Callable[..., Any]:
        """Wait for the result of the task of an ID; of an AsyncClient it is a coroutine function."""


class TaskInfo(msgspec.Struct, Generic[R_co], frozen=True, dict=True):
    """A task as the client knows it after enqueuing it; ``TaskInfo[int]`` is one whose handler returns an int.

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

    def attach(self, client: Waits, *, is_async: bool = False) -> None:
        """Set who can wait for the task. Only a client calls this.

        It is no field: it is not shown, compared or pickled.
        """
        if is_async:
            self.__dict__.pop("client", None)  # the Client that does the AsyncClient's work
        self.__dict__["async_client" if is_async else "client"] = client

    def attach_decoder(self, decode: Callable[[Any], Any]) -> None:
        """Set what makes the handler's type of a result. Only a client calls this."""
        self.__dict__["decode"] = decode

    def wait(
        self,
        timeout: Seconds | None = None,
        *,
        on_progress: OnProgress | None = None,
        allow_in_handler: bool = False,
    ) -> R_co:
        """Wait for the task's end, and return its result; arguments and errors are those of `Client.wait`.

        The result has the type that the handler of a `TaskType` or `CallType` declares.

        Raises:
            InvalidPayloadError: It cannot be of that type, as one of a worker with other code.
            ValueError: The task has no ``retention``, so that nothing is left of it when it has completed.
            RuntimeError: It is of an AsyncClient; or is a copy, and knows no client any more.
        """
        waits = self._waits("client", "await info.await_result()")
        return self._decoded(waits(self.id, timeout, on_progress=on_progress, allow_in_handler=allow_in_handler))

    async def await_result(
        self,
        timeout: Seconds | None = None,  # noqa: ASYNC109 - it says what goes on; asyncio.timeout works as well
        *,
        on_progress: OnProgress | None = None,
        allow_in_handler: bool = False,
    ) -> R_co:
        """As `wait`, for a task that an AsyncClient enqueued."""
        waits = self._waits("async_client", "info.wait()")
        return self._decoded(await waits(self.id, timeout, on_progress=on_progress, allow_in_handler=allow_in_handler))

    def _decoded(self, result: Any) -> R_co:
        decode = self.__dict__.get("decode")
        decoded: R_co = decode(result) if decode else result
        return decoded

    def _waits(self, kind: str, other: str) -> Callable[..., Any]:
        if self.retention_s == 0:
            raise no_retention(self.id)
        if not self.__dict__:
            raise RuntimeError(
                f"task {self.id}: this copy knows no client; wait with the ID, as in client.wait(info.id)"
            )
        client: Waits | None = self.__dict__.get(kind)
        if client is None:
            raise RuntimeError(f"task {self.id} was enqueued by a client of the other kind; use {other}")
        return client.wait


def check_type(task_type: object) -> str:
    """Return `task_type` as plain text, or raise InvalidTaskError if it is no task type."""
    if not isinstance(task_type, str):
        raise InvalidTaskError(f"task type: {_no_type(task_type)}")
    if not _is_type(text := str.__str__(task_type)):
        raise InvalidTaskError(
            f"task type {shown(task_type)}: use letters, digits and any of '_ . : / -', at most 256,"
            " as in 'email:deliver'"
        )
    return text


def _no_type(value: object) -> str:
    """What is wrong with something else than a text in the place of a type; it may be a payload, and is not shown."""
    kind = type(value).__qualname__
    if isinstance(getattr(value, "type", None), str):  # what a decorator made, or a message of that
        return f"a {kind} is none; enqueue_message, enqueue_many and mux.cron take a message, which .task(…) makes"
    return f"a {kind} is none; give a text, as in 'email:deliver'"


@functools.lru_cache(1000)  # an application has few types, and each enqueue asks: 0.4 µs
def _is_type(text: str) -> bool:
    return _TYPE.fullmatch(text) is not None


def check_task_id(task_id: object) -> str:
    """Return `task_id` as plain text, or raise InvalidTaskError if it is no task ID."""
    if not isinstance(task_id, str) or not _ID.fullmatch(task_id):
        raise InvalidTaskError(f"task ID {shown(task_id)}: use letters, digits, '_' and '-', at most 128")
    return str.__str__(task_id)


def no_retention(task_id: str) -> ValueError:
    """The error for somebody who waits for a task of which nothing will be left."""
    return ValueError(f"task {task_id} is deleted when it completes, with its result; give retention=60 at the enqueue")


def no_such_task(task_id: object) -> TaskNotFoundError:
    """The error for a task that was not found; raises InvalidTaskError if no task could have this ID.

    For use after the search only: clients of older versions of RQ store jobs under any ID.
    """
    return TaskNotFoundError(check_task_id(task_id))

"""Every error that boilerd raises on purpose, in one tree.

The message names the thing, what is wrong with it and what would do; values are attributes.
"""

import copyreg
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

#: Of an error's line, more is neither logged nor kept with the task: some messages hold all that was sent.
MAX_ERROR_LENGTH = 2000


def describe(error: BaseException) -> str:
    """Type and message, cut where they are long; an exception may refuse to tell its message."""
    try:
        told = str(error)
    except Exception:  # noqa: BLE001 - it is the application's code
        told = "(no message)"
    line = f"{type(error).__name__}: {told[:MAX_ERROR_LENGTH]}"
    return line if len(line) <= MAX_ERROR_LENGTH else line[: MAX_ERROR_LENGTH - 1] + "…"


class BoilerdError(Exception):
    """Base of all errors that boilerd raises on purpose; they can be pickled, as process pools do."""

    def __reduce__(self) -> tuple[Any, ...]:
        """As `object` does it: exceptions call their class again, with the message in place of its arguments."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class ConfigError(BoilerdError):
    """A setting, or the file it came from, is not usable."""


class BootError(BoilerdError):
    """The daemon could not start; nothing was claimed."""


class AppImportError(BootError):
    """The application module could not be imported; ``traceback`` tells where it failed."""

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


class NoBrokerError(BootError):
    """The broker did not answer when the daemon started, or could not do it then; it may the next time."""


class RefusedError(BoilerdError):
    """The daemon cannot do that now; the message says why."""


class BrokerError(BoilerdError):
    """The broker did not do what was asked: it did not answer, or it refused."""


class BrokerUnavailableError(BrokerError):
    """Redis did not answer.

    When raised by an enqueue, the task may or may not be stored: enqueuing again with the
    same task ID is safe, a stored task answers with TaskIdConflictError.

    Attributes:
        was_sent: Whether the command may have reached Redis, and may have been carried out.
    """

    def __init__(self, message: str, *, was_sent: bool = True) -> None:
        super().__init__(message)
        self.was_sent = was_sent


class BrokerLoadingError(BrokerUnavailableError):
    """Redis has just started and still reads its file; it runs no command until it has read it all."""


class BrokerRefusedError(BrokerError):
    """Redis answered, and refused: no permission, a value of another type, too old, out of memory, read-only."""


class BrokerUnableError(BrokerRefusedError):
    """Redis refused, but only for the moment: it is a replica, is out of memory, or cannot save its file."""


class InvalidTaskError(BoilerdError, ValueError):
    """A task type, task ID, queue name or option is not allowed."""


class InvalidPayloadError(InvalidTaskError):
    """A payload is not JSON, or a value in it cannot be written as JSON."""


class TaskIdConflictError(BoilerdError):
    """Another task with this ID exists, in whatever state."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"task ID {task_id!r} is taken; choose another, or leave it out")
        self.task_id = task_id


class DuplicateTaskError(BoilerdError):
    """The unique lock is held by another task, whose ID is `task_id`."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"task {task_id} holds the unique lock; it is the same task")
        self.task_id = task_id


class QueueFullError(BoilerdError):
    """The queue holds as many pending tasks as its `max_length` allows."""

    def __init__(self, queue: str) -> None:
        super().__init__(f"queue {queue!r} is full; try again later, or raise its max_length")
        self.queue = queue


class TaskNotFoundError(BoilerdError):
    """There is no task with this ID."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"task {task_id!r} does not exist; it may have been completed and deleted")
        self.task_id = task_id


class QueueNotFoundError(BoilerdError):
    """There is no queue of this name."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"queue {name!r} was never used; there are: {', '.join(known) or 'none'}")


class TaskStateError(BoilerdError):
    """That cannot be done with a task in its state."""

    def __init__(self, what: str, state: str, action: str, allowed: Sequence[str]) -> None:
        hint = "; cancel it instead" if state == "active" else ""
        states = ", ".join(allowed[:-1]) + f" or {allowed[-1]}"
        super().__init__(f"cannot {action} {what}: state is {state}, and must be {states}{hint}")


class SkipRetry(BoilerdError):  # noqa: N818 - a request, not a failure of the program
    """Raised by a handler to archive the task at once: another attempt would fail as well."""


class RevokeTask(BoilerdError):  # noqa: N818 - a request
    """Raised by a handler to delete the task: it is not wanted any more. Not a failure."""


class RetryLater(BoilerdError):  # noqa: N818 - a request
    """Raised by a handler to be called again in `delay_s` seconds, or a timedelta; uses up no retry.

    Raises:
        TypeError: The delay is neither.
        ValueError: It is negative, or not finite.
    """

    #: Whether it uses up a retry all the same, and counts as a failure.
    counts = False

    def __init__(self, delay_s: float | timedelta, reason: str = "") -> None:
        seconds = delay_s.total_seconds() if isinstance(delay_s, timedelta) else delay_s
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise TypeError(f"RetryLater: delay_s={delay_s!r} is neither a number of seconds nor a timedelta")
        if not 0 <= seconds <= sys.float_info.max:
            raise ValueError(f"RetryLater: delay_s={delay_s!r} is not a number of at least 0")
        super().__init__(reason or f"again in {seconds:g} s")
        self.delay_s = seconds


class DeadlineExceededError(BoilerdError):
    """The task's deadline passed before the attempt ended, or even began."""


class HandlerNotFoundError(BoilerdError):
    """No pattern of the mux matches the task type."""

    def __init__(self, task_type: str) -> None:
        super().__init__(f"handler not found for task {task_type!r}")
        self.task_type = task_type


class ForbiddenJobError(BoilerdError):
    """A job in Redis is not a task of ours, so it is archived and never run."""


class WorkerDiedError(BoilerdError):
    """The worker ended in the middle of the attempt: killed, out of memory, crashed."""


class LeaseExpiredError(WorkerDiedError):
    """Nobody heard of the worker for so long that the task was taken from it."""


class TaskInterrupt(BaseException):
    """Raised inside a running handler by a signal.

    It derives from BaseException so that ``except Exception`` in a handler lets it through.
    """


class TaskTimeoutError(TaskInterrupt):
    """The attempt took longer than the task's timeout; counts as a failed attempt."""


class DeadlineInterrupt(TaskInterrupt):
    """The task's deadline passed while it ran."""


class TaskCancelledError(TaskInterrupt):
    """Somebody cancelled the task, and it is archived; or its lease was lost, and another worker has it."""


class ShutdownTimeoutError(TaskInterrupt):
    """The drain took longer than the shutdown timeout; the task goes back, uncounted."""


def interrupt_in(error: BaseException | None) -> TaskInterrupt | None:
    """The interrupt that led to `error`, or None: handlers may catch it and raise something else."""
    seen = 0
    while error is not None and seen < 100:
        if isinstance(error, TaskInterrupt):
            return error
        error, seen = error.__cause__ or error.__context__, seen + 1
    return None

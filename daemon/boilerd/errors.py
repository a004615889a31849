"""Every error that boilerd raises on purpose, in one tree.

The message names the thing, what is wrong with it and what would do; values are attributes.
"""

import copyreg
import reprlib
import sys
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

#: Characters of an error's line that are logged and kept with the task; some messages hold all that was sent.
MAX_ERROR_LENGTH = 2000
#: Characters of a value that an error quotes; more than any name of ours may have.
MAX_QUOTED = 400
#: An error names so many of the things that there are.
MAX_TOLD_NAMES = 20
_quoting = reprlib.Repr()
_quoting.maxstring = _quoting.maxother = _quoting.maxlong = MAX_QUOTED


def shown(value: object) -> str:
    """The value as an error quotes it, which may be anything of any size: as Python writes it, but cut."""
    try:
        return _quoting.repr(value)
    except Exception:  # noqa: BLE001 - a number of too many digits, or what the application's code raises
        return f"a value of type {type(value).__qualname__}"


def listed(names: Sequence[str], most: int = MAX_TOLD_NAMES) -> str:
    """The names as an error lists them: the first ones, and how many there are beside these."""
    others = f" and {len(names) - most:,} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + others


def closest(name: str, names: Iterable[str]) -> str:
    """The one of `names` that somebody probably meant who wrote `name`; empty if none is close."""
    import difflib  # noqa: PLC0415 - 0.2 MB of a daemon, for an error that it seldom makes

    return next(iter(difflib.get_close_matches(name[:100], list(names), n=1)), "")


def describe(error: BaseException) -> str:
    """The error as one line: its type and its message, for a group those of what it holds, cut if they are too long."""
    line = _line(error)
    if isinstance(error, BaseExceptionGroup):
        line = f"{line}: " + "; ".join(map(_line, parts_of(error)[:MAX_TOLD_NAMES]))
    return line if len(line) <= MAX_ERROR_LENGTH else line[: MAX_ERROR_LENGTH - 1] + "…"


def _line(error: BaseException) -> str:
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - the application's code may fail here
        message = "(no message)"
    return f"{type(error).__name__}: {message[:MAX_ERROR_LENGTH]}"


def parts_of(error: BaseException) -> list[BaseException]:
    """The errors that a group holds, also in groups inside of it; of any other error itself."""
    parts = [error]
    for part in parts:  # which grows meanwhile
        if isinstance(part, BaseExceptionGroup):
            parts += part.exceptions
    return [part for part in parts if not isinstance(part, BaseExceptionGroup)]


class BoilerdError(Exception):
    """Base of all errors that boilerd raises on purpose. All of them can be pickled, as process pools do."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a plain object: an exception calls its class again, with the message as the only argument."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class ConfigError(BoilerdError):
    """A setting, or the file that holds it, cannot be used."""


class BootError(BoilerdError):
    """The daemon could not start; no task was claimed.

    Attributes:
        traceback: Where the application failed; empty if it did not.
    """

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


class AppImportError(BootError):
    """The application's module could not be imported."""


class HookError(BootError):
    """A hook of the application failed in the daemon, before a fork."""


class NoBrokerError(BootError):
    """The daemon could not start because the broker did not answer, or could not work; a later start may succeed."""


class NoWorkerError(BootError):
    """No worker could start, for what the application does at a worker's start; a later try may succeed."""


class BrokenReloadError(BootError):
    """What a reload's check had found usable is so no longer; a later start may succeed."""


class RefusedError(BoilerdError):
    """The daemon cannot do that now; the message says why."""


class BrokerError(BoilerdError):
    """The broker did not do what was asked: it did not answer, or it refused."""


class BrokerUnavailableError(BrokerError):
    """Redis did not answer.

    If an enqueue raises it, the task may or may not be stored. It is safe to enqueue it again with the same task ID
    and the same ``once``: if the task was stored, that raises TaskIdConflictError. Without ``once`` it is safe only
    while the task's record is there, which a completed task without ``retention`` loses at once.

    Attributes:
        was_sent: True if the command may have reached Redis, and may have been carried out.
    """

    def __init__(self, message: str, *, was_sent: bool = True) -> None:
        super().__init__(message)
        self.was_sent = was_sent


class BrokerLoadingError(BrokerUnavailableError):
    """Redis still reads its file after a start; it runs no command until it has read all of it."""


class BrokerRefusedError(BrokerError):
    """Redis refused: a permission is missing, a key has another type, or the server is too old, full or read-only."""


class MisplacedKeyError(BrokerRefusedError):
    """Something else stands where a key of RQ's or boilerd's should, as another program put it there."""

    def __init__(self, key: str, kind: str) -> None:
        super().__init__(f"key {key} is no {kind}, rename it or delete it")
        self.key = key


class BrokerUnableError(BrokerRefusedError):
    """Redis refused, but may accept later: it is a replica, is out of memory, or cannot save its file."""


class InvalidTaskError(BoilerdError, ValueError):
    """A task type, task ID, queue name or option is not allowed."""


class InvalidPayloadError(InvalidTaskError):
    """A payload cannot be written as JSON, is too large, or does not fit the type that its handler declared."""

    #: A task whose payload did not fit is tried again until it is so old: workers with other code may take it by then.
    #: 0: it is archived at once.
    retry_within_s: float = 0.0


class TaskIdConflictError(BoilerdError):
    """Another task has this ID already, in any state; or had it, and its ``once`` is not over.

    Attributes:
        is_remembered: True if the task has ended and is gone, and its ID is remembered.
    """

    def __init__(self, task_id: str, *, is_remembered: bool = False) -> None:
        why = (
            "was used within the time of its once, and its task is gone; it is not stored again"
            if is_remembered
            else "is taken; choose another, or leave it out"
        )
        super().__init__(f"task ID {shown(task_id)} {why}")
        self.task_id = task_id
        self.is_remembered = is_remembered


class DuplicateTaskError(BoilerdError):
    """Another task holds the unique lock; its ID is `task_id`."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"task {task_id} holds the unique lock; it is the same task")
        self.task_id = task_id


class QueueFullError(BoilerdError):
    """The queue already holds as many pending tasks as its `max_length` allows."""

    def __init__(self, queue: str) -> None:
        super().__init__(f"queue {shown(queue)} is full; try again later, or raise its max_length")
        self.queue = queue


class TaskNotFoundError(BoilerdError):
    """There is no task with this ID."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"task {shown(task_id)} does not exist; it may have been completed and deleted")
        self.task_id = task_id


class TaskFailedError(BoilerdError):
    """The task that somebody waited for is archived, or RQ's tools ended it; all that is known of its last attempt.

    The handler's own exception is not made again: its class may not be here, nor be made of a text.

    Attributes:
        task_id: Its ID.
        type: Its type.
        error_type: Name of the class of the handler's exception, such as ``ValueError``; empty if there was none.
        message: The exception's message.
        traceback: As text; may be empty.
        attempts: How many attempts ended.
        is_cancelled: True if somebody cancelled it.
    """

    def __init__(
        self,
        task_id: str,
        task_type: str,
        *,
        error_type: str,
        message: str,
        traceback: str = "",
        attempts: int = 0,
        is_cancelled: bool = False,
    ) -> None:
        what = ": ".join(filter(None, (error_type, message)))
        super().__init__(f"task {task_id} ({task_type}) {'was cancelled' if is_cancelled else 'failed'}: {what}")
        self.task_id = task_id
        self.type = task_type
        self.error_type = error_type
        self.message = message
        self.traceback = traceback
        self.attempts = attempts
        self.is_cancelled = is_cancelled


class QueueNotFoundError(BoilerdError):
    """No queue of this name was ever used.

    Attributes:
        name: The queue's name.
        known: The names of those that were.
    """

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"queue {shown(name)} was never used; there are: {listed(known)}")
        self.name = name
        self.known = known


class QueueInUseError(BoilerdError):
    """The queue cannot be deleted: it holds tasks, or a worker serves it."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"queue {shown(name)} cannot be deleted: {why}; purge it, and take it out of the settings")


class UniqueLockError(BoilerdError):
    """A unique lock cannot be released: it is free, another task holds it, or its task has not ended.

    Attributes:
        answer: What stands against it, as unlock.lua says it: ``free``, ``held ID`` or ``lives STATUS``.
    """

    def __init__(self, task_type: str, queue: str, task_id: str, answer: str) -> None:
        what, _, more = answer.partition(" ")
        why = {
            "free": "it is free",
            "held": f"task {shown(more)} holds it, and not {shown(task_id)}",
            "lives": f"its task {shown(task_id)} has not ended (RQ calls it {more}); write its ID to release it all the"
            " same, or cancel the task",
        }.get(what, answer)
        super().__init__(f"unique lock of type {shown(task_type)} in queue {shown(queue)} was not released: {why}")
        self.answer = answer


class CronNotFoundError(InvalidTaskError):
    """There is no periodic task of this name, and there was none."""


class FailureNotFoundError(BoilerdError):
    """There is no failure group with this fingerprint."""

    def __init__(self, fingerprint: str) -> None:
        super().__init__(
            f"failure group {shown(fingerprint)} does not exist; `boilerd failures` lists those of the last 30 days"
        )
        self.fingerprint = fingerprint


class OperationNotFoundError(BoilerdError):
    """There is no operation with this ID."""

    def __init__(self, operation_id: str) -> None:
        super().__init__(f"operation {shown(operation_id)} does not exist; each is kept for 7 days")
        self.operation_id = operation_id


class OperationStateError(BoilerdError):
    """That cannot be done with the operation now."""

    def __init__(self, operation_id: str, state: str, action: str) -> None:
        super().__init__(f"cannot {action} operation {shown(operation_id)}: it is {state} by now")


class TaskStateError(BoilerdError):
    """The action is not allowed in the task's state."""

    def __init__(self, what: str, state: str, action: str, allowed: Sequence[str]) -> None:
        hint = "; cancel it instead" if state == "active" else ""
        states = ", ".join(allowed[:-1]) + f" or {allowed[-1]}"
        super().__init__(f"cannot {action} {what}: state is {state}, and must be {states}{hint}")


class SkipRetry(BoilerdError):  # noqa: N818 - a request, not a failure of the program
    """Raised by a handler to archive the task at once, because another attempt would fail as well."""


class RevokeTask(BoilerdError):  # noqa: N818 - a request
    """Raised by a handler to delete the task, which is not wanted any more. The attempt does not count as failed."""


class RetryLater(BoilerdError):  # noqa: N818 - a request
    """Raised by a handler to have the task tried again later; uses up no retry.

    Args:
        delay_s: Seconds until then, or a timedelta.
        reason: The message of the error.

    Raises:
        TypeError: The delay is neither a number nor a timedelta.
        ValueError: The delay is negative, or not finite.
    """

    def __init__(self, delay_s: float | timedelta, reason: str = "") -> None:
        seconds = delay_s.total_seconds() if isinstance(delay_s, timedelta) else delay_s
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise TypeError(f"RetryLater: delay_s={shown(delay_s)} is neither a number of seconds nor a timedelta")
        if not 0 <= seconds <= sys.float_info.max:
            raise ValueError(f"RetryLater: delay_s={shown(delay_s)} is not a number of at least 0")
        super().__init__(reason or f"again in {seconds:g} s")
        self.delay_s = seconds
        #: True if it uses up a retry all the same, and counts as a failure.
        self.counts = False


class DeadlineExceededError(BoilerdError):
    """The task's deadline passed before the attempt began or ended."""


class HandlerNotFoundError(BoilerdError):
    """No pattern of the mux matches the task type."""

    def __init__(self, task_type: str) -> None:
        super().__init__(f"handler not found for task {shown(task_type)}")
        self.task_type = task_type


class ForbiddenJobError(BoilerdError):
    """A job in Redis must not be run: it is damaged, or calls a function that is not registered. It is archived."""


class WorkerDiedError(BoilerdError):
    """The worker died during the attempt: it was killed, ran out of memory or crashed."""


class LeaseExpiredError(WorkerDiedError):
    """The lease was not renewed in time, so the task was taken from the worker."""


class TaskInterrupt(BaseException):
    """Raised inside a running handler by a signal.

    It derives from BaseException so that ``except Exception`` in a handler lets it through.
    """


class TaskTimeoutError(TaskInterrupt):
    """The attempt took longer than the task's timeout; counts as a failed attempt."""


class DeadlineInterrupt(TaskInterrupt):
    """The task's deadline passed while it ran."""


class TaskCancelledError(TaskInterrupt):
    """Somebody cancelled the task, which is archived; or its lease was lost, and another worker may have it."""


class ShutdownTimeoutError(TaskInterrupt):
    """The drain took longer than the shutdown timeout; the task is released, uncounted."""


def interrupt_in(error: BaseException) -> TaskInterrupt | None:
    """The interrupt that led to `error`, or None; a handler may catch an interrupt and raise something else.

    An ``asyncio.TaskGroup`` puts one that is raised inside of it into a group.
    """
    links = [error]
    for link in links:  # which grows meanwhile
        if isinstance(link, TaskInterrupt):
            return link
        if len(links) < 100:
            links += link.exceptions if isinstance(link, BaseExceptionGroup) else ()
            links += [cause] if (cause := link.__cause__ or link.__context__) else []
    return None

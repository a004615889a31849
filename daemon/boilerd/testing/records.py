"""What tests look at: tasks that wait or have ended, and attempts that ran."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from boilerd.tasks.options import TaskOptions
from boilerd.tasks.task import Task, TaskState


class RecordedTask(msgspec.Struct, frozen=True):
    """A task that was enqueued, as it was when the client was asked for it.

    Attributes:
        payload: The one that a handler without a declared type gets.
        headers: Of the task.
        state: ``pending``, ``scheduled`` or ``retry`` while it waits; ``active``, ``completed`` or ``archived``.
        next_run_at: When it is due, by the client's clock.
        retried: How many retries are used up.
        last_error: What its last attempt raised, in one line.
        result: What its handler returned, or wrote last with `Task.write_result`, as JSON has it.
    """

    id: str
    type: str
    payload: Any
    options: TaskOptions
    headers: dict[str, str] = {}
    state: TaskState = TaskState.PENDING
    next_run_at: datetime | None = None
    retried: int = 0
    last_error: str = ""
    result: Any = None

    @property
    def queue(self) -> str:
        """The queue that it was enqueued to."""
        return self.options.queue


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a task's handler.

    Attributes:
        task: As the worker had it: with its number of attempts and its limits, and the payload as it was sent.
        state: Of the task behind it: ``completed``, ``retry`` or ``archived``; None: the task was dropped.
        started_at: When it began, by the client's clock.
        result: What the handler returned.
        error: What it raised.
        retry_in: How long the task waits for its next attempt.
    """

    task: Task
    state: TaskState | None
    started_at: datetime
    result: Any = field(default=None, repr=False)
    error: BaseException | None = None
    retry_in: timedelta | None = None

    @property
    def type(self) -> str:
        """The task's type."""
        return self.task.type


def moment(seconds: float) -> datetime:
    """Seconds since 1970 as a datetime in UTC."""
    return datetime.fromtimestamp(seconds, UTC)

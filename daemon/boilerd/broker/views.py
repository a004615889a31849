"""What an Inspector tells of tasks, queues, workers and periodic tasks; `view_reader` makes it of what Redis holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Annotated, Any

import msgspec

from boilerd.tasks.progress import TaskProgress
from boilerd.tasks.queues import DEFAULT_POOL
from boilerd.tasks.task import TaskState

#: With a zone: a naive one cannot be compared with now.
_Moment = Annotated[datetime, msgspec.Meta(tz=True)]


@dataclass(frozen=True, slots=True)
class Attempt:
    """How an attempt ended: with a result, or with an error's traceback."""

    started_at: datetime | None
    ended_at: datetime | None
    worker: str
    is_success: bool
    error: str = ""
    result: Any = None


@dataclass(frozen=True, slots=True)
class TaskDetail:
    """A task as a whole.

    Attributes:
        state: None for a state of RQ's own, such as deferred or canceled.
        rq_status: RQ's word for the state.
        payload: As decoded JSON; None also if it cannot be read.
        result: What the handler returned, of a completed task whose attempts were asked for; before that, what it wrote
            last with `Task.write_result`.
        retried: How many retries are used up.
        max_retries: How many there are; None: its handler's policy decides, which is known when it has failed.
        retention_s: How long the task is kept after success; -1: for ever.
        waits_for: The concurrency key for a share of which a pending task waits; empty: for a worker alone.
        next_run_at: When a scheduled task is due.
        expires_at: When an ended task is deleted.
        attempts: The last 30, oldest first; only if one task was asked for.
        headers: What it carries beside the payload; none also if they cannot be read.
        progress: How far the running attempt is, as its handler told with `Task.progress`.
        fingerprint: Of the failure group that its last failed attempt belongs to; empty: of none.
        concurrency_limit: How many tasks with its concurrency key run at once at most; None: it has no key.
        runs: How often it was begun; more often than it has attempts, if it was put back.
        copied_from: The ID of the task of which it is a copy; empty: of none.
        is_readable: False if its payload cannot be shown: that of a job that RQ has pickled, one that is nested deeper
            than 100 levels, or one that is broken.
        unread_bytes: How large its payload, headers and result are where a list has not read them; 0: they were read.
    """

    id: str
    type: str
    queue: str
    state: TaskState | None
    payload: Any = field(repr=False)
    retried: int
    max_retries: int | None
    timeout_s: int | None
    retention_s: int
    deadline: datetime | None
    created_at: datetime | None
    enqueued_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    last_error: str
    last_failed_at: datetime | None
    worker: str
    unique_key: str
    concurrency_key: str
    rq_status: str = ""
    waits_for: str = ""
    next_run_at: datetime | None = None
    expires_at: datetime | None = None
    attempts: Sequence[Attempt] = ()
    result: Any = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    progress: TaskProgress | None = None
    fingerprint: str = ""
    concurrency_limit: int | None = None
    runs: int = 0
    copied_from: str = ""
    unread_bytes: int = 0
    is_readable: bool = True

    def unread(self, size: int) -> "TaskDetail":
        """The same without payload, headers and result, which take so many bytes."""
        return replace(self, payload=None, headers={}, result=None, unread_bytes=size)


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker that is registered with the broker, of any host.

    Attributes:
        state: RQ's: starting, idle, busy, suspended.
        task_id: The task that it runs, or one of them; empty: none.
        slots: How many tasks it runs at once at most.
        running: How many it runs.
        pool: The name of its pool.
        rss_bytes: Its resident size, with what it shares with the supervisor, at the last heartbeat; None: not known.
        cpu_ms: The CPU time that its process has used, in milliseconds, at the last heartbeat; None: not known.
        is_alive: False if it gave no sign of life for 30 s; its record is there for some minutes more.
        problem: What is wrong with its record, of which nothing else is known then; empty: nothing.
    """

    name: str
    host: str
    pid: int
    state: str
    queues: Sequence[str]
    started_at: datetime | None
    last_seen_at: datetime | None
    succeeded: int
    failed: int
    task_id: str = ""
    task_type: str = ""
    task_started_at: datetime | None = None
    problem: str = ""
    slots: int = 1
    running: int = 0
    pool: str = DEFAULT_POOL
    rss_bytes: int | None = None
    cpu_ms: int | None = None
    is_alive: bool = True

    @property
    def runs(self) -> str:
        """What it runs, for people: a task's type and ID, and how many there are beside it."""
        more = f" and {self.running - 1:,} more" if self.running > 1 else ""
        return f"{self.task_type} {self.task_id}{more}".strip()


@dataclass(frozen=True, slots=True)
class CronInfo:
    """A periodic task that a daemon of any host has, or had: they are kept for 400 days after the last start of one.

    Attributes:
        since: When it was first seen with this line and time zone.
        previous: The last tick that was taken.
        next: The next tick; None: it cannot be told from what stands in Redis.
        task_type: The type of its tasks; empty: no daemon tells.
        queue: The queue of its tasks; empty: no daemon tells.
        catch_up: Whether the last tick that was missed runs late.
        options: The other options of its enqueues, but for headers; times in seconds.
        daemons: The names of the daemons that live and have it; none: no daemon has it any more, or those that have it
            are of a version that does not tell and have no worker.
    """

    name: str
    spec: str
    timezone: str
    since: datetime | None
    previous: datetime | None
    next: datetime | None
    task_type: str = ""
    queue: str = ""
    catch_up: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    daemons: Sequence[str] = ()


class CompletedTask(msgspec.Struct, frozen=True):
    """A task that completed lately, kept or not; ending.lua writes it."""

    id: str
    type: str
    worker: str
    started_at: _Moment
    ended_at: _Moment


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """How many tasks of a queue are in each state.

    Attributes:
        scheduled: Includes the tasks to be retried.
        problem: What is wrong with its keys; a key of another kind counts as empty. Empty: nothing.
    """

    name: str
    pending: int
    active: int
    scheduled: int
    completed: int
    archived: int
    is_paused: bool
    problem: str = ""

    def of(self, state: TaskState) -> int:
        """How many are in the state; scheduled tasks and those to be retried are counted together."""
        return {
            TaskState.PENDING: self.pending, TaskState.ACTIVE: self.active, TaskState.COMPLETED: self.completed,
            TaskState.ARCHIVED: self.archived,
        }.get(state, self.scheduled)  # fmt: skip

    @property
    def is_idle(self) -> bool:
        """True if there is nothing to tell of it: it holds no task, is not paused, and has no problem."""
        tasks = self.pending or self.active or self.scheduled or self.completed or self.archived
        return not (tasks or self.is_paused or self.problem)


@dataclass(frozen=True, slots=True)
class Day:
    """How many attempts of a queue's tasks ended on a day, in UTC, and how many of them failed; or what is wrong.

    Attributes:
        dropped: How many archived tasks were deleted because there were more than `archive_limit`.
    """

    day: date
    processed: int
    failed: int
    problem: str = ""
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class QueueDetail:
    """A queue as a whole.

    Attributes:
        latency_s: How long the oldest pending task has waited; 0: none waits.
        memory_bytes: Roughly the memory that its tasks take in Redis, from a sample.
        max_active: How many of its tasks may run at once; 0: any number.
        max_length: How many may wait; 0: any number.
    """

    counts: QueueInfo
    latency_s: float
    memory_bytes: int
    max_active: int
    max_length: int
    today: Day

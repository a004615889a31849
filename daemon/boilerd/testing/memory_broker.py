"""The broker of a `RecordingClient`: what the scripts in `broker/lua` do, in the memory of one process.

A task is kept as the fields of its job hash, and claimed as a worker claims it; so what is written and read of it is
written and read by the same code. `tests/testing/test_same_as_daemon.py` compares what becomes of tasks here and in a
daemon.
"""

import base64
import itertools
import math
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import msgspec

from boilerd.broker.claims import Claim, Completion, Failure
from boilerd.broker.endings import NAMES, Ending
from boilerd.broker.job_hash import NewTask, job_fields, to_claim
from boilerd.broker.tickets import TellProgress
from boilerd.errors import BoilerdError, DuplicateTaskError, TaskIdConflictError
from boilerd.tasks.options import TaskOptions, UniqueUntil
from boilerd.tasks.retry import Verdict
from boilerd.tasks.task import ARCHIVE_TTL_S, TaskState, no_retention, no_such_task
from boilerd.testing.records import RecordedTask, moment

#: The states of a task that waits.
WAITING = (TaskState.PENDING, TaskState.SCHEDULED, TaskState.RETRY)


@dataclass(slots=True)
class Job:
    """A task and what became of it so far.

    Attributes:
        fields: Those of its job hash.
        unique_key: Of its unique lock; empty: it has none.
        due_s: When it is due, or came to its queue.
        place: Its place among those that are due at the same moment.
        expires_s: When it is deleted, once it has ended.
        retried_until_s: When a failure of a kind that only a young task is tried again after archives it.
    """

    id: str
    type: str
    payload: Any
    options: TaskOptions
    fields: dict[bytes, bytes]
    unique_key: str
    state: TaskState
    due_s: float
    place: int
    expires_s: float = math.inf
    result: bytes = b""
    last_error: str = ""
    traceback: str = ""
    is_cancelled: bool = False
    retried_until_s: float | None = None

    def snapshot(self, now_s: float) -> RecordedTask:
        """It as tests see it."""
        return RecordedTask(
            self.id, self.type, self.payload, self.options, dict(self.options.headers), self.state,
            moment(self.due_s) if self.state in WAITING else None, self.number("number_of_retries"), self.last_error,
            msgspec.json.decode(self.result) if self.result else None,
        )  # fmt: skip

    def claim(self, now_s: float) -> Claim:
        """The claim of a worker on it."""
        return to_claim("drain", self.id, self.options.queue, repr(now_s), self.fields)

    def ending(self) -> Ending:
        """How it ended, as whoever waits for it reads that."""
        told = {
            b"status": b"finished" if self.state is TaskState.COMPLETED else b"failed",
            b"last_error": self.last_error.encode(),
            b"return_value": base64.b64encode(self.result),
            b"exc_string": base64.b64encode(zlib.compress(self.traceback.encode("utf-8", "backslashreplace"))),
        }
        fields = {**self.fields, **told}
        entry = [part for pair in told.items() for part in pair]
        return Ending(self.id, [[(b"", entry)], self.number("runs"), [fields.get(name) for name in NAMES]])

    def number(self, name: str) -> int:
        """The number in a field."""
        return int(self.fields.get(name.encode(), b"0"))

    def count(self, name: str) -> None:
        """Add one to the number in a field."""
        self.fields[name.encode()] = b"%d" % (self.number(name) + 1)


@dataclass(slots=True)
class Lock:
    """A unique lock, and the task that took it."""

    task_id: str
    expires_s: float
    is_lasting: bool


@dataclass(slots=True)
class MemoryBroker:
    """Stores, hands out and settles tasks by its own clock, which stands still until it is moved."""

    now_s: float
    jobs: dict[str, Job] = field(default_factory=dict)
    #: Called with each task that is stored.
    watchers: list[Callable[[Job], None]] = field(default_factory=list)
    _locks: dict[str, Lock] = field(default_factory=dict)
    #: Task ID → until when it is remembered.
    _remembered: dict[str, float] = field(default_factory=dict)
    _places: Iterator[int] = field(default_factory=itertools.count)
    _guard: threading.RLock = field(default_factory=threading.RLock)  # an AsyncClient's calls come from threads

    # Enqueue: store.lua and cancel.lua.

    def enqueue(self, tasks: Iterable[NewTask]) -> list[TaskState | BoilerdError]:
        """Store tasks; see `Broker.enqueue`."""
        with self._guard:
            return [self._store(task) for task in tasks]

    def cancel(self, task_id: str, by: object = None) -> str:
        """Cancel a task; see `Broker.cancel`."""
        with self._guard:
            job = self.jobs.get(task_id)
            if job is None:
                return "unknown"
            if job.state is TaskState.ACTIVE:
                job.is_cancelled = True
                return "told"
            if job.state not in WAITING:
                return "ended"
            del self.jobs[task_id]
            return "deleted"

    def _store(self, task: NewTask) -> TaskState | BoilerdError:
        options = task.options
        if task.id in self.jobs:
            return TaskIdConflictError(task.id)
        key = task.unique_key if options.unique_s else ""
        if key and (holder := self._holder(key)) is not None:
            return DuplicateTaskError(holder)
        if options.once_s and self._remembered.get(task.id, -math.inf) > self.now_s:
            return TaskIdConflictError(task.id, is_remembered=True)
        due_s = self.now_s + options.process_in_s if options.process_at is None else options.process_at
        state = TaskState.SCHEDULED if due_s > self.now_s else TaskState.PENDING
        if key:
            is_lasting = options.unique_until is UniqueUntil.TTL
            self._locks[key] = Lock(task.id, max(due_s, self.now_s) + options.unique_s, is_lasting)
        if options.once_s:
            self._remembered[task.id] = self.now_s + options.once_s
        flat = [_raw(value) for value in job_fields(task)]
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        payload = msgspec.json.decode(task.payload)
        place = next(self._places)
        job = Job(task.id, task.type, payload, options, fields, key, state, max(due_s, self.now_s), place)
        self._note_arrival(job)
        self.jobs[task.id] = job
        for watch in self.watchers:
            watch(job)
        return state

    def _holder(self, key: str) -> str | None:
        """The ID of the task that has the lock; see locks.lua."""
        lock = self._locks.get(key)
        if lock is None or lock.expires_s <= self.now_s:
            return None
        if lock.is_lasting:
            return lock.task_id
        job = self.jobs.get(lock.task_id)
        return lock.task_id if job and job.unique_key == key and not _has_ended(job) else None

    # Wait: waiter.py.

    def submit(self, task_id: str, tell: TellProgress | None, *, has_timeout: bool) -> Future[Ending]:
        """How a task ended, for the `wait` of each client that enqueues here; see `Waiters.submit`.

        Raises:
            TaskNotFoundError: There is no such task, or nothing was kept of it.
            ValueError: Nothing will be left of it.
            RuntimeError: It has not ended, and nothing runs it meanwhile.
        """
        with self._guard:
            job = self.jobs.get(task_id)
            if job is None:
                raise no_such_task(task_id)
            if job.state in (TaskState.COMPLETED, TaskState.ARCHIVED):
                future: Future[Ending] = Future()
                future.set_result(job.ending())
                return future
            if not job.options.retention_s:
                raise no_retention(task_id)
            raise RuntimeError(
                f"task {task_id} is {job.state}: this client has no broker, and nothing runs the task; drain first"
            )

    # Time: forward.lua and Redis' own.

    def move_to(self, now_s: float) -> None:
        """Put the clock forward, and delete what expires by then; a moment that is past changes nothing."""
        with self._guard:
            self.now_s = max(self.now_s, now_s)
            for job in list(self.jobs.values()):
                if job.expires_s <= self.now_s:
                    del self.jobs[job.id]

    def next_due_s(self, queues: Sequence[str] | None) -> float:
        """When the next task of these queues is due; infinity: none waits."""
        return min((job.due_s for job in self.waiting(queues)), default=math.inf)

    # Work: advance.lua and fail.lua.

    def take(self, queues: Sequence[str] | None, rank: Callable[[str], float]) -> Claim | None:
        """Claim the task that is due and comes first: by the rank of its queue, then in the order of the queue."""
        with self._guard:
            due = [job for job in self.waiting(queues) if job.due_s <= self.now_s]
            job = min(due, key=lambda job: (rank(job.options.queue), job.due_s, job.place), default=None)
            if job is None:
                return None
            if job.state is not TaskState.PENDING:
                self._note_arrival(job)
            job.state = TaskState.ACTIVE
            return job.claim(self.now_s)

    def complete(self, completion: Completion) -> None:
        """Note that a task completed, and keep it for as long as its retention."""
        with self._guard:
            job, retention_s = self.jobs[completion.claim.task_id], completion.claim.retention_s
            job.state, job.result = TaskState.COMPLETED, completion.result
            job.expires_s = self.now_s + retention_s
            self.move_to(self.now_s)

    def fail(self, worker: str, claim: Claim, failure: Failure, *, is_taken: bool = False) -> Verdict | None:
        """Carry out what was decided on a failed attempt; see `Broker.fail`."""
        with self._guard:
            job, decision = self.jobs[claim.task_id], failure.decision
            verdict = decision.verdict
            if verdict is Verdict.RETRY and (job.is_cancelled or self._is_too_old(job, claim, failure)):
                verdict = Verdict.ARCHIVE
            if verdict is Verdict.DROP:
                del self.jobs[job.id]
                return verdict
            job.last_error, job.traceback = failure.line, failure.traceback
            job.count("runs")
            if verdict is Verdict.ARCHIVE:
                job.state, job.expires_s = TaskState.ARCHIVED, self.now_s + ARCHIVE_TTL_S
                return verdict
            if decision.counts:
                job.count("number_of_retries")
            job.state, job.due_s, job.place = TaskState.RETRY, self.now_s + decision.delay_s, next(self._places)
            return verdict

    def waiting(self, queues: Sequence[str] | None = None) -> list[Job]:
        """The tasks of these queues, or of all, that wait, in the order in which they were enqueued."""
        chosen = (job for job in self.jobs.values() if queues is None or job.options.queue in queues)
        return [job for job in chosen if job.state in WAITING]

    def _is_too_old(self, job: Job, claim: Claim, failure: Failure) -> bool:
        """Whether the task may be tried again only while it is younger than it is."""
        within_s = failure.decision.within_s
        if within_s is None:
            return False
        came_s = claim.task.enqueued_at.timestamp() if claim.task and claim.task.enqueued_at else float(claim.started)
        if job.retried_until_s is None:
            job.retried_until_s = came_s + within_s
        return self.now_s > job.retried_until_s

    def _note_arrival(self, job: Job) -> None:
        job.fields[b"enqueued_at"] = moment(self.now_s).isoformat().encode()


def _raw(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _has_ended(job: Job) -> bool:
    """Whether the task has ended in a way that releases its lock; see locks.lua."""
    is_archived = job.state is TaskState.ARCHIVED
    return job.state is TaskState.COMPLETED or (is_archived and job.options.unique_until is UniqueUntil.END)

"""A worker's claims on tasks, and how they end: the values that `Broker` and the workers exchange."""

import base64
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from boilerd.entry_point import ENTRY_POINT
from boilerd.errors import MAX_ERROR_LENGTH
from boilerd.tasks.fingerprint import FailureKind
from boilerd.tasks.retry import Decision
from boilerd.tasks.task import Task

#: Bytes of a task's own call in a job's data, beside type and payload.
OWN_CALL_BYTES = len(f'["{ENTRY_POINT}",null,["",],{{}}]')


class Claim(msgspec.Struct, frozen=True):
    """A task that a worker holds, or a job that it cannot run.

    Attributes:
        started: Redis's time of the claim, in seconds since 1970.
        retention_s: How long the task is kept after success; -1: for ever.
        task: None if the job cannot be run; `error` says why.
        function: The function that the job of a plain RQ client calls, which is also its task's type; None if the
            task is boilerd's own.
        max_retries: The number that the task itself asks for; None: its handler's policy decides.
        is_missing: True if the queue held an ID without a job: there is nothing to claim.
        needs_cleanup: True if the task's end gives back a unique lock or a concurrency key, or looks at RQ's repeats.
        deaths: How many workers have died that ran it among other tasks, as far as that was not counted as a failure.
            Such a task is a suspect: it may have been what ended them.
        data_bytes: Size of the job's data.
        ready_s: Redis's time from which it could run, where that was later than its enqueue: it was due, or got the
            share of its concurrency key for which it had waited; 0: it was not.
        unread: The job's data, where the task's payload was not read (see `job_hash.read_payload`); empty: it was.
    """

    task_id: str
    execution_id: str
    queue: str
    started: str
    retention_s: int
    task: Task | None
    function: str | None = None
    max_retries: int | None = None
    error: Exception | None = None
    is_missing: bool = False
    needs_cleanup: bool = False
    unread: bytes = b""
    deaths: int = 0
    data_bytes: int = 0
    ready_s: float = 0.0

    def waited_s(self) -> float:
        """Seconds from when the task could run to the claim: it was enqueued, was due, or got a share of its key."""
        since_s = self.ready_s
        if not since_s:
            if self.task is None or self.task.enqueued_at is None:
                return 0.0
            since_s = self.task.enqueued_at.timestamp()
        waited_s = float(self.started) - since_s
        return waited_s if waited_s > 0 else 0.0  # Redis's clock may have been put back

    @property
    def is_alone(self) -> bool:
        """True if it was claimed alone, not in a batch."""
        return "-" not in self.execution_id

    @property
    def pair(self) -> str:
        """``job ID:execution ID``, as Redis's sets of claims have it."""
        return f"{self.task_id}:{self.execution_id}"

    @property
    def log_fields(self) -> dict[str, Any]:
        """The fields that each log line about its task has."""
        if self.task is None:
            return {"task_id": self.task_id, "task_type": self.function, "queue": self.queue}
        return self.task.log_fields


def batch_place(execution_id: str) -> tuple[int, int]:
    """Number of the batch that a claim is of (28 bits), and its place in it, from 0.

    A claim alone is a batch of one. An execution ID that boilerd did not make is in batch -1.
    """
    number, _, place = execution_id.partition("-")
    try:
        return int(number[:7], 16), int(place or 0)
    except ValueError:
        return -1, 0


class Completion(msgspec.Struct, frozen=True):
    """A claim that ended well, and its result as JSON (empty: none).

    Attributes:
        ran_s: How long it ran; None: nobody knows.
        held_s: How long it lay with its worker before it began.
    """

    claim: Claim
    result: bytes = b""
    ran_s: float | None = None
    held_s: float = 0.0


class Leased(Protocol):
    """A claim, as far as one has to know it to renew its lease."""

    @property
    def pair(self) -> str:
        """``job ID:execution ID``."""

    @property
    def queue(self) -> str:
        """Empty where the job is gone."""

    @property
    def key(self) -> str:
        """Its task's concurrency key; empty: none."""


class Renewal(msgspec.Struct, frozen=True):
    """The answer to `Broker.renew`, each claim as ``job ID:execution ID``.

    Attributes:
        lost: Those that the worker does not hold any more: its tasks have ended, or are another's.
        cancelled: Those whose tasks are to be cancelled; they were renewed.
    """

    lost: list[str]
    cancelled: list[str]


#: How many values of a script's ARGV a completion takes.
COMPLETION_LENGTH = 8


def completion_args(completion: Completion) -> tuple[str | bytes, ...]:
    """The completion as ending.lua reads it, in `completion_at`."""
    claim = completion.claim
    return (
        claim.task_id,
        claim.execution_id,
        claim.queue,
        str(claim.retention_s),
        claim.started,
        base64.b64encode(completion.result),
        claim.task.type if claim.task else "",
        "1" if claim.needs_cleanup else "0",
    )


class Advance(msgspec.Struct, frozen=True):
    """The answer to one call of `Broker.advance` or `Broker.serve`.

    Attributes:
        lost: IDs of tasks whose lease was lost, so that their completion was not written.
        claims: In their order; none if there is nothing to claim.
        is_registered: True if RQ's record of the worker is there.
        holds_more: True if the worker holds a claim that it did not acknowledge; then nothing was claimed.
        is_stale: True if a call of another life of the worker, or a later one, came before; then nothing was claimed.
    """

    lost: list[str]
    claims: list[Claim]
    is_registered: bool = True
    holds_more: bool = False
    is_stale: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that failed, and the decision about its task.

    Attributes:
        error: One line, for lists.
        traceback: The traceback, or `error` again.
        max_retries: The final number: the task's own, or its handler's policy's.
        is_doubtful: True if nobody knows whether the attempt had begun: the task is never claimed in a batch again,
            so that the next time it is known.
        kind: Which failure it is; None: it belongs to no group, as it does not count.
        ended: How the attempt ended, of `OUTCOMES`, where that is not what becomes of the task; empty: it is.
        run_s: How long it ran; None: nobody knows.
        held_s: How long it lay with its worker before it began.
        is_misfit: True if nothing of the handler ran: whoever enqueues can cause thousands of those in a second.
    """

    error: str
    traceback: str
    decision: Decision
    max_retries: int
    is_doubtful: bool = False
    kind: FailureKind | None = field(default=None, compare=False)  # it describes the error, and decides nothing
    ended: str = field(default="", compare=False)  # these are for the metrics
    run_s: float | None = field(default=None, compare=False)
    held_s: float = field(default=0.0, compare=False)
    is_misfit: bool = field(default=False, compare=False)  # for the log

    @property
    def line(self) -> str:
        """The error as it is stored: cut to bytes, but not within a character, which would be no text any more."""
        return self.error.encode("utf-8", "backslashreplace")[:MAX_ERROR_LENGTH].decode("utf-8", "ignore")


class Overdue(msgspec.Struct, frozen=True):
    """An attempt that is past its task's timeout or deadline: by `late_s` on Redis's clock, and it had `limit_s`."""

    worker: str
    task_id: str
    execution_id: str
    late_s: float
    limit_s: float

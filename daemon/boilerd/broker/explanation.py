"""Why a task does not run yet, or what became of it, as people and programs get it; `reasons` finds it."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Self

from boilerd.broker.circumstances import DEFERRED, WAITING
from boilerd.tasks.task import TaskState


class ReasonKind(enum.StrEnum):
    """What a reason is about, in the order in which reasons bind."""

    #: Something else stands where the task's records should.
    STRAY = "stray"
    MISPLACED = "misplaced"
    #: It waits for a moment, or for other jobs.
    DUE = "due"
    RETRY = "retry"
    DEPENDENCIES = "dependencies"
    #: Nobody claims it.
    SUSPENDED = "suspended"
    UNSERVED = "unserved"
    PAUSED = "paused"
    QUIET = "quiet"
    #: It would be claimed in vain.
    UNHANDLED = "unhandled"
    DEADLINE = "deadline"
    #: Others come first.
    HEAVIER = "heavier"
    MAX_ACTIVE = "max_active"
    CONCURRENCY_KEY = "concurrency_key"
    AHEAD = "ahead"
    BUSY = "busy"
    #: It runs.
    LEASE = "lease"
    CANCELLED = "cancelled"
    RUNNING = "running"
    #: It has ended.
    COMPLETED = "completed"
    ARCHIVED = "archived"
    ENDED = "ended"
    #: Its equals are refused meanwhile.
    UNIQUE = "unique"


_ORDER = {kind: place for place, kind in enumerate(ReasonKind)}


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason why a task does not run, or what it does instead.

    Attributes:
        kind: What it is about.
        fact: One or two sentences.
        since: Since when it is so; None: that is not known.
        ends_at: When it ends by itself, or is expected to; None: not by itself, or that is not known.
        remedy: A command that would help, or shows more; empty: there is none.
        tasks: The other tasks that it is about.
    """

    kind: ReasonKind
    fact: str
    since: datetime | None = None
    ends_at: datetime | None = None
    remedy: str = ""
    tasks: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a task does not run, or what became of it, at one moment.

    Attributes:
        state: None for a state of RQ's own; `rq_status` names it.
        at: The moment, by Redis's clock.
        reasons: At least one; the first binds first.
    """

    id: str
    type: str
    queue: str
    state: TaskState | None
    rq_status: str
    at: datetime | None
    reasons: Sequence[Reason] = ()

    @property
    def is_waiting(self) -> bool:
        """Whether the task is still to run."""
        return self.state in WAITING or self.rq_status == DEFERRED

    def plus(self, *reasons: Reason) -> Self:
        """The same with more reasons, each in its place."""
        return replace(self, reasons=sorted((*self.reasons, *reasons), key=lambda reason: _ORDER[reason.kind]))

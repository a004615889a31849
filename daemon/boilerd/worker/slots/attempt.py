"""An attempt in a slot: a claim, its task, and what becomes of it."""

import asyncio
import math
from contextvars import ContextVar
from typing import cast

from boilerd.broker.claims import Claim
from boilerd.errors import TaskInterrupt
from boilerd.tasks.task import Runtime, Task
from boilerd.worker.attempt import Outcome
from boilerd.worker.attempt_log import ATTEMPT
from boilerd.worker.slots.strikes import Strikable


class SlotAttempt:
    """One attempt of a worker with slots.

    The keeper makes it; the runner runs it, and hands it back when `outcome` is there.

    Args:
        claim: Of the task.
        task: As `Rules.task_of` made it.
        runtime: Answers the task's questions about the attempt.
        ends_s: When its timeout or deadline ends it, on the monotonic clock.
        limit: What it is interrupted with then.

    Attributes:
        reason: What it is interrupted with; the first one stays, but see `SlotRunner.interrupt`.
        outcome: How it ended; None: it has not.
        is_stuck: True if it goes on although it was interrupted several times.
        mark: What tells that it has not begun (see `HeldMarks`); None: nothing does, as it was not held.
        place: The asyncio task or the thread that runs it; None: it has not begun.
        is_on_loop: True if its handler runs on the loop.
        has_begun: True if it has come to its handler.
        is_running: True while its handler runs: what comes outside of that must not end it.
        is_told: True if its handler has got the interrupt.
        since_s, step, due_s: When it was given to the runner, or later interrupted; how often it was seen to since; and
            when it is again.
        began_s: When it began, on the monotonic clock; 0: it has not.
        held_s: How long it lay here before.
        ran_s: How long it ran; None: it has not, or has not ended.
        struck_s: When its code was struck, where it kept the loop from the interrupt.
    """

    __slots__ = (
        "began_s", "claim", "due_s", "ends_s", "has_begun", "held_s", "is_on_loop", "is_running", "is_stuck", "is_told",
        "limit", "mark", "outcome", "place", "ran_s", "reason", "runtime", "since_s", "step", "struck_s", "task",
    )  # fmt: skip

    def __init__(
        self,
        claim: Claim,
        task: Task,
        runtime: Runtime | None = None,
        *,
        ends_s: float = math.inf,
        limit: TaskInterrupt | None = None,
    ) -> None:
        self.claim = claim
        self.task = task
        self.runtime = runtime
        self.ends_s = self.due_s = ends_s
        self.limit = limit
        self.reason: TaskInterrupt | None = None
        self.outcome: Outcome | None = None
        self.is_stuck = self.is_on_loop = self.has_begun = self.is_running = self.is_told = False
        self.since_s = self.began_s = self.held_s = 0.0
        self.ran_s: float | None = None
        self.struck_s = -math.inf
        self.step = 0
        self.mark: int | None = None
        self.place: asyncio.Task[None] | Strikable | None = None

    @property
    def needs_loop(self) -> bool:
        """True if it cannot get on while the loop does not: it runs there, or its thread waits for what does."""
        place = self.place
        return self.is_on_loop or (isinstance(place, Strikable) and place.cancel is not None)


#: The attempt to which the running code belongs, also that of asyncio tasks which its handler has made. Its lines in
#: the log look there as well, for the reason.
RUNNING = cast("ContextVar[SlotAttempt | None]", ATTEMPT)

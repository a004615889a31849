"""An attempt in a slot: a claim, its task, and what becomes of it."""

import math

from boilerd.broker.claims import Claim
from boilerd.errors import TaskInterrupt
from boilerd.tasks.task import Runtime, Task
from boilerd.worker.attempt import Outcome


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
    """

    __slots__ = ("claim", "ends_s", "is_stuck", "limit", "outcome", "place", "reason", "runtime", "task")

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
        self.ends_s = ends_s
        self.limit = limit
        self.reason: TaskInterrupt | None = None
        self.outcome: Outcome | None = None
        self.is_stuck = False
        #: The asyncio task or the thread that runs it.
        self.place: object = None

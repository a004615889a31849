"""Attempts of a worker with slots, as they are made, and the answers to their tasks' questions about them."""

import math
import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol

from boilerd.broker.claims import Claim
from boilerd.errors import DeadlineInterrupt, TaskCancelledError, TaskInterrupt, TaskTimeoutError
from boilerd.process import debugging
from boilerd.tasks.progress import TaskProgress
from boilerd.tasks.task import Task
from boilerd.worker.attempt import encode_result
from boilerd.worker.runtime import PROGRESS_BURST, PROGRESS_EVERY_S
from boilerd.worker.slots.attempt import SlotAttempt


class Host(Protocol):
    """What the attempts of a worker share.

    Attributes:
        state: `task.state` of its tasks.
        ends_s: When the end of a drain interrupts what runs, on the monotonic clock; infinite without one.
    """

    state: Mapping[str, Any]

    @property
    def ends_s(self) -> float:
        """See above."""

    def write_result(self, attempt: SlotAttempt, result: bytes, *, is_awaited: bool) -> bool:
        """Store a result so far; not awaited: soon, and True at once."""

    def note_progress(self, attempt: SlotAttempt, progress: TaskProgress) -> None:
        """Show how far the attempt is, soon."""


class SlotRuntime:
    """Of one attempt; its methods are called on the loop and in threads.

    Attributes:
        unsent: The last progress, if it came too soon after the one before it.
    """

    __slots__ = ("_attempt", "_due_s", "_host", "unsent")

    def __init__(self, host: Host, attempt: SlotAttempt) -> None:
        self._host = host
        self._attempt = attempt
        self.unsent: TaskProgress | None = None
        self._due_s = 0.0

    @property
    def state(self) -> Mapping[str, Any]:
        """What the lifespans of the worker yielded."""
        return self._host.state

    def remaining_s(self) -> float:
        """Seconds until the attempt is interrupted."""
        return max(0.0, min(self._attempt.ends_s, self._host.ends_s) - time.monotonic())

    def cancellation(self) -> str:
        """Why the task is not wanted any more, as far as this worker was told: no round trip."""
        reason = self._attempt.reason
        return str(reason) if isinstance(reason, TaskCancelledError) else ""

    def write_result(self, result: Any) -> bool:
        """Show a result so far; False when the lease is lost.

        On the loop, which must not wait, it is written a moment later, and the answer is True.
        """
        encoded = encode_result(result, self._attempt.task)
        is_on_loop = threading.current_thread() is threading.main_thread()
        return self._host.write_result(self._attempt, encoded, is_awaited=not is_on_loop)

    def progress(self, progress: TaskProgress) -> None:
        """Show how far the attempt is, if that was not done too often lately; the keeper does it at the end."""
        self.unsent = progress
        now_s = time.monotonic()
        if self._due_s <= now_s:
            self._due_s = max(self._due_s, now_s - PROGRESS_EVERY_S * (PROGRESS_BURST - 1)) + PROGRESS_EVERY_S
            self.unsent = None
            self._host.note_progress(self._attempt, progress)


def new_attempt(host: Host, claim: Claim, task: Task, now_s: float) -> SlotAttempt:
    """An attempt of a task that was claimed now, with its limit on the monotonic clock."""
    ends_s = math.inf
    limit: TaskInterrupt | None = None
    if task.timeout_s is not None:
        ends_s = now_s + task.timeout_s
        limit = TaskTimeoutError("the attempt took longer than the task's timeout")
    if task.deadline is not None:
        deadline_in_s = task.deadline.timestamp() - float(claim.started)
        if now_s + deadline_in_s < ends_s:
            ends_s, limit = now_s + deadline_in_s, DeadlineInterrupt("the task's deadline has passed")
    if debugging.is_on():
        ends_s, limit = math.inf, None
    attempt = SlotAttempt(claim, task, ends_s=ends_s, limit=limit)
    attempt.runtime = SlotRuntime(host, attempt)
    return attempt

"""Decide what happens to a task after an attempt that failed."""

import enum
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Never, TypeVar

import msgspec

from boilerd.errors import (
    DeadlineExceededError,
    HandlerNotFoundError,
    InvalidPayloadError,
    RetryLater,
    RevokeTask,
    SkipRetry,
    TaskCancelledError,
    TaskTimeoutError,
    WorkerDiedError,
    parts_of,
    shown,
)
from boilerd.tasks.callables import without_parentheses
from boilerd.tasks.task import DEFAULT_MAX_RETRIES, Task
from boilerd.units import LONGEST_S

DAY_S = 24 * 3600.0

_POLICY = "__boilerd_retry__"

H = TypeVar("H", bound=Callable[..., object])


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When and how often a failed task is tried again.

    Attributes:
        max_retries: Attempts after the first; a task's own `max_retries` wins.
        base: Seconds before the first retry.
        factor: Each further delay is this many times as long.
        max_delay: Longest delay in seconds.
        jitter: A delay grows by up to this share of itself, at random, so that tasks that
            failed together are not retried together. 0: exact delays.
        retry_on: Errors after which the task is retried; after any other it is archived at once.
        discard_on: Errors after which it is archived at once, although `retry_on` has them.
    """

    max_retries: int = DEFAULT_MAX_RETRIES
    base: float = 1.0
    factor: float = 2.0
    max_delay: float = DAY_S
    jitter: float = 0.0
    retry_on: tuple[type[BaseException], ...] = (BaseException,)
    discard_on: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        """Refuse values that could never work where they are written, not at 3 a.m."""
        limits = {"max_retries": 0, "base": 0, "factor": 1, "max_delay": 0, "jitter": 0}
        for name, least in limits.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
                raise ValueError(f"retry: {name}={shown(value)} is not a number of at least {least}")
        if isinstance(self.max_retries, float):
            raise ValueError(f"retry: max_retries={shown(self.max_retries)} is not a whole number")  # noqa: TRY004
        for name in ("retry_on", "discard_on"):
            kinds = getattr(self, name)
            if not isinstance(kinds, tuple) or not all(map(_is_exception_class, kinds)):
                raise ValueError(f"retry: {name}={shown(kinds)} is not a tuple of exception classes")

    def delay_s(self, retried: int, uniform: Callable[[], float] = random.random) -> float:
        """Seconds before the retry that follows `retried` earlier ones: min(base·factor^n, max_delay).

        Source: boiler-go's table, 1, 2, 4, 8… s, capped; its own 2^24 s would be 194 days.
        """
        try:
            # As floats, which end in an error: a whole number to a power that a foreign job names ends never.
            delay = min(self.base * float(self.factor) ** retried, self.max_delay)
        except OverflowError:
            delay = self.max_delay if self.base else 0.0
        return min(delay * (1 + self.jitter * uniform()), self.max_delay)


def retry(
    *misplaced: Never,
    max_retries: int = DEFAULT_MAX_RETRIES,
    base: float = 1.0,
    factor: float = 2.0,
    max_delay: float = DAY_S,
    jitter: float = 0.0,
    retry_on: tuple[type[BaseException], ...] = (BaseException,),
    discard_on: tuple[type[BaseException], ...] = (),
) -> Callable[[H], H]:
    """Give a handler a retry policy of its own, in place of the settings' ``[retry]``.

    It stands below ``@mux.handle``; the arguments are those of `RetryPolicy`.

    Raises:
        ValueError: An argument is not allowed.
        TypeError: The handler takes no attributes, as a bound method; or the decorator stands without its parentheses.
    """
    if misplaced:
        raise without_parentheses("retry", "max_retries=5", misplaced[0])
    policy = RetryPolicy(max_retries, base, factor, max_delay, jitter, retry_on, discard_on)

    def mark(handler: H) -> H:
        try:
            set_policy(handler, policy)
        except AttributeError:
            raise TypeError(
                f"retry: {shown(handler)} takes no attributes; decorate the function itself, a method in its class"
            ) from None
        return handler

    return mark


def policy_of(handler: object) -> RetryPolicy | None:
    """The policy that `retry` gave the handler, or None."""
    return getattr(handler, _POLICY, None)


def set_policy(handler: object, policy: RetryPolicy) -> None:
    """Give the handler a policy; raises AttributeError if it takes no attributes."""
    setattr(handler, _POLICY, policy)


class Verdict(enum.StrEnum):
    """The fate of a task whose attempt failed."""

    RETRY = "retry"
    ARCHIVE = "archive"
    DROP = "drop"


class Decision(msgspec.Struct, frozen=True):
    """A verdict, and how a retry goes.

    Attributes:
        delay_s: Seconds until the retry.
        counts: True if the attempt uses up one of the retries, and counts as a failure.
        within_s: The retry becomes an archive where the task is so old, by Redis' clock and counted from when it came
            to its queue before the first such failure; None: it may have any age.
    """

    verdict: Verdict
    delay_s: float = 0.0
    counts: bool = True
    within_s: float | None = None


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """An attempt that failed, and what was decided of its task.

    Attributes:
        task: The task; its ``state`` is empty where its worker was lost.
        error: What the attempt ended in; a WorkerDiedError or LeaseExpiredError where its worker was lost.
        verdict: ``retry``, ``archive`` or ``drop``.
        delay_s: Seconds until the retry.
        counts: False for what uses up no retry: RetryLater, RevokeTask, and what `is_failure` says is none.
        fingerprint: Of the failure group; empty: it belongs to none.
    """

    task: Task
    error: BaseException
    verdict: Verdict
    delay_s: float = 0.0
    counts: bool = True
    fingerprint: str = ""


class Hooks(msgspec.Struct, frozen=True):
    """Functions of the application that are called after a failed attempt, as in Asynq's Config.

    Attributes:
        is_failure: Returns False for an error that is no failure, so that the retry is not counted.
        retry_delay: Returns the seconds until the retry, from retries so far, error and task.
        error_handler: Gets every error, before anything is decided.
        fingerprint: Returns what makes failures one group, from task and error; None: boilerd decides.
        on_failure: Is told of each failed attempt when all is decided.
    """

    is_failure: Callable[[BaseException], bool] | None = None
    retry_delay: Callable[[int, BaseException, Task], float] | None = None
    error_handler: Callable[[Task, BaseException], object] | None = None
    fingerprint: Callable[[Task, BaseException], str | None] | None = None
    on_failure: Callable[[FailedAttempt], object] | None = None


#: Errors that the next attempt would only repeat; a payload that other workers may take is none (`_may_fit_later`).
NEVER_RETRIED = (SkipRetry, InvalidPayloadError, DeadlineExceededError, TaskCancelledError)
#: Errors that the handler's code did not raise: another attempt may succeed, whatever `retry_on` says.
ALWAYS_RETRIED = (TaskTimeoutError, WorkerDiedError)


def decide(error: BaseException, task: Task, policy: RetryPolicy, hooks: Hooks) -> Decision:
    """Decide what happens to a task whose attempt ended in `error`.

    Asynq's order: a revoked task is dropped; one that has no retries left, or that a retry
    would not help, is archived; any other is retried. `RetryLater` is a request, not a
    failure: it is granted even to a task without retries left.

    An ExceptionGroup counts as what it holds; where that does not agree, the strongest counts, by `_strength`.
    What an error was raised from does not count: the handler has decided to raise another.
    """
    parts = parts_of(error)
    strongest = max(parts, key=lambda part: _strength(part, policy))
    if isinstance(strongest, RevokeTask):
        return Decision(Verdict.DROP, counts=False)
    if isinstance(strongest, RetryLater):
        return Decision(Verdict.RETRY, _storable_s(strongest.delay_s, task, policy), counts=strongest.counts)
    retried = task.attempt - 1
    is_final = _is_final(strongest, policy) or isinstance(error, policy.discard_on)
    # `retry_on` may name a class of groups.
    is_retried = _is_retried(strongest, policy) or isinstance(error, policy.retry_on)
    if is_final or not is_retried or retried >= task.max_retries:
        return Decision(Verdict.ARCHIVE)
    counts = hooks.is_failure is None or any(map(hooks.is_failure, parts))
    delay_s = _storable_s(_delay_s(strongest, task, policy, hooks), task, policy)
    within_s = strongest.retry_within_s if isinstance(strongest, InvalidPayloadError) else None
    return Decision(Verdict.RETRY, delay_s, counts, within_s)


def is_misfit(error: BaseException) -> bool:
    """True if nothing of the handler ran: there is none for the type, or the payload did not fit what it declares."""
    return isinstance(error, HandlerNotFoundError) or _may_fit_later(error)


def _is_final(error: BaseException, policy: RetryPolicy) -> bool:
    if isinstance(error, policy.discard_on):
        return True
    return isinstance(error, NEVER_RETRIED) and not _may_fit_later(error)


def _is_retried(error: BaseException, policy: RetryPolicy) -> bool:
    return isinstance(error, policy.retry_on + ALWAYS_RETRIED) or _may_fit_later(error)


def _may_fit_later(error: BaseException) -> bool:
    """True for a payload that did not fit here, but may fit a worker with newer or older code."""
    return isinstance(error, InvalidPayloadError) and error.retry_within_s > 0


def _strength(error: BaseException, policy: RetryPolicy) -> tuple[int, float]:
    """What ends the task is stronger than what does not, and a failure stronger than a request to run later."""
    if isinstance(error, RevokeTask):
        return 4, 0.0
    if isinstance(error, RetryLater):
        return 0, error.delay_s  # the longest of several
    if _is_final(error, policy):
        return 3, 0.0
    return (1 if _is_retried(error, policy) else 2), 0.0


def _delay_s(error: BaseException, task: Task, policy: RetryPolicy, hooks: Hooks) -> float:
    retried = task.attempt - 1
    if hooks.retry_delay:
        return float(hooks.retry_delay(retried, error, task))
    if intervals := task.retry_intervals_s:
        # A plain RQ client's Retry(interval=[…]): with fewer intervals than retries the first is repeated.
        left = task.max_retries - retried
        return intervals[min(max(len(intervals) - left, 0), len(intervals) - 1)]
    return policy.delay_s(retried)


def _storable_s(delay_s: float, task: Task, policy: RetryPolicy) -> float:
    """The delay between 0 and the longest that can be stored; the policy's if the code gave infinity or NaN."""
    seconds = delay_s if math.isfinite(delay_s) else policy.delay_s(task.attempt - 1)
    return min(max(0.0, seconds), float(LONGEST_S))


def _is_exception_class(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseException)

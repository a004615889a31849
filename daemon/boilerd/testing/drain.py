"""Run the tasks of a `RecordingClient` as a worker would, but in this thread, one after the other, by its clock.

The rules are the worker's: `worker.settlement.Rules` decides, `worker.attempt` makes outcomes and encodes results. What
needs a process of its own is left out: no timeout interrupts a handler, no signal is set, nothing is put back after it.
"""

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Self

from msgspec import structs

from boilerd.broker.claims import Claim, Completion
from boilerd.errors import DuplicateTaskError, TaskIdConflictError
from boilerd.process.logs import log_context
from boilerd.tasks.callables import is_plain
from boilerd.tasks.coroutines import ELSEWHERE, discard
from boilerd.tasks.cron import CronEntry, check_unique_names
from boilerd.tasks.current import CURRENT
from boilerd.tasks.life import Life, WorkerContext
from boilerd.tasks.mux import Handler, ServeMux
from boilerd.tasks.retry import Hooks, RetryPolicy
from boilerd.tasks.task import NO_STATE, Task, TaskState
from boilerd.testing.memory_broker import MemoryBroker
from boilerd.testing.records import Attempt, moment
from boilerd.worker.attempt import Completed, Failed, Outcome, encode_result, failed, too_late
from boilerd.worker.lives import aentered, entered
from boilerd.worker.settlement import Rules, record_failure

#: The worker that a drain is.
WORKER = "drain"
CONTEXT = WorkerContext(WORKER, 0)


@dataclass(frozen=True, slots=True)
class DrainRuntime:
    """Answers a task's questions about its attempt."""

    broker: MemoryBroker
    claim: Claim
    task: Task
    state: Mapping[str, Any] = field(default_factory=lambda: NO_STATE)

    def remaining_s(self) -> float:
        """Seconds until a worker would interrupt the attempt."""
        started_s, deadline = float(self.claim.started), self.task.deadline
        ends = [started_s + (math.inf if self.task.timeout_s is None else self.task.timeout_s)]
        ends += [deadline.timestamp()] if deadline else []
        return max(0.0, min(ends) - self.broker.now_s)

    def cancellation(self) -> str:
        """Why the handler should end: somebody cancelled its task."""
        return "cancelled on request" if self.broker.jobs[self.task.id].is_cancelled else ""

    def write_result(self, result: Any) -> bool:
        """Keep a result so far."""
        self.broker.jobs[self.task.id].result = encode_result(result, self.task)
        return True

    def progress(self, progress: Any) -> None:
        """Nobody looks at it: the drain goes on when the attempt has ended."""


class HookErrors:
    """The hooks of an application, and what they raise, which `Rules` only log."""

    def __init__(self, hooks: Hooks) -> None:
        self.raised: list[BaseException] = []
        self.hooks = Hooks(*(self._noting(getattr(hooks, name)) for name in Hooks.__struct_fields__))

    def _noting(self, hook: Callable[..., Any] | None) -> Callable[..., Any] | None:
        def call(*arguments: Any) -> Any:
            try:
                return hook(*arguments)  # type: ignore[misc]  # it is there
            except BaseException as error:
                self.raised.append(error)
                raise

        return hook and call


@dataclass(slots=True)
class Runner:
    """Runs attempts, one after the other.

    Args:
        broker: Where their tasks are.
        handler: A mux; or any handler, for all tasks.
        default: The retry policy of handlers that have none of their own.
    """

    broker: MemoryBroker
    handler: Handler
    default: RetryPolicy
    rules: Rules = field(init=False)
    errors: HookErrors = field(init=False)
    life: Life = field(init=False)
    state: Mapping[str, Any] = field(default_factory=lambda: NO_STATE)

    def __post_init__(self) -> None:
        mux = self.handler if isinstance(self.handler, ServeMux) else ServeMux()
        self.life = mux.life
        rules = Rules.of(mux, self.default, lambda handler: handler)
        self.errors = HookErrors(rules.hooks)
        self.rules = structs.replace(rules, handler=self.handler, hooks=self.errors.hooks, limit_hook=nullcontext)

    def run(self, claim: Claim, context: Context) -> Attempt:
        """Run an attempt in this thread, its hooks too."""
        task = self.rules.task_of(claim)
        outcome = context.run(self._outcome, claim, task) if task else None
        return context.run(self._settle, claim, task, outcome)

    async def arun(self, claim: Claim, context: Context) -> Attempt:
        """The same, but an ``async def`` handler runs on this thread's loop; its middleware runs in another thread."""
        task = self.rules.task_of(claim)
        if task is None or not self._may_await(task.type):
            context.run(ELSEWHERE.set, _refuse)
            return self.run(claim, context)
        with _Elsewhere(asyncio.get_running_loop()) as elsewhere:
            context.run(ELSEWHERE.set, elsewhere.wait_for)
            outcome = await elsewhere.call(lambda: context.run(self._outcome, claim, task))
        context.run(ELSEWHERE.set, None)
        return context.run(self._settle, claim, task, outcome)

    def _may_await(self, task_type: str) -> bool:
        found: Any = self.handler
        while isinstance(found, ServeMux):
            if found.has_async_middleware:
                return True
            found = found.match(task_type)
        return found is None or not (is_plain(found) and is_plain(inspect.unwrap(found)))

    def _outcome(self, claim: Claim, task: Task) -> Outcome:
        """What `AttemptRunner.run` does, but for its signals."""
        if task.deadline and (left_s := task.deadline.timestamp() - float(claim.started)) <= 0:
            return too_late(left_s)
        try:
            task.attach(DrainRuntime(self.broker, claim, task, self.state))
            CURRENT.set(task)
            with log_context(**task.log_fields):
                return Completed(self.rules.handler(task))
        except BaseException as error:
            if _ends_test(error):
                raise
            return failed(error)

    def _settle(self, claim: Claim, task: Task | None, outcome: Outcome | None) -> Attempt:
        """What `WorkLoop._perform` does with an outcome."""
        started_at = moment(float(claim.started))
        if task is None:
            self.rules.archive_unrunnable(self.broker, WORKER, claim)
            refused = Task(id=claim.task_id, type=str(claim.function), queue=claim.queue)
            return Attempt(refused, TaskState.ARCHIVED, started_at, error=claim.error)
        if isinstance(outcome, Failed):
            failure = self.rules.decide_failure(task, outcome.error, outcome.traceback)
            record_failure(self.broker, WORKER, claim, failure)
            job = self.broker.jobs.get(task.id)
            state = job.state if job else None
            delay = timedelta(seconds=failure.decision.delay_s) if state is TaskState.RETRY else None
            return Attempt(task, state, started_at, error=outcome.error, retry_in=delay)
        result = outcome.result if isinstance(outcome, Completed) else None
        self.broker.complete(Completion(claim, encode_result(result, task) if claim.retention_s else b""))
        return Attempt(task, TaskState.COMPLETED, started_at, result)


class _Elsewhere:
    """Another thread, which waits where it meets a coroutine until the loop of this one has run it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="boilerd-drain")
        self._awaited: Future[Any] | None = None
        self._is_over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Where the test is cancelled, cancel the coroutine, and let the thread end."""
        self._is_over = True
        if self._awaited:
            self._awaited.cancel()
        self._thread.shutdown(wait=False)

    async def call(self, function: Callable[[], Any]) -> Any:
        """The function's answer, from the other thread."""
        return await self._loop.run_in_executor(self._thread, function)

    def wait_for(self, awaitable: Awaitable[Any]) -> Any:
        """In the other thread: what the awaitable comes to on the loop, in a copy of this thread's context."""
        self._awaited = asyncio.run_coroutine_threadsafe(_here(awaitable), self._loop)
        if self._is_over:
            self._awaited.cancel()
        result, ending = self._awaited.result()
        if ending:
            raise ending
        return result


def _refuse(awaitable: Awaitable[Any]) -> Any:
    raise RuntimeError(
        f"{discard(awaitable)} was returned by a handler that is not async def, so that adrain has called it where it"
        " cannot be awaited; make it async def"
    )


async def _here(awaitable: Awaitable[Any]) -> tuple[Any, SystemExit | None]:
    ELSEWHERE.set(None)
    try:
        return await awaitable, None
    except SystemExit as error:  # it would end the loop, and the test
        return None, error


@dataclass(slots=True, kw_only=True)
class Drain:
    """The tasks that come due, each claimed at its moment by the client's clock.

    Args:
        broker: Where they are.
        enqueue_tick: Enqueues the task of a periodic task's tick.
        until_s: Moment up to which the clock is put forward, step by step; infinity: until no task waits.
        queues: These only, the first one first; None: all, by their weights.
        limit: After so many attempts it is an error that there are more.
        crons: Periodic tasks, which are enqueued at their ticks.
        weights: Of queues, the heaviest comes first.
    """

    broker: MemoryBroker
    enqueue_tick: Callable[[CronEntry, float], object]
    until_s: float
    queues: Sequence[str] | None = None
    limit: int = 1000
    crons: Sequence[CronEntry] = ()
    weights: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_unique_names(self.crons)
        if self.crons and self.until_s == math.inf:
            raise ValueError("cron=True: periodic tasks have no end; give until= a moment or a timedelta")

    def claims(self) -> Iterator[Claim]:
        """Claim the tasks one by one; each must have been settled when the next one is asked for."""
        for _ in range(self.limit):
            claim = self._next()
            if claim is None:
                return
            yield claim
        if self._comes_s() <= max(self.until_s, self.broker.now_s) and self._comes_s() < math.inf:
            left = sorted({job.type for job in self.broker.waiting(self.queues)})
            raise AssertionError(
                f"drain: {self.limit} attempts have run, and there is more to run: {', '.join(left)};"
                " does a task enqueue itself? limit= allows more attempts"
            )

    def _next(self) -> Claim | None:
        """Claim the next task, which may be due later; None: there is none up to the end."""
        while (claim := self.broker.take(self.queues, self._rank)) is None:
            next_s = self._comes_s()
            if next_s > self.until_s or next_s == math.inf:
                self._end()
                return None
            ticking = [entry for entry in self.crons if entry.schedule.next_after(self.broker.now_s) == next_s]
            self.broker.move_to(next_s)
            for entry in ticking:
                # As with the scheduler: a lock that is held leaves a tick out.
                with suppress(DuplicateTaskError, TaskIdConflictError):
                    self.enqueue_tick(entry, next_s)
        return claim

    def _comes_s(self) -> float:
        """When the next task is due, or the next tick is."""
        ticks = (entry.schedule.next_after(self.broker.now_s) for entry in self.crons)
        return min([self.broker.next_due_s(self.queues), *ticks])

    def _end(self) -> None:
        if self.until_s < math.inf:
            self.broker.move_to(self.until_s)

    def _rank(self, queue: str) -> float:
        return self.queues.index(queue) if self.queues is not None else -self.weights.get(queue, 0)


@contextmanager
def lived(life: Life) -> Iterator[Mapping[str, Any]]:
    """Live in the lifespans as a worker does: what is raised in the block, they do not hear of; gives `task.state`."""
    lives = entered(life, CONTEXT)
    state = lives.__enter__()
    try:
        yield state
    finally:
        lives.__exit__(None, None, None)


def attempts(drain: Drain, runner: Runner, *, raise_errors: bool) -> Iterator[Attempt]:
    """Run the tasks, each when it is asked for, within the lifespans of the application."""
    with lived(runner.life) as runner.state:
        for claim in drain.claims():
            yield _checked(runner.run(claim, copy_context()), runner, raise_errors=raise_errors)


async def async_attempts(drain: Drain, runner: Runner, *, raise_errors: bool) -> list[Attempt]:
    """The same on the loop of this thread, all of them."""
    lives = aentered(runner.life, CONTEXT)
    runner.state = await lives.__aenter__()
    try:
        return [
            _checked(await runner.arun(claim, copy_context()), runner, raise_errors=raise_errors)
            for claim in drain.claims()
        ]
    finally:
        await lives.__aexit__(None, None, None)


def _checked(attempt: Attempt, runner: Runner, *, raise_errors: bool) -> Attempt:
    """The attempt; raises what a hook raised, or what archived the task."""
    raised, runner.errors.raised = runner.errors.raised, []
    if raised and raise_errors:
        raise raised[0]
    if attempt.error is not None and attempt.state is TaskState.ARCHIVED and raise_errors:
        task = attempt.task
        attempt.error.add_note(
            f"raised in attempt {task.attempt} of task {task.id}, {task.type}, which is archived now;"
            " with raise_errors=False a drain goes on and returns the attempts"
        )
        raise attempt.error
    return attempt


def _ends_test(error: BaseException) -> bool:
    """True for what is meant for the test and not for its handler: Ctrl-C, and pytest's own, as of a timeout."""
    kinds = type(error).__mro__
    return isinstance(error, KeyboardInterrupt) or any(kind.__module__.startswith("_pytest.") for kind in kinds)

"""Handlers that are coroutines, run by a worker that is otherwise synchronous."""

import asyncio
import functools
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import pytest

from boilerd import ServeMux, SkipRetry, Task, TaskProgress
from boilerd.errors import DeadlineExceededError, TaskTimeoutError
from boilerd.process.log_lines import JsonFormatter
from boilerd.process.logs import _AddFields, log_context
from boilerd.tasks.coroutines import kept_loop, use_loop
from boilerd.tasks.task import NO_STATE
from boilerd.worker.attempt import AttemptRunner, Completed, Failed, Outcome, Released
from boilerd.worker.attempt_log import log_attempts
from support import run_python

#: The tests arm the process's timer themselves; pytest-timeout's own would get lost.
pytestmark = [pytest.mark.timeout(method="thread"), pytest.mark.usefixtures("restored_signals")]

#: Long enough that no test would end by itself.
FOREVER_S = 30
#: Long enough that the handler has come to where it waits.
SOON_S = 0.2


@dataclass
class Attempt:
    """What a worker hands in: the attempt of a task that nobody cancelled."""

    state = NO_STATE

    def remaining_s(self) -> float:
        return FOREVER_S

    def cancellation(self) -> str:
        return ""

    def write_result(self, result: Any) -> bool:
        return True

    def progress(self, progress: TaskProgress) -> None:
        pass


@pytest.fixture
def mux() -> ServeMux:
    return ServeMux()


def run(mux: ServeMux, payload: Any = None, *, timeout_s: float = FOREVER_S, **options: Any) -> Outcome:
    """An attempt as a worker runs it, with the process's real timer."""
    task = Task("a", "test:async", payload, timeout_s=timeout_s)
    return AttemptRunner(log_attempts(mux)).run(task, Attempt(), **options)


def test_what_a_coroutine_returns_is_the_result(mux: ServeMux) -> None:
    @mux.handle("test:async")
    async def handler(task: Task) -> Any:
        await asyncio.sleep(0)
        return {"got": task.payload}

    assert run(mux, 5) == Completed({"got": 5})


def test_what_a_coroutine_raises_is_the_error_with_its_own_lines(mux: ServeMux) -> None:
    @mux.handle("test:async")
    async def handler(task: Task) -> None:
        await asyncio.sleep(0)
        raise SkipRetry("address bounced")

    outcome = run(mux)

    assert isinstance(outcome, Failed)
    assert outcome.line == "SkipRetry: address bounced"
    assert 'raise SkipRetry("address bounced")' in outcome.traceback


def test_an_object_with_an_async_call_is_a_handler_too(mux: ServeMux) -> None:
    class Handler:
        async def __call__(self, task: Task) -> int:
            await asyncio.sleep(0)
            return 7

    mux.handle("test:async", Handler())

    assert run(mux) == Completed(7)


def test_a_coroutine_that_a_plain_decorator_hides_runs_inside_the_middleware(mux: ServeMux) -> None:
    order: list[str] = []

    def hiding(function: Any) -> Any:
        def hidden(task: Task) -> Any:
            order.append("decorator")
            return function(task)

        return hidden

    @mux.use
    def look(next_handler: Any) -> Any:
        def wrapped(task: Task) -> Any:
            result = next_handler(task)
            order.append(f"middleware: {result}")
            return result

        return wrapped

    @mux.handle("test:async")
    @hiding
    async def handler(task: Task) -> int:
        await asyncio.sleep(0)
        order.append("handler")
        return 7

    assert run(mux) == Completed(7)
    assert order == ["decorator", "handler", "middleware: 7"]


def test_a_not_found_handler_may_be_a_coroutine(mux: ServeMux) -> None:
    @mux.not_found
    async def fallback(task: Task) -> str:
        await asyncio.sleep(0)
        return f"no handler for {task.type}"

    assert run(mux) == Completed("no handler for test:async")


def generate(task: Task) -> Iterator[int]:
    yield 1


async def generate_async(task: Task) -> AsyncIterator[int]:
    yield 1


class Generating:
    def __call__(self, task: Task) -> Iterator[int]:
        yield 1


@pytest.mark.parametrize("handler", [generate, generate_async, Generating(), functools.partial(generate)])
def test_a_generator_function_is_no_handler(mux: ServeMux, handler: Any) -> None:
    with pytest.raises(TypeError, match="has a yield"):
        mux.handle("test:async", handler)
    with pytest.raises(TypeError, match=r"not_found: .* has a yield"):
        mux.not_found(handler)

    assert mux.patterns() == []


async def answer_with_a_generator(task: Task) -> Any:
    return generate(task)


@pytest.mark.parametrize(
    ("handler", "what"),
    [
        (lambda task: (number for number in (1, 2)), "a generator"),
        (lambda task: (number async for number in generate_async(task)), "an async generator"),
        (answer_with_a_generator, "a generator"),
    ],
)
def test_a_generator_that_a_handler_returns_fails_the_attempt(mux: ServeMux, handler: Any, what: str) -> None:
    mux.handle("test:async", handler)

    outcome = run(mux)

    assert isinstance(outcome, Failed)
    assert outcome.line.startswith("TypeError: handler ")
    assert outcome.line.endswith(f" returned {what}; nothing of that would run")


class Waiting:
    """What a library's call returns: it starts when it is awaited, or entered as a context."""

    def __await__(self) -> Generator[Any, Any, str]:
        return asyncio.sleep(0, "awaited").__await__()

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *exc_info: object) -> None: ...


def test_an_object_that_can_be_awaited_is_awaited(mux: ServeMux) -> None:
    mux.handle("test:async", lambda task: Waiting())

    assert run(mux) == Completed("awaited")


def test_a_future_is_awaited_in_the_loop_to_which_it_belongs(mux: ServeMux) -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    @mux.handle("test:loop")
    async def keep_loop(task: Task) -> None:
        loops.append(asyncio.get_running_loop())

    @mux.handle("test:async")
    def as_future(task: Task) -> asyncio.Future[str]:
        future: asyncio.Future[str] = loops[0].create_future()
        loops[0].call_soon(future.set_result, "awaited")
        return future

    AttemptRunner(mux).run(Task("a", "test:loop"))

    assert run(mux) == Completed("awaited")


def test_a_timeout_interrupts_what_is_awaited(mux: ServeMux) -> None:
    class Endless:
        def __await__(self) -> Iterator[Any]:
            return asyncio.sleep(FOREVER_S).__await__()

    mux.handle("test:async", lambda task: Endless())

    outcome = run(mux, timeout_s=SOON_S)

    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, TaskTimeoutError)


@contextmanager
def entered(task: Task) -> Iterator[None]:
    yield


@asynccontextmanager
async def entered_async(task: Task) -> AsyncIterator[None]:
    yield


async def answer_with_an_awaitable(task: Task) -> Any:
    return Waiting()


@pytest.mark.parametrize(
    ("handler", "what"),
    [
        (entered, "a context manager that nobody entered"),
        (entered_async, "a context manager that nobody entered"),
        (answer_with_an_awaitable, "Waiting, which must be awaited"),
    ],
)
def test_what_nobody_would_run_fails_the_attempt(mux: ServeMux, handler: Any, what: str) -> None:
    mux.handle("test:async", handler)

    outcome = run(mux)

    assert isinstance(outcome, Failed)
    assert outcome.line == f"TypeError: handler {handler.__name__} returned {what}; nothing of that would run"


def test_an_awaitable_that_a_middleware_returns_fails_the_attempt(mux: ServeMux) -> None:
    mux.handle("test:async", lambda task: None)
    mux.use(lambda next_handler: lambda task: Waiting())

    outcome = run(mux)

    assert isinstance(outcome, Failed)
    assert outcome.line.endswith("returned Waiting, which must be awaited; middleware must be plain functions")


def async_inside(next_handler: Any) -> Any:
    async def wrapped(task: Task) -> Any:
        return next_handler(task)

    return wrapped


def generator_inside(next_handler: Any) -> Any:
    def wrapped(task: Task) -> Iterator[Any]:
        yield next_handler(task)

    return wrapped


def hidden_inside(next_handler: Any) -> Any:
    wrapped = async_inside(next_handler)

    def hidden(task: Task) -> Any:
        return wrapped(task)

    return hidden


async def async_outside(next_handler: Any) -> Any:
    return next_handler


def async_hidden(next_handler: Any) -> Any:
    return async_outside(next_handler)


@pytest.mark.parametrize(
    ("middleware", "why"),
    [
        (async_inside, "is no plain function"),
        (generator_inside, "is no plain function"),
        (hidden_inside, "returned a coroutine; middleware must be plain functions"),
        (async_hidden, "returned a coroutine; middleware must be plain functions"),
    ],
)
def test_a_middleware_that_is_no_plain_function_fails_the_attempt(mux: ServeMux, middleware: Any, why: str) -> None:
    steps: list[str] = []
    mux.handle("test:async", lambda task: steps.append("handled"))
    mux.use(middleware)

    outcome = run(mux)

    assert isinstance(outcome, Failed)
    assert outcome.line.startswith(f"TypeError: middleware {middleware.__name__} returned ")
    assert why in outcome.line
    assert steps == []


def test_a_coroutine_of_a_nested_mux_runs_inside_the_middleware_of_both(mux: ServeMux) -> None:
    inner, order = ServeMux(), []
    mux.handle("test:", inner)

    @mux.use
    def outer_middleware(next_handler: Any) -> Any:
        def wrapped(task: Task) -> Any:
            order.append("outer")
            return next_handler(task)

        return wrapped

    @inner.use
    def inner_middleware(next_handler: Any) -> Any:
        def wrapped(task: Task) -> Any:
            result = next_handler(task)
            order.append(result)
            return result

        return wrapped

    @inner.handle("test:async")
    async def handler(task: Task) -> str:
        order.append("handler")
        return "result"

    assert run(mux) == Completed("result")
    assert order == ["outer", "handler", "result"]


def test_a_timeout_interrupts_a_coroutine_that_sleeps(mux: ServeMux) -> None:
    @mux.handle("test:async")
    async def handler(task: Task) -> None:
        await asyncio.sleep(FOREVER_S)

    outcome = run(mux, timeout_s=SOON_S)

    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, TaskTimeoutError)


def test_a_timeout_interrupts_a_coroutine_that_computes(mux: ServeMux) -> None:
    @mux.handle("test:async")
    async def handler(task: Task) -> None:
        while True:
            pass

    outcome = run(mux, timeout_s=SOON_S)

    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, TaskTimeoutError)


def test_a_timeout_interrupts_the_coroutines_that_a_coroutine_waits_for(mux: ServeMux) -> None:
    ended: list[int] = []

    async def part(number: int) -> None:
        try:
            await asyncio.sleep(FOREVER_S)
        finally:
            ended.append(number)

    @mux.handle("test:async")
    async def handler(task: Task) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(part(number))

    outcome = run(mux, timeout_s=SOON_S)

    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, TaskTimeoutError)
    assert sorted(ended) == [0, 1, 2]


def test_the_end_of_a_drain_that_a_handler_puts_into_a_group_is_no_failure(
    mux: ServeMux, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "boilerd.task")

    @mux.handle("test:sync")
    def collect(task: Task) -> None:
        errors: list[BaseException] = []
        try:
            time.sleep(FOREVER_S)
        except BaseException as error:
            errors.append(error)
        raise BaseExceptionGroup("some of many failed", errors)

    runner = AttemptRunner(log_attempts(mux))
    runner.drain(SOON_S)
    outcome = runner.run(Task("a", "test:sync"), Attempt())

    assert outcome == Released()
    assert "task failed" not in caplog.messages


def test_a_timeout_that_strikes_in_a_task_beside_the_handler_ends_the_attempt(mux: ServeMux) -> None:
    kept: list[asyncio.Task[None]] = []

    async def compute() -> None:
        while True:
            pass

    @mux.handle("test:async")
    async def handler(task: Task) -> str:
        kept.append(asyncio.create_task(compute()))
        # Far shorter than forever: what is lost is told apart by the handler's coming to its end.
        await asyncio.sleep(5 * SOON_S)
        return "nobody stopped me"

    outcome = run(mux, timeout_s=SOON_S)

    assert isinstance(kept[0].exception(), TaskTimeoutError)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, TaskTimeoutError)


def test_a_deadline_interrupts_a_coroutine(mux: ServeMux) -> None:
    @mux.handle("test:async")
    async def handler(task: Task) -> None:
        await asyncio.sleep(FOREVER_S)

    outcome = run(mux, deadline_in_s=SOON_S)

    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, DeadlineExceededError)


def test_the_end_of_a_drain_releases_a_coroutine(mux: ServeMux) -> None:
    @mux.handle("test:async")
    async def handler(task: Task) -> None:
        execution.drain(SOON_S)
        await asyncio.sleep(FOREVER_S)

    execution = AttemptRunner(mux)
    outcome = execution.run(Task("a", "test:async"), Attempt())

    assert outcome == Released()


def test_a_cleanup_that_raises_does_not_hide_the_end_of_a_drain(mux: ServeMux) -> None:
    @mux.handle("test:async")
    async def handler(task: Task) -> None:
        execution.drain(SOON_S)
        try:
            await asyncio.sleep(FOREVER_S)
        finally:
            raise ConnectionError("could not say goodbye")

    execution = AttemptRunner(mux)
    outcome = execution.run(Task("a", "test:async"), Attempt())

    assert outcome == Released()


def test_a_coroutine_that_is_cancelled_by_its_own_code_is_a_failure_like_any_other(mux: ServeMux) -> None:
    @mux.handle("test:async")
    async def handler(task: Task) -> None:
        raise asyncio.CancelledError

    outcome = run(mux)

    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, asyncio.CancelledError)


def test_an_except_exception_does_not_swallow_the_timeout(mux: ServeMux) -> None:
    @mux.handle("test:async")
    async def handler(task: Task) -> str:
        try:
            await asyncio.sleep(FOREVER_S)
        except Exception:
            return "swallowed"
        return "slept"

    assert isinstance(run(mux, timeout_s=SOON_S), Failed)


def test_the_cleanup_of_an_interrupted_coroutine_runs(mux: ServeMux) -> None:
    steps: list[str] = []

    @asynccontextmanager
    async def connected() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.sleep(0)
            steps.append("closed")

    @mux.handle("test:async")
    async def handler(task: Task) -> None:
        try:
            async with connected():
                await asyncio.sleep(FOREVER_S)
        finally:
            steps.append("finally")

    assert isinstance(run(mux, timeout_s=SOON_S), Failed)

    assert steps == ["closed", "finally"]


def test_the_loop_stays_the_same_between_tasks(mux: ServeMux) -> None:
    loops: list[object] = []

    @mux.handle("test:async")
    async def handler(task: Task) -> None:
        loops.append(asyncio.get_running_loop())

    run(mux)
    run(mux)

    assert loops[0] is loops[1]


def test_a_timeout_leaves_a_loop_that_the_next_task_can_use(mux: ServeMux) -> None:
    loops: list[object] = []

    @mux.handle("test:async")
    async def handler(task: Task) -> str:
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(task.payload)
        return "done"

    assert isinstance(run(mux, FOREVER_S, timeout_s=SOON_S), Failed)
    assert run(mux, 0) == Completed("done")
    assert loops[0] is loops[1]


def test_nothing_of_an_interrupted_coroutine_goes_on_in_the_next_task(mux: ServeMux) -> None:
    @mux.handle("test:async")
    async def handler(task: Task) -> int:
        if task.payload:
            await asyncio.sleep(task.payload)
        return len(asyncio.all_tasks())

    run(mux, FOREVER_S, timeout_s=SOON_S)

    assert run(mux, 0) == Completed(1)


def test_the_context_of_the_attempt_is_visible_in_the_coroutine(mux: ServeMux) -> None:
    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")

    @mux.use
    def with_tenant(next_handler: Any) -> Any:
        def wrapped(task: Task) -> Any:
            tenant.set("acme")
            return next_handler(task)

        return wrapped

    @mux.handle("test:async")
    async def handler(task: Task) -> str:
        await asyncio.sleep(0)
        return tenant.get()

    assert run(mux) == Completed("acme")


def test_what_a_coroutine_logs_carries_the_fields_of_its_task(mux: ServeMux, caplog: pytest.LogCaptureFixture) -> None:
    @mux.handle("test:async")
    async def handler(task: Task) -> None:
        await asyncio.sleep(0)
        task.logger.info("from inside")

    caplog.handler.addFilter(_AddFields("worker:0"))
    with caplog.at_level(logging.INFO, "boilerd.task"), log_context(host="h"):
        run(mux)

    (line,) = [JsonFormatter().format(record) for record in caplog.records if record.message == "from inside"]
    assert '"task_id":"a","task_type":"test:async","queue":"default","attempt":1' in line
    assert '"host":"h"' in line


def test_no_timer_is_left_when_a_coroutine_ended(mux: ServeMux) -> None:
    @mux.handle("test:async")
    async def handler(task: Task) -> None:
        await asyncio.sleep(0)

    run(mux)

    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


# --- What a handler leaves behind


def test_a_task_that_a_handler_leaves_behind_is_told_once_with_its_name(
    mux: ServeMux, caplog: pytest.LogCaptureFixture
) -> None:
    kept = []

    async def poll() -> None:
        await asyncio.sleep(FOREVER_S)

    @mux.handle("test:async")
    async def handler(task: Task) -> None:
        if task.payload:
            kept.append(asyncio.create_task(poll(), name="poller"))

    for payload in (True, False, True):
        run(mux, payload)

    told = [record.tasks for record in caplog.records if record.levelname == "WARNING"]  # type: ignore[attr-defined]
    for task in kept:
        task.cancel()
    run(mux)
    assert [len(names) for names in told] == [1, 1]
    assert all(names[0].startswith("poller: ") and names[0].endswith("poll") for names in told)


def test_an_async_generator_that_a_handler_leaves_before_its_end_is_finalised_with_the_handler(
    mux: ServeMux, caplog: pytest.LogCaptureFixture
) -> None:
    ended = []

    async def session() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0.001)
            ended.append("session")

    @mux.handle("test:async")
    async def handler(task: Task) -> int:
        async for number in session():
            return number
        return 0

    outcome = run(mux)

    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert (outcome, ended, told) == (Completed(1), ["session"], [])


@pytest.mark.parametrize("waits_itself", [False, True])
def test_an_async_generator_that_does_not_end_is_cut_at_the_timeout_of_its_task_and_holds_up_no_other(
    mux: ServeMux, *, waits_itself: bool
) -> None:
    async def session() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(FOREVER_S)

    @mux.handle("test:async")
    async def handler(task: Task) -> str:
        if task.payload == "other":
            return "completed"
        async for _ in session():
            break
        await asyncio.sleep(FOREVER_S if waits_itself else 0)
        return "late"

    began_s = time.monotonic()
    cut = run(mux, timeout_s=SOON_S)
    other = run(mux, "other")

    assert isinstance(cut, Failed)
    assert isinstance(cut.error, TaskTimeoutError)
    assert other == Completed("completed")
    assert time.monotonic() - began_s < FOREVER_S / 2


def test_tasks_and_async_generators_that_handlers_left_behind_end_with_their_process() -> None:
    found = run_python("""
import asyncio, json
from boilerd import ServeMux, Task
from boilerd.tasks.coroutines import synchronous

kept = []

async def poll():
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        print('["cancelled",', flush=True)
        raise

async def numbers():
    try:
        yield 1
    finally:
        print('"finalised"]', flush=True)

async def handler(task):
    kept.append(asyncio.create_task(poll()))
    kept.append(numbers())
    await anext(kept[-1])
    await asyncio.sleep(0)

synchronous(handler)(None)
""")

    assert found == ["cancelled", "finalised"]


TO_THREAD = """
import asyncio
from boilerd import ServeMux
from boilerd.testing import run

mux = ServeMux()

@mux.handle("app:think")
async def think(task):
    return await asyncio.to_thread(lambda: 7)

print(run(mux, "app:think"))
"""


def test_a_program_whose_handler_used_a_thread_of_the_loop_ends_without_a_word() -> None:
    ended = subprocess.run([sys.executable, "-c", TO_THREAD], capture_output=True, text=True, timeout=60, check=False)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "7\n", "")


def test_a_process_that_chooses_its_loop_leaves_the_one_that_it_was_forked_with_to_its_parent() -> None:
    before = kept_loop()

    pid = os.fork()
    if pid == 0:
        use_loop("asyncio")
        os._exit(kept_loop() is before)

    assert os.waitpid(pid, 0)[1] == 0
    assert kept_loop() is before

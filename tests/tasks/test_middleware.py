"""Middleware around plain and ``async def`` handlers, with one slot, on a running loop and in a thread beside it."""

import asyncio
import functools
import gc
import logging
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec import structs

from boilerd import ConfigError, Handler, ServeMux, Task, TaskTimeoutError, current_task
from boilerd.errors import ShutdownTimeoutError, TaskCancelledError, TaskInterrupt
from boilerd.process.logs import _AddFields
from boilerd.tasks import bridge
from boilerd.tasks.bridge import check_async
from boilerd.tasks.coroutines import ELSEWHERE, discard
from boilerd.tasks.current import CURRENT
from boilerd.tasks.retry import RetryPolicy
from boilerd.testing import RecordingClient
from boilerd.worker.attempt import AttemptRunner, Failed
from boilerd.worker.attempt_log import ATTEMPT, log_attempts
from boilerd.worker.settlement import Rules

TASK = Task(id="t1", type="test:it", payload={"to": "ada"})
Run = Callable[[ServeMux, Task], Any]


async def _here(awaitable: Awaitable[Any]) -> Any:
    ELSEWHERE.set(None)
    return await awaitable


def with_one_slot(mux: ServeMux, task: Task) -> Any:
    return mux(task)


def on_loop(mux: ServeMux, task: Task) -> Any:
    return asyncio.run(mux.arun(task))


def in_thread(mux: ServeMux, task: Task) -> Any:
    """Run it in a thread, whose awaitables the loop of this one awaits."""

    async def serve() -> Any:
        loop = asyncio.get_running_loop()

        def run() -> Any:
            ELSEWHERE.set(lambda awaitable: asyncio.run_coroutine_threadsafe(_here(awaitable), loop).result())
            return mux(task)

        return await asyncio.to_thread(run)

    return asyncio.run(serve())


#: Name → whether the handler is async def, and what runs it.
WAYS: dict[str, tuple[bool, Run]] = {
    "a plain handler": (False, with_one_slot),
    "a plain handler in a thread": (False, in_thread),
    "an async handler": (True, with_one_slot),
    "an async handler on a loop": (True, on_loop),
    "an async handler of a thread": (True, in_thread),
}


@dataclass
class Way:
    """One kind of handler in one kind of worker."""

    is_async: bool
    run: Run

    def __call__(self, mux: ServeMux, handler: Callable[[Task], Any], task: Task = TASK) -> Any:
        """What the task comes to, with this handler."""

        async def async_handler(task: Task) -> Any:
            await asyncio.sleep(0)
            return handler(task)

        mux.handle("test:it", async_handler if self.is_async else handler)
        return self.run(mux, task)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return Way(*WAYS[request.param])


@pytest.fixture
def mux() -> ServeMux:
    return ServeMux()


def answer(task: Task) -> str:
    return f"sent to {task.payload['to']}"


def fail(error: BaseException) -> Callable[[Task], Any]:
    def handler(task: Task) -> None:
        raise error

    return handler


# --- A generator function


def test_a_generator_goes_around_the_handler_and_gets_its_result(mux: ServeMux, way: Way) -> None:
    steps: list[Any] = []

    @mux.use
    def noting(task: Task) -> Generator[None, Any]:
        steps.append(task.type)
        result = yield
        steps.append(result)

    def handler(task: Task) -> str:
        steps.append("handler")
        return "sent"

    result = way(mux, handler)

    assert (steps, result) == (["test:it", "handler", "sent"], "sent")


def test_what_a_generator_returns_takes_the_place_of_the_result(mux: ServeMux, way: Way) -> None:
    @mux.use
    def louder(task: Task) -> Generator[None, str, str]:
        result = yield
        return result.upper()

    assert way(mux, answer) == "SENT TO ADA"


def test_a_generator_that_returns_before_its_yield_keeps_the_handler_from_running(mux: ServeMux, way: Way) -> None:
    ran: list[Task] = []

    @mux.use
    def unless_done(task: Task) -> Generator[None, Any, str]:
        if task.payload:
            return "was sent before"
        return (yield)  # type: ignore[no-any-return]

    assert way(mux, ran.append) == "was sent before"
    assert ran == []


def test_a_generator_may_give_the_handler_another_task(mux: ServeMux, way: Way) -> None:
    @mux.use
    def to_bob(task: Task) -> Iterator[Task]:
        yield structs.replace(task, payload={"to": "bob"})

    assert way(mux, answer) == "sent to bob"


@pytest.mark.parametrize("error", [ValueError("no address"), TaskTimeoutError("late")])
def test_the_error_of_a_handler_passes_through_a_generator_as_it_is(
    mux: ServeMux, way: Way, error: BaseException
) -> None:
    seen: list[BaseException] = []

    @mux.use
    def noting(task: Task) -> Iterator[None]:
        try:
            yield
        except BaseException as raised:
            seen.append(raised)
            raise

    with pytest.raises(type(error)) as raised:
        way(mux, fail(error))

    assert seen == [error]
    assert raised.value is error


@pytest.mark.parametrize("is_async", [False, True])
def test_an_exit_of_a_handler_passes_through_generators(mux: ServeMux, *, is_async: bool) -> None:
    seen: list[str] = []

    @mux.use
    def noting(task: Task) -> Iterator[None]:
        try:
            yield
        finally:
            seen.append("plain")

    @mux.use
    async def async_noting(task: Task) -> AsyncIterator[None]:
        try:
            yield
        finally:
            seen.append("async")

    with pytest.raises(SystemExit):
        Way(is_async, with_one_slot)(mux, fail(SystemExit("out")))

    assert seen == ["async", "plain"]


def test_a_generator_may_keep_an_error_to_itself_and_answer_in_its_place(mux: ServeMux, way: Way) -> None:
    @mux.use
    def answering(task: Task) -> Generator[None, Any, str | None]:
        try:
            yield
        except ValueError:
            return "no address"
        return None

    assert way(mux, fail(ValueError())) == "no address"


def test_a_generator_may_raise_another_error(mux: ServeMux, way: Way) -> None:
    @mux.use
    def translating(task: Task) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise KeyError("no address") from error

    with pytest.raises(KeyError, match="no address") as raised:
        way(mux, fail(ValueError("why")))

    assert isinstance(raised.value.__cause__, ValueError)


def test_a_stop_iteration_of_a_plain_handler_stays_one(mux: ServeMux) -> None:
    @mux.use
    def around(task: Task) -> Iterator[None]:
        yield

    @mux.use
    async def around_async(task: Task) -> AsyncIterator[None]:
        yield

    mux.handle("test:it", lambda task: next(iter(())))

    with pytest.raises(StopIteration):
        mux(TASK)


def test_the_traceback_of_an_error_has_no_line_of_the_generators_around(mux: ServeMux, way: Way) -> None:
    @mux.use
    def around(task: Task) -> Iterator[None]:
        yield

    @mux.use
    async def around_async(task: Task) -> AsyncIterator[None]:
        yield

    with pytest.raises(ValueError, match="no address") as raised:
        way(mux, fail(ValueError("no address")))

    names = [entry.name for entry in raised.traceback]
    assert not {"around", "around_async"} & set(names)
    assert names[-1] == "handler"


def twice(task: Task) -> Iterator[None]:
    yield
    yield


def twice_after_an_error(task: Task) -> Iterator[None]:
    try:
        yield
    except ValueError:
        yield


async def async_twice(task: Task) -> AsyncIterator[None]:
    yield
    yield


async def async_twice_after_an_error(task: Task) -> AsyncIterator[None]:
    try:
        yield
    except ValueError:
        yield


@pytest.mark.parametrize("middleware", [twice, async_twice])
def test_a_generator_that_yields_twice_is_named(mux: ServeMux, way: Way, middleware: Any) -> None:
    mux.use(middleware)

    with pytest.raises(TypeError, match=rf"^middleware {middleware.__name__} has yielded twice; the handler runs at"):
        way(mux, answer)


@pytest.mark.parametrize("middleware", [twice_after_an_error, async_twice_after_an_error])
def test_a_generator_that_yields_again_after_an_error_is_named_with_the_error(
    mux: ServeMux, way: Way, middleware: Any
) -> None:
    mux.use(middleware)

    with pytest.raises(TypeError, match=rf"^middleware {middleware.__name__} has yielded twice") as raised:
        way(mux, fail(ValueError("no address")))

    assert isinstance(raised.value.__cause__, ValueError)


def yields_a_secret(task: Task) -> Iterator[Any]:
    yield {"password": "geheim"}


async def async_yields_a_secret(task: Task) -> AsyncIterator[Any]:
    yield {"password": "geheim"}


@pytest.mark.parametrize("middleware", [yields_a_secret, async_yields_a_secret])
def test_a_generator_that_yields_anything_but_a_task_is_named_and_what_it_yielded_is_not_shown(
    mux: ServeMux, way: Way, middleware: Any
) -> None:
    mux.use(middleware)

    with pytest.raises(TypeError, match=rf"^middleware {middleware.__name__} yielded a dict; write `yield`") as raised:
        way(mux, answer)

    assert "geheim" not in str(raised.value)


def test_the_first_generator_is_outermost(mux: ServeMux, way: Way) -> None:
    steps: list[str] = []

    def around(name: str) -> Any:
        def middleware(task: Task) -> Iterator[None]:
            steps.append(f"{name} in")
            yield
            steps.append(f"{name} out")

        async def async_middleware(task: Task) -> AsyncIterator[None]:
            steps.append(f"{name} in")
            await asyncio.sleep(0)
            yield
            steps.append(f"{name} out")

        return async_middleware if name in "bd" else middleware

    mux.use(around("a"), around("b"))
    mux.use(around("c"), around("d"))
    way(mux, answer)

    assert steps == ["a in", "b in", "c in", "d in", "d out", "c out", "b out", "a out"]


class Around:
    """Middleware with something of its own."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, task: Task) -> Generator[None, str, str]:
        result = yield
        return f"{self.name}({result})"

    def method(self, task: Task) -> Generator[None, str, str]:
        result = yield
        return f"{self.name}.method({result})"


def named(name: str, task: Task) -> Generator[None, str, str]:
    result = yield
    return f"{name}({result})"


def test_objects_methods_and_partials_may_be_generators(mux: ServeMux, way: Way) -> None:
    mux.use(Around("a"), Around("b").method, functools.partial(named, "c"))

    assert way(mux, answer) == "a(b.method(c(sent to ada)))"


def test_a_generator_that_cannot_be_called_with_a_task_is_refused(mux: ServeMux) -> None:
    def middleware(task: Task, session: object) -> Iterator[None]:
        yield

    with pytest.raises(TypeError, match=r"^middleware: .*middleware.* cannot be called with \(task\): "):
        mux.use(middleware)  # type: ignore[type-var]


@pytest.mark.parametrize(("decorator", "is_async"), [(contextmanager, False), (asynccontextmanager, True)])
def test_what_makes_a_context_manager_is_refused_with_the_decorator_that_must_go(
    mux: ServeMux, decorator: Any, *, is_async: bool
) -> None:
    async def async_session(task: Task) -> AsyncIterator[None]:
        yield

    def session(task: Task) -> Iterator[None]:
        yield

    with pytest.raises(TypeError, match=rf"session makes a context manager; take @contextlib\.{decorator.__name__} aw"):
        mux.use(decorator(async_session if is_async else session))


def test_a_mux_inside_a_mux_runs_inside_the_generators_of_both(mux: ServeMux, way: Way) -> None:
    inner = ServeMux()
    inner.use(Around("inner"))
    mux.use(Around("outer"))
    mux.handle("test:", inner)

    outer_run = Way(way.is_async, lambda _, task: way.run(mux, task))

    assert outer_run(inner, answer) == "outer(inner(sent to ada))"


def test_a_generator_goes_around_the_not_found_handler(mux: ServeMux) -> None:
    @mux.not_found
    async def fallback(task: Task) -> str:
        return "nobody"

    mux.use(Around("a"))

    assert (mux(TASK), on_loop(mux, TASK)) == ("a(nobody)", "a(nobody)")


def test_what_is_registered_after_the_first_task_counts_on_a_loop_too(mux: ServeMux) -> None:
    @mux.handle("test:")
    async def first(task: Task) -> str:
        return "first"

    @mux.handle("test:other")
    async def other(task: Task) -> str:
        return "other"

    before = on_loop(mux, TASK)
    mux.use(Around("a"))

    @mux.handle("test:it")
    async def second(task: Task) -> str:
        return "second"

    assert (before, on_loop(mux, TASK)) == ("first", "a(second)")


# --- An async generator function


def test_an_async_generator_goes_around_the_handler_and_gets_its_result(mux: ServeMux, way: Way) -> None:
    steps: list[Any] = []

    @mux.use
    async def noting(task: Task) -> AsyncIterator[None]:
        await asyncio.sleep(0)
        steps.append(task.type)
        result = yield
        await asyncio.sleep(0)
        steps.append(result)

    result = way(mux, answer)

    assert (steps, result) == (["test:it", "sent to ada"], "sent to ada")


def test_an_async_generator_that_ends_before_its_yield_keeps_the_handler_from_running(mux: ServeMux, way: Way) -> None:
    ran: list[Task] = []

    @mux.use
    async def unless_done(task: Task) -> AsyncIterator[None]:
        if task.payload:
            return
        yield

    assert way(mux, ran.append) is None
    assert ran == []


def test_an_async_generator_may_give_the_handler_another_task(mux: ServeMux, way: Way) -> None:
    @mux.use
    async def to_bob(task: Task) -> AsyncIterator[Task]:
        yield structs.replace(task, payload={"to": "bob"})

    assert way(mux, answer) == "sent to bob"


@pytest.mark.parametrize("error", [ValueError("no address"), TaskTimeoutError("late")])
def test_the_error_of_a_handler_passes_through_an_async_generator_as_it_is(
    mux: ServeMux, way: Way, error: BaseException
) -> None:
    seen: list[BaseException] = []

    @mux.use
    async def noting(task: Task) -> AsyncIterator[None]:
        try:
            yield
        except BaseException as raised:
            await asyncio.sleep(0)
            seen.append(raised)
            raise

    with pytest.raises(type(error)) as raised:
        way(mux, fail(error))

    assert seen == [error]
    assert raised.value is error


def test_an_async_generator_may_keep_an_error_to_itself_or_raise_another(mux: ServeMux, way: Way) -> None:
    @mux.use
    async def keeping(task: Task) -> AsyncIterator[None]:
        try:
            yield
        except KeyError:
            await asyncio.sleep(0)

    @mux.use
    async def translating(task: Task) -> AsyncIterator[None]:
        try:
            yield
        except ValueError as error:
            raise KeyError("no address") from error

    assert way(mux, fail(ValueError())) is None


tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


def test_a_context_variable_that_middleware_sets_is_there_in_the_handler_and_can_be_reset(
    mux: ServeMux, way: Way
) -> None:
    seen: list[str] = []

    @mux.use
    async def awaiting(task: Task) -> AsyncIterator[None]:
        token = tenant.set("acme")
        yield
        seen.append(tenant.get())
        tenant.reset(token)

    @mux.use
    def plain(task: Task) -> Iterator[None]:
        token = tenant.set(f"{tenant.get()} inc")
        yield
        tenant.reset(token)

    assert way(mux, lambda task: tenant.get()) == "acme inc"
    assert seen == ["acme"]


@pytest.mark.parametrize("run", [with_one_slot, on_loop])
def test_what_an_async_generator_opens_around_an_async_handler_stays_in_one_asyncio_task(
    mux: ServeMux, run: Run
) -> None:
    tasks: list[object] = []

    @mux.use
    async def limited(task: Task) -> AsyncIterator[None]:
        tasks.append(asyncio.current_task())
        async with asyncio.timeout(0.01):
            yield

    @mux.use
    def plain(task: Task) -> Iterator[None]:
        yield

    @mux.handle("test:it")
    async def handler(task: Task) -> None:
        tasks.append(asyncio.current_task())
        await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        run(mux, TASK)

    assert tasks[0] is tasks[1]


def test_a_drain_of_a_test_awaits_the_async_generators_around_a_plain_handler(mux: ServeMux) -> None:
    steps: list[str] = []

    @mux.use
    async def noting(task: Task) -> AsyncIterator[None]:
        await asyncio.sleep(0)
        steps.append("in")
        yield
        steps.append("out")

    mux.handle("test:it", lambda task: steps.append("handler"))
    client = RecordingClient(mux=mux)
    client.enqueue("test:it")

    asyncio.run(client.adrain())

    assert steps == ["in", "handler", "out"]


# --- Interrupts of a worker with one slot


@pytest.mark.parametrize("is_async", [False, True])
def test_a_timeout_arrives_in_generators_and_their_cleanup_runs(mux: ServeMux, *, is_async: bool) -> None:
    seen: list[str] = []

    @mux.use
    def outer(task: Task) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            seen.append(f"outer: {type(error).__name__}")
            raise

    @mux.use
    async def inner(task: Task) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.sleep(0)
            seen.append("inner")

    async def wait(task: Task) -> None:
        await asyncio.sleep(60)

    mux.handle("test:it", wait if is_async else lambda task: threading.Event().wait(60))

    outcome = AttemptRunner(mux).run(structs.replace(TASK, timeout_s=0.05))

    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, TaskTimeoutError)
    assert seen == ["inner", "outer: TaskTimeoutError"]


@pytest.mark.parametrize("before", [False, True])
def test_a_timeout_interrupts_middleware_that_awaits_around_a_plain_handler(mux: ServeMux, *, before: bool) -> None:
    seen: list[str] = []

    @mux.use
    async def slow_one(task: Task) -> AsyncIterator[None]:
        try:
            if before:
                await asyncio.sleep(60)
            yield
            await asyncio.sleep(60)
        finally:
            seen.append("cleaned up")

    mux.handle("test:it", lambda task: seen.append("handler"))

    outcome = AttemptRunner(mux).run(structs.replace(TASK, timeout_s=0.05))

    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, TaskTimeoutError)
    assert seen == (["cleaned up"] if before else ["handler", "cleaned up"])


def test_an_interrupt_between_the_handler_and_the_next_step_of_an_async_generator_lets_it_clean_up(
    mux: ServeMux,
) -> None:
    seen: list[str] = []

    @mux.use
    async def noting(task: Task) -> AsyncIterator[None]:
        try:
            yield
            seen.append("went on")
        finally:
            await asyncio.sleep(0)
            seen.append("cleaned up")

    def interrupted() -> list[str]:
        """What has been seen when the interrupt is raised: the loop has not closed yet, which ends generators, too."""
        handed: list[object] = []

        def elsewhere(awaitable: Awaitable[Any]) -> Any:
            handed.append(awaitable)
            if len(handed) == 2:
                discard(awaitable)
                raise TaskTimeoutError("late")
            return runner.get_loop().run_until_complete(_here(awaitable))

        with asyncio.Runner() as runner:
            ELSEWHERE.set(elsewhere)
            with pytest.raises(TaskTimeoutError):
                mux(TASK)
            return list(seen)

    mux.handle("test:it", lambda task: seen.append("handler"))

    assert copy_context().run(interrupted) == ["handler", "cleaned up"]


def test_a_cancellation_between_the_steps_of_middleware_on_a_loop_leaves_nothing_behind(mux: ServeMux) -> None:
    opened: list[int] = []

    @mux.use
    async def counted(task: Task) -> AsyncIterator[None]:
        opened.append(1)
        try:
            yield
            await asyncio.sleep(0)
        finally:
            opened.pop()
            await asyncio.sleep(0)

    mux.use(around("a"))

    @mux.handle("test:it")
    async def handler(task: Task) -> None:
        await asyncio.sleep(0)

    async def cancel_each_moment() -> None:
        for moments in range(10):
            attempts = [asyncio.create_task(mux.arun(TASK)) for _ in range(3)]
            for _ in range(moments):
                await asyncio.sleep(0)
            for attempt in attempts:
                attempt.cancel()
            await asyncio.wait(attempts)
            assert opened == []

    gc.collect()
    asyncio.run(cancel_each_moment())
    gc.collect()  # which would warn of a coroutine that nobody awaited


def test_attempts_in_greenlets_leave_no_cycles_behind(mux: ServeMux) -> None:
    mux.use(around("a"), Around("b"))

    @mux.handle("test:it")
    async def handler(task: Task) -> None:
        await asyncio.sleep(0)
        raise ValueError("no address")

    async def run_some() -> int:
        await asyncio.gather(*(mux.arun(TASK) for _ in range(10)), return_exceptions=True)
        gc.collect()
        gc.disable()
        try:
            for _ in range(100):
                with suppress(ValueError):
                    await mux.arun(TASK)
            return gc.collect()
        finally:
            gc.enable()

    assert asyncio.run(run_some()) < 100


# --- Which handlers run on a loop


class AsyncCall:
    async def __call__(self, task: Task) -> str:
        return "called"

    async def method(self, task: Task) -> str:
        return "called"


async def fetch(task: Task) -> str:
    return "fetched"


def plain(task: Task) -> None: ...


def hiding(function: Any) -> Any:
    @functools.wraps(function)
    def hidden(task: Task) -> Any:
        return function(task)

    return hidden


def wrapping(function: Any) -> Any:
    @functools.wraps(function)
    async def wrapped(task: Task) -> Any:
        return await function(task)

    return wrapped


@pytest.mark.parametrize(
    ("handler", "is_async"),
    [
        (fetch, True), (AsyncCall(), True), (AsyncCall().method, True), (functools.partial(fetch), True),
        (functools.partial(AsyncCall()), True), (wrapping(fetch), True),
        (ServeMux().task("test:typed")(fetch), True),
        (plain, False), (hiding(fetch), False), (functools.partial(plain), False),
        (ServeMux().task("test:typed")(plain), False),
    ],
)  # fmt: skip
def test_a_handler_runs_on_the_loop_if_it_is_async_def_however_it_is_registered(
    mux: ServeMux, handler: Any, *, is_async: bool
) -> None:
    outer, fallback = ServeMux(), ServeMux()
    mux.handle("test:it", handler)
    outer.handle("test:", mux)
    fallback.not_found(handler)

    assert [outer.is_async("test:it"), outer.is_async("test:it:longer"), outer.is_async("other")] == [
        is_async, is_async, False,
    ]  # fmt: skip
    assert fallback.is_async("anything") is is_async
    assert Rules.of(outer, RetryPolicy(), lambda handler: handler).is_async("test:it") is is_async


def test_a_function_with_parameters_of_its_own_runs_on_the_loop_if_it_is_async_def(mux: ServeMux) -> None:
    @mux.function("test:async")
    async def add(a: int, b: int = 2) -> int:
        return a + b

    @mux.function("test:plain")
    def subtract(a: int) -> int:
        return a

    given = Task(id="t", type="test:async", payload={"a": 1})

    assert (mux.is_async("test:async"), mux.is_async("test:plain")) == (True, False)
    assert (mux(given), on_loop(mux, given)) == (3, 3)


def test_handlers_of_a_mux_with_a_call_of_its_own_are_plain(mux: ServeMux) -> None:
    class Loud(ServeMux):
        def __call__(self, task: Task) -> Any:
            return f"loud({super().__call__(task)})"

    loud = Loud()
    loud.handle("test:it", fetch)
    mux.handle("test:", loud)

    assert not mux.is_async("test:it")
    assert mux(TASK) == in_thread(mux, TASK) == "loud(fetched)"


def test_a_mux_with_an_async_call_of_its_own_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Waiting\.__call__ is async def, .* use def$"):

        class Waiting(ServeMux):
            async def __call__(self, task: Task) -> Any:
                return super().__call__(task)


@dataclass
class Email:
    to: str


@pytest.mark.parametrize("run", [with_one_slot, on_loop])
def test_a_handler_on_a_loop_gets_its_payload_decoded_inside_of_the_middleware(mux: ServeMux, run: Run) -> None:
    seen: list[Any] = []

    @mux.use
    def noting(task: Task) -> Iterator[None]:
        seen.append(task.payload)
        yield

    @mux.handle("test:it", payload=Email)
    async def handler(task: Task[Email]) -> str:
        assert current_task() is task
        return task.payload.to

    assert run(mux, TASK) == "ada"
    assert seen == [{"to": "ada"}]


@pytest.mark.parametrize("nests", [False, True])
def test_what_a_handler_on_a_loop_returns_must_have_run(mux: ServeMux, *, nests: bool) -> None:
    @mux.handle("test:it")
    async def handler(task: Task) -> Any:
        return (number for number in (1, 2))

    if nests:
        mux.use(lambda next_handler: next_handler)

    with pytest.raises(TypeError, match=r"^handler .*handler returned a generator; nothing of that would run"):
        on_loop(mux, TASK)


@pytest.mark.parametrize("run", [with_one_slot, on_loop])
def test_what_a_generator_returns_must_have_run(mux: ServeMux, run: Run) -> None:
    @mux.use
    def forgetful(task: Task) -> Generator[None, Any, Any]:
        yield
        return fetch(task)

    mux.handle("test:it", fetch)

    with pytest.raises(TypeError, match=r"forgetful returned a coroutine; middleware must be plain"):
        run(mux, TASK)


# --- Plain middleware around an async def handler on a loop


def around(name: str) -> Any:
    """Middleware that puts its name around what the next handler answers."""

    def middleware(next_handler: Handler) -> Handler:
        return lambda task: f"{name}({next_handler(task)})"

    return middleware


async def slow(task: Task) -> str:
    await asyncio.sleep(0.001)
    return "handled"


def test_plain_middleware_runs_around_a_handler_on_a_loop(mux: ServeMux) -> None:
    inner = ServeMux()
    inner.handle("test:it", slow)
    inner.use(around("c"), Around("d"))
    mux.handle("test:", inner)
    mux.use(around("a"), Around("b"))

    assert on_loop(mux, TASK) == mux(TASK) == "a(b(c(d(handled))))"


def test_plain_middleware_of_an_inner_mux_runs_inside_of_generators_on_a_loop(mux: ServeMux) -> None:
    inner = ServeMux()
    inner.handle("test:it", slow)
    inner.use(around("b"))
    mux.handle("test:", inner)
    mux.use(Around("a"))

    assert on_loop(mux, TASK) == "a(b(handled))"


def test_async_generators_run_beside_plain_middleware_on_a_loop(mux: ServeMux) -> None:
    steps: list[str] = []

    def waiting(name: str) -> Any:
        async def middleware(task: Task) -> AsyncIterator[None]:
            await asyncio.sleep(0)
            steps.append(f"{name} in")
            yield
            await asyncio.sleep(0)
            steps.append(f"{name} out")

        return middleware

    mux.use(waiting("outer"), around("a"), waiting("inner"))
    mux.handle("test:it", slow)

    assert on_loop(mux, TASK) == "a(handled)"
    assert steps == ["outer in", "inner in", "inner out", "outer out"]


def test_many_tasks_in_plain_middleware_wait_at_once_each_with_a_context_of_its_own(mux: ServeMux) -> None:
    all_here = asyncio.Barrier(100)

    @mux.use
    def with_tenant(next_handler: Handler) -> Handler:
        def handle(task: Task) -> Any:
            token = tenant.set(task.id)
            try:
                return f"{next_handler(task)} {tenant.get()}"
            finally:
                tenant.reset(token)

        return handle

    @mux.handle("test:it")
    async def handler(task: Task) -> str:
        seen = tenant.get()
        await all_here.wait()
        tenant.set(f"of the handler of {task.id}")
        return seen

    async def run_all() -> list[Any]:
        return await asyncio.gather(*(mux.arun(structs.replace(TASK, id=f"t{n}")) for n in range(100)))

    assert asyncio.run(run_all()) == [f"t{n} of the handler of t{n}" for n in range(100)]


def test_a_cancellation_arrives_in_plain_middleware_and_in_generators(mux: ServeMux) -> None:
    seen: list[str] = []

    @mux.use
    def nested(next_handler: Handler) -> Handler:
        def handle(task: Task) -> Any:
            try:
                return next_handler(task)
            except asyncio.CancelledError:
                seen.append("nested")
                raise

        return handle

    @mux.use
    def generator(task: Task) -> Iterator[None]:
        try:
            yield
        finally:
            seen.append("generator")

    @mux.use
    async def async_generator(task: Task) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.sleep(0)
            seen.append("async generator")

    @mux.handle("test:it")
    async def handler(task: Task) -> None:
        running.set()
        await asyncio.sleep(60)

    running = asyncio.Event()

    async def cancel() -> bool:
        attempt = asyncio.create_task(mux.arun(TASK))
        await running.wait()
        attempt.cancel()
        await asyncio.wait([attempt])
        return attempt.cancelled()

    assert asyncio.run(cancel())
    assert seen == ["async generator", "generator", "nested"]


def test_an_interrupt_that_is_raised_in_plain_middleware_ends_the_chain(mux: ServeMux) -> None:
    seen: list[BaseException] = []
    interrupt = TaskTimeoutError("late")

    @mux.use
    def outer(next_handler: Handler) -> Handler:
        def handle(task: Task) -> Any:
            try:
                return next_handler(task)
            except TaskInterrupt as error:
                seen.append(error)
                raise

        return handle

    @mux.use
    def struck(next_handler: Handler) -> Handler:
        def handle(task: Task) -> Any:
            next_handler(task)
            raise interrupt  # as a signal handler does

        return handle

    mux.handle("test:it", slow)

    with pytest.raises(TaskTimeoutError) as raised:
        on_loop(mux, TASK)

    assert raised.value is interrupt
    assert seen == [interrupt]


def test_what_a_handler_inside_of_plain_middleware_starts_is_not_in_its_greenlet(mux: ServeMux) -> None:
    mux.use(around("a"))

    @mux.handle("test:it")
    async def handler(task: Task) -> object:
        return ELSEWHERE.get() or await asyncio.to_thread(ELSEWHERE.get)

    assert on_loop(mux, TASK) == "a(None)"


def test_plain_middleware_may_run_the_handler_twice_or_not_at_all_on_a_loop(mux: ServeMux) -> None:
    mux.use(lambda next_handler: lambda task: [next_handler(task), next_handler(task)] if task.payload else "nothing")
    mux.handle("test:it", slow)

    assert on_loop(mux, TASK) == ["handled", "handled"]
    assert on_loop(mux, structs.replace(TASK, payload=None)) == "nothing"


# --- Without greenlet


@pytest.fixture
def no_greenlet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a process finds that has not been able to import it."""
    bridge._greenlets.cache_clear()
    monkeypatch.setitem(sys.modules, "greenlet", None)
    yield
    bridge._greenlets.cache_clear()


@pytest.mark.usefixtures("no_greenlet")
@pytest.mark.parametrize("is_inner", [False, True])
def test_plain_middleware_around_an_async_handler_is_refused_by_name_without_greenlet(
    mux: ServeMux, *, is_inner: bool
) -> None:
    inner = ServeMux()
    inner.handle("test:it", slow)
    mux.handle("test:", inner)
    (inner if is_inner else mux).use(around("a"))

    with pytest.raises(ConfigError) as raised:
        check_async(mux, ["mails", "web"])

    assert str(raised.value) == (
        "middleware around.<locals>.middleware is a plain function around the async def handler slow in pool mails:"
        " make it a generator function (docs/writing-tasks.md, Middleware), install boilerd[async], or set slots = 1"
    )


@pytest.mark.usefixtures("no_greenlet")
def test_middleware_that_needs_no_greenlet_is_not_refused(mux: ServeMux) -> None:
    inner, beside = ServeMux(), ServeMux()
    inner.handle("test:it", slow)
    beside.handle("other:it", plain)
    beside.use(around("a"))
    mux.handle("test:", inner)
    mux.handle("other:", beside)
    mux.use(Around("b"))

    check_async(mux, ["mails"])

    assert on_loop(mux, TASK) == "b(handled)"


@pytest.mark.usefixtures("no_greenlet")
def test_workers_with_one_slot_need_no_greenlet(mux: ServeMux) -> None:
    mux.handle("test:it", slow)
    mux.use(around("a"))

    check_async(mux, [])

    assert mux(TASK) == "a(handled)"


def test_with_greenlet_plain_middleware_is_not_refused(mux: ServeMux) -> None:
    mux.handle("test:it", slow)
    mux.use(around("a"))

    check_async(mux, ["mails"])


# --- The lines of an attempt on a loop


@dataclass
class Interrupted:
    """An attempt that was interrupted, or will be."""

    reason: TaskInterrupt | None = None


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, "boilerd"), caplog.filtering(_AddFields()):
        yield caplog


def lines(log: pytest.LogCaptureFixture) -> list[tuple[str, str, Any]]:
    return [(record.task_id, record.getMessage(), getattr(record, "error", None)) for record in log.records]  # type: ignore[attr-defined]


def test_attempts_on_a_loop_have_their_lines_and_fields_while_they_wait_at_once(
    mux: ServeMux, log: pytest.LogCaptureFixture
) -> None:
    both_here = asyncio.Barrier(2)

    @mux.handle("test:it")
    async def handler(task: Task) -> None:
        await both_here.wait()
        if task.id == "b":
            raise ValueError("no address")

    rules = Rules.of(mux, RetryPolicy(), log_attempts)

    async def run_both() -> None:
        await asyncio.gather(*(rules.arun(structs.replace(TASK, id=name)) for name in "ab"), return_exceptions=True)

    asyncio.run(run_both())

    assert lines(log)[:2] == [("a", "task started", None), ("b", "task started", None)]
    assert sorted(lines(log)[2:]) == [("a", "task completed", None), ("b", "task failed", "ValueError: no address")]


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (None, ["CancelledError: "]),
        (TaskCancelledError("cancelled on request"), ["TaskCancelledError: cancelled on request"]),
        (ShutdownTimeoutError("the drain has ended"), []),
    ],
)
def test_the_line_of_an_attempt_that_was_cancelled_says_why(
    mux: ServeMux, log: pytest.LogCaptureFixture, reason: TaskInterrupt | None, told: list[str]
) -> None:
    @mux.handle("test:it")
    async def handler(task: Task) -> None:
        raise asyncio.CancelledError

    rules = Rules.of(mux, RetryPolicy(), log_attempts)

    async def run() -> None:
        ATTEMPT.set(Interrupted(reason))
        with pytest.raises(asyncio.CancelledError):
            await rules.arun(TASK)

    asyncio.run(run())

    assert [error for _, message, error in lines(log) if message == "task failed"] == told


def test_a_task_on_a_loop_is_the_current_one(mux: ServeMux) -> None:
    @mux.handle("test:it")
    async def handler(task: Task) -> bool:
        await asyncio.sleep(0)
        return current_task() is task

    async def run() -> Any:
        CURRENT.set(TASK)
        return await mux.arun(TASK)

    assert asyncio.run(run())

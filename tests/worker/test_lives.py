"""Lifespans are entered in their order and left in reverse, on one loop, whatever goes wrong."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import pytest

from boilerd import ServeMux, Task, WorkerContext
from boilerd.process.contexts import FreshContext
from boilerd.tasks.coroutines import left_tasks
from boilerd.worker.lives import entered

WORKER = WorkerContext("host.run.3", 3, ("default",))
VARIABLE: ContextVar[str] = ContextVar("variable", default="")


@pytest.fixture
def mux() -> ServeMux:
    return ServeMux()


@pytest.fixture
def story() -> list[str]:
    return []


def tell(mux: ServeMux, story: list[str], name: str, *, is_async: bool = False, **state: Any) -> None:
    """Register a lifespan that tells when it is entered and left."""

    @contextmanager
    def plain(worker: WorkerContext) -> Iterator[Mapping[str, Any] | None]:
        story.append(f"+{name}")
        try:
            yield state or None
        finally:
            story.append(f"-{name}")

    @asynccontextmanager
    async def asynchronous(worker: WorkerContext) -> AsyncIterator[Mapping[str, Any] | None]:
        await asyncio.sleep(0)
        with plain(worker) as value:
            yield value
            await asyncio.sleep(0)

    mux.lifespan(asynchronous if is_async else plain)


def test_lifespans_are_entered_in_the_order_of_registration_and_left_in_reverse(
    mux: ServeMux, story: list[str]
) -> None:
    tell(mux, story, "a", a=1)
    tell(mux, story, "b", is_async=True, b=2)
    mux.on_worker_start(lambda worker: story.append(f"start {worker.number}"))
    mux.on_worker_stop(lambda worker: story.append(f"stop {worker.number}"))
    tell(mux, story, "c")

    with entered(mux.life, WORKER) as state:
        story.append(str(dict(state)))

    assert story == ["+a", "+b", "start 3", "+c", "{'a': 1, 'b': 2}", "-c", "stop 3", "-b", "-a"]


def test_an_async_hook_is_awaited_and_what_a_start_returns_is_in_the_state(mux: ServeMux, story: list[str]) -> None:
    async def start(worker: WorkerContext) -> dict[str, int]:
        await asyncio.sleep(0)
        VARIABLE.set("of the start")
        return {"number": worker.number}

    async def stop(worker: WorkerContext) -> None:
        await asyncio.sleep(0)
        story.append("stopped")

    mux.on_worker_start(start)
    mux.on_worker_stop(stop)

    with entered(mux.life, WORKER) as state:
        seen = dict(state), VARIABLE.get()

    assert seen == ({"number": 3}, "of the start")
    assert story == ["stopped"]


def test_one_task_of_the_loop_that_handlers_run_on_enters_an_async_lifespan_and_leaves_it(mux: ServeMux) -> None:
    seen: list[object] = []

    @mux.lifespan
    @asynccontextmanager
    async def group(worker: WorkerContext) -> AsyncIterator[dict[str, object]]:
        seen.append(asyncio.current_task())
        async with asyncio.TaskGroup() as tasks:
            yield {"tasks": tasks, "loop": asyncio.get_running_loop()}
        seen.append(asyncio.current_task())

    @mux.handle("test:echo")
    async def echo(task: Task) -> object:
        return asyncio.get_running_loop()

    with entered(mux.life, WORKER) as state:
        loops = [mux(Task(id=str(n), type="test:echo")) for n in range(3)]
        state["tasks"].create_task(asyncio.sleep(0))

    assert {id(loop) for loop in loops} == {id(state["loop"])}
    assert seen[0] is seen[1]


def test_what_a_lifespan_starts_on_the_loop_is_not_left_behind_by_a_task(
    mux: ServeMux, caplog: pytest.LogCaptureFixture
) -> None:
    @mux.lifespan
    @asynccontextmanager
    async def beat(worker: WorkerContext) -> AsyncIterator[None]:
        beats = asyncio.create_task(asyncio.sleep(60))
        yield
        beats.cancel()

    @mux.handle("test:leave")
    async def leave(task: Task) -> None:
        leave.kept = asyncio.create_task(asyncio.sleep(60), name="of a handler")  # type: ignore[attr-defined]

    with entered(mux.life, WORKER):
        mux(Task(id="t", type="test:leave"))
        left = left_tasks()

    assert [task.get_name() for task in left] == ["of a handler"]
    assert [record.tasks for record in caplog.records] == [["of a handler: sleep"]]  # type: ignore[attr-defined]
    leave.kept.cancel()  # type: ignore[attr-defined]


@pytest.mark.parametrize("is_async", [False, True])
def test_handlers_see_the_context_variables_that_lifespans_set(mux: ServeMux, is_async: bool) -> None:
    @contextmanager
    def plain(worker: WorkerContext) -> Iterator[None]:
        token = VARIABLE.set("of a lifespan")
        yield
        VARIABLE.reset(token)

    @asynccontextmanager
    async def asynchronous(worker: WorkerContext) -> AsyncIterator[None]:
        with plain(worker):
            yield

    mux.lifespan(asynchronous if is_async else plain)
    mux.handle("test:plain")(lambda task: VARIABLE.get())

    @mux.handle("test:async")
    async def echo(task: Task) -> str:
        return VARIABLE.get()

    with entered(mux.life, WORKER):
        context = FreshContext()
        seen = [context.run(mux, Task(id="1", type=name)) for name in ("test:plain", "test:async")]

    assert seen == ["of a lifespan", "of a lifespan"]


@pytest.mark.parametrize("is_async", [False, True])
def test_where_one_cannot_be_entered_those_before_it_are_left(mux: ServeMux, story: list[str], is_async: bool) -> None:
    tell(mux, story, "a", is_async=is_async)
    tell(mux, story, "b")
    mux.on_worker_start(lambda worker: 1 / 0)
    tell(mux, story, "c")

    with pytest.raises(ZeroDivisionError), entered(mux.life, WORKER):
        story.append("never")

    assert story == ["+a", "+b", "-b", "-a"]


def test_where_one_cannot_be_left_the_others_are(mux: ServeMux, story: list[str]) -> None:
    tell(mux, story, "a", is_async=True)
    mux.on_worker_stop(lambda worker: 1 / 0)
    tell(mux, story, "b")

    with pytest.raises(ZeroDivisionError), entered(mux.life, WORKER):
        story.append("lived")

    assert story == ["+a", "+b", "lived", "-b", "-a"]


def test_a_lifespan_that_ends_by_itself_is_told_when_it_is_left(mux: ServeMux, story: list[str]) -> None:
    @mux.lifespan
    @asynccontextmanager
    async def group(worker: WorkerContext) -> AsyncIterator[dict[str, object]]:
        async with asyncio.TaskGroup() as tasks:
            yield {"tasks": tasks}

    async def fail() -> None:
        raise ValueError("a task of the group")

    @mux.handle("test:pause")
    async def pause(task: Task) -> None:
        await asyncio.sleep(0.001)

    with pytest.raises(ExceptionGroup) as raised, entered(mux.life, WORKER) as state:  # noqa: PT012
        state["tasks"].create_task(fail())
        mux(Task(id="1", type="test:pause"))
        story.append("lived")

    assert raised.group_contains(ValueError)
    assert story == ["lived"]


def test_the_same_key_twice_is_an_error_that_names_both(mux: ServeMux, story: list[str]) -> None:
    tell(mux, story, "a", db=1)
    mux.on_worker_start(lambda worker: {"db": 2})

    with (
        pytest.raises(ValueError, match=r"on_worker_start .*gave 'db' .*has that from lifespan .*plain"),
        entered(mux.life, WORKER),
    ):
        pass

    assert story == ["+a", "-a"]


def test_a_state_that_is_no_mapping_is_an_error_without_the_value(mux: ServeMux) -> None:
    mux.on_worker_start(lambda worker: "a secret")

    with pytest.raises(TypeError, match=r"gave str for task\.state; it must be a mapping") as raised:
        entered(mux.life, WORKER).__enter__()

    assert "secret" not in str(raised.value)


def test_what_a_lifespan_returns_must_be_a_context_manager(mux: ServeMux) -> None:
    mux.lifespan(lambda worker: iter([]))  # type: ignore[type-var]

    with pytest.raises(TypeError, match="must return a context manager"):
        entered(mux.life, WORKER).__enter__()


def test_nobody_can_change_the_state(mux: ServeMux) -> None:
    mux.lifespan(lambda worker: nullcontext({"db": 1}))

    with entered(mux.life, WORKER) as state, pytest.raises(TypeError):
        state["db"] = 2  # type: ignore[index]


def test_an_async_lifespan_inside_of_a_running_loop_says_what_would_do(mux: ServeMux, story: list[str]) -> None:
    tell(mux, story, "a", is_async=True)

    async def test() -> None:
        with entered(mux.life, WORKER):
            pass

    with pytest.raises(RuntimeError, match=r"asyncio\.to_thread"):
        asyncio.run(test())


@pytest.mark.parametrize("place", ["enter", "block", "leave"])
def test_a_child_that_comes_back_from_a_fork_leaves_no_lifespan(mux: ServeMux, place: str) -> None:
    reader, writer = os.pipe()
    children = []

    def fork(here: str) -> None:
        if here == place:
            children.append(os.fork())

    @mux.lifespan
    @contextmanager
    def outer(worker: WorkerContext) -> Iterator[None]:
        yield
        os.write(writer, b"outer")

    @mux.lifespan
    @contextmanager
    def inner(worker: WorkerContext) -> Iterator[None]:
        fork("enter")
        yield
        os.write(writer, b"inner ")
        fork("leave")

    with entered(mux.life, WORKER):
        fork("block")

    assert os.waitpid(children[0], 0)[1] == 0
    os.close(writer)
    assert os.read(reader, 100) == b"inner outer"
    os.close(reader)

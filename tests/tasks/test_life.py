"""What an application registers for the life of its workers and its daemon."""

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Any

import pytest

from boilerd import ServeMux, Task, WorkerContext
from boilerd.tasks.life import Life


@pytest.fixture
def mux() -> ServeMux:
    return ServeMux()


@contextmanager
def plain(worker: WorkerContext) -> Iterator[None]:
    yield


@asynccontextmanager
async def asynchronous(worker: WorkerContext) -> AsyncIterator[None]:
    yield


async def coroutine(worker: WorkerContext) -> None:
    pass


def with_yield(worker: WorkerContext) -> Iterator[None]:
    yield


async def async_with_yield(worker: WorkerContext) -> AsyncIterator[None]:
    yield


def nothing() -> None:
    pass


class Database:
    def __init__(self, worker: WorkerContext) -> None:
        self.worker = worker

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc_info: object) -> None:
        pass


def calls(life: Life) -> list[Any]:
    return [part.call for part in life.parts]


@pytest.mark.parametrize(
    "lifespan",
    [plain, asynchronous, Database, lambda worker: nullcontext(), functools.partial(plain)],
    ids=["plain", "async", "class", "lambda", "partial"],
)
def test_whatever_makes_a_context_manager_of_a_worker_is_a_lifespan(mux: ServeMux, lifespan: Any) -> None:
    registered = mux.lifespan(lifespan)

    assert registered is lifespan
    assert calls(mux.life) == [lifespan]


@pytest.mark.parametrize(
    ("lifespan", "said"),
    [
        (with_yield, "put @contextlib.contextmanager above it"),
        (async_with_yield, "put @contextlib.asynccontextmanager above it"),
        (contextmanager(async_with_yield), "put @contextlib.asynccontextmanager above it"),  # type: ignore[arg-type]
        (asynccontextmanager(with_yield), "put @contextlib.contextmanager above it"),  # type: ignore[arg-type]
        (coroutine, "register it with on_worker_start"),
        (asynccontextmanager(coroutine), "register it with on_worker_start"),  # type: ignore[arg-type]
        (nullcontext(), "is a context manager already; give the function that makes one, without ()"),
        (plain(WorkerContext("w", 0)), "is a context manager already"),
        (contextmanager(lambda: iter([None])), r"cannot be called with \(worker\)"),
        (nothing, r"cannot be called with \(worker\)"),
        ("database", "cannot be called"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_makes_no_context_manager_is_refused_with_what_would_do(mux: ServeMux, lifespan: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        mux.lifespan(lifespan)

    assert mux.life == Life()


@pytest.mark.parametrize("name", ["on_worker_start", "on_worker_stop", "on_drain"])
def test_a_hook_of_a_worker_must_take_the_worker(mux: ServeMux, name: str) -> None:
    register: Callable[[Any], object] = getattr(mux, name)

    with pytest.raises(TypeError, match=rf"{name}: nothing\(\) .*cannot be called with \(worker\)"):
        register(nothing)


@pytest.mark.parametrize("name", ["on_daemon_start", "before_fork"])
def test_a_hook_of_the_daemon_takes_nothing_and_is_a_plain_function(mux: ServeMux, name: str) -> None:
    register: Callable[[Any], object] = getattr(mux, name)

    async def later() -> None:
        pass

    with pytest.raises(TypeError, match=rf"{name}: with_yield.* cannot be called with \(\)"):
        register(with_yield)
    with pytest.raises(TypeError, match=f"{name}: .*later is no plain function"):
        register(later)


@pytest.mark.parametrize("name", ["on_worker_start", "on_worker_stop"])
def test_a_generator_is_no_hook_of_a_start_or_an_end(mux: ServeMux, name: str) -> None:
    register: Callable[[Any], object] = getattr(mux, name)

    with pytest.raises(TypeError, match="has a yield; register it with lifespan"):
        register(with_yield)


def test_on_drain_must_be_a_plain_function(mux: ServeMux) -> None:
    with pytest.raises(TypeError, match="on_drain: coroutine is no plain function"):
        mux.on_drain(coroutine)


def test_muxes_inside_of_a_mux_have_their_place_in_its_order_and_count_once(mux: ServeMux) -> None:
    inner, innermost = ServeMux(), ServeMux()
    first, last, late, shared = (lambda worker, n=n: nullcontext(n) for n in range(4))
    mux.lifespan(first)
    mux.handle("one:", inner)
    mux.handle("two:", inner)
    mux.not_found(inner)
    mux.lifespan(last)
    mux.lifespan(shared)
    inner.handle("three:", innermost)
    inner.lifespan(late)
    innermost.lifespan(shared)
    innermost.handle("cycle:", mux)

    life = mux.life

    assert calls(life) == [first, shared, late, last]


def test_a_task_that_nobody_runs_has_an_empty_state() -> None:
    assert Task(id="1", type="test:echo").state == {}

"""Enter the lifespans of an application, and leave them in reverse order: in a worker, or in a test."""

import inspect
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from types import MappingProxyType
from typing import Any, cast

from boilerd.process.forks import end_child
from boilerd.tasks.coroutines import OnLoop, discard
from boilerd.tasks.life import LIFESPAN, START, STOP, Life, Part, WorkerContext


@contextmanager
def entered(life: Life, worker: WorkerContext) -> Iterator[Mapping[str, Any]]:
    """Live in the lifespans for the time of a block; the value is `task.state`.

    Where one cannot be entered, those before it are left, and its error is raised. Where some cannot be left, the
    others are, and the last error is raised. A child that one of them forks, or the block, leaves none.
    """
    pid = os.getpid()
    state: dict[str, Any] = {}
    sources: dict[str, Part] = {}
    with ExitStack() as stack:
        try:
            for part in life.parts:
                stack.callback(_end_if_child, pid)  # called behind the exit of this part
                _merge(state, sources, part, stack.enter_context(_manager(part, worker)))
            yield MappingProxyType(state)
        finally:
            _end_if_child(pid)


@asynccontextmanager
async def aentered(life: Life, worker: WorkerContext) -> AsyncIterator[Mapping[str, Any]]:
    """The same on the loop that runs, in the asyncio task that it is called in; for tests."""
    state: dict[str, Any] = {}
    sources: dict[str, Part] = {}
    async with AsyncExitStack() as stack:
        for part in life.parts:
            if part.kind == STOP:
                stack.push_async_callback(_stopped, part, worker)
                continue
            manager = _manager(part, worker)
            value = (
                stack.enter_context(manager)
                if not isinstance(manager, OnLoop)
                else (await stack.enter_async_context(manager.manager))
            )
            _merge(state, sources, part, value)
        yield MappingProxyType(state)


async def _stopped(part: Part, worker: WorkerContext) -> None:
    result = part.call(worker)
    if inspect.isawaitable(result):
        await result


def _manager(part: Part, worker: WorkerContext) -> AbstractContextManager[Any]:
    """The part as a plain context manager."""
    if part.kind == LIFESPAN:
        made = part.call(worker)
        if hasattr(type(made), "__aenter__"):
            return OnLoop(made, str(part))
        if hasattr(type(made), "__enter__"):
            return cast(AbstractContextManager[Any], made)
        raise TypeError(f"{part} returned {discard(made)}; it must return a context manager")
    if part.kind == START:
        return _awaited(part, part.call(worker))
    return _at_end(part, worker)


def _awaited(part: Part, result: Any) -> AbstractContextManager[Any]:
    return OnLoop(_once(result), str(part)) if inspect.isawaitable(result) else nullcontext(result)


@asynccontextmanager
async def _once(awaitable: Any) -> Any:
    yield await awaitable


@contextmanager
def _at_end(part: Part, worker: WorkerContext) -> Iterator[None]:
    try:
        yield
    finally:
        with _awaited(part, part.call(worker)):
            pass


def _merge(state: dict[str, Any], sources: dict[str, Part], part: Part, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise TypeError(
            f"{part} gave {type(value).__qualname__} for task.state; it must be a mapping, such as"
            ' {"db": pool}, or None'
        )
    for name in value:
        if name in sources:
            raise ValueError(
                f"{part} gave {name!r} for task.state, which has that from {sources[name]}; give it another name"
            )
        sources[name] = part
    state.update(value)


def _end_if_child(pid: int) -> None:
    if os.getpid() != pid:
        end_child()

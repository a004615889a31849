"""Run ``async def`` handlers in a worker that is otherwise synchronous.

A handler counts as one if it returns a coroutine, however it is written: a decorator may hide the ``async def``.
"""

import asyncio
import atexit
import functools
import logging
import weakref
from collections.abc import Callable, Coroutine
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

from boilerd.tasks.callables import name_of

logger = logging.getLogger("boilerd.task")

#: Types of objects that hold code which has not run; a function that returned one has done nothing yet.
#: A set of types, because nothing can derive from them, and a look-up takes a third of the time of `isinstance`.
NOT_RUN = frozenset({CoroutineType, GeneratorType, AsyncGeneratorType})


class _Loop:
    """The process's event loop, made at the first use and kept.

    A handler's clients that belong to a loop, such as connection pools, live as long as the worker.
    """

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None
        self._main: asyncio.Task[Any] | None = None
        self._interrupt: BaseException | None = None
        self._told: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a handler's coroutine to its end or an interrupt; raises RuntimeError inside of another loop."""
        if _is_in_loop():
            raise RuntimeError(
                f"{discard(coroutine)} of an async def handler cannot run inside of a running event loop; in a test"
                " that is async def itself, call it as `await asyncio.to_thread(run, mux, …)`"
            )
        loop = self._get_loop()
        self._interrupt = None
        self._main = loop.create_task(coroutine)
        try:
            return loop.run_until_complete(self._main)
        except asyncio.CancelledError as error:
            if self._interrupt is None:
                raise
            raise self._interrupt from error
        finally:
            self._main = None
            if left := asyncio.all_tasks(loop):
                self._tell_left(left)

    def _get_loop(self) -> asyncio.AbstractEventLoop:
        if self._runner is None:
            self._runner = asyncio.Runner()
            # It cancels the tasks that are left, and ends async generators.
            atexit.register(self._runner.close)
        return self._runner.get_loop()

    def _tell_left(self, left: set[asyncio.Task[Any]]) -> None:
        """Warn of tasks that do not go on when the handler has returned: once of each."""
        new = [task for task in left if task not in self._told]
        if new:
            self._told.update(new)
            names = sorted(f"{task.get_name()}: {getattr(task.get_coro(), '__qualname__', '?')}" for task in new)
            logger.warning("asyncio tasks are left behind, and stand still between handlers", extra={"tasks": names})

    def interrupt(self, error: BaseException) -> bool:
        """Have the running handler end with `error`; False: the caller must raise it as well.

        Raised in a signal handler, an exception ends whatever code runs at that moment: the
        handler's own, which is what we want; another task's, which would keep it; or the
        loop's. So unless it is the handler's own, the handler's task is cancelled, and its
        cancellation becomes `error`.
        """
        if self._main is None:
            return False
        running = asyncio.current_task(self._main.get_loop())
        if running is not self._main:
            self._interrupt = error
            self._main.get_loop().call_soon_threadsafe(self._main.cancel)
        # A task that computes and never waits would keep the loop from noticing.
        return running is None


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


_loop = _Loop()
interrupt = _loop.interrupt


def synchronous(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the handler in a function that runs the coroutine which it returns, if it returns one.

    The function raises TypeError if the handler returns a generator, for nothing of its body would run.
    """

    @functools.wraps(handler)
    def run_to_end(task: Any) -> Any:
        result = handler(task)
        if result is not None and type(result) in NOT_RUN:
            if isinstance(result, CoroutineType):
                result = _loop.run(result)
            if type(result) in NOT_RUN:
                raise TypeError(f"handler {name_of(handler)} returned {discard(result)}; nothing of that would run")
        return result

    return run_to_end


def discard(not_run: Any) -> str:
    """Close code that was not run, so that Python does not warn of it; returns a name for its kind."""
    if not isinstance(not_run, AsyncGeneratorType):  # its close() is a coroutine
        not_run.close()
    return {CoroutineType: "a coroutine", GeneratorType: "a generator"}.get(type(not_run), "an async generator")

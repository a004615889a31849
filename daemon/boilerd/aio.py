"""Run ``async def`` handlers in a worker that is otherwise synchronous."""

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any


class _Loop:
    """The process's event loop, made at the first use and kept.

    Clients of a handler that belong to a loop, such as connection pools, live as long as the
    worker.
    """

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None
        self._main: asyncio.Task[Any] | None = None
        self._struck: BaseException | None = None

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a handler's coroutine to its end, or until it is struck."""
        self._runner = self._runner or asyncio.Runner()
        loop = self._runner.get_loop()
        self._struck = None
        self._main = loop.create_task(coroutine)
        try:
            return loop.run_until_complete(self._main)
        except asyncio.CancelledError as error:
            if self._struck is None:
                raise
            raise self._struck from error
        finally:
            self._main = None

    def strike(self, error: BaseException) -> bool:
        """Have the running handler end with `error`; False: the caller must raise it as well.

        Raised in a signal handler, an exception ends whatever code runs at that moment: the
        handler's own, which is what we want; another task's, which would keep it; or the
        loop's. So unless it is the handler's own, the handler's task is cancelled, and what
        comes of that is told as `error`.
        """
        if self._main is None:
            return False
        running = asyncio.current_task(self._main.get_loop())
        if running is not self._main:
            self._struck = error
            self._main.get_loop().call_soon_threadsafe(self._main.cancel)
        # A task that computes and never waits would keep the loop from noticing.
        return running is None


_loop = _Loop()
strike = _loop.strike


def synchronous(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The handler itself, or, for an ``async def`` one, a function that runs it to its end."""
    if not inspect.iscoroutinefunction(handler) and not inspect.iscoroutinefunction(type(handler).__call__):
        return handler

    @functools.wraps(handler)
    def run_to_end(*args: Any) -> Any:
        return _loop.run(handler(*args))

    return run_to_end

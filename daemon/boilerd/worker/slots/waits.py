"""A thread's wait for what runs on the loop: what a plain handler returned turned out to be something to await."""

import asyncio
import contextvars
import queue
from collections.abc import Awaitable
from typing import Any

from boilerd.errors import TaskInterrupt
from boilerd.tasks.coroutines import discard
from boilerd.worker.slots.attempt import RUNNING
from boilerd.worker.slots.loop_watch import LoopWatch
from boilerd.worker.slots.strikes import Strikable, struck_with


def wait_on_loop(loop: asyncio.AbstractEventLoop, watch: LoopWatch, awaitable: Awaitable[Any]) -> Any:
    """Await it on the loop, in a copy of this context, while this thread waits; its result.

    A strike cancels the task on the loop, as nothing else ends the thread's wait.
    """
    attempt = RUNNING.get()
    place = attempt.place if attempt else None
    if not isinstance(place, Strikable):  # a thread of the application's, with the attempt's context
        return _OnLoop(loop, watch, awaitable).wait()
    run = _OnLoop(loop, watch, awaitable)
    try:
        place.wait_by(run.cancel)
        try:
            return run.wait()
        finally:
            place.wait_by(None)
    except asyncio.CancelledError as error:
        if attempt and attempt.reason:
            raise struck_with(attempt.reason) from error
        raise
    finally:
        run.leave()


class _OnLoop:
    """One such wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop, watch: LoopWatch, awaitable: Awaitable[Any]) -> None:
        self._loop = loop
        self._watch = watch
        self._awaitable = awaitable
        self._context = contextvars.copy_context()
        self._done: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._task: asyncio.Task[Any] | None = None
        self._reason: TaskInterrupt | None = None
        self._is_posted = self._has_begun = False

    def wait(self) -> Any:
        """Its result."""
        self._watch.expect()
        self._is_posted = True
        self._loop.call_soon_threadsafe(self._begin)
        self._done.get()
        return self._task.result() if self._task else None

    def cancel(self, reason: TaskInterrupt) -> None:
        """Have it end with `reason`; from any thread."""
        self._reason = reason
        self._loop.call_soon_threadsafe(self._cancel)

    def leave(self) -> None:
        """Let it not go on without the thread."""
        if not self._is_posted:
            discard(self._awaitable)
        elif self._task is None or not self._task.done():
            self.cancel(self._reason or TaskInterrupt("its thread does not wait any more"))

    async def _run(self) -> Any:
        self._has_begun = True
        if self._reason:
            discard(self._awaitable)
            raise asyncio.CancelledError(str(self._reason))
        return await self._awaitable

    def _begin(self) -> None:
        self._watch.enter(1)
        self._task = asyncio.Task(self._run(), loop=self._loop, context=self._context)
        self._task.add_done_callback(self._end)

    def _end(self, task: "asyncio.Task[Any]") -> None:
        self._watch.leave()
        self._done.put(None)

    def _cancel(self) -> None:
        """Cancel it; before it has begun it looks itself."""
        if self._task and self._has_begun:
            self._task.cancel(str(self._reason))

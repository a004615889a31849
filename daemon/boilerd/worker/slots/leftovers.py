"""Ends the asyncio tasks that handlers have left on the loop, when no attempt runs any more."""

import asyncio
import logging
from collections.abc import Collection
from typing import Any

from boilerd.tasks.coroutines import left_tasks

logger = logging.getLogger("boilerd.worker")


def end_leftovers(loop: asyncio.AbstractEventLoop, limit_s: float, spared: Collection[object] = ()) -> None:
    """Cancel them, wait `limit_s` for their ends, and tell of them; what lifespans have made stays.

    They are the application's, and nobody was told of them before.

    Args:
        loop: Has ended.
        limit_s: For all of them together.
        spared: Asyncio tasks that are none: attempts that do not end, which the log has told of.
    """
    if left := left_tasks().difference(spared):
        logger.warning("asyncio tasks were left behind, cancelled", extra={"tasks": _names(left)})
        for task in left:
            task.cancel()
        try:
            loop.run_until_complete(_wait(left, limit_s))
        except BaseException:  # sys.exit() in one of them, or the loop's stop(), must not keep the worker from its end
            logger.exception("event loop was left by a task")
        if going_on := {task for task in left if not task.done()}:
            logger.error("asyncio tasks do not end", extra={"tasks": _names(going_on)})


async def _wait(tasks: set["asyncio.Task[Any]"], limit_s: float) -> None:
    await asyncio.wait(tasks, timeout=limit_s)


def _names(tasks: set["asyncio.Task[Any]"]) -> list[str]:
    return sorted(f"{task.get_name()}: {getattr(task.get_coro(), '__qualname__', '?')}" for task in tasks)

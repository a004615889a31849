"""Plain middleware around an ``async def`` handler on a running loop: one greenlet for each task.

The chain, as a worker with one slot has it, runs in the greenlet. Where it comes to something to await, the greenlet
hands that to the coroutine that started it, which awaits it; the answer, or a cancellation, arrives in the chain.
"""

import functools
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from boilerd.errors import ConfigError
from boilerd.tasks.coroutines import ELSEWHERE

if TYPE_CHECKING:
    from boilerd.tasks.mux import ServeMux
    from boilerd.tasks.task import Task


def check_async(mux: "ServeMux", pools: Iterable[str]) -> None:
    """Raise ConfigError where plain middleware goes around an ``async def`` handler, and there is no greenlet.

    Args:
        mux: The application's.
        pools: Names of those with more than one slot.
    """
    pool = next(iter(pools), None)
    found = mux.plain_around_async() if pool is not None else None
    if found is None:
        return
    try:
        _greenlets()
    except ImportError:
        middleware, handler = found
        raise ConfigError(
            f"middleware {middleware} is a plain function around the async def handler {handler} in pool {pool}: make"
            " it a generator function (docs/writing-tasks.md, Middleware), install boilerd[async], or set slots = 1"
        ) from None


async def in_greenlet(call: Callable[["Task"], Any], task: "Task") -> Any:
    """Call the plain chain in a greenlet of its own, and await here what it comes upon."""
    greenlets = _greenlets()
    here = greenlets.getcurrent()
    chain = greenlets.greenlet(call, here)
    chain.gr_context = here.gr_context  # what a ContextVar is set to on one side, it is on the other
    answer = _within(chain.switch, task)
    while not chain.dead:
        try:
            value = await answer
        except BaseException as error:  # noqa: BLE001 - it is raised in the chain
            answer = _within(chain.throw, error)
        else:
            answer = _within(chain.switch, value)
    return answer


def _within(resume: Callable[..., Any], value: Any) -> Any:
    """Go on in the greenlet until it awaits, which is what this returns, or ends."""
    ELSEWHERE.set(_await_outside)
    try:
        return resume(value)
    finally:
        ELSEWHERE.set(None)  # what the handler calls is not in the greenlet
        del value  # an error would hold this frame, and this frame the error


def _await_outside(awaitable: Awaitable[Any]) -> Any:
    return _greenlets().getcurrent().parent.switch(awaitable)


@functools.cache
def _greenlets() -> Any:
    import greenlet  # noqa: PLC0415 - few need it

    return greenlet

"""Middleware, code of an application around each handler, in three forms.

A generator function has one ``yield``, at which the handler runs. It goes around every handler, and costs the same
everywhere: on a running loop the ``yield`` is an ``await``. So does an ``async def`` one, for middleware that awaits.
A plain function takes the next handler and returns one that wraps it; around an ``async def`` handler on a running loop
it needs a greenlet, see `tasks.bridge`.

An ``async def`` form of the third was left out: around a plain handler it could only run in a loop of its own.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextvars import copy_context
from types import AsyncGeneratorType
from typing import Any, TypeVar, cast

from boilerd.errors import shown
from boilerd.tasks.callables import (
    check_call,
    check_plain,
    is_async_generator,
    is_generator,
    is_plain,
    manager_decorator,
    name_of,
)
from boilerd.tasks.coroutines import NOT_RUN, adopt, await_plain, discard
from boilerd.tasks.task import Task

Plain = Callable[[Task], Any]
Async = Callable[[Task], Awaitable[Any]]
#: Takes the next handler and returns one that wraps it.
Middleware = Callable[[Plain], Plain]
GeneratorMiddleware = Callable[[Task], Iterator[Task | None]] | Callable[[Task], AsyncIterator[Task | None]]
AnyMiddleware = TypeVar("AnyMiddleware", bound=Middleware | GeneratorMiddleware)


def check_middleware(middleware: Any) -> None:
    """Raise TypeError if it is of none of the forms."""
    if is_generator(middleware):
        check_call("middleware", middleware, "task")
    elif decorator := manager_decorator(middleware):
        raise TypeError(
            f"middleware: {name_of(middleware)} makes a context manager; take @contextlib.{decorator} away, for"
            " mux.use takes the function with the yield itself"
        )
    else:
        check_plain("middleware", middleware, "next_handler")


def is_nested(middleware: Any) -> bool:
    """True if it takes the next handler."""
    return not is_generator(middleware)


def first_on_loop(middleware: list[Any]) -> int:
    """Where those begin that run in one coroutine with an ``async def`` handler, though the chain is plain.

    It is the first one that awaits and has no nested one behind it, so that what it opens stays in one asyncio task.
    """
    place = len(middleware)
    for number in reversed(range(len(middleware))):
        if is_nested(middleware[number]):
            break
        if is_async_generator(middleware[number]):
            place = number
    return place


def wrap(middleware: Any, handler: Plain) -> Plain:
    """The handler inside the middleware; raises TypeError if a nested one did not return a plain function."""
    if is_async_generator(middleware):
        return _awaiting(middleware, handler)
    if is_generator(middleware):
        return _stepping(middleware, handler)
    return _nested(middleware, handler)


def wrap_async(middleware: Any, handler: Async) -> Async:
    """The handler, which is awaited, inside middleware that is no nested one."""
    return (_awaiting_async if is_async_generator(middleware) else _stepping_async)(middleware, handler)


def not_plain(middleware: str, result: Any) -> TypeError:
    """The error for middleware that returned what has not run."""
    return TypeError(f"middleware {middleware} returned {discard(result)}; middleware must be plain functions")


def _nested(middleware: Middleware, handler: Plain) -> Plain:
    outer: Any = middleware(handler)
    if NOT_RUN[type(outer)]:
        raise not_plain(name_of(middleware), outer)
    if not callable(outer):
        raise TypeError(
            f"middleware {name_of(middleware)} returned {shown(outer)}; it must return the handler that it made"
        )
    if not is_plain(outer):
        raise TypeError(
            f"middleware {name_of(middleware)} returned {name_of(outer)}, which is no plain function; use def, or give"
            " mux.use a generator function, which may be async def"
        )
    return cast(Plain, outer)


# --- A generator function


def _stepping(middleware: Callable[[Task], Generator[Any, Any, Any]], handler: Plain) -> Plain:
    def run(task: Task) -> Any:
        steps = middleware(task)
        try:
            given = next(steps)
        except StopIteration as returned:  # before its yield: the handler does not run
            return returned.value
        try:
            result = handler(task if given is None else _checked(middleware, given))
        except BaseException as error:
            if (ended := _raise_in(middleware, steps, error)) is None:
                raise
            return ended.value
        return _finish(middleware, steps, result)

    return run


def _stepping_async(middleware: Callable[[Task], Generator[Any, Any, Any]], handler: Async) -> Async:
    async def run(task: Task) -> Any:
        steps = middleware(task)
        try:
            given = next(steps)
        except StopIteration as returned:
            return returned.value
        try:
            result = await handler(task if given is None else _checked(middleware, given))
        except BaseException as error:
            if (ended := _raise_in(middleware, steps, error)) is None:
                raise
            return ended.value
        return _finish(middleware, steps, result)

    return run


def _finish(middleware: Any, steps: Generator[Any, Any, Any], result: Any) -> Any:
    """Let it go on with the handler's result; its own result, or the handler's where it returns nothing."""
    try:
        steps.send(result)
    except StopIteration as returned:
        return result if returned.value is None else returned.value
    steps.close()
    raise _twice(middleware)


def _raise_in(middleware: Any, steps: Generator[Any, Any, Any], error: BaseException) -> StopIteration | None:
    """Raise the handler's error at its yield; what it returned all the same, or None if it let the error through."""
    traceback = error.__traceback__
    try:
        steps.throw(error)
    except StopIteration as returned:
        return returned
    except BaseException as raised:
        if not _is_same(raised, error):
            raise
        error.__traceback__ = traceback
        return None
    steps.close()
    raise _twice(middleware) from error


# --- An async generator function


def _awaiting(middleware: Callable[[Task], AsyncGeneratorType[Any, Any]], handler: Plain) -> Plain:
    """Each step is awaited by itself; all have one context, so that a ContextVar that it sets it may also reset."""

    def run(task: Task) -> Any:
        steps, context = middleware(task), copy_context()
        began, given = await_plain(_begin(steps), context)
        if not began:
            return None
        adopt(context)
        try:
            try:
                result = handler(task if given is None else _checked(middleware, given))
            except BaseException as error:
                if await_plain(_araise_in(middleware, steps, error), context):
                    return None
                raise
            await_plain(_afinish(middleware, steps, result), context)
            return result
        finally:
            # An interrupt may have come between the handler and the next step.
            if steps.ag_frame is not None and not steps.ag_running:
                await_plain(_close(steps), context)

    return run


def _awaiting_async(middleware: Callable[[Task], AsyncGenerator[Any, Any]], handler: Async) -> Async:
    async def run(task: Task) -> Any:
        steps = middleware(task)
        try:
            given = await anext(steps)
        except StopAsyncIteration:
            return None
        try:
            result = await handler(task if given is None else _checked(middleware, given))
        except BaseException as error:
            if await _araise_in(middleware, steps, error):
                return None
            raise
        await _afinish(middleware, steps, result)
        return result

    return run


async def _begin(steps: AsyncGenerator[Any, Any]) -> tuple[bool, Any]:
    """Whether it came to its yield, and what it yielded."""
    try:
        return True, await anext(steps)
    except StopAsyncIteration:
        return False, None


async def _afinish(middleware: Any, steps: AsyncGenerator[Any, Any], result: Any) -> None:
    try:
        await steps.asend(result)
    except StopAsyncIteration:
        return
    await steps.aclose()
    raise _twice(middleware)


async def _araise_in(middleware: Any, steps: AsyncGenerator[Any, Any], error: BaseException) -> bool:
    """Raise the handler's error at its yield; True if it kept the error to itself."""
    traceback = error.__traceback__
    try:
        await steps.athrow(error)
    except StopAsyncIteration:
        return True
    except BaseException as raised:
        if not _is_same(raised, error):
            raise
        error.__traceback__ = traceback
        return False
    await steps.aclose()
    raise _twice(middleware) from error


async def _close(steps: AsyncGenerator[Any, Any]) -> None:
    await steps.aclose()


# --- What is wrong with one


def _checked(middleware: Any, given: Any) -> Task:
    """The task that it yielded for the handler; raised at the yield if it is none."""
    if isinstance(given, Task):
        return given
    raise TypeError(
        f"middleware {name_of(middleware)} yielded a {type(given).__qualname__}; write `yield`, or yield the Task that"
        " the handler is to get"
    )


def _twice(middleware: Any) -> TypeError:
    return TypeError(
        f"middleware {name_of(middleware)} has yielded twice; the handler runs at its one yield, and it ends after that"
    )


def _is_same(raised: BaseException, error: BaseException) -> bool:
    """True if it is that error; Python makes a RuntimeError of the two with which generators end."""
    return raised is error or (isinstance(error, StopIteration | StopAsyncIteration) and raised.__cause__ is error)

"""Checks of the functions that an application registers: handlers, middleware and hooks."""

import functools
import inspect
import sys
from collections.abc import Callable
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from boilerd.errors import shown

#: The code of what a decorator of `contextlib` makes of a function → the decorator's name.
_DECORATORS: dict[Any, str] = {
    contextmanager(iter).__code__: "contextmanager",
    asynccontextmanager(iter).__code__: "asynccontextmanager",  # type: ignore[arg-type]
}


def check_handler(role: str, handler: Any) -> None:
    """Raise TypeError if the handler cannot be called with a task, or is a generator function."""
    check_call(role, handler, "task")
    check_returns(role, handler)


def check_returns(role: str, handler: Any) -> None:
    """Raise TypeError if it is a generator function."""
    if is_generator(handler):
        raise TypeError(f"{role}: {name_of(handler)} has a yield, so that nothing of it would run; use return")


def check_plain(role: str, function: Any, *arguments: str) -> None:
    """Raise TypeError if the function cannot be called so, or is ``async def`` or a generator function."""
    check_call(role, function, *arguments)
    if not is_plain(function):
        raise TypeError(f"{role}: {name_of(function)} is no plain function, so that nothing of it would run; use def")


def is_plain(function: Callable[..., Any]) -> bool:
    """True unless a call is known to return a coroutine or a generator."""
    return not is_generator(function) and not any(map(inspect.iscoroutinefunction, _calls(function)))


def is_generator(function: Callable[..., Any]) -> bool:
    """True if a call is known to return a generator."""
    return any(inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call) for call in _calls(function))


def is_async_generator(function: Callable[..., Any]) -> bool:
    """True if a call is known to return an async generator."""
    return any(map(inspect.isasyncgenfunction, _calls(function)))


def is_async(function: Callable[..., Any]) -> bool:
    """True if the function, or the object's ``__call__``, is ``async def``; False for one that returns a coroutine."""
    while isinstance(function, functools.partial):
        function = function.func
    return any(map(inspect.iscoroutinefunction, _calls(function)))


def manager_decorator(function: object) -> str | None:
    """Name of the decorator of `contextlib` that made the function; None: none did."""
    return _DECORATORS.get(getattr(function, "__code__", None))


def name_of(function: object) -> str:
    """The name of a callable, for messages."""
    return getattr(function, "__qualname__", None) or shown(function)


def without_parentheses(decorator: str, arguments: str, function: object) -> TypeError:
    """The error for a decorator that got the function in place of its own arguments."""
    return TypeError(
        f"@{decorator} stands above {name_of(function)} without parentheses; write @{decorator}({arguments})"
    )


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """The signature of a callable; not that of what a decorator wraps, which may give it further arguments.

    Raises:
        TypeError, ValueError: It has none, as some functions in C.
    """
    if sys.version_info >= (3, 14):  # which looks the names in annotations up, and some are there for checkers alone
        from annotationlib import Format  # noqa: PLC0415

        return inspect.signature(function, follow_wrapped=False, annotation_format=Format.FORWARDREF)
    return inspect.signature(function, follow_wrapped=False)


def check_call(role: str, function: Any, *arguments: str) -> None:
    """Raise TypeError if the function cannot be called so."""
    if not callable(function):
        raise TypeError(f"{role}: {shown(function)} cannot be called")
    try:
        signature = signature_of(function)
    except (TypeError, ValueError):
        return  # as of some functions in C
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise TypeError(
            f"{role}: {name_of(function)}{signature} cannot be called with ({', '.join(arguments)}): {error}"
            + unbound(next(iter(signature.parameters), ""))
        ) from None


def unbound(first: str) -> str:
    """What to do about a function whose first parameter has this name, as methods have it in their class."""
    return "; register the method of an object, as in mailer.deliver" if first in {"self", "cls"} else ""


def _calls(function: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
    """Where Python keeps the kind of a function, and that of an object with ``__call__``."""
    return function, type(function).__call__

"""Checks of the functions that an application registers: handlers, middleware and hooks."""

import inspect
from collections.abc import Callable
from typing import Any


def check_handler(role: str, handler: Any) -> None:
    """Raise TypeError if the handler cannot be called, or is a generator function."""
    if not callable(handler):
        raise TypeError(f"{role}: {handler!r} cannot be called")
    if is_generator(handler):
        raise TypeError(f"{role}: {name_of(handler)} has a yield, so that nothing of it would run; use return")


def check_plain(role: str, function: Any) -> None:
    """Raise TypeError if the function cannot be called, or is ``async def`` or a generator function."""
    if not callable(function):
        raise TypeError(f"{role}: {function!r} cannot be called")
    if not is_plain(function):
        raise TypeError(f"{role}: {name_of(function)} is no plain function, so that nothing of it would run; use def")


def is_plain(function: Callable[..., Any]) -> bool:
    """True unless a call is known to return a coroutine or a generator."""
    return not is_generator(function) and not any(map(inspect.iscoroutinefunction, _calls(function)))


def is_generator(function: Callable[..., Any]) -> bool:
    """True if a call is known to return a generator."""
    return any(inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call) for call in _calls(function))


def name_of(function: object) -> str:
    """The name of a callable, for messages."""
    return getattr(function, "__qualname__", None) or repr(function)


def _calls(function: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
    """Where Python keeps the kind of a function, and that of an object with ``__call__``."""
    return function, type(function).__call__

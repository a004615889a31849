"""Run the functions that jobs of plain RQ name, where the settings allow it."""

import inspect
import pkgutil
from collections.abc import Awaitable, Iterable
from typing import Any

import msgspec

from boilerd.errors import ForbiddenJobError, InvalidPayloadError, RetryLater, SkipRetry
from boilerd.tasks.retry import retry
from boilerd.tasks.task import Task


class Arguments(msgspec.Struct, forbid_unknown_fields=True):
    """The payload of a task that calls a function."""

    args: list[Any]
    kwargs: dict[str, Any]


@retry(max_retries=0)  # a job of plain RQ is tried again where it says so itself, and else never
class Functions:
    """The handler of tasks whose type is the name of a function: calls it with the arguments in the payload.

    One handler serves all patterns: the mux finds it by the longest pattern that a name starts with, and the name may
    be allowed by another.

    Args:
        patterns: ``module.function``, or ``module.*`` for the functions that the module defines. One that it imported
            from elsewhere, such as ``subprocess.run``, needs its own name here.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = tuple(patterns)

    def __repr__(self) -> str:
        return f"rq_functions {', '.join(self._patterns)}"

    def names(self, function: str) -> bool:
        """True if a pattern allows the function."""
        return any(_allows(pattern, function) for pattern in self._patterns)

    def __call__(self, task: Task) -> Any:
        """Call the function; its result is the task's, unless it is RQ's ``Retry``.

        Raises:
            RetryLater: It returned a ``Retry``; SkipRetry: more of them than the ``Retry`` allows.
            ForbiddenJobError: No pattern allows it.
            InvalidPayloadError: The payload is not `Arguments`.
            ImportError: There is no such module; AttributeError: there is no such name in it.
        """
        if not self.names(task.type):
            raise ForbiddenJobError(f"function {task.type!r} is not one of rq_functions; it was not imported")
        function = self._find(task.type)
        own_name = f"{getattr(function, '__module__', None)}.{getattr(function, '__qualname__', None)}"
        if task.type not in self._patterns and own_name != task.type:
            raise ForbiddenJobError(f"function {task.type!r} is {own_name}; name it in rq_functions, without a *")
        try:
            call = msgspec.convert(task.payload, Arguments)
        except msgspec.ValidationError as error:
            raise InvalidPayloadError(f"arguments of a function: {error}") from error
        result = function(*call.args, **call.kwargs)
        return _awaited(task, result) if inspect.isawaitable(result) else _unless_again(task, result)

    def _find(self, name: str) -> Any:
        """The function; behind a star it is an attribute of the module, for pkgutil would also import submodules."""
        if name in self._patterns:
            return pkgutil.resolve_name(name)
        module, _, attribute = name.rpartition(".")
        return getattr(pkgutil.resolve_name(module), attribute)


async def _awaited(task: Task, awaitable: Awaitable[Any]) -> Any:
    return _unless_again(task, await awaitable)


def _unless_again(task: Task, result: Any) -> Any:
    """The result, unless it asks for another attempt: RQ's rules, as of Job._handle_retry_result (3.0)."""
    from rq.job import Retry  # noqa: PLC0415 - only workers come here, and they have it

    if not isinstance(result, Retry):
        return result
    retried = task.attempt - 1
    if retried >= result.max:
        raise SkipRetry(f"it returned {result} after {retried} retries")
    again = RetryLater(Retry.get_interval(retried, result.intervals), f"it returned {result}")
    again.counts = True  # as in RQ
    raise again


def prefix_of(pattern: str) -> str:
    """The text that all names start with which the pattern allows."""
    return pattern.removesuffix("*")


def load(pattern: str) -> None:
    """Import the function, or the module before the star: workers share it, and a mistake shows at the start."""
    pkgutil.resolve_name(pattern.rpartition(".")[0] if pattern.endswith("*") else pattern)


def _allows(pattern: str, function: str) -> bool:
    """True if the pattern allows the function; a star stands for a name without dots, not for what is inside of it."""
    rest = function.removeprefix(prefix_of(pattern))
    return rest != function and ("." not in rest if pattern.endswith("*") else not rest)

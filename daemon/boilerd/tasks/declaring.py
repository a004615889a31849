"""The decorators of `ServeMux.task` and `ServeMux.function`: from a function to what is registered and enqueued."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from boilerd.errors import ConfigError, InvalidPayloadError, shown
from boilerd.tasks.callables import check_returns, is_async, without_parentheses
from boilerd.tasks.options import check_defaults, with_defaults
from boilerd.tasks.parameters import dataclass_of, parameters_of, payload_of, requires_any
from boilerd.tasks.payload import encode_payload
from boilerd.tasks.task import Task
from boilerd.tasks.typed import CallType, Message, ResultType, TaskType

Function = Callable[..., Any]


#: Type, handler, declared payload, options → the payload's type as the mux keeps it.
Register = Callable[[str, Function, Any, Mapping[str, Any]], Any]


def task_decorator(
    register: Register, task_type: str, payload: Any, options: Mapping[str, Any]
) -> Callable[[Function], TaskType[Any, Any, Any]]:
    """What `ServeMux.task` returns, which says what it raises."""
    role, defaults = _checked("task", task_type, options)

    def decorate(function: Function) -> TaskType[Any, Any, Any]:
        function = _plain(function)
        declared = payload_of(role, function) if payload is None else payload
        kept = register(task_type, function, declared, defaults)
        return TaskType(
            task_type, function, function, Message(task_type, None, kept, defaults, function, ResultType(function))
        )

    return decorate


def function_decorator(
    register: Register, task_type: str, options: Mapping[str, Any]
) -> Callable[[Function], CallType[Any, Any, Any]]:
    """What `ServeMux.function` returns, which says what it raises."""
    role, defaults = _checked("function", task_type, options)

    def decorate(function: Function) -> CallType[Any, Any, Any]:
        function = _plain(function)
        check_returns(role, function)
        parameters = parameters_of(role, function)
        kind = dataclass_of(function, parameters)
        handler = _by_name(function, kind, [*parameters])
        # Nothing at all is a payload, too, where nothing is required: `boilerd enqueue report:refresh`.
        declared = kind if requires_any(parameters) else kind | None
        kept = register(task_type, handler, declared, defaults)
        return CallType(
            task_type,
            function,
            handler,
            Message(task_type, None, kept, defaults, function, ResultType(function)),
            parameters,
        )

    return decorate


def periodic(spec: str, message: Message, options: Mapping[str, Any]) -> tuple[str, Any, dict[str, Any]]:
    """Type, payload as JSON, and options of the message's periodic task; raises ConfigError if it does not fit."""
    try:
        declared = message.declared
        encoded = declared.encode(message.payload) if declared else encode_payload(message.payload)
    except InvalidPayloadError as error:
        raise ConfigError(f"cron spec {shown(spec)}, task type {message.type}: {error}") from error
    defaults = {
        name: value for name, value in (message.options or {}).items() if name != "inherit"
    }  # nothing to inherit
    return message.type, msgspec.json.decode(encoded), with_defaults(defaults, options)


def _checked(decorator: str, task_type: str, options: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The role of what is registered, for errors; and the defaults of its type."""
    if callable(task_type):
        raise without_parentheses(f"mux.{decorator}", '"email:deliver"', task_type)
    role = f"{'handler' if decorator == 'task' else decorator} for {task_type!r}"
    return role, check_defaults(role, options)


def _plain(function: Function) -> Function:
    """The function itself, where another of these decorators stands below."""
    return function.__wrapped__ if isinstance(function, TaskType | CallType) else function


def _by_name(function: Function, kind: type, names: list[str]) -> Function:
    """A handler that gives the function the fields of the payload."""

    def arguments(task: Task) -> dict[str, Any]:
        payload = kind() if task.payload is None else task.payload
        return {name: getattr(payload, name) for name in names}

    @functools.wraps(function)
    def handler(task: Task) -> Any:
        return function(**arguments(task))

    @functools.wraps(function)
    async def async_handler(task: Task) -> Any:
        return await function(**arguments(task))

    return async_handler if is_async(function) else handler

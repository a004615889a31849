"""What the annotations of a function say of its payload: those of a handler, and those of declared parameters.

Names in annotations are looked up when the function is registered, for the worker needs the types.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field, make_dataclass
from types import SimpleNamespace
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from boilerd.errors import InvalidPayloadError, shown
from boilerd.tasks.callables import name_of, signature_of
from boilerd.tasks.payload import encode_payload
from boilerd.tasks.payload_type import PayloadType
from boilerd.tasks.task import Task

Parameters = Mapping[str, inspect.Parameter]

_EMPTY = inspect.Parameter.empty
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
#: In ``Task[…]`` they say nothing of the payload.
_ANYTHING = (Any, object)


def payload_of(role: str, handler: Callable[..., Any]) -> Any:
    """The type that the handler's parameter has in ``Task[…]``; None if it says none.

    Raises:
        TypeError: The parameter is no task; a name in its annotation is unknown; or a decorator gave it other
            parameters.
    """
    first = next(iter(_parameters(role, handler)), None)
    if first is None or first.annotation in (_EMPTY, *_ANYTHING):
        return None
    annotation = _looked_up(role, handler, first, "name the payload's type with payload=")
    if (get_origin(annotation) or annotation) is not Task:
        raise TypeError(
            f"{role}: parameter {first.name!r} of {name_of(handler)} is {_type_name(annotation)}, and gets a Task;"
            f" write {first.name}: Task[{_type_name(annotation)}], or use mux.function for declared parameters"
        )
    (payload,) = get_args(annotation) or (Any,)
    return None if payload in _ANYTHING or isinstance(payload, TypeVar) else payload


def parameters_of(role: str, function: Callable[..., Any]) -> Parameters:
    """The declared parameters of a function, by name, with their types.

    Raises:
        TypeError: They cannot be given by name; one says no type, or one that is unknown; or a default does not fit.
    """
    found = {each.name: _checked(role, function, each) for each in _parameters(role, function)}
    try:
        signature_of(function).bind(**dict.fromkeys(found))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{role}: {name_of(function)} cannot be called with ({_by_name(found)}): {error}") from None
    return found


def dataclass_of(function: Callable[..., Any], parameters: Parameters) -> type:
    """The payload that holds the parameters.

    No Struct, for pydantic takes none, and parameters may be models of its.
    """
    fields = [
        (name, each.annotation) if each.default is _EMPTY else (name, each.annotation, _field(each.default))
        for name, each in parameters.items()
    ]
    made = make_dataclass(getattr(function, "__name__", "Parameters"), fields, kw_only=True, repr=False)
    made.__module__ = getattr(function, "__module__", __name__)
    return made


def requires_any(parameters: Parameters) -> bool:
    """True if one of them has no default."""
    return any(each.default is _EMPTY for each in parameters.values())


def return_type_of(function: Callable[..., Any]) -> Any:
    """The type of what the function returns, as it declares it; Any if it does not, or its names are unknown here."""
    try:
        return get_type_hints(function, include_extras=True).get("return", Any)
    except Exception:  # noqa: BLE001 - an annotation may be anything, and this one decides nothing about the task
        return Any


def _parameters(role: str, function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Those with which the function is called; of a decorator that passes any on, those of what it wraps.

    Raises:
        TypeError: A decorator carries the annotations of what it wraps, and has other parameters.
    """
    try:
        own = [*signature_of(function).parameters.values()]
    except (TypeError, ValueError):
        return []
    inner = getattr(function, "__wrapped__", None)
    if inner is None:
        return own
    wrapped = _parameters(role, inner)
    if own and all(each.kind in _VARIABLE for each in own):
        return wrapped
    if _names(own) != _names(wrapped):
        raise TypeError(
            f"{role}: a decorator of {name_of(function)} takes ({', '.join(_names(own))}) and wraps what takes"
            f" ({', '.join(_names(wrapped))}), so that its annotations are another's; leave functools.wraps out there"
        )
    return own


def _checked(role: str, function: Callable[..., Any], parameter: inspect.Parameter) -> inspect.Parameter:
    """The parameter with its type in place of the names that are written there."""
    what = f"{role}: parameter {parameter.name!r} of {name_of(function)}"
    if parameter.kind in _VARIABLE:
        raise TypeError(f"{what} stands for any number; declare each, since a payload has them by name")
    if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
        raise TypeError(f"{what} is positional only; take out the '/', since a payload has it by name")
    if parameter.annotation is _EMPTY:
        raise TypeError(f"{what} has no annotation; give it the type that its values in JSON become")
    annotation = _looked_up(role, function, parameter, "give it a type that the module knows when it is imported")
    if (get_origin(annotation) or annotation) is Task:
        raise TypeError(f"{what} is a task; leave it out, and call boilerd.current_task() in the function")
    found = parameter.replace(annotation=annotation)
    if found.default is not _EMPTY:
        _check_default(what, found)
    return found


def _check_default(what: str, parameter: inspect.Parameter) -> None:
    try:
        declared = PayloadType(parameter.annotation)
        declared.check(encode_payload(parameter.default, to_plain=declared.to_plain))
    except (InvalidPayloadError, TypeError) as error:
        raise TypeError(
            f"{what} has the default {shown(parameter.default)}, which is no {_type_name(parameter.annotation)}:"
            f" {str(error).removeprefix('payload: ')}"
        ) from None


def _looked_up(role: str, function: Callable[..., Any], parameter: inspect.Parameter, remedy: str) -> Any:
    """The annotation with its names looked up where they were written; of this parameter alone."""
    alone = SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        return get_type_hints(alone, _namespace(function), include_extras=True)[parameter.name]
    except (NameError, AttributeError) as error:
        raise TypeError(
            f"{role}: the annotation of {parameter.name!r} in {name_of(function)} is unknown here ({error});"
            f" import it outside of TYPE_CHECKING and of functions, or {remedy}"
        ) from None


def _namespace(function: Any) -> dict[str, Any]:
    """Where the names in a callable's annotations are looked up."""
    function = inspect.unwrap(function)
    if isinstance(function, functools.partial):
        return _namespace(function.func)
    if not hasattr(function, "__globals__"):  # an object with __call__
        function = type(function).__call__
    return getattr(function, "__globals__", {})


def _field(default: Any) -> Any:
    """The field of a default; one that can change is copied, as a function's own default is shared by its calls."""
    if type(default).__hash__ is None:
        return field(default_factory=functools.partial(copy.deepcopy, default))
    return field(default=default)


def _names(parameters: Iterable[inspect.Parameter]) -> list[str]:
    return [str(each).partition(":")[0].partition("=")[0] for each in parameters]


def _by_name(names: Iterable[str]) -> str:
    return ", ".join(f"{name}=…" for name in names)


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else shown(annotation)

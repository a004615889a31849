"""The classes that a declared type is made of."""

import sys
import typing
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

#: One of them is in each class whose fields have types, but for those of pydantic, which have the mark below.
_WITH_FIELDS = ("__dataclass_fields__", "__struct_fields__", "__attrs_attrs__", "__required_keys__", "_fields")
_PYDANTIC = "__pydantic_validator__"


def is_of_pydantic(model: Any) -> bool:
    """True if a class of pydantic's is in the type, or one that only pydantic can read."""
    return "pydantic" in sys.modules and any(map(has_mark, parts_of(model)))


def has_mark(part: Any) -> bool:
    """True for a model or a dataclass of pydantic's, any other type of it, and what annotates a type with its rules."""
    kind = part if isinstance(part, type) else type(part)
    if hasattr(kind, _PYDANTIC) or str(kind.__module__).partition(".")[0] == "pydantic":
        return True
    return hasattr(kind, "__get_pydantic_core_schema__") and not any(hasattr(kind, name) for name in _WITH_FIELDS)


def refuse_old(kind: Any) -> None:
    """Raise TypeError if the class is one of pydantic 1, or of its copy in pydantic 2."""
    if hasattr(kind, "__get_validators__") and not hasattr(kind, _PYDANTIC):
        raise TypeError(
            f"payload: {kind!r} is of pydantic.v1, whose rules would not run; derive it from pydantic.BaseModel"
        )


def parts_of(model: Any) -> Iterator[Any]:
    """The classes in a type, and what annotates them; each once. What is in a class of pydantic's is its own matter."""
    todo, seen = [model], dict[int, Any]()  # which keeps the parts, so that no other gets the ID of one
    while todo:
        part = todo.pop()
        if id(part) in seen:  # a type may contain itself
            continue
        seen[id(part)] = part
        yield part
        todo += typing.get_args(part)
        todo += (getattr(part, name) for name in ("__supertype__", "__value__", "__bound__") if hasattr(part, name))
        if isinstance(origin := typing.get_origin(part), type):
            todo.append(origin)
        if isinstance(part, type) and not hasattr(part, _PYDANTIC):
            todo += _fields(part)


def _fields(kind: type) -> list[Any]:
    if any(hasattr(kind, name) for name in _WITH_FIELDS):
        with suppress(NameError, TypeError):  # a name that is not there yet; whoever makes a decoder says so
            return [*typing.get_type_hints(kind, include_extras=True).values()]
    return []

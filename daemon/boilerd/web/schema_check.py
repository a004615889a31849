"""Check a payload against the JSON Schema that a daemon has published, as far as such schemas go.

The worker checks it again, by the type itself. What is not known here is passed over: nothing that fits is refused.
"""

import copy
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

#: Problems that are told, and levels of schema and payload that are gone into.
MOST_PROBLEMS, MOST_LEVELS = 10, 60
#: Steps into a schema: some 50 ms.
MOST_STEPS = 20_000
_KINDS: Mapping[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: _is_number(value) and math.isfinite(value) and value == int(value),
    "number": lambda value: _is_number(value),  # noqa: PLW0108 - it stands below
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
_EMPTY: Mapping[str, Any] = {"boolean": False, "integer": 0, "number": 0, "string": "", "array": [], "object": {}}
_MOST_EXAMPLES = 10
#: Keyword → whether a number breaks it, and what is told.
_OF_NUMBERS: Mapping[str, tuple[Callable[[Any, Any], bool], str]] = {
    "minimum": (operator.lt, "must be at least {}"),
    "maximum": (operator.gt, "must be at most {}"),
    "exclusiveMinimum": (operator.le, "must be more than {}"),
    "exclusiveMaximum": (operator.ge, "must be less than {}"),
}
#: Keyword → to the length of what it applies, and so on.
_OF_LENGTHS: Mapping[str, tuple[type[str] | type[list[Any]], Callable[[Any, Any], bool], str]] = {
    "minLength": (str, operator.lt, "must have {} characters or more"),
    "maxLength": (str, operator.gt, "must have {} characters or less"),
    "minItems": (list, operator.lt, "must have {} members or more"),
    "maxItems": (list, operator.gt, "must have {} members or less"),
}


class _Root:
    """A schema as a whole, and how many steps into it are left: one that refers to itself has no end."""

    def __init__(self, schema: Any) -> None:
        self.schema = schema
        self._left = MOST_STEPS

    def step(self) -> None:
        """Go on; raises ValueError."""
        self._left -= 1
        if self._left < 0:
            raise ValueError("too many steps")


def problems(payload: Any, schema: Any) -> list[str]:
    """What does not fit, each with its path; none: it fits, or the schema is not understood."""
    found: list[str] = []
    try:
        for problem in _check(payload, schema, "payload", _Root(schema), 0):
            found.append(problem)
            if len(found) >= MOST_PROBLEMS:
                break
    except (TypeError, ValueError, AttributeError, RecursionError, OverflowError):
        return found  # no schema that we know
    return found


def schema_of(schemas: Mapping[str, Any], task_type: str) -> Any:
    """The schema of a type's handler: an exact match wins, then the longest pattern; None: there is none."""
    if task_type in schemas:
        return schemas[task_type]
    fitting = [pattern for pattern in schemas if task_type.startswith(pattern)]
    return schemas[max(fitting, key=len)] if fitting else None


def example(schema: Any) -> Any:
    """A payload to begin with: what is required, with defaults, and empty values."""
    try:
        return _example(schema, _Root(schema), 0)
    except (TypeError, ValueError, AttributeError, RecursionError):
        return None  # no schema that we know


def _example(schema: Any, root: _Root, level: int) -> Any:
    root.step()
    if level > _MOST_EXAMPLES or not isinstance(schema, dict):
        return None
    if "$ref" in schema:
        return _example(_resolved(root, str(schema["$ref"])), root, level + 1)
    for name in ("default", "const"):
        if name in schema:
            return schema[name]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    if isinstance(schema.get("properties"), dict):
        required = schema.get("required", ())
        return {
            name: _example(each, root, level + 1) for name, each in schema["properties"].items() if name in required
        }
    return copy.copy(_EMPTY.get(str(schema.get("type"))))


def _check(value: Any, schema: Any, path: str, root: _Root, level: int) -> Iterator[str]:
    root.step()
    if level > MOST_LEVELS or schema is True or not isinstance(schema, dict):
        return
    if "$ref" in schema:
        yield from _check(value, _resolved(root, schema["$ref"]), path, root, level + 1)
    yield from _of_kind(value, schema, path)
    yield from _of_choices(value, schema, path, root, level)
    if isinstance(value, dict):
        yield from _of_object(value, schema, path, root, level)
    elif isinstance(value, list):
        yield from _of_array(value, schema, path, root, level)


def _of_kind(value: Any, schema: dict[str, Any], path: str) -> Iterator[str]:
    wanted = schema.get("type")
    kinds = [wanted] if isinstance(wanted, str) else wanted or []
    if kinds and not any(_KINDS.get(kind, _anything)(value) for kind in kinds):
        yield f"{path} must be {' or '.join(map(str, kinds))}"
        return
    if "enum" in schema and not any(_equal(value, each) for each in schema["enum"]):
        yield f"{path} must be one of {', '.join(map(repr, schema['enum'][:20]))}"
    if "const" in schema and not _equal(value, schema["const"]):
        yield f"{path} must be {schema['const']!r}"
    yield from _of_limits(value, schema, path)


def _of_limits(value: Any, schema: dict[str, Any], path: str) -> Iterator[str]:
    for name, (breaks, says) in _OF_NUMBERS.items():
        if name in schema and _is_number(value) and breaks(value, schema[name]):
            yield f"{path} {says.format(schema[name])}"
    for name, (kind, breaks, says) in _OF_LENGTHS.items():
        if name in schema and isinstance(value, kind) and breaks(len(value), schema[name]):
            yield f"{path} {says.format(schema[name])}"


def _of_choices(value: Any, schema: dict[str, Any], path: str, root: _Root, level: int) -> Iterator[str]:
    for each in schema.get("allOf", ()):
        yield from _check(value, each, path, root, level + 1)
    for name in ("anyOf", "oneOf"):
        tried = [[*_check(value, each, path, root, level + 1)] for each in schema.get(name, ())]
        if tried and all(tried):
            # That which came nearest says most.
            yield from min(tried, key=len)


def _of_object(value: dict[str, Any], schema: dict[str, Any], path: str, root: _Root, level: int) -> Iterator[str]:
    yield from (f"{path}.{name} is missing" for name in schema.get("required", ()) if name not in value)
    known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    for name, inner in value.items():
        if name in known:
            yield from _check(inner, known[name], f"{path}.{name}", root, level + 1)
        elif others is False and "patternProperties" not in schema:
            yield f"{path}.{name} is not known"
        else:
            yield from _check(inner, others, f"{path}.{name}", root, level + 1)


def _of_array(value: list[Any], schema: dict[str, Any], path: str, root: _Root, level: int) -> Iterator[str]:
    first = schema.get("prefixItems", ())
    for place, inner in enumerate(value):
        wanted = first[place] if place < len(first) else schema.get("items", True)
        if wanted is False:
            yield f"{path}.{place} is one too many"
            return
        yield from _check(inner, wanted, f"{path}.{place}", root, level + 1)


def _resolved(root: _Root, reference: str) -> Any:
    """The part of the schema that a reference within it means; True: another document's."""
    if not reference.startswith("#"):
        return True
    found = root.schema
    for part in reference.removeprefix("#").split("/")[1:]:
        found = found[part.replace("~1", "/").replace("~0", "~")] if isinstance(found, dict) else True
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _equal(value: Any, other: Any) -> bool:
    is_alike = type(value) is type(other) or (_is_number(value) and _is_number(other))
    return is_alike and bool(value == other)


def _anything(_value: Any) -> bool:
    return True

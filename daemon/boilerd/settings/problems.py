"""Say in words what is wrong with a value that msgspec refuses: where in its tables that is, and what is allowed there.

msgspec's own message has regular expressions, its names of types and places without the names of tables.
"""

import enum
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from boilerd.errors import closest, shown

#: Where a description of what is allowed stands in the metadata of a type, and that a value is not quoted.
EXPECTED, SECRET = "expected", "is_secret"
_WORDS = {bool: "true or false", datetime: "a moment with a time zone, such as 2027-12-31T00:00:00Z"}


def convert(value: Any, kind: Any, *, strict: bool = True) -> Any:
    """A value of the type of a setting; raises msgspec's errors and ValueError."""
    return msgspec.convert(value, kind, strict=strict, dec_hook=lambda own, given: own.parse(given))


def allowing(expected: str, *, is_secret: bool = False, **limits: Any) -> msgspec.Meta:
    """Metadata of a type: what is allowed, where the type itself does not say it in words."""
    return msgspec.Meta(extra={EXPECTED: expected, SECRET: is_secret}, **limits)


def problem_of(kind: Any, given: Any, *, strict: bool = True, name: str = "") -> str:
    """What is wrong with a value of such a type, in the innermost table; empty: nothing.

    Args:
        kind: The type, with its metadata.
        given: The value, as a file or JSON has it.
        strict: As of msgspec: "10" does not stand for 10.
        name: How the value is called, from the setting on; empty: it is all that the setting has.
    """
    try:
        convert(given, kind, strict=strict)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        inner = (problem_of(part, value, strict=strict, name=path) for path, part, value in _parts(kind, given, name))
        keys = _problems_of_keys(kind, given, name)
        return next(filter(None, (*keys, *inner)), "") or _told(kind, given, name)
    return ""


def _told(kind: Any, given: Any, name: str) -> str:
    place = f"{name}: " if name else ""
    value = str(given) if isinstance(given, datetime) else shown(given)
    quoted = "" if _extra(kind).get(SECRET) else f"{value} is "
    return f"{place}{quoted}not {_expected(kind)}"


def _problems_of_keys(kind: Any, given: Any, name: str) -> Iterable[str]:
    """Keys that a table does not have, and those that it lacks."""
    table = _table_in(kind)
    if table is None or not isinstance(given, dict):
        return
    place = f"{name}: " if name else ""
    fields = {field.name: field for field in msgspec.structs.fields(table)}
    for key in given:
        if key not in fields:
            close = closest(str(key), fields)
            cure = f"did you mean {close!r}?" if close else f"there are {', '.join(fields)}"
            yield f"{place}unknown key {shown(key)}; {cure}"
    for field in fields.values():
        if field.required and field.name not in given:
            yield f"{place}{field.name} is missing; give it {_expected(field.type)}"


def _parts(kind: Any, given: Any, name: str) -> Iterable[tuple[str, Any, Any]]:
    """The name, the type and the value of each part of a table, or of a list of tables."""
    table = _table_in(kind)
    if table and isinstance(given, dict):
        types = {field.name: field.type for field in msgspec.structs.fields(table)}
        return [(_below(name, key), types[key], value) for key, value in given.items() if key in types]
    for one in _choices(kind):
        if get_origin(one) is dict and isinstance(given, Mapping):
            return [(_below(name, str(key)), get_args(one)[1], value) for key, value in given.items()]
        if get_origin(one) is list and isinstance(given, Sequence) and _table_in(get_args(one)[0]):
            return [(f"{name}[{place}]", get_args(one)[0], value) for place, value in enumerate(given)]
    return []


def _below(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _table_in(kind: Any) -> type[msgspec.Struct] | None:
    return next((one for one in _choices(kind) if isinstance(one, type) and issubclass(one, msgspec.Struct)), None)


def _choices(kind: Any) -> list[Any]:
    """The types that are allowed, without their metadata and None."""
    if get_origin(kind) is Annotated:
        return _choices(get_args(kind)[0])
    if get_origin(kind) in {Union, UnionType}:
        return [one for part in get_args(kind) if part is not NoneType for one in _choices(part)]
    return [kind]


def _metas(kind: Any) -> list[msgspec.Meta]:
    return [meta for meta in get_args(kind)[1:] if isinstance(meta, msgspec.Meta)] if _is_annotated(kind) else []


def _is_annotated(kind: Any) -> bool:
    return get_origin(kind) is Annotated


def _extra(kind: Any) -> dict[str, Any]:
    return {name: value for meta in _metas(kind) for name, value in (meta.extra or {}).items()}


def _expected(kind: Any) -> str:
    """A description of what is allowed."""
    if EXPECTED in _extra(kind):
        return str(_extra(kind)[EXPECTED])
    if get_origin(kind) in {Union, UnionType}:
        return ", or ".join(_expected(part) for part in get_args(kind) if part is not NoneType)
    (one, *_) = _choices(kind)
    if get_origin(one) is Literal:
        return "one of " + ", ".join(map(str, get_args(one)))
    if isinstance(one, type) and issubclass(one, enum.Enum):
        return "one of " + ", ".join(str(each.value) for each in one)
    if get_origin(one) is list:
        return "a list of tables" if _table_in(get_args(one)[0]) else "a list of texts"
    return _WORDS.get(one) or getattr(one, "hint", "") or _number_or_text(one, _metas(kind))


def _number_or_text(kind: Any, metas: Sequence[msgspec.Meta]) -> str:
    limits = {name: getattr(meta, name) for meta in metas for name in ("ge", "le", "max_length")}
    if kind in {int, float}:
        number = "a whole number" if kind is int else "a number"
        least = "" if limits.get("ge") is None else f" of at least {limits['ge']}"
        return number + least + ("" if limits.get("le") is None else f" and at most {limits['le']}")
    if kind is str:
        return f"text of at most {limits['max_length']} characters" if limits.get("max_length") else "text"
    return "a table"

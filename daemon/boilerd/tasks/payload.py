"""Payloads as JSON, as they are written for the broker; `payload_type` reads them."""

import functools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from itertools import chain
from numbers import Integral, Real
from pathlib import PurePath
from typing import Any
from uuid import UUID

import msgspec

from boilerd.errors import InvalidPayloadError

#: Bytes of JSON. RQ's record holds type and payload in one value of Redis, whose own limit is 512 MB.
DEFAULT_MAX_PAYLOAD = 64 * 1024 * 1024
#: Lists around a payload while it is checked, so that one that a worker could not read is refused here.
#: The depth of JSON that msgspec takes is Python's recursion limit, less the calls that lead there. RQ's record wraps
#: the payload in two lists, and `broker.job_hash` reads it in a new thread, five calls deep: twelve cover both.
NESTING_RESERVE = 12
#: So many bytes are never nested deeper than half of Python's usual recursion limit, which every worker can read.
_SHALLOW_BYTES = 1000

#: Characters of a key that an error shows.
_LONGEST_KEY = 60
#: What holds nothing else.
_SCALARS = frozenset({str, int, float, bool, type(None), bytes, datetime, date, time, timedelta, Decimal, UUID})

#: What an error says of a payload that no worker could read.
TOO_DEEP = "payload: is nested too deep; make it flat, or a text"


def encode_payload(
    payload: Any,
    max_bytes: int = DEFAULT_MAX_PAYLOAD,
    *,
    sorts_sets: bool = True,
    to_plain: Callable[[Any], Any] | None = None,
) -> bytes:
    """The payload as JSON.

    Args:
        payload: Anything that has a JSON form.
        max_bytes: The most bytes that it may have.
        sorts_sets: True: the lists that sets become are sorted; else their order is another in each process.
        to_plain: Makes values that JSON has of the payload, by the rules of its type.

    Raises:
        InvalidPayloadError: A value in it has no JSON form or would be lost, or it is too large.
    """
    try:
        if isinstance(payload, msgspec.Raw):
            return _check_raw(bytes(payload), max_bytes)
        plain = payload if to_plain is None else to_plain(payload)
        encoded = _ENCODER.encode(plain)
        _check_size(encoded, max_bytes)
        _check_keys(plain, encoded)
        if b"null" in encoded:
            _check_finite(plain, encoded)
        return _with_sorted_sets(payload, encoded) if sorts_sets and b"[" in encoded else encoded
    except RecursionError as error:
        raise InvalidPayloadError(TOO_DEEP) from error
    except InvalidPayloadError:
        raise
    except (TypeError, ValueError) as error:
        raise InvalidPayloadError(f"payload: {error}; use what JSON can hold") from error


def canonical(payload: bytes) -> bytes:
    """The payload with sorted keys and no spaces: equal for equal values, however they were written.

    Raises:
        InvalidPayloadError: It is nested so deep that it could be written, but cannot be read from here.
    """
    try:
        return msgspec.json.encode(msgspec.json.decode(payload), order="sorted")
    except RecursionError as error:
        raise InvalidPayloadError(TOO_DEEP) from error


def _check_size(encoded: bytes, max_bytes: int) -> None:
    if len(encoded) > max_bytes:
        raise InvalidPayloadError(
            f"payload: {len(encoded)} bytes are more than {int(max_bytes)}; store the data elsewhere, send its name"
            " (or raise max_payload)"
        )


def _check_raw(encoded: bytes, max_bytes: int) -> bytes:
    """JSON that is written already, of which msgspec would take a copy without a look at it."""
    _check_size(encoded, max_bytes)
    _DECODER.decode(encoded)
    _check_depth(encoded)
    json.loads(encoded, object_pairs_hook=_to_object)
    return encoded


def _check_keys(payload: Any, encoded: bytes) -> None:
    """Raise ValueError if a reader would lose a value, RecursionError if a worker could not read the payload."""
    try:
        _STRICT.encode(payload if len(encoded) < _SHALLOW_BYTES else _nested(payload))
    except TypeError:  # a key is no text, or a set has values of several types
        if len(_ENCODER.encode(_check_depth(encoded))) != len(encoded) + 2 * NESTING_RESERVE:  # less came back
            json.loads(encoded, object_pairs_hook=_to_object)


def _check_depth(encoded: bytes) -> Any:
    """The payload in NESTING_RESERVE lists; raises RecursionError if a worker could not read it."""
    return _DECODER.decode(b"[" * NESTING_RESERVE + encoded + b"]" * NESTING_RESERVE)


def _nested(payload: Any) -> list[Any]:
    """The payload inside of NESTING_RESERVE lists; written out, since a loop takes a third longer."""
    return [[[[[[[[[[[[payload]]]]]]]]]]]]


def _to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; raises ValueError if two of its keys are the same, of which a reader keeps one."""
    found = dict(pairs)
    if len(found) != len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key '{shown_key(twice)}' is in one object twice (in JSON, 1 and '1' are the same key)")
    return found


def shown_key(key: object) -> str:
    """The key for a message: it may come from anywhere."""
    text = repr(str(key))[1:-1]
    return text if len(text) <= _LONGEST_KEY else text[: _LONGEST_KEY - 1] + "…"


def _check_finite(payload: Any, encoded: bytes) -> None:
    """Raise ValueError with the path of the first number that JSON cannot hold; msgspec writes null for it."""
    if _DECODER.decode(encoded) == payload:
        return
    plain = _to_builtins(payload)
    try:
        json.dumps(plain, allow_nan=False)  # takes a tenth of the time of a look at each value
    except ValueError:
        todo = [("$", plain)]
        for path, value in todo:
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{path} is {value}, and JSON has neither NaN nor Infinity") from None
            if isinstance(value, dict):
                todo += [(f"{path}.{shown_key(key)}", each) for key, each in value.items()]
            elif isinstance(value, list | tuple):
                todo += [(f"{path}[{place}]", each) for place, each in enumerate(value)]
        raise


# --- Subclasses


def as_base(value: Any, *, comes_back: bool = True) -> Any:
    """A value that msgspec does not take as one that it does: of a subclass, such as Django's SafeString, as its base.

    So also numbers of numpy, paths, and models of pydantic; an array or a data frame is no value but data.

    Args:
        value: Any object that msgspec knows no form for.
        comes_back: True: the value will be read as what it was, so that a model is written without what is computed.
    """
    if isinstance(value, msgspec.Raw):  # in `to_builtins`
        return _DECODER.decode(value)
    for base, to_plain in _BASES.items():
        if isinstance(value, base) and not isinstance(value, bool | Fraction):
            return to_plain(value)
    kind = type(value)
    if kind.__module__ == "numpy" and kind.__name__ in {"bool", "bool_"}:
        return bool(value)
    if hasattr(kind, "__pydantic_fields__"):
        return value.model_dump(mode="json", by_alias=True, round_trip=comes_back, warnings=False)  # they have values
    where = " as a key" if isinstance(value, bool | tuple | frozenset | None) else ""
    raise TypeError(f"{type(value).__qualname__} has no JSON form{where}")


def _iso(moment: date | time) -> str:
    """ISO 8601 as msgspec writes it."""
    text = moment.isoformat()
    return text.removesuffix("+00:00") + "Z" if text.endswith("+00:00") else text


_BASES: dict[Any, Callable[[Any], Any]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    Decimal: Decimal.__str__,
    UUID: UUID.__str__,
    date: _iso,
    time: _iso,
    PurePath: str,
    Integral: int,
    Real: float,
}
_ENCODER = msgspec.json.Encoder(enc_hook=as_base)
#: Raises TypeError for a key that is no text.
_STRICT = msgspec.json.Encoder(enc_hook=as_base, order="deterministic")
_DECODER = msgspec.json.Decoder()
_to_builtins = functools.partial(msgspec.to_builtins, str_keys=True, enc_hook=as_base)


# --- Sets


def _with_sorted_sets(payload: Any, encoded: bytes) -> bytes:
    if not _holds_set(payload):
        return encoded
    decoded = _DECODER.decode(encoded)
    _sort_sets(payload, decoded)
    return _ENCODER.encode(decoded)


def _holds_set(payload: Any) -> bool:
    """True if there is a set in it; looks level by level, which is faster than value by value."""
    level: list[Any] = [payload]
    while kinds := {*map(type, level)} - _SCALARS:
        if any(issubclass(kind, set | frozenset) for kind in kinds):
            return True
        level = [*chain.from_iterable(_parts(value) for value in level if type(value) in kinds)]
    return False


def _sort_sets(payload: Any, decoded: Any) -> None:
    """Sort the lists of `decoded` that are sets in `payload`: a set's order is another in each process."""
    payload = _unwrapped(payload)
    if isinstance(decoded, dict):
        fields = None if isinstance(payload, dict) else _fields(payload)
        parts = _parts(payload) if fields is None else [fields.get(key) for key in decoded]
        for part, each in zip(parts, decoded.values(), strict=False):
            _sort_sets(part, each)
    elif isinstance(decoded, list):
        # From the end: a Struct that is written as a list may have its tag in front.
        for part, each in zip(reversed([*_parts(payload)]), reversed(decoded), strict=False):
            _sort_sets(part, each)
        if isinstance(payload, set | frozenset):
            decoded.sort(key=_ENCODER.encode)


def _parts(value: Any) -> Iterable[Any]:
    """What is in a value, in the order in which it is written."""
    if isinstance(value, dict):
        return dict.values(value)
    if isinstance(value, list | tuple | set | frozenset):
        return value
    inner = _unwrapped(value)
    return [inner] if inner is not value else _fields(value).values()


def _unwrapped(value: Any) -> Any:
    """What is written in place of an Enum's member, or of a root model of pydantic's."""
    if isinstance(value, Enum):
        return value.value
    return value.root if getattr(type(value), "__pydantic_root_model__", False) else value


def _fields(value: Any) -> dict[str, Any]:
    """The fields of an object under the names that JSON has for them; none of another value."""
    kind = type(value)
    if fields := getattr(kind, "__pydantic_fields__", None):
        aliases = {field.serialization_alias or name: name for name, field in fields.items()}
        # A dataclass of pydantic's is written by its own names where its type is not known.
        return {
            name: getattr(value, field, None) for name, field in ({name: name for name in fields} | aliases).items()
        }
    names = [*getattr(kind, "__struct_fields__", ()), *getattr(kind, "__dataclass_fields__", ())]
    names += [field.name for field in getattr(kind, "__attrs_attrs__", ())]
    written = getattr(kind, "__struct_encode_fields__", names)
    return {name: getattr(value, field, None) for name, field in zip(written, names, strict=True)}

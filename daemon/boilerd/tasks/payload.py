"""Payloads as JSON: written for the broker, and decoded as the type that a handler declared."""

import json
import math
from typing import Any

import msgspec
import msgspec.inspect

from boilerd.errors import InvalidPayloadError

#: Bytes of JSON. RQ's record holds type and payload in one value of Redis, whose own limit is 512 MB.
DEFAULT_MAX_PAYLOAD = 64 * 1024 * 1024
#: Lists around a payload while it is encoded, so that one that a worker could not read is refused here.
#: The depth of JSON that msgspec takes is Python's recursion limit, less the calls that lead there. RQ's record wraps
#: the payload in two lists, and `broker.job_hash` reads it in a new thread, five calls deep: twelve cover both.
NESTING_RESERVE = 12

_ENCODER = msgspec.json.Encoder()
_TOO_DEEP = "payload: is nested too deep; make it flat, or a text"


def encode_payload(payload: Any, max_bytes: int = DEFAULT_MAX_PAYLOAD) -> bytes:
    """The payload as JSON.

    Raises:
        InvalidPayloadError: A value in it has no JSON form, or it has more than `max_bytes`.
    """
    try:
        encoded = _ENCODER.encode(_nested(payload))[NESTING_RESERVE:-NESTING_RESERVE]
        if isinstance(payload, msgspec.Raw):
            msgspec.json.decode(encoded)  # msgspec copies Raw without a look at it
        elif b"null" in encoded:
            # msgspec writes null for NaN and the infinities too.
            _check_finite(msgspec.to_builtins(payload, str_keys=True))
    except RecursionError as error:
        raise InvalidPayloadError(_TOO_DEEP) from error
    except (TypeError, ValueError) as error:
        raise InvalidPayloadError(f"payload: {error}; use what JSON can hold") from error
    if len(encoded) > max_bytes:
        raise InvalidPayloadError(
            f"payload: {len(encoded)} bytes are more than {int(max_bytes)}; store the data elsewhere, send its name"
            " (or raise max_payload)"
        )
    return encoded


def canonical(payload: bytes) -> bytes:
    """The payload with sorted keys and no spaces: equal for equal values, however they were written.

    Raises:
        InvalidPayloadError: It is nested so deep that it could be written, but cannot be read from here.
    """
    try:
        return msgspec.json.encode(msgspec.json.decode(payload), order="sorted")
    except RecursionError as error:
        raise InvalidPayloadError(_TOO_DEEP) from error


def decode_payload(payload: Any, model: Any) -> Any:
    """The payload as `model`: a dataclass, TypedDict, msgspec.Struct, or a union of tagged Structs.

    Raises:
        InvalidPayloadError: It does not fit; the message has the path of the wrong field, such
            as ``$.to[1]: Expected `str`, got `int```.
    """
    try:
        return msgspec.convert(payload, model, str_keys=True)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at ")
        raise InvalidPayloadError(f"payload: {path.replace('`', '') or '$'}: {problem}") from error


def check_payload(encoded: bytes, model: Any) -> None:
    """Raise InvalidPayloadError if the payload, as JSON, does not fit `model`."""
    decode_payload(msgspec.json.decode(encoded), model)


def check_model(model: Any) -> None:
    """Raise TypeError if no JSON value can be decoded as `model`."""
    msgspec.json.Decoder(model)
    todo: list[object] = [msgspec.inspect.type_info(model)]
    seen: set[int] = set()  # a type may contain itself
    while todo:
        part = todo.pop()
        if isinstance(part, tuple):
            todo += part
        elif isinstance(part, msgspec.inspect.CustomType | msgspec.inspect.RawType):
            _check_custom(part)
        elif isinstance(part, msgspec.inspect.Type | msgspec.inspect.Field) and id(part) not in seen:
            seen.add(id(part))
            todo += (getattr(part, name) for name in part.__struct_fields__)


def _nested(payload: Any) -> list[Any]:
    """The payload inside of NESTING_RESERVE lists; written out, since a loop takes a third longer."""
    return [[[[[[[[[[[[payload]]]]]]]]]]]]


def _check_finite(payload: Any) -> None:
    """Raise ValueError with the path of the first number that JSON cannot hold."""
    try:
        json.dumps(payload, allow_nan=False)  # takes a tenth of the time of a look at each value
    except ValueError:
        todo = [("$", payload)]
        for path, value in todo:
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{path} is {value}, and JSON has neither NaN nor Infinity") from None
            if isinstance(value, dict):
                todo += [(f"{path}.{key}", each) for key, each in value.items()]
            elif isinstance(value, list | tuple):
                todo += [(f"{path}[{place}]", each) for place, each in enumerate(value)]
        raise


def _check_custom(part: msgspec.inspect.CustomType | msgspec.inspect.RawType) -> None:
    """Raise TypeError if no JSON value is an instance of the class; msgspec accepts any, for decoders with hooks."""
    kind = msgspec.Raw if isinstance(part, msgspec.inspect.RawType) else part.cls
    if not any(issubclass(plain, kind) for plain in (dict, list, str, int, float, bool, type(None))):
        raise TypeError(f"payload: nothing can be decoded as {kind!r}; use a dataclass, TypedDict or msgspec.Struct")

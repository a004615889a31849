"""Payloads of a declared type: decoded for the handler, checked for the client."""

from typing import Any

import msgspec
import msgspec.inspect

from boilerd.errors import InvalidPayloadError


def decode(payload: Any, model: Any) -> Any:
    """The payload as `model`: a dataclass, TypedDict, msgspec.Struct, or a union of tagged Structs.

    Raises:
        InvalidPayloadError: It does not fit; the message has the path of the wrong field, such
            as ``$.to[1]: Expected `str`, got `int```.
    """
    try:
        return msgspec.convert(payload, model, str_keys=True)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at ")
        raise InvalidPayloadError(f"payload: {path.replace('`', '') or '$'}: {what}") from error


def check_model(model: Any) -> None:
    """Raise TypeError for a type that nothing could ever be decoded as."""
    msgspec.json.Decoder(model)
    whole = msgspec.inspect.type_info(model)
    todo: list[object] = [whole]
    seen: set[int] = set()  # a type may be part of itself
    while todo:
        part = todo.pop()
        if isinstance(part, tuple):
            todo += part
        elif isinstance(part, msgspec.inspect.CustomType | msgspec.inspect.RawType):
            _check_custom(part)
        elif isinstance(part, msgspec.inspect.Type | msgspec.inspect.Field) and id(part) not in seen:
            seen.add(id(part))
            todo += (getattr(part, name) for name in part.__struct_fields__)


def check(encoded: bytes, model: Any) -> None:
    """Raise InvalidPayloadError when the payload, as JSON, does not fit `model`."""
    decode(msgspec.json.decode(encoded), model)


def _check_custom(part: msgspec.inspect.CustomType | msgspec.inspect.RawType) -> None:
    """Raise TypeError for a class that no JSON value is an instance of; msgspec takes any, for decoders with hooks."""
    kind = msgspec.Raw if isinstance(part, msgspec.inspect.RawType) else part.cls
    if not any(issubclass(plain, kind) for plain in (dict, list, str, int, float, bool, type(None))):
        raise TypeError(f"payload: nothing can be decoded as {kind!r}; use a dataclass, TypedDict or msgspec.Struct")

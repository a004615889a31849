"""Payloads of a declared type: decoded for the handler, checked for the client."""

from typing import Any

import msgspec

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


def check(encoded: bytes, model: Any) -> None:
    """Raise InvalidPayloadError when the payload, as JSON, does not fit `model`."""
    decode(msgspec.json.decode(encoded), model)

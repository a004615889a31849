"""Payloads as JSON: what can be written, and read again by a worker."""

import json
import math
from typing import Any

import msgspec

from boilerd.errors import InvalidPayloadError

#: Bytes of JSON. RQ's record holds type and payload in one value of Redis, whose own limit is 512 MB.
DEFAULT_MAX_PAYLOAD = 64 * 1024 * 1024
_TOO_DEEP = "payload: is nested too deep; make it flat, or a text"


def encode_payload(payload: Any, max_bytes: int = DEFAULT_MAX_PAYLOAD) -> bytes:
    """The payload as JSON.

    Raises:
        InvalidPayloadError: A value in it has no JSON form, or it has more than `max_bytes`.
    """
    try:
        # Deeper inside than in the call that RQ's record holds, where `jobs` reads it in a thread that has little above
        # it: what cannot be read again is not written.
        encoded = msgspec.json.encode([[[[[[[[[[[[payload]]]]]]]]]]]])[12:-12]
        if isinstance(payload, msgspec.Raw):
            msgspec.json.decode(encoded)  # it was taken over as it is
        elif b"null" in encoded:
            # What msgspec writes for NaN and the infinities as well.
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
        InvalidPayloadError: It is nested so deep that it could just be written, and not be read from here.
    """
    try:
        return msgspec.json.encode(msgspec.json.decode(payload), order="sorted")
    except RecursionError as error:
        raise InvalidPayloadError(_TOO_DEEP) from error


def _check_finite(payload: Any) -> None:
    """Raise ValueError with the path of the first number that JSON cannot hold."""
    try:
        json.dumps(payload, allow_nan=False)  # a tenth of the time of a look at each
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

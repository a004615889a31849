"""Headers: short texts that a task carries beside its payload, such as the trace that it belongs to."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from boilerd.errors import InvalidTaskError, shown

#: Bytes of all names and values of a task: headers are for what leads to data, which stays in the payload.
MAX_HEADER_BYTES = 4096
#: What every enqueue in a handler takes over from the task: its cause, and W3C's headers of a trace.
INHERITED = ("request_id", "traceparent", "tracestate", "baggage")

_NAME = re.compile(r"[a-z0-9_-]+")


class Headers(Mapping[str, str]):
    """A mapping that cannot be changed, and can be copied and pickled, which Python's own proxies cannot."""

    __slots__ = ("_texts",)

    def __init__(self, texts: dict[str, str]) -> None:
        self._texts = texts

    def __getitem__(self, name: str) -> str:
        return self._texts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def __hash__(self) -> int:
        return hash(frozenset(self._texts.items()))

    def __repr__(self) -> str:
        """The names alone: what they hold is for the handler."""
        return f"Headers({', '.join(self._texts)})"


#: Of a task that has none.
NO_HEADERS = Headers({})


def check_headers(headers: object) -> Headers:
    """A read-only copy of the headers of a task.

    Raises:
        InvalidTaskError: They are no headers; the message has no value of one.
    """
    if not isinstance(headers, Mapping):
        raise InvalidTaskError(f"headers: {type(headers).__name__} is no mapping of names to texts; use a dict")
    found = {check_header_name(name): _check_value(name, value) for name, value in headers.items()}
    size_bytes = sum(map(_size_bytes, found.items()))
    if size_bytes > MAX_HEADER_BYTES:
        raise InvalidTaskError(
            f"headers: {size_bytes} bytes are more than {MAX_HEADER_BYTES}; put what is large into the payload"
        )
    return Headers(found) if found else NO_HEADERS


def check_header_name(name: object) -> str:
    """Return `name` as plain text, or raise InvalidTaskError if no header may have it."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidTaskError(f"header {shown(name)}: use small letters, digits, '-' and '_', as in 'tenant-id'")
    return str.__str__(name)


def check_inherited(names: Sequence[str]) -> tuple[str, ...]:
    """The names of headers to be inherited; raises InvalidTaskError, and TypeError for a text in place of a list."""
    if isinstance(names, str):
        raise TypeError(f"inherit_headers: {shown(names)} is one text; give a list of names")
    return tuple(map(check_header_name, names))


def headers_in(kwargs: Any) -> Headers:
    """The headers among the keyword arguments of RQ's call; raises InvalidTaskError where they are damaged."""
    if not isinstance(kwargs, dict) or "headers" not in kwargs:
        return NO_HEADERS
    return check_headers(kwargs["headers"])


def inherit(
    given: Mapping[str, str], headers: Mapping[str, str], request_id: str | None, names: Iterable[str]
) -> Headers:
    """The headers of an enqueue, with those that it takes over from the task in whose handler it is made.

    Args:
        given: Its own, which win.
        headers: Those of the task.
        request_id: The task's, whichever source it has; None: it is not taken over.
        names: What is taken over beside `INHERITED`. What does not fit any more is left out: the caller cannot know of
            it.
    """
    found = dict(given)
    left_bytes = MAX_HEADER_BYTES - sum(map(_size_bytes, found.items()))
    for name in (*names, *INHERITED):
        value = request_id if name == "request_id" else headers.get(name)
        if value and name not in found and (size_bytes := _size_bytes((name, value))) <= left_bytes:
            found[name] = value
            left_bytes -= size_bytes
    return Headers(found) if found else NO_HEADERS


def has_request_id(payload: Any) -> bool:
    """True if a payload, as an application enqueues it, says itself to which request it belongs."""
    if isinstance(payload, msgspec.Raw):
        with suppress(msgspec.DecodeError, RecursionError):
            return has_request_id(msgspec.json.decode(payload))
        return False  # the enqueue will say so
    if not isinstance(payload, Mapping):
        written = getattr(payload, "__struct_encode_fields__", ("request_id",))
        return "request_id" in written and isinstance(getattr(payload, "request_id", None), str)
    return isinstance(payload.get("request_id"), str)


def _check_value(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidTaskError(f"header {shown(name)}: {type(value).__name__} is no text; use a str")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidTaskError(f"header {shown(name)}: its text is no UTF-8, for it holds surrogates") from None
    return str.__str__(value)


def _size_bytes(header: tuple[str, str]) -> int:
    return sum(len(part.encode()) for part in header)

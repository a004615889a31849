"""Hide what nobody should read in payloads, results, headers and errors, before any template, search or export.

What a page shows goes through `Redaction.clean` as a whole, and the names of its fields decide: what stands under one
of `PAYLOADS` is somebody's data, what stands under one of `ERRORS` may quote it. So a page needs to do nothing for it,
but to call such fields by these names.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime
from typing import Any

import msgspec

#: Fields that hold an application's data.
PAYLOADS = frozenset({"payload", "result", "headers"})
#: Fields with text that may quote an application's errors.
ERRORS = frozenset({"error", "last_error", "traceback", "message", "fact"})
#: A key that has one of these in it is hidden with all below it, at any depth.
SECRET_WORDS = (
    "password", "passwd", "secret", "token", "apikey", "authorization", "cookie", "session", "credit", "card", "iban",
    "ssn", "private",
)  # fmt: skip
HIDDEN = "[hidden]"
#: A shorter text is in too many others to be looked for in errors.
_LEAST_QUOTED = 4
_QUOTED = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"")

#: Makes of a task's type and payload, or result, what may be shown of it.
Hook = Callable[[str, Any], Any]


class Redaction:
    """Decides what is hidden.

    Args:
        paths: Hidden parts of payloads, such as ``user.*.email``; a ``*`` stands for any key or place.
        hook: The application's own, which is asked after all else.
    """

    def __init__(self, paths: Iterable[str] = (), hook: Hook | None = None) -> None:
        self._paths = [tuple(path.split(".")) for path in paths]
        self._hook = hook

    def clean(self, data: Any, *, shows_payloads: bool) -> Any:
        """What a page gets to see of its data: plain values, with moments.

        Args:
            data: Dataclasses, msgspec's structs, or plain values.
            shows_payloads: False to tell of payloads their shape and size alone, and of errors nothing that is quoted.
        """
        plain = msgspec.to_builtins(data, builtin_types=(datetime, date), enc_hook=str)
        hidden: set[str] = set()
        found = self._without_payloads(plain, hidden, shows_payloads=shows_payloads)
        if not hidden and shows_payloads:
            return found
        # The longest first, as one may stand in another.
        return _without_quotes("", found, sorted(hidden, key=len, reverse=True), hides_all=not shows_payloads)

    def _without_payloads(self, value: Any, hidden: set[str], *, shows_payloads: bool) -> Any:
        if isinstance(value, list | tuple):
            return [self._without_payloads(each, hidden, shows_payloads=shows_payloads) for each in value]
        if not isinstance(value, dict):
            return value
        task_type = str(value.get("type", ""))
        return {
            name: self._payload(task_type, inner, hidden, shows_payloads=shows_payloads)
            if name in PAYLOADS
            else self._without_payloads(inner, hidden, shows_payloads=shows_payloads)
            for name, inner in value.items()
        }

    def _payload(self, task_type: str, value: Any, hidden: set[str], *, shows_payloads: bool) -> Any:
        shown = self._hide(value, (), hidden)
        if not shows_payloads:
            return shape(value)
        return self._hook(task_type, shown) if self._hook else shown

    def _hide(self, value: Any, path: tuple[str, ...], hidden: set[str]) -> Any:
        """The value without its secrets, which are added to `hidden`."""
        if path and self._is_secret(path):
            hidden.update(_texts(value))
            return HIDDEN
        if isinstance(value, dict):
            return {name: self._hide(inner, (*path, str(name)), hidden) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._hide(inner, (*path, str(place)), hidden) for place, inner in enumerate(value)]
        return value

    def _is_secret(self, path: tuple[str, ...]) -> bool:
        name = re.sub(r"[^a-z]", "", path[-1].lower())
        return any(word in name for word in SECRET_WORDS) or any(_fits(path, wanted) for wanted in self._paths)


def shape(value: Any) -> str:
    """What kind of value it is, and how large, without its content."""
    if value is None:
        return "none"
    size = f"{_size(value):,} bytes"
    if isinstance(value, dict):
        return f"object with {len(value):,} keys, {size}"
    if isinstance(value, list | tuple):
        return f"list of {len(value):,}, {size}"
    return f"{_KINDS.get(type(value), 'value')}, {size}"


_KINDS: Mapping[type, str] = {str: "text", int: "number", float: "number", bool: "boolean"}


def _size(value: Any) -> int:
    try:
        return len(msgspec.json.encode(value, enc_hook=str))
    except UnicodeEncodeError:  # bytes that are no text
        return len(repr(value))


def _fits(path: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    return len(path) == len(wanted) and all(want in {"*", part} for part, want in zip(path, wanted, strict=True))


def _texts(value: Any) -> Iterator[str]:
    """The texts and numbers in a hidden value, as an error could quote them."""
    if isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
    elif isinstance(value, str | int | float) and len(str(value)) >= _LEAST_QUOTED and not isinstance(value, bool):
        yield str(value)


def _without_quotes(name: str, value: Any, hidden: list[str], *, hides_all: bool) -> Any:
    """The data with errors that quote nothing hidden; `hides_all`: that quote nothing."""
    if isinstance(value, str) and name in ERRORS:
        for text in hidden:
            value = value.replace(text, HIDDEN)
        return _QUOTED.sub(HIDDEN, value) if hides_all else value
    if isinstance(value, list | tuple):
        return [_without_quotes(name, each, hidden, hides_all=hides_all) for each in value]
    if isinstance(value, dict):
        return {
            key: inner if key in PAYLOADS else _without_quotes(key, inner, hidden, hides_all=hides_all)
            for key, inner in value.items()
        }
    return value

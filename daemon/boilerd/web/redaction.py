"""Hide what nobody should read in payloads, results, headers and errors, before any template, search or export.

What a page shows goes through `Redaction.clean` as a whole, and the names of its fields decide: what stands under one
of `PAYLOADS` is somebody's data, what stands under one of `ERRORS` may quote it. So a page needs to do nothing for it,
but to call such fields by these names.
"""

import functools
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime
from typing import Any

import msgspec

from boilerd.broker.task_rows import TaskRows
from boilerd.web.quoting import HIDDEN, Quotes

#: Fields that hold an application's data.
PAYLOADS = frozenset({"payload", "result", "headers"})
#: Fields with text that may quote an application's data.
ERRORS = frozenset({"error", "last_error", "traceback", "message", "fact", "note"})
#: Fields with a digest of the payload, by which it could be guessed.
DIGESTS = frozenset({"unique_key", "digest"})
#: A key that has one of these in it is hidden with all below it, at any depth.
SECRET_WORDS = (
    "password", "passwd", "secret", "token", "apikey", "authorization", "cookie", "session", "credit", "card", "iban",
    "ssn", "private",
)  # fmt: skip
#: Names of what another field beside it holds, as in a list of headers.
_NAMING = ("name", "key", "header", "field")
#: What could be such a name; a sentence or a path is none.
_NAME = re.compile(r"[\w.:-]{1,100}")

#: What has values in it; most values of a page have none, and a call for each would take longer than all else.
_NESTED = (dict, list, tuple)
_NESTED_TYPES, _DATA = frozenset(_NESTED), PAYLOADS | DIGESTS

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

    @functools.cached_property
    def settings(self) -> str:
        """What tells it from one that hides more or less; of the hook, only its name."""
        return repr((sorted(self._paths), getattr(self._hook, "__qualname__", self._hook is not None)))

    def clean(self, data: Any, *, shows_payloads: bool) -> Any:
        """What a page gets to see of its data: plain values, with moments.

        Args:
            data: Dataclasses, msgspec's structs, or plain values.
            shows_payloads: False to tell of payloads their shape and size alone, and of errors nothing that is quoted.
        """
        plain = msgspec.to_builtins(data, builtin_types=(datetime, date), enc_hook=_plain)
        if not isinstance(plain, _NESTED):
            return plain
        quotes = Quotes(hides_all=not shows_payloads)
        found = self._without_payloads(plain, quotes, shows_payloads=shows_payloads)
        quoting = ERRORS | {"result"} if shows_payloads else ERRORS
        return _without_quotes(found, quotes, quoting)

    def _without_payloads(self, value: Any, quotes: Quotes, *, shows_payloads: bool) -> Any:
        if _is_bare(value, _DATA):
            return value
        if not isinstance(value, dict):
            return [
                self._without_payloads(each, quotes, shows_payloads=shows_payloads)
                if isinstance(each, _NESTED)
                else each
                for each in value
            ]
        task_type, unread = str(value.get("type", "")), value.get("unread_bytes")
        found = dict(value)
        for name, inner in value.items():
            if name in PAYLOADS and unread:
                found[name] = f"{unread:,} bytes, too many for a list"
            elif name in PAYLOADS:
                found[name] = self._payload(task_type, inner, quotes, shows_payloads=shows_payloads)
            elif name in DIGESTS and inner and not shows_payloads:
                found[name] = HIDDEN
            elif isinstance(inner, _NESTED):
                found[name] = self._without_payloads(inner, quotes, shows_payloads=shows_payloads)
        return found

    def _payload(self, task_type: str, value: Any, quotes: Quotes, *, shows_payloads: bool) -> Any:
        if not shows_payloads:
            quotes.add(value)
            return shape(value)
        shown = self._hide(value, ())
        if self._hook:
            shown = self._hook(task_type, shown)
        quotes.add(value, shown)
        return shown

    def _hide(self, value: Any, path: tuple[str, ...]) -> Any:
        """The value without its secrets."""
        if path and self._is_secret(path):
            return HIDDEN
        if isinstance(value, dict):
            named = {"value"} if any(_names_secret(value.get(name)) for name in _NAMING) else set()
            return {
                name: HIDDEN if name in named else self._hide(inner, (*path, str(name)))
                for name, inner in value.items()
            }
        if isinstance(value, list | tuple):
            if len(value) == 2 and _names_secret(value[0]):  # a pair, as HTTP's headers are kept
                return [value[0], HIDDEN]
            return [self._hide(inner, (*path, str(place))) for place, inner in enumerate(value)]
        return value

    def _is_secret(self, path: tuple[str, ...]) -> bool:
        return _is_secret_name(path[-1]) or any(_fits(path, wanted) for wanted in self._paths)


def _is_bare(value: Any, names: frozenset[str]) -> bool:
    """Whether it stays as it is: it has no values that have some in them, and no field of these names."""
    if isinstance(value, dict):
        return names.isdisjoint(value) and _NESTED_TYPES.isdisjoint(map(type, value.values()))
    return isinstance(value, list) and _NESTED_TYPES.isdisjoint(map(type, value))


def _plain(value: Any) -> Any:
    """What msgspec has no plain value for."""
    return [*value] if isinstance(value, TaskRows) else str(value)


def _is_secret_name(name: str) -> bool:
    """Whether what has this name is hidden, in whatever letters it is written."""
    return _is_short_secret_name(name) if len(name) < 64 else _has_secret_word(name)


def _has_secret_word(name: str) -> bool:
    plain = re.sub(r"[^a-z]", "", unicodedata.normalize("NFKD", name).casefold())
    return any(word in plain for word in SECRET_WORDS)


_is_short_secret_name = functools.lru_cache(1024)(_has_secret_word)


def _names_secret(value: Any) -> bool:
    """Whether a text is such a name of what stands beside it."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None and _is_secret_name(value)


def shape(value: Any) -> str:
    """What kind of value it is, and how large, without its content."""
    if value is None:
        return "none"
    size = f"{_size(value):,} bytes"
    if isinstance(value, dict):
        return f"object with {len(value):,} key{'' if len(value) == 1 else 's'}, {size}"
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


def _without_quotes(value: Any, quotes: Quotes, quoting: frozenset[str], *, is_unread: bool = False) -> Any:
    """The data with fields of these names that quote nothing hidden, or of a payload that was not read."""
    if _is_bare(value, quoting):
        return value
    if not isinstance(value, dict):
        return [
            _without_quotes(each, quotes, quoting, is_unread=is_unread) if isinstance(each, _NESTED) else each
            for each in value
        ]
    found, is_unread = dict(value), is_unread or bool(value.get("unread_bytes"))
    for name, inner in value.items():
        if name in PAYLOADS and is_unread:
            continue
        if name in quoting:
            found[name] = HIDDEN if is_unread and inner else quotes.clean(inner)
        elif name not in PAYLOADS and isinstance(inner, _NESTED):
            found[name] = _without_quotes(inner, quotes, quoting, is_unread=is_unread)
    return found

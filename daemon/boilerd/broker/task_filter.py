"""What somebody looks for among tasks, as a search box has it: ``type:mail:* error:timeout "two words" -word``."""

import fnmatch
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from boilerd.errors import InvalidTaskError, shown
from boilerd.tasks.task import TaskState
from boilerd.units import Duration, in_utc

#: A search has no more parts than this.
MOST_PARTS = 20
#: Kind, field of the job hash, value, and its other form, as pick.lua takes them.
Condition = tuple[str, str, str | bytes, str | bytes]
#: What of a task a word is looked for in, beside payload, headers and result.
_SHOWN = ("id", "type", "last_error", "worker", "unique_key", "concurrency_key")
_MOMENTS = ("created_at", "enqueued_at", "started_at", "last_failed_at", "ended_at")
_PART = re.compile(r'(-?)((?:[A-Za-z][\w.*-]*:)?)(?:"([^"]*)"|(\S+))')
#: What no JSON has as it is within a text.
_ESCAPED = re.compile(r'["\\\x00-\x1f]')


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """What a task must have; of nothing at all, every task has it.

    Words are found in capitals or not, where the letters are ASCII.

    Attributes:
        words: In its ID, type, error, worker, keys, payload, headers or result.
        without: Words that it has nowhere there.
        type: Its type; with ``*`` at the end, what that begins with.
        errors: What its last error has in it.
        headers: Its headers, by name.
        payload: What stands in its payload, by path, such as ``user.id``.
        worker: What the name of its last worker has in it.
        key: Its unique or concurrency key.
        failure: The fingerprint of the failure group of its last failure.
        since: The last thing that happened to it was not before.
        until: The last thing that happened to it was not after.
        queue: Where it stands; empty: the filter does not say.
        state: In which state; None: the filter does not say.
        reads_payloads: False: nobody looks into payloads, headers and results, so that not even the time that it takes
            tells of them.
    """

    words: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    type: str = ""
    errors: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    payload: Mapping[str, str] = field(default_factory=dict)
    worker: str = ""
    key: str = ""
    failure: str = ""
    since: datetime | None = None
    until: datetime | None = None
    queue: str = ""
    state: TaskState | None = None
    reads_payloads: bool = True

    @property
    def chooses(self) -> bool:
        """Whether it says more than queue and state."""
        words = self.words or self.without or self.type or self.errors or self.headers or self.payload
        return bool(words or self.worker or self.key or self.failure or self.since or self.until)

    def without_payloads(self) -> "TaskFilter":
        """The filter, for somebody who may not see payloads; raises InvalidTaskError where it is about them."""
        for name, wanted in (("payload", self.payload), ("header", self.headers)):
            if wanted:
                raise InvalidTaskError(
                    f"{name}.{next(iter(wanted))}: you may not see payloads and headers; leave it out"
                )
        return replace(self, reads_payloads=False)

    def conditions(self) -> Iterator[Condition]:
        """What pick.lua can tell of it: every task that fits meets these."""
        if self.type:
            is_open = self.type.endswith("*")
            yield ("begins", "task_type", self.type[:-1], "") if is_open else ("is", "task_type", self.type, "")
        if self.failure:
            yield "is", "fingerprint", self.failure, ""
        yield from (("has", "last_error", _small(text), "") for text in self.errors)
        yield from (("has", "worker_name", _small(text), "") for text in (self.worker,) if text)
        yield from map(headers_have, self.headers.values())
        words = [*self.payload.values(), *self.words, *([self.key] if self.key else [])]
        yield from (_word(word, self.reads_payloads) for word in words)
        for kind, moment in (("since", self.since), ("until", self.until)):
            if moment is not None:
                yield kind, "", f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z", ""

    def fits(self, task: Mapping[str, Any]) -> bool:
        """Whether a task has it, as far as the one may see who asks: plain values, by the names of `TaskDetail`."""
        return all(check(task) for check in self._checks())

    def _checks(self) -> Iterator[Callable[[Mapping[str, Any]], bool]]:
        if self.type:
            yield lambda task: _fits_type(task["type"], self.type)
        if self.failure:
            yield lambda task: task["fingerprint"] == self.failure
        if self.words or self.without:
            yield self._fits_words
        if self.errors or self.worker or self.key:
            yield self._fits_texts
        if self.headers or self.payload:
            yield self._fits_data
        if self.since or self.until:
            yield self._fits_moment

    def _fits_words(self, task: Mapping[str, Any]) -> bool:
        text = _text_of(task)
        return all(_stands_in(text, word) for word in self.words) and not any(
            _stands_in(text, word) for word in self.without
        )

    def _fits_texts(self, task: Mapping[str, Any]) -> bool:
        error, worker = _small(task["last_error"]), _small(task["worker"])
        return (
            all(_small(text) in error for text in self.errors)
            and _small(self.worker) in worker
            and (not self.key or self.key in {task["unique_key"], task["concurrency_key"]})
        )

    def _fits_data(self, task: Mapping[str, Any]) -> bool:
        headers = task["headers"] if isinstance(task["headers"], Mapping) else {}
        return all(headers.get(name) == value for name, value in self.headers.items()) and all(
            _has_at(task["payload"], path.split("."), value) for path, value in self.payload.items()
        )

    def _fits_moment(self, task: Mapping[str, Any]) -> bool:
        moments = [task[name] for name in _MOMENTS if isinstance(task[name], datetime)]
        last = max(moments, default=None)
        return last is not None and (not self.since or last >= self.since) and (not self.until or last <= self.until)


def parse_filter(given: str, now: datetime) -> TaskFilter:
    """Read what somebody typed; raises InvalidTaskError."""
    found = TaskFilter()
    for number, part in enumerate(_PART.finditer(given)):
        if number >= MOST_PARTS:
            raise InvalidTaskError(f"search: it has more than {MOST_PARTS} parts, leave some out")
        minus, name, quoted, plain = part.groups()
        found = _with(found, minus, name.removesuffix(":"), plain if quoted is None else quoted, now)
    return found


def _with(found: TaskFilter, minus: str, name: str, value: str, now: datetime) -> TaskFilter:
    """The filter with one part more."""
    kind, dot, path = name.partition(".")
    if dot and kind == "payload":
        return replace(found, payload={**found.payload, path: value})
    if dot and kind == "header":
        return replace(found, headers={**found.headers, path: value})
    # A colon may stand in a word, as in a type or an address.
    word = f"{name}:{value}" if name else value
    if minus:
        return replace(found, without=(*found.without, word))
    if name not in _NAMES:
        return replace(found, words=(*found.words, word))
    return replace(found, **_NAMES[name](found, value, now))


def _header(found: TaskFilter, value: str, _now: datetime) -> dict[str, Any]:
    name, equals, text = value.partition("=")
    if not equals:
        raise InvalidTaskError(f"header:{shown(value)}: it is no NAME=VALUE, as in header:request_id=r-9")
    return {"headers": {**found.headers, name: text}}


def _state(_found: TaskFilter, value: str, _now: datetime) -> dict[str, Any]:
    try:
        return {"state": TaskState(value)}
    except ValueError:
        raise InvalidTaskError(f"state:{shown(value)}: not known; use one of {', '.join(TaskState)}") from None


def _moment(value: str, now: datetime) -> datetime:
    """A time ago, such as ``2h``, or a moment, in UTC where it does not say."""
    try:
        moment = datetime.fromisoformat(value)
        return in_utc(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except ValueError:
        pass
    try:
        return now - timedelta(seconds=Duration.parse(value))
    except (ValueError, OverflowError):
        raise InvalidTaskError(f"{shown(value)}: it is no time; use 2h, or 2026-01-31T14:00") from None


_NAMES: Mapping[str, Callable[[TaskFilter, str, datetime], dict[str, Any]]] = {
    "type": lambda _found, value, _now: {"type": value},
    "queue": lambda _found, value, _now: {"queue": value},
    "state": _state,
    "error": lambda found, value, _now: {"errors": (*found.errors, value)},
    "header": _header,
    "worker": lambda _found, value, _now: {"worker": value},
    "key": lambda _found, value, _now: {"key": value},
    "failure": lambda _found, value, _now: {"failure": value},
    "after": lambda _found, value, now: {"since": _moment(value, now)},
    "before": lambda _found, value, now: {"until": _moment(value, now)},
}
#: What may stand before a colon.
NAMES = (*_NAMES, "payload.PATH")


def headers_have(value: str, *, in_payload: bool = False) -> Condition:
    """The condition that headers have this value, or the payload."""
    return "data" if in_payload else "headers", "data", msgspec.json.encode(value)[1:], json.dumps(value)[1:]


def _word(word: str, reads_payloads: bool) -> Condition:
    """The condition that a task has the longest part of a word that JSON writes as it is, or in ASCII."""
    part = max(_ESCAPED.split(word), key=len)
    raw = part.encode("utf-8", "surrogateescape").lower()
    try:
        escaped = json.dumps(part)[1:-1].lower()
    except UnicodeError:
        escaped = ""
    return "word", "data" if reads_payloads else "", raw, escaped or raw


def _stands_in(text: str, word: str) -> bool:
    """Whether it does: as it is, or as JSON writes it within a text."""
    return _small(word) in text or _small(json.dumps(word, ensure_ascii=False)[1:-1]) in text


def _small(text: Any) -> str:
    """The text with small letters, as Lua makes them: of ASCII alone."""
    return str(text).encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")


def _text_of(task: Mapping[str, Any]) -> str:
    data = [_as_text(task[name]) for name in ("payload", "result") if task[name] is not None]
    headers = task["headers"] if isinstance(task["headers"], Mapping) else {}
    return _small("\n".join([*(str(task[name]) for name in _SHOWN), *data, *headers.values(), *headers]))


def _as_text(value: Any) -> str:
    """A text as it is, anything else as JSON: numbers as they were written into Redis, where that can be."""
    if isinstance(value, str):
        return value
    with suppress(TypeError, ValueError, OverflowError, RecursionError):
        return msgspec.json.encode(value).decode()
    return json.dumps(value, ensure_ascii=False, default=str, separators=(",", ":"))


def _fits_type(task_type: str, wanted: str) -> bool:
    return task_type.startswith(wanted[:-1]) if wanted.endswith("*") else task_type == wanted


def _has_at(value: Any, path: list[str], wanted: str) -> bool:
    """Whether this stands there; a ``*`` stands for any key or place."""
    if not path:
        return _small(_as_text(value)) == _small(wanted)
    inner = (
        list(value.items()) if isinstance(value, Mapping) else list(enumerate(value)) if isinstance(value, list) else []
    )
    return any(_has_at(each, path[1:], wanted) for name, each in inner if fnmatch.fnmatchcase(str(name), path[0]))

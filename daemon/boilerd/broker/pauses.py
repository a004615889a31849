"""Pauses of queues and periodic tasks that somebody gave a note or an end.

What is paused stands where it always did, so that every worker and scheduler heeds it; beside it stands why, and until
when. A scheduler resumes what has come to its end; one of a version that knows no ends leaves it paused.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec
import redis

from boilerd.broker import keys
from boilerd.broker.connection import text
from boilerd.broker.refusals import expecting, translated
from boilerd.errors import InvalidTaskError

#: Characters of a note.
MOST_NOTE = 500
Kind = Literal["queue", "cron"]


@dataclass(frozen=True, slots=True)
class Pause:
    """What somebody said of a pause.

    Attributes:
        kind: ``queue`` or ``cron``.
        name: Of the queue or periodic task.
        since: Since when it is paused.
        until: When a scheduler resumes it; None: nobody does.
        note: Why; empty: nobody said.
    """

    kind: str
    name: str
    since: datetime | None = None
    until: datetime | None = None
    note: str = ""

    def has_ended(self, now: datetime) -> bool:
        """Whether it has an end that is over."""
        return self.until is not None and self.until <= now


class _Told(msgspec.Struct, frozen=True):
    """A pause as it is stored."""

    since: float = 0.0
    until: float | None = None
    note: str = ""


def describe(
    connection: redis.Redis, kind: Kind, name: str, note: str, until: datetime | timedelta | None
) -> dict[str, str]:
    """Write beside a pause what was said of it, or take away what was said before; as the audit has it.

    Raises:
        InvalidTaskError: The note is too long; or the end has no time zone, is past, or too far away to be kept.
    """
    if len(note) > MOST_NOTE:
        raise InvalidTaskError(f"note: it has {len(note):,} characters, at most {MOST_NOTE} are kept")
    asked: Any = connection  # redis-py's types take no bytes
    with translated():
        seconds, _ = connection.time()
    ends = None if until is None else _end(until, float(seconds))
    at = "" if ends is None else _readable(ends, until)
    if ends is None and not note:
        forget(connection, kind, name)
        return {}
    told = {"since": seconds, "note": note, **({} if ends is None else {"until": ends})}
    with expecting("hash", keys.PAUSES):
        asked.hset(keys.PAUSES, f"{kind}:{name}", json.dumps(told))
    return {"note": note, "until": at}


def paused_again(before: Pause | None, note: str, until: datetime | timedelta | None) -> str:
    """Say what came of a pause of what was paused already, and of which `before` was said."""
    changed = [
        *(["note"] if note != (before.note if before else "") else []),
        *(["end"] if until is not None or (before and before.until) else []),
    ]
    if not changed:
        return "was paused already"
    became = "changed" if note or until is not None else "gone"
    return f"was paused already; its {' and '.join(changed)} {'are' if len(changed) > 1 else 'is'} {became}"


def forget(connection: redis.Redis, kind: Kind, name: str) -> None:
    """Take away what was said of a pause; where another program's key stands there, nothing was said."""
    with translated(), suppress(redis.ResponseError):
        connection.hdel(keys.PAUSES, f"{kind}:{name}")


def read_pauses(connection: redis.Redis) -> Mapping[tuple[str, str], Pause]:
    """Kind and name → what was said of its pause; also of one that is over, or was resumed by an older version."""
    asked: Any = connection
    with expecting("hash", keys.PAUSES):
        found = asked.hgetall(keys.PAUSES)
    pauses = (_to_pause(*map(text, pair)) for pair in found.items())
    return {(pause.kind, pause.name): pause for pause in pauses if pause}


def _end(until: datetime | timedelta, now_s: float) -> float:
    if isinstance(until, timedelta):
        ends_s = now_s + until.total_seconds()
    elif until.tzinfo is None:
        raise InvalidTaskError("until: it has no time zone; give one, as in datetime.now(UTC) + timedelta(hours=1)")
    else:
        ends_s = until.timestamp()
    if ends_s <= now_s:
        raise InvalidTaskError(f"until: {until} is past")
    return ends_s


def _readable(ends_s: float, until: datetime | timedelta | None) -> str:
    try:
        return datetime.fromtimestamp(ends_s, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError) as error:  # what nobody can read would be no end
        raise InvalidTaskError(f"until: {until} is too far away to be kept; leave it out for no end") from error


def _to_pause(field: str, value: str) -> Pause | None:
    kind, _, name = field.partition(":")
    try:
        told = msgspec.convert(json.loads(value), _Told)
        until = None if told.until is None else datetime.fromtimestamp(told.until, UTC)
        return Pause(kind, name, datetime.fromtimestamp(told.since, UTC), until, told.note)
    except (ValueError, OverflowError, OSError, RecursionError, msgspec.ValidationError):
        return None

"""What Redis tells of itself, for whoever looks after it: nothing here writes."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import redis

from boilerd.broker.connection import text
from boilerd.broker.refusals import translated
from boilerd.broker.scripts import scripts
from boilerd.broker.server_check import hazards, lacking, server_info

#: How often it is asked for its latency.
PINGS = 5
#: Entries of its slow log that are read.
MOST_SLOW = 50


@dataclass(frozen=True, slots=True)
class SlowCommand:
    """A command that Redis found slow.

    Attributes:
        at: When it ran.
        took_s: How long.
        what: The command, without what it was given; of a script of ours its name.
        client: Who sent it, by the name of the connection.
        is_ours: Whether it is a script of ours, or was sent by a process of boilerd's.
    """

    at: datetime | None
    took_s: float
    what: str
    client: str
    is_ours: bool


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What Redis tells of itself.

    Attributes:
        name: Redis or Valkey, with its version; empty: it does not tell.
        latency_s: The median of a few short calls, from here.
        info: What it tells, by its own names; nothing where this user may not ask.
        hazards: Its settings that can lose tasks.
        lacking: What boilerd goes without.
        slow: Its slow log, latest first; None: this user may not read it.
    """

    name: str
    latency_s: float
    info: Mapping[str, Any] = field(default_factory=dict)
    hazards: Sequence[str] = ()
    lacking: Sequence[str] = ()
    slow: Sequence[SlowCommand] | None = None


def read_server(connection: redis.Redis) -> ServerFacts:
    """Ask it; about fifteen short commands."""
    latency_s = sorted(_answered_in_s(connection) for _ in range(PINGS))[PINGS // 2]
    info = server_info(connection)
    own, other = info.get("valkey_version"), info.get("redis_version")
    name = f"Valkey {own}" if own else f"Redis {other}" if other else ""
    return ServerFacts(name, latency_s, info, hazards(connection), lacking(connection), _slow(connection))


def _answered_in_s(connection: redis.Redis) -> float:
    began_s = time.perf_counter()
    with translated():
        connection.time()  # a PING is refused where Redis cannot save, when this is looked at most
    return time.perf_counter() - began_s


def _slow(connection: redis.Redis) -> list[SlowCommand] | None:
    asked: Any = connection
    with translated():
        try:
            found = asked.slowlog_get(MOST_SLOW)
        except redis.ResponseError:  # not every user may
            return None
    return [_to_slow(entry) for entry in found]


def _to_slow(entry: Mapping[str, Any]) -> SlowCommand:
    words = text(entry.get("command") or b"").split(" ", 2)  # what is behind may be a payload
    script = _script_names().get(words[1].lower() if len(words) > 1 else "", "")
    client = text(entry.get("client_name") or b"")
    what = f"script {script}" if script else words[0][:40].upper()
    return SlowCommand(
        _moment(entry.get("start_time")), int(entry.get("duration") or 0) / 1e6, what, client[:100],
        bool(script) or client.startswith("boilerd"),
    )  # fmt: skip


def _script_names() -> Mapping[str, str]:
    return {script.digest: name for name, script in scripts().items()}


def _moment(seconds: Any) -> datetime | None:
    with suppress(TypeError, ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(seconds, UTC)
    return None

"""The Lua scripts: their text, and how one is run in one round trip."""

import functools
import hashlib
import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import hiredis
import redis
from redis.connection import Connection

from boilerd.broker.connection import OwnPool, raw
from boilerd.broker.constants import IN_LUA

_SCRIPTS = (
    "act", "advance", "birth", "cancel", "death", "enqueue", "expired", "extend", "fail", "forward", "held", "janitor",
    "mark", "release", "result", "tick",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, and the digest by which Redis knows it once it has seen it."""

    source: str
    digest: str

    @classmethod
    def of(cls, source: str) -> Self:
        """The script of this text."""
        return cls(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


def call_script(
    pool: redis.ConnectionPool,
    script: Script,
    args: Sequence[str | bytes],
    first: Sequence[str | bytes] = (),
    *,
    answers_soon: bool = False,
) -> Any:
    """Run the script in one round trip, or two where Redis does not know it yet; raises redis-py's errors.

    On a connection of the pool, without the layers that redis-py has above it (retries, events,
    conversion of answers): they are a quarter of the CPU time that a call takes its client.

    Args:
        pool: Where to get a connection.
        script: What to run.
        args: Its ARGV; it has no KEYS.
        first: A command that is sent with it, such as one that blocks: the script runs when that has ended,
            without a word from here. Its answer is dropped.
        answers_soon: Whether it is worth it to stay awake for the answer.
    """
    own_pool = pool if isinstance(pool, OwnPool) else None
    connection = own_pool.get_for_script() if own_pool else pool.get_connection()
    is_clean = False
    try:
        answer = _ask(connection, script, args, first, own_pool if answers_soon else None)
        is_clean = True
    except redis.ResponseError:
        is_clean = True
        raise
    finally:
        if not is_clean:
            # Interrupted: the answer may be under way, and would be taken for that of the next command.
            connection.disconnect()
        pool.release(connection)
    return answer


def _ask(
    connection: Connection,
    script: Script,
    args: Sequence[str | bytes],
    first: Sequence[str | bytes],
    spinning: OwnPool | None,
) -> Any:
    try:
        sent = _packed(["EVALSHA", script.digest, "0", *args])
        connection.send_packed_command([_packed(first) + sent if first else sent])  # type: ignore[no-untyped-call]
        if first:
            _read_first(connection)
        if spinning:
            spinning.spin(connection)
        return connection.read_response()
    except redis.exceptions.NoScriptError:
        connection.send_packed_command([_packed(["EVAL", script.source, "0", *args])])  # type: ignore[no-untyped-call]
        return connection.read_response()


def _read_first(connection: Connection) -> None:
    """Read what the command before the script answered; where that was refused, the script has run all the same."""
    try:
        connection.read_response()
    except redis.ResponseError:
        # Or the next command would get this answer.
        connection.read_response()
        raise


def _packed(command: Sequence[str | bytes]) -> bytes:
    """The command as it is sent; redis-py's own way looks at each argument several times.

    No numbers: hiredis (3.5) makes text of them as well, but crashes when a signal handler raises meanwhile.
    """
    try:
        packed: bytes = hiredis.pack_command(tuple(command))  # type: ignore[arg-type]
    except UnicodeEncodeError:  # what a stranger named in bytes that are no text
        packed = hiredis.pack_command(tuple(raw(part) if isinstance(part, str) else part for part in command))  # type: ignore[arg-type]
    return packed


@functools.cache
def scripts() -> dict[str, Script]:
    """All scripts by name; read once, before the daemon forks."""
    return {name: Script.of(script_source(name)) for name in _SCRIPTS}


def script_source(name: str) -> str:
    """The text of a script as it is sent to Redis: behind the parts that it shares with others."""
    stores = name in {"enqueue", "tick"}
    # A script that stores no new task makes room, or keeps what is there: it must go on when Redis is full.
    flags = "" if stores else " flags=allow-oom"
    return f"#!lua{flags}\n" + "\n".join(map(_part, ("common", "store" if stores else "claims", name)))


@functools.cache
def _part(name: str) -> str:
    """The text of a file in lua/, behind the constants that it shares with Python."""
    file = importlib.resources.files("boilerd.broker") / "lua" / f"{name}.lua"
    constants = IN_LUA.get(name, {}).items()
    return "".join(f"local {constant} = {_lua(value)}\n" for constant, value in constants) + file.read_text("utf-8")


def _lua(value: object) -> str:
    """The value as Lua writes it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_lua(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple):
        return "{" + ", ".join(map(_lua, value)) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}'" if isinstance(value, str) else repr(value)

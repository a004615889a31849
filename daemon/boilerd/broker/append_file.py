"""The append-only file of a broker: whether all that was accepted is in it, asked before the server is ended.

A Valkey answers before it knows whether the file could be written. Where the disk is full it keeps what was accepted
since, refuses all further writes, and tries once a second to write the rest. But when it is told to end, it ends,
and the rest is lost. So whoever ends it asks here before.
"""

from typing import Any

import redis

from boilerd.broker.refusals import translated
from boilerd.broker.server_check import server_info

#: Clients that write wait so long at most for a server that is about to end; longer than it takes to be told.
HOLD_MS = 30_000


def unwritten_bytes(connection: redis.Redis) -> int:
    """How many accepted bytes are not in the file, because its last write failed; 0: it did not."""
    return unwritten_in(server_info(connection, "persistence"))


def unwritten_in(info: dict[str, Any]) -> int:
    """The same, of what Redis has told of itself."""
    return 0 if _is_well(info) else max(1, int(info.get("aof_buffer_length", 1)))


def close(connection: redis.Redis) -> int:
    """Let nobody write any more, unless the file's last write failed; how many accepted bytes are not in it.

    0: the server may be ended. Clients that write now wait, and what they sent is not carried out.
    """
    if left := unwritten_bytes(connection):
        return left
    _send(connection, "CLIENT", "PAUSE", HOLD_MS, "WRITE")
    info = server_info(connection, "persistence")
    if not _is_well(info):
        _send(connection, "CLIENT", "UNPAUSE")  # they are told at once that nothing is stored
        return unwritten_bytes(connection) or 1
    return int(info.get("aof_buffer_length", 0))  # it waits for the disk


def refuse_new(connection: redis.Redis) -> None:
    """Accept no new task any more: of a server without memory. Outcomes, and all else that makes room, are."""
    _send(connection, "CONFIG", "SET", "maxmemory", 1)


def _is_well(info: dict[str, object]) -> bool:
    return info.get("aof_last_write_status", "ok") == "ok"


def _send(connection: redis.Redis, *words: str | int) -> None:
    with translated():
        connection.execute_command(*words)  # type: ignore[no-untyped-call]

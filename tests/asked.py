"""What clients have sent Valkey, and how long that took, as its logs have it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

#: Entries of a log.
_MOST = 50_000
#: Microseconds from which on a command is logged where it is about the longest one. To log all that a script calls
#: makes it take a fifth longer.
LONG_US = 100


def begin(connection: Any) -> None:
    """Have it log all."""
    connection.config_set("slowlog-max-len", _MOST)
    connection.config_set("commandlog-large-request-max-len", _MOST)
    log_from(connection, 0)


def log_from(connection: Any, slow_us: int) -> None:
    """Have it log what is sent, and what takes so long or longer; -1: nothing."""
    connection.config_set("commandlog-request-larger-than", min(slow_us, 1) or 1)
    connection.config_set("slowlog-log-slower-than", slow_us)


def forget(connection: Any) -> None:
    """Empty the logs."""
    connection.execute_command("COMMANDLOG", "RESET", "large-request")
    connection.slowlog_reset()


def logged(connection: Any, log: str) -> list[Any]:
    """What a log has of clients by TCP, latest first: a number, when, how much, and the command."""
    entries = connection.execute_command("COMMANDLOG", "GET", _MOST, log, NEVER_DECODE=True)
    return [entry for entry in entries if entry[4].startswith(b"127.0.0.1")]


def newest(connection: Any) -> int:
    """The number of the entry that the log of slow commands got last."""
    entries = connection.slowlog_get(1)
    return int(entries[0]["id"]) if entries else -1


def asked(connection: Any, used_ms: float) -> dict[str, Any]:
    """What clients by TCP have sent Redis since its logs were emptied, in which time it used so much CPU.

    Of what took long, the log has what a script calls as well, each before the script, whose time has it in it. That of
    large requests, of one byte on, has only what was sent. Both have the same order.
    The time is by the clock on the wall: where the machine is busy, the CPU is less than that.
    """
    sent, done = logged(connection, "large-request"), iter(logged(connection, "slow"))
    took_ms = [next(entry[2] for entry in done if entry[3] == command) / 1000 for _, _, _, command, *_ in sent]
    return {
        "redis_ms": min(sum(took_ms), used_ms), "commands": len(sent),
        "read": sum(command[0] == b"HGETALL" for _, _, _, command, *_ in sent),  # tasks, in a search
        "has_picture": any(command[0] == b"INFO" for _, _, _, command, *_ in sent),
    }  # fmt: skip


def long_ones(connection: Any, request: Callable[[], object]) -> dict[tuple[bytes, ...], float]:
    """The commands of a request that took Redis long, and how many milliseconds; it logs from `LONG_US` on.

    The log is not emptied before: what was freed much at once, an allocator puts in order later, and another command's
    time has that in it.
    """
    before = newest(connection)
    request()
    return {tuple(entry[3]): entry[2] / 1000 for entry in logged(connection, "slow") if entry[0] > before}


def longest_ms(found: Sequence[Mapping[tuple[bytes, ...], float]]) -> float:
    """What the longest command took: of each that `long_ones` had every time, the least.

    What else the machine does makes one longer now and then, and nothing makes it shorter.
    """
    always = set.intersection(*map(set, found)) if found else set[tuple[bytes, ...]]()
    return max((min(each[command] for each in found) for command in always), default=0.0)

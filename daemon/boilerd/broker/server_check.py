"""Check that the server is usable, and warn about settings that can lose tasks."""

import hashlib
import re
from typing import Any

import redis

from boilerd.broker import keys
from boilerd.broker.connection import text
from boilerd.broker.refusals import translated
from boilerd.errors import BrokerRefusedError

#: Writes one element of a list, for BLPOP to take away again. Like the scripts that claim and acknowledge, it may run
#: when Redis is full. It looks at a key of RQ's too: a cluster refuses that, unless all keys are in one slot.
_PROBE = """#!lua flags=allow-oom
redis.call('DEL', ARGV[1])
redis.call('RPUSH', ARGV[1], '1')
redis.call('PEXPIRE', ARGV[1], 1000)
redis.call('EXISTS', ARGV[2])
"""
#: The address of a host where Redis does not tell it.
UNKNOWN = "unknown"
#: As it stands in the answer to CLIENT INFO, in front of its port; that of a Unix socket is 0.
_ADDRESS = re.compile(r"\baddr=(.*?):\d+ \w+=", re.DOTALL)
_LEAST_VERSIONS = {"Redis": 7, "Valkey": 8}


def check(connection: redis.Redis) -> str:
    """Make sure that Redis is usable; its name and version.

    Raises:
        BrokerUnableError: Redis takes no writes at present.
        BrokerRefusedError: The user has too few permissions, or the server is too old.
        BrokerUnavailableError: Redis does not answer.
    """
    with translated():
        connection.ping()  # refused while it loads; INFO is not
    name, version = _version(connection)
    if version and int(version.partition(".")[0]) < _LEAST_VERSIONS[name]:
        raise BrokerRefusedError(f"{name} {version} is too old; boilerd needs Redis 7 or Valkey 8, or newer")
    probe(connection)
    return f"{name} {version or 'of an unknown version'}"


def server_info(connection: redis.Redis, *sections: str) -> dict[str, Any]:
    """What Redis tells of itself; nothing where it has no INFO, or this user may not ask."""
    with translated():
        try:
            found: dict[str, Any] = connection.info(*sections)
        except redis.ResponseError:
            return {}
    return found


def _version(connection: redis.Redis) -> tuple[str, str]:
    """Name and version of the server; no version where it does not tell."""
    if info := server_info(connection, "server"):
        own = info.get("valkey_version")
        return ("Valkey", str(own)) if own else ("Redis", str(info["redis_version"]))
    with translated():
        try:
            answer = connection.execute_command("HELLO")  # type: ignore[no-untyped-call]
        except redis.ResponseError:
            return "Redis", ""
    told = dict(zip(answer[::2], answer[1::2], strict=True))
    return told[b"server"].decode().capitalize(), told[b"version"].decode()


def probe(connection: redis.Redis, *, is_storing: bool = False) -> None:
    """Run a script that writes, and take away what it wrote: all else needs both.

    Args:
        connection: The client to try them on.
        is_storing: True to make sure as well that there is memory for new tasks.

    Raises:
        BrokerError: Redis refused, or did not answer.
    """
    script = _PROBE.replace(" flags=allow-oom", "") if is_storing else _PROBE
    digest = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
    key = keys.PROBE
    with translated(), connection.pipeline(transaction=False) as pipeline:
        pipeline.eval(script, 0, key, keys.QUEUES)
        pipeline.evalsha(digest, 0, key, keys.QUEUES)
        pipeline.blpop([key], 0.1)  # another probe may have taken it
        # redis-py would put the whole script into the message.
        for answer in pipeline.execute(raise_on_error=False):
            if isinstance(answer, redis.RedisError):
                raise answer


def address(connection: redis.Redis) -> str:
    """This host as Redis sees it: its IP address, or the Unix socket."""
    with translated():
        try:
            # Not client_info(): redis-py (8.1) splits the answer at spaces, which the path of a socket may hold.
            answer = connection.execute_command("CLIENT", "INFO")  # type: ignore[no-untyped-call]
        except redis.ResponseError:  # the user may not ask
            return UNKNOWN
    found = _ADDRESS.search(text(answer))
    return found[1] if found else UNKNOWN


def hazards(connection: redis.Redis) -> list[str]:
    """The settings of Redis that can lose tasks; each line names the setting, and the value to give it."""
    info = server_info(connection)
    with translated():
        try:
            snapshots = connection.config_get("save").get("save", "")
        except redis.ResponseError:  # hosted servers hide their settings
            snapshots = "unknown"
    found = []
    if (policy := info.get("maxmemory_policy", "noeviction")) != "noeviction":
        found.append(f"maxmemory-policy is {policy}: Redis may evict tasks when it is full; set it to noeviction")
    if not info.get("aof_enabled", 1) and not snapshots:
        found.append("appendonly is no and save is empty: a restart of Redis loses all tasks; set appendonly to yes")
    return found


def lacking(connection: redis.Redis) -> list[str]:
    """What boilerd goes without where Redis lacks a command, or this user may not use it; each line names that."""
    found = []
    if address(connection) == UNKNOWN:
        found.append("CLIENT: connections have no names in Redis, and workers no address")
    if not server_info(connection, "server"):
        found.append("INFO: whether Redis may lose tasks cannot be seen, nor how much memory it uses")
    return found

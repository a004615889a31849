"""The server behind the broker: whether it will do, and how it may lose what it holds."""

import hashlib

import redis

from boilerd.broker import keys
from boilerd.broker.refusals import translated
from boilerd.errors import BrokerRefusedError

#: Writes one element of a list, for BLPOP to take away again. As the scripts that claim and acknowledge, it may run
#: when Redis is full.
_PROBE = """#!lua flags=allow-oom
redis.call('DEL', ARGV[1])
redis.call('RPUSH', ARGV[1], '1')
redis.call('PEXPIRE', ARGV[1], 1000)
"""


def check(connection: redis.Redis) -> str:
    """Make sure that Redis can be worked with; its name and version.

    Raises:
        BrokerUnableError: It takes no writes at present.
        BrokerRefusedError: The user may not do enough, or the server is too old.
        BrokerUnavailableError: It is not reachable.
    """
    with translated():
        connection.ping()  # refused while it loads; INFO is not
        info = connection.info("server")
    version = str(info.get("valkey_version") or info["redis_version"])
    name, least = ("Valkey", 8) if "valkey_version" in info else ("Redis", 7)
    if int(version.partition(".")[0]) < least:
        raise BrokerRefusedError(f"{name} {version} is too old; boilerd needs Redis 7 or Valkey 8, or newer")
    probe(connection)
    return f"{name} {version}"


def probe(connection: redis.Redis, *, is_storing: bool = False) -> None:
    """Run a script that writes, and wait for what it wrote: what all else rests upon.

    Args:
        connection: How to reach Redis.
        is_storing: Also make sure that there is memory for new tasks.

    Raises:
        BrokerError: Redis refuses, or does not answer.
    """
    script = _PROBE.replace(" flags=allow-oom", "") if is_storing else _PROBE
    digest = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
    key = f"{keys.OWN}:probe"
    with translated(), connection.pipeline(transaction=False) as pipeline:
        pipeline.eval(script, 0, key)
        pipeline.evalsha(digest, 0, key)
        pipeline.blpop([key], 0.1)  # another probe may have taken it
        # redis-py would put the whole script into the message.
        for answer in pipeline.execute(raise_on_error=False):
            if isinstance(answer, redis.RedisError):
                raise answer


def address(connection: redis.Redis) -> str:
    """How Redis knows this host: its IP address, or the Unix socket."""
    with translated():
        try:
            found = str(connection.client_info()["addr"])
        except redis.ResponseError:  # what this user may not ask
            return "unknown"
    return found.rpartition(":")[0] or found


def hazards(connection: redis.Redis) -> list[str]:
    """What Redis is set up to lose tasks by; each names the setting, and what would do."""
    with translated():
        info = connection.info()
        try:
            snapshots = connection.config_get("save").get("save", "")
        except redis.ResponseError:  # hosted ones keep their settings to themselves
            snapshots = "unknown"
    found = []
    if (policy := info.get("maxmemory_policy", "noeviction")) != "noeviction":
        found.append(f"maxmemory-policy is {policy}: Redis may evict tasks when it is full; set it to noeviction")
    if not info.get("aof_enabled", 1) and not snapshots:
        found.append("appendonly is no and save is empty: a restart of Redis loses all tasks; set appendonly to yes")
    return found

"""The server behind the broker: whether it will do, and how it may lose what it holds."""

import redis

from boilerd.connection import translated
from boilerd.errors import BrokerError


def check(connection: redis.Redis) -> str:
    """Make sure that Redis can be worked with; its name and version.

    Raises:
        BrokerError: Not reachable, no access, or too old.
    """
    with translated():
        connection.ping()  # refused while it loads; INFO is not
        info = connection.info("server")
    version = str(info.get("valkey_version") or info["redis_version"])
    name, least = ("Valkey", 8) if "valkey_version" in info else ("Redis", 7)
    if int(version.partition(".")[0]) < least:
        raise BrokerError(f"{name} {version} is too old; boilerd needs Redis 7 or Valkey 8, or newer")
    return f"{name} {version}"


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

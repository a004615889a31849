"""What runs below the tasks: Redis, the daemons and how they differ, and this dashboard itself."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from boilerd.broker.daemons import DaemonInfo
from boilerd.web.page import Data, page
from boilerd.web.permissions import Permission
from boilerd.web.steady import heard, in_steps, magnitude, rough
from boilerd.web.visit import Visit

#: What Redis tells of itself, by its own names → what the page calls it.
_SERVER = {
    "role": "Role", "uptime_in_seconds": "Up for, s", "connected_clients": "Clients", "maxclients": "Most clients",
    "used_memory": "Memory, bytes", "used_memory_peak": "Most memory, bytes", "maxmemory": "Memory limit, bytes",
    "maxmemory_policy": "At the limit", "mem_fragmentation_ratio": "Fragmentation",
    "instantaneous_ops_per_sec": "Commands a second", "rejected_connections": "Refused connections",
    "evicted_keys": "Keys thrown away", "aof_enabled": "Writes each command", "aof_last_write_status": "Last write",
    "rdb_last_bgsave_status": "Last snapshot", "rdb_changes_since_last_save": "Changes since the last snapshot",
    "connected_slaves": "Replicas", "master_link_status": "Link to the primary",
}  # fmt: skip
#: How long it is shown to all who look what Redis and the daemons tell, and to polls all of it.
FRESH_S = 2.0
#: Daemons on the page, and daemons that one value of a setting names.
MOST_DAEMONS, MOST_NAMED = 200, 5
#: How HTML shows those of them that are others at each poll, by what the page calls them.
_STEADY: Mapping[str, Callable[[Any], Any]] = {
    _SERVER["uptime_in_seconds"]: lambda value: value // 60 * 60,
    _SERVER["used_memory"]: in_steps, _SERVER["used_memory_peak"]: in_steps,
    _SERVER["mem_fragmentation_ratio"]: lambda value: round(value, 1),
    _SERVER["instantaneous_ops_per_sec"]: magnitude,
    _SERVER["rdb_changes_since_last_save"]: lambda value: rough(value, 1),
}  # fmt: skip


def _steady(data: Data) -> Data:
    server, costs = data["server"], data["dashboard"]
    if "told" in server:
        told = [
            [said, _STEADY[said](value) if said in _STEADY and isinstance(value, int | float) else value]
            for said, value in server["told"]
        ]
        server = {**server, "told": told, "latency_ms": math.ceil(server["latency_ms"])}
    polls = rough(costs["polls"], 1)
    costs = {
        **costs,
        **{name: costs[name] and rough(costs[name], 1) for name in ("requests", "commands")},
        "memory_bytes": in_steps(costs["memory_bytes"]),
        "cpu_s": rough(costs["cpu_s"]),
        "polls": polls,
        "unchanged": polls and round(polls * round(costs["unchanged"] / costs["polls"], 1)),
        "picture_s": math.ceil(costs["picture_s"] * 10) / 10,
        "wait_s": round(costs["wait_s"]),
    }
    daemons = [{**one, "seen_at": heard(one["seen_at"])} for one in data["daemons"]]
    return {**data, "server": server, "dashboard": costs, "daemons": daemons}


@page("/system", needs=Permission.VIEW, title="System", menu=90, rows="daemons", fresh_s=FRESH_S, steady=_steady)
def system(visit: Visit) -> Data:
    """Each part by itself, as it is looked at where something is wrong."""
    snapshot = visit.snapshot()
    return {
        "server": visit.trying(lambda: visit.sharing("server", FRESH_S, lambda: _server(visit))),
        "workers": snapshot.overview.workers,
        "clock_ahead_s": round(snapshot.overview.clock_ahead_s, 1),
        "daemons": [],
        **visit.trying(lambda: visit.sharing("rows of daemons", FRESH_S, lambda: _daemons(visit))),
        "outages": snapshot.outages,
        "dashboard": {
            **visit.costs.told(),
            "picture_s": round(snapshot.took_s, 4),
            "queues": len(snapshot.overview.queues),
        },
    }


def _server(visit: Visit) -> Data:
    found = visit.inspector.server()
    return {
        "name": found.name,
        "latency_ms": round(found.latency_s * 1000, 2),
        "told": [[said, found.info[name]] for name, said in _SERVER.items() if found.info.get(name) not in {None, ""}],
        "hazards": found.hazards,
        "lacking": found.lacking,
        "slow": found.slow,
    }


def _daemons(visit: Visit) -> Data:
    found = visit.inspector.daemons()
    rows = [
        {
            "name": one.name, "host": one.host, "pid": one.pid, "release": one.release, "started_at": one.started_at,
            "seen_at": one.seen_at, "versions": one.versions, "workers": one.processes, "types": len(one.types),
            "crons": len(one.crons), "pools": [_pool(pool) for pool in one.pools], "trouble": one.problem,
        }
        for one in found[:MOST_DAEMONS]
    ]  # fmt: skip
    return {"daemons": rows, "left_out": max(0, len(found) - MOST_DAEMONS), "differences": differences(found)}


def _pool(pool: Any) -> str:
    return f"{pool.name}: {pool.processes} x {pool.slots}"


def differences(found: Sequence[DaemonInfo]) -> list[dict[str, Any]]:
    """Versions and settings that are not the same everywhere: each with its values, and the daemons that have each."""
    values: dict[str, dict[str, list[str]]] = {}
    for one in found:
        for name, value in _facts(one).items():
            values.setdefault(name, {}).setdefault(str(value), []).append(one.name)
    return [
        {"setting": name, "value": value, "daemons": daemons[:MOST_NAMED], "more": max(0, len(daemons) - MOST_NAMED)}
        for name, by_value in values.items()
        if len(by_value) > 1
        for value, daemons in sorted(by_value.items(), key=lambda each: -len(each[1]))
    ]


def _facts(one: DaemonInfo) -> Mapping[str, Any]:
    versions = {f"version of {name}": value for name, value in one.versions.items()}
    return {**versions, **({"release": one.release} if one.release else {}), **one.settings}

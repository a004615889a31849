"""The workers of all hosts: what each does, and what it takes of its host."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from boilerd.broker.daemons import DaemonInfo
from boilerd.broker.views import WorkerInfo
from boilerd.web.ordering import Row, in_order
from boilerd.web.page import Data, page
from boilerd.web.permissions import Permission
from boilerd.web.visit import Visit

#: How long they are shown before they are read again.
FRESH_S = 2.0
#: Hosts that have a row; the rest is told as a number.
MOST_HOSTS = 50
_FIELDS = [field.name for field in fields(WorkerInfo)]
#: The word for a worker that gives no sign of life.
DEAD = "dead"

SORTS: dict[str, Callable[[Row], Any]] = {
    "worker": lambda row: row["name"],
    "host": lambda row: (row["host"], row["pool"], row["name"]),
    "pool": lambda row: (row["pool"], row["name"]),
    "state": lambda row: row["shown_state"],
    "since": lambda row: row["task_started_at"],
    "memory": lambda row: row["rss_bytes"],
    "cpu": lambda row: row["cpu_share"],
    "done": lambda row: row["succeeded"],
    "failed": lambda row: row["failed"],
    "started": lambda row: row["started_at"],
    "seen": lambda row: row["last_seen_at"],
    "release": lambda row: row["release"] or row["version"] or None,
}


@page("/workers", needs=Permission.VIEW, title="Workers", menu=40, rows="workers")
def workers(visit: Visit) -> Data:
    """All workers that the query leaves, by host and pool unless it says otherwise."""
    every = visit.sharing("workers", FRESH_S, lambda: _rows(visit))
    host, pool, state = (visit.query.get(name, "") for name in ("host", "pool", "state"))
    rows = [
        row
        for row in every
        if host in {"", row["host"]} and pool in {"", row["pool"]} and state in {"", row["shown_state"]}
    ]
    shown, order = in_order(visit, rows, SORTS, "host", path="/workers")
    by_host = _by_host(every)
    return {
        "workers": shown,
        "order": order,
        "hosts": by_host[:MOST_HOSTS],
        "more_hosts": max(0, len(by_host) - MOST_HOSTS),
        "chosen": {"host": host, "pool": pool, "state": state},
        "choices": {
            "host": [row["host"] for row in sorted(by_host, key=lambda row: str(row["host"]))][:MOST_HOSTS],
            "pool": sorted({row["pool"] for row in every})[:MOST_HOSTS],
            "state": sorted({row["shown_state"] for row in every})[:MOST_HOSTS],
        },
        "problems": [f"{row['name']}: {row['problem']}" for row in every if row["problem"]],
    }


def _rows(visit: Visit) -> list[dict[str, Any]]:
    daemons = {daemon.name: daemon for daemon in visit.inspector.daemons()}
    return [_row(worker, daemons.get(worker.name.rpartition(".")[0])) for worker in visit.inspector.workers()]


def _row(worker: WorkerInfo, daemon: DaemonInfo | None) -> dict[str, Any]:
    return {
        **{name: getattr(worker, name) for name in _FIELDS},  # asdict() would copy each value
        "shown_state": worker.state if worker.is_alive else DEAD,
        "cpu_share": _cpu_share(worker),
        "release": daemon.release if daemon else "",
        "version": daemon.versions.get("boilerd", "") if daemon else "",
    }


def _cpu_share(worker: WorkerInfo) -> float | None:
    """Which part of one CPU it has used since its start; None: not known."""
    if worker.cpu_ms is None or worker.started_at is None or worker.last_seen_at is None:
        return None
    lived_s = (worker.last_seen_at - worker.started_at).total_seconds()
    return worker.cpu_ms / 1000 / lived_s if lived_s >= 1 else None


def _by_host(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each host, the one whose workers take most memory first."""
    hosts: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        hosts.setdefault(row["host"], []).append(row)
    found = [
        {
            "host": host,
            "workers": len(several),
            "busy": sum(row["running"] > 0 and row["is_alive"] for row in several),
            "dead": sum(not row["is_alive"] for row in several),
            "rss_bytes": sum(row["rss_bytes"] or 0 for row in several),
            "most_rss_bytes": max(row["rss_bytes"] or 0 for row in several),
            "succeeded": sum(row["succeeded"] for row in several),
            "failed": sum(row["failed"] for row in several),
        }
        for host, several in hosts.items()
    ]
    return sorted(found, key=lambda row: (-row["rss_bytes"], row["host"]))

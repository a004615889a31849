"""The workers of all hosts, one of them, and those that died: what each does, and what it takes of its host."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, NamedTuple

from boilerd.broker.daemons import DaemonInfo
from boilerd.broker.deaths import place_of
from boilerd.broker.views import CompletedTask, WorkerInfo
from boilerd.errors import BoilerdError, shown
from boilerd.web.local_daemon import Found
from boilerd.web.ordering import Row, in_order
from boilerd.web.page import Data, page
from boilerd.web.permissions import Permission
from boilerd.web.steady import heard, in_steps, rough
from boilerd.web.visit import NotThereError, Visit

#: How long they are shown before they are read again, as they tell of themselves every five seconds: where there are
#: hundreds, for so many times as long as that used the CPU; and what the daemon of this host tells.
FRESH_S, FRESH_TIMES, CONTROL_FRESH_S = 4.0, 200, 1.0
#: Hosts and daemons that have a row, and values to choose from; the rest of them is told as a number.
MOST_HOSTS, MOST_DAEMONS, MOST_CHOICES = 10, 10, 50
#: Queues of a worker that the list has, and deaths.
MOST_QUEUES, MOST_DEATHS = 2, 3
#: Last tasks of one worker; and the queues in which they are looked for, each among its last so many.
MOST_TASKS, MOST_SERVED, LOOKS = 20, 10, 200
_FIELDS = [field.name for field in fields(WorkerInfo)]
#: Name of a filter → what of a row.
_CHOICES = {"host": "host", "pool": "pool", "state": "shown_state"}
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
DEATH_SORTS: dict[str, Callable[[Row], Any]] = {
    "when": lambda row: row["at"],
    "worker": lambda row: row["worker"],
    "how": lambda row: row["why"],
    "memory": lambda row: row["rss_bytes"],
    "lived": lambda row: row["lived_s"],
}


def _steady(data: Data) -> Data:
    return {
        **data,
        "workers": [_steady_row(row) for row in data["workers"]],
        "hosts": [
            {**row, **{name: in_steps(row[name]) for name in ("rss_bytes", "most_rss_bytes")}} for row in data["hosts"]
        ],
    }


def _steady_row(row: Row) -> Row:
    return {
        **row,
        "last_seen_at": heard(row["last_seen_at"]),
        "rss_bytes": row["rss_bytes"] and in_steps(row["rss_bytes"]),
        "cpu_share": row["cpu_share"] and rough(row["cpu_share"]),
        "cpu_ms": None,
    }


@page("/workers", needs=Permission.VIEW, title="Workers", menu=40, rows="workers", of_shared=True, steady=_steady)
def workers(visit: Visit) -> Data:
    """All workers that the query leaves, by host and pool unless it says otherwise."""
    every = _read(visit)
    chosen = {name: visit.query.get(name, "") for name in _CHOICES}
    rows = every.rows
    for name, wanted in chosen.items():
        rows = [row for row in rows if row[_CHOICES[name]] == wanted] if wanted else rows
    shown_rows, order = in_order(visit, rows, SORTS, "host")
    return {
        "workers": shown_rows,
        "order": order,
        "hosts": every.hosts[:MOST_HOSTS],
        "more_hosts": max(0, len(every.hosts) - MOST_HOSTS),
        "chosen": chosen,
        "choices": every.choices,
        "problems": every.problems,
        "most_queues": MOST_QUEUES,
        "died": visit.trying(lambda: _died(visit)),
        **_control(visit),
    }


def _died(visit: Visit) -> Data:
    """The last deaths, and how many there are."""
    deaths = _deaths(visit)
    return {"last": deaths[:MOST_DEATHS], "count": len(deaths)}


def _control(visit: Visit) -> Data:
    """The daemon of this host for whoever may control it, and the others, with the host where each is controlled."""
    if not visit.may(Permission.WORKERS):
        return {}
    local, daemons = local_daemon(visit), _read(visit).daemons
    others = [{"name": each.name, "host": each.host} for each in daemons if each.name != local.name and each.host]
    return {"local": asdict(local), "others": others[:MOST_DAEMONS], "more_others": max(0, len(others) - MOST_DAEMONS)}


def local_daemon(visit: Visit) -> Found:
    """The daemon of this host, as it can be controlled from here."""
    if visit.daemon is None:
        return Found(why="nobody has told the dashboard where a daemon is")
    daemon = visit.daemon
    return visit.sharing("local daemon", CONTROL_FRESH_S, lambda: daemon.find(_daemons(visit)))


def _daemons(visit: Visit) -> list[DaemonInfo]:
    return visit.sharing("daemons", FRESH_S, visit.inspector.daemons)


@page("/workers/dead", needs=Permission.VIEW, title="Workers that died", template="dead_workers.html", rows="deaths")
def dead_workers(visit: Visit) -> Data:
    """Those that died within a day, the last first unless it says otherwise."""
    deaths, order = in_order(visit, _deaths(visit), DEATH_SORTS, "when", way="down")
    return {"deaths": deaths, "order": order}


def _steady_worker(data: Data) -> Data:
    return {**data, "worker": data["worker"] and _steady_row(data["worker"])}


@page(
    "/workers/{worker}", needs=Permission.VIEW, title="Worker", template="worker.html", rows="tasks",
    of_shared=True, steady=_steady_worker,
)  # fmt: skip
def worker(visit: Visit) -> Data:
    """One worker, its last tasks, and how those ended that were in its place before."""
    name = visit.path["worker"]
    row, deaths = known_worker(visit, name)
    return {
        "name": name,
        "worker": row,
        "deaths": deaths,
        "tasks": visit.sharing(("tasks of", name), FRESH_S, lambda: _last_tasks(visit, row), with_polls=True)
        if row
        else [],
        "looks": LOOKS,
        "is_local": visit.may(Permission.WORKERS) and local_daemon(visit).owns(name),
    }


def known_worker(visit: Visit, name: str) -> tuple[Mapping[str, Any] | None, Data]:
    """What is told of a worker that lives, and of the deaths in its place; raises NotThereError."""
    row = next((row for row in _read(visit).rows if row["name"] == name), None)
    deaths = visit.trying(lambda: {"before": [each for each in _deaths(visit) if _is_before(each["worker"], name)]})
    if row is None and not any(each["worker"] == name for each in deaths.get("before", ())):
        raise NotThereError(f"there is no worker {shown(name)}, and none of that name died today; /workers has all")
    return row, deaths


def _is_before(died: str, name: str) -> bool:
    """Whether it was in the same place: on the same host, with the same number."""
    return died == name or (place_of(died) == place_of(name) and all(place_of(name)))


def _last_tasks(visit: Visit, row: Mapping[str, Any]) -> list[CompletedTask]:
    """Of the last tasks that completed in its queues those that it ran, latest first."""
    found: list[CompletedTask] = []
    for queue in row["queues"][:MOST_SERVED]:
        try:
            found += [task for task in visit.inspector.recent(queue, LOOKS) if task.worker == row["name"]]
        except BoilerdError:  # another program's key
            continue
    return sorted(found, key=lambda task: task.ended_at, reverse=True)[:MOST_TASKS]


def _deaths(visit: Visit) -> list[dict[str, Any]]:
    """Those that died, with how and why in one line."""
    return visit.sharing(
        "deaths", FRESH_S, lambda: [{**asdict(each), "why": each.why} for each in visit.inspector.deaths()]
    )


def _read(visit: Visit) -> "_All":
    return visit.sharing("workers", FRESH_S, lambda: _read_now(visit), FRESH_TIMES)


class _All(NamedTuple):
    """All workers, whichever are shown.

    Attributes:
        rows: One for each.
        hosts: One for each host, the one whose workers take most memory first.
        choices: What the list can be filtered by: name → values.
        problems: Of records that are none.
    """

    rows: list[dict[str, Any]]
    daemons: list[DaemonInfo]
    hosts: list[dict[str, Any]]
    choices: dict[str, list[str]]
    problems: list[str]


def _read_now(visit: Visit) -> _All:
    daemons = _daemons(visit)
    by_name = {daemon.name: daemon for daemon in daemons}
    rows = [_row(one, by_name.get(one.name.rpartition(".")[0])) for one in visit.inspector.workers()]
    values = {name: {row[key] for row in rows} for name, key in _CHOICES.items()}
    choices = {name: sorted(several, key=str)[:MOST_CHOICES] for name, several in values.items()}
    return _All(
        rows, daemons, _by_host(rows), choices, [f"{row['name']}: {row['problem']}" for row in rows if row["problem"]]
    )


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
    return sorted(found, key=lambda row: (-in_steps(row["rss_bytes"]), row["host"]))  # or hosts would change places

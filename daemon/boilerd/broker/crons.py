"""The periodic tasks of all hosts: those that living daemons have, and those that some daemon had."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from boilerd.broker.daemons import CronFacts, DaemonInfo
from boilerd.broker.neighbours import Neighbour
from boilerd.broker.view_reader import next_tick
from boilerd.broker.views import CronInfo

#: Name, line and time zone: two daemons may have entries of one name with other lines.
_Key = tuple[str, str, str]


def crons_of_all(
    seen: Sequence[CronInfo],
    daemons: Iterable[DaemonInfo],
    workers: Iterable[Neighbour],
    ticks: Mapping[str, float],
    now_s: float,
) -> list[CronInfo]:
    """All of them, by name.

    Args:
        seen: Those that some daemon has, or had, with the line of the one that started last.
        daemons: Those that live and tell.
        workers: Those that live of daemons that tell nothing: their records have the names of periodic tasks.
        ticks: The last tick of each.
        now_s: Redis's time.
    """
    since = {(cron.name, cron.spec, cron.timezone): cron.since for cron in seen}
    had, holders = _told(daemons)
    silent = _held_by_silent(workers, {daemon.name for daemon in daemons})
    rows = [
        _row(facts, since.get(key), holders[key], ticks.get(facts.name), now_s) for key, facts in had.items()
    ]  # fmt: skip
    names = {name for name, _, _ in had}
    for cron in seen:
        is_told = (cron.name, cron.spec, cron.timezone) in had
        if not is_told and (cron.name not in names or cron.name in silent):
            rows.append(replace(cron, daemons=silent.get(cron.name, ())))
    return sorted(rows, key=lambda cron: (cron.name, cron.spec))


def _told(daemons: Iterable[DaemonInfo]) -> tuple[dict[_Key, CronFacts], dict[_Key, list[str]]]:
    """What daemons tell of periodic tasks, and the names of the daemons that have each."""
    told: dict[_Key, CronFacts] = {}
    holders: dict[_Key, list[str]] = {}
    for daemon in daemons:
        for cron in daemon.crons:
            key = cron.name, cron.spec, cron.timezone
            told.setdefault(key, cron)
            holders.setdefault(key, []).append(daemon.name)
    return told, holders


def _held_by_silent(workers: Iterable[Neighbour], telling: set[str]) -> dict[str, list[str]]:
    """Name of a periodic task → the daemons that have it and tell nothing, of version 0.1.0 or before."""
    found: dict[str, list[str]] = {}
    for worker in workers:
        daemon = worker.worker.rpartition(".")[0]
        for name in worker.declared.crons if worker.declared and daemon not in telling else ():
            if daemon not in found.setdefault(name, []):
                found[name].append(daemon)
    return found


def _row(
    cron: CronFacts, since: datetime | None, daemons: Sequence[str], previous_s: float | None, now_s: float
) -> CronInfo:
    return CronInfo(
        name=cron.name, spec=cron.spec, timezone=cron.timezone, since=since,
        previous=None if previous_s is None else datetime.fromtimestamp(previous_s, UTC),
        next=next_tick(cron.spec, cron.timezone, now_s), task_type=cron.type, queue=cron.queue, catch_up=cron.catch_up,
        options=cron.options, daemons=daemons,
    )  # fmt: skip

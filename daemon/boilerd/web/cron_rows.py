"""The periodic tasks as pages show them: what is wrong with each, and how its last ticks went."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from boilerd.broker.ticks import TickInfo
from boilerd.broker.view_reader import schedule_of
from boilerd.broker.views import CronInfo
from boilerd.errors import BrokerRefusedError
from boilerd.inspector import Inspector
from boilerd.tasks.task import TaskState
from boilerd.web.cron_words import in_words

#: Entries that are shown, each of which costs two commands.
MOST = 200
#: Ticks to come that are told, and ticks that have a dot.
NEXT, DOTS = 3, 30
#: A tick that was not taken is missed from so long after it on: it takes a scheduler a moment.
MISSED_AFTER_S = 10.0
#: Missed ticks that are counted; with so many there are more, as a rule.
MOST_MISSED = 100
#: Why a tick has no task, where its entry is paused; tick.lua writes it.
PAUSED = "it is paused"
#: So many ticks without a task, one behind the other, are a problem.
SILENT = 3

#: An entry, and its last ticks.
_Entry = tuple[CronInfo, Sequence[TickInfo]]


def cron_rows(inspector: Inspector, found: Sequence[CronInfo]) -> tuple[list[dict[str, Any]], int]:
    """A row for each entry, those with a problem first, then those that missed a tick; and how many were left out.

    Args:
        inspector: Reads all but the entries.
        found: As it has read them, maybe some seconds ago.
    """
    paused, queues = paused_crons(inspector), set(inspector.queue_names())
    entries = _with_ticks(inspector, found)
    rows = [{**cron_row(cron, paused, ticks), "is_queue_used": cron.queue in queues} for cron, ticks in entries]
    rows.sort(key=lambda row: (not row["problem"], not row["missed"], row["name"], row["spec"]))
    return rows, len(found) - len(entries)


def first_rows(inspector: Inspector, found: Sequence[CronInfo], most: int) -> tuple[list[dict[str, Any]], int]:
    """The same of the first: with a problem, then with a missed tick, then due next; and how many others there are."""
    paused = paused_crons(inspector)

    def place(entry: _Entry) -> tuple[object, ...]:
        cron, ticks = entry
        problem = _problem(cron, ticks, is_paused=cron.name in paused)
        return not problem, not _passed_over(ticks), cron.next is None, cron.next and cron.next.timestamp(), cron.name

    first = sorted(_with_ticks(inspector, found), key=place)[:most]
    return [cron_row(cron, paused, ticks) for cron, ticks in first], len(found) - len(first)


def _with_ticks(inspector: Inspector, found: Sequence[CronInfo]) -> list[_Entry]:
    """The entries that are shown, with their last ticks, latest first."""
    last = _last_ticks(inspector)
    shown = [replace(cron, previous=last.get(cron.name, cron.previous)) for cron in found[:MOST]]
    histories = _histories(inspector, [cron.name for cron in shown])
    return [(cron, histories.get(cron.name, ())) for cron in shown]


def paused_crons(inspector: Inspector) -> Mapping[str, Any]:
    """Those that are paused; none where another program's key hides it."""
    try:
        return inspector.paused_crons()
    except BrokerRefusedError:
        return {}


def cron_row(cron: CronInfo, paused: Mapping[str, Any], ticks: Sequence[TickInfo]) -> dict[str, Any]:
    """One entry with its last ticks, latest first."""
    last = ticks[0] if ticks else None
    states = [tick.state for tick in ticks]
    succeeded = states.count(TaskState.COMPLETED)
    late = [late_s for tick in ticks if not tick.missed and (late_s := tick.late_s) is not None]
    pause, nexts = paused.get(cron.name), _nexts(cron)
    return {
        "name": cron.name, "spec": cron.spec, "words": in_words(cron.spec), "timezone": cron.timezone,
        "type": cron.task_type, "queue": cron.queue, "catch_up": cron.catch_up, "previous": cron.previous,
        "next": nexts[0] if nexts else cron.next, "nexts": nexts, "daemons": cron.daemons,
        "hosts": sorted({each.rpartition(".")[0] for each in cron.daemons}),
        "paused_since": pause, "problem": _problem(cron, ticks, is_paused=pause is not None),
        "last_task": last.task_id if last else "", "last_state": last.state if last else None,
        "last_skipped": last.skipped if last else "",
        "missed": _passed_over(ticks),
        "succeeded": succeeded, "ended": succeeded + states.count(TaskState.ARCHIVED),
        "late_s": late[0] if late else None, "most_late_s": max(late, default=None),
        "outcomes": [tick.outcome for tick in ticks[:DOTS]],
    }  # fmt: skip


def _last_ticks(inspector: Inspector) -> dict[str, datetime]:
    try:
        return {name: datetime.fromtimestamp(tick_s, UTC) for name, tick_s in inspector.last_ticks().items()}
    except BrokerRefusedError:
        return {}


def _histories(inspector: Inspector, names: Sequence[str]) -> Mapping[str, Sequence[TickInfo]]:
    try:
        return inspector.histories([*dict.fromkeys(names)], DOTS)
    except BrokerRefusedError:  # the entries are shown all the same
        return {}


def _problem(cron: CronInfo, ticks: Sequence[TickInfo], *, is_paused: bool) -> str:
    missed = _missed(cron)
    if not cron.daemons:
        ticks_passed = f", and {missed:,} tick{'s' * (missed > 1)} passed" if missed else ""
        return f"no daemon has it any more{ticks_passed}"
    silent = 0 if is_paused else _silent(ticks)
    if missed + silent >= SILENT:
        why = f": {ticks[0].skipped}" if silent and ticks[0].skipped else ""
        return f"not run for {missed + silent:,} ticks{why}"
    if missed:
        return f"{missed:,} ticks were missed" if missed > 1 else "a tick was missed"
    return ""


def _passed_over(ticks: Sequence[TickInfo]) -> int:
    """How many of the last ticks were missed, or have no task, but for those during a pause."""
    return sum([tick.missed + (not tick.task_id and tick.skipped != PAUSED) for tick in ticks])


def _silent(ticks: Sequence[TickInfo]) -> int:
    """How many of the last ticks one behind the other had no task."""
    for number, tick in enumerate(ticks):
        if tick.task_id:
            return number
    return len(ticks)


def _missed(cron: CronInfo) -> int:
    """How many ticks are due and were not taken, of `MOST_MISSED` at most: each takes some microseconds to find."""
    last = cron.previous or cron.since
    schedule = schedule_of(cron.spec, cron.timezone)
    if last is None or schedule is None:
        return 0
    tick_s, due_s = last.timestamp(), time.time() - MISSED_AFTER_S
    for missed in range(MOST_MISSED):
        if (tick_s := schedule.next_after(tick_s)) > due_s:
            return missed
    return MOST_MISSED


def _nexts(cron: CronInfo) -> list[datetime]:
    """The next ticks."""
    schedule, moment_s, found = schedule_of(cron.spec, cron.timezone), time.time(), []
    try:
        for _ in range(NEXT if schedule else 0):
            moment_s = schedule.next_after(moment_s)  # type: ignore[union-attr]
            found.append(datetime.fromtimestamp(moment_s, UTC))
    except (ValueError, OverflowError):  # a line that has no more
        pass
    return found

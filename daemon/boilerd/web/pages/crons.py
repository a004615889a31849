"""Periodic tasks of all hosts, one with its history, and the actions on one."""

import functools
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from boilerd.broker.ticks import TickInfo
from boilerd.broker.views import CronInfo
from boilerd.errors import BoilerdError, ConfigError, shown
from boilerd.inspector import Inspector
from boilerd.tasks.cron import Schedule
from boilerd.web.cron_words import in_words
from boilerd.web.links import Links
from boilerd.web.page import Data, Done, action, page
from boilerd.web.permissions import Permission
from boilerd.web.visit import NotThereError, Visit

#: Entries on the page, each of which costs two or three commands for its last tick.
MOST = 200
#: How long the entries are shown before they are read again, and for how many times as long as that takes.
FRESH_S, FRESH_TIMES = 2.0, 300
#: Ticks to come that are told, and ticks in the history.
NEXT, TICKS = 3, 100
#: A tick that was not taken is missed from so long after it on: it takes a scheduler a moment.
MISSED_AFTER_S = 10.0


@page("/crons", needs=Permission.VIEW, title="Periodic tasks", menu=60, rows="crons")
def crons(visit: Visit) -> Data:
    """All entries, those with a problem first."""
    found, paused = _entries(visit), _paused(visit)
    rows = [_row(visit.inspector, cron, paused) for cron in found[:MOST]]
    rows.sort(key=lambda row: (not row["problem"], row["name"], row["spec"]))
    return {"crons": rows, "left_out": max(0, len(found) - MOST)}


@page("/crons/{cron}", needs=Permission.VIEW, title="Periodic task", template="cron.html", rows="ticks")
def cron(visit: Visit) -> Data:
    """One entry, or the few of that name, with its ticks."""
    name = visit.path["cron"]
    entries = [each for each in _entries(visit) if each.name == name]
    ticks = visit.inspector.ticks(name, TICKS)
    if not entries and not ticks:
        raise NotThereError(f"there is no periodic task {shown(name)}, and none had that name; /crons has all")
    paused = _paused(visit)
    return {
        "name": name,
        "entries": [{**_row(visit.inspector, each, paused), "nexts": _nexts(each)} for each in entries],
        "is_paused": name in paused,
        "is_held": any(each.daemons for each in entries),
        "outcomes": Counter(_outcome(tick) for tick in ticks),
        "ticks": ticks,
    }


def _entries(visit: Visit) -> Sequence[CronInfo]:
    """All entries; hundreds of workers and daemons have a word in it, so that everybody shares them."""
    return visit.sharing("crons", FRESH_S, visit.inspector.crons, FRESH_TIMES)


def _outcome(tick: TickInfo) -> str:
    """In a word, what became of a tick."""
    return str(tick.state) if tick.state else "gone" if tick.task_id else "skipped"


def _paused(visit: Visit) -> Mapping[str, datetime]:
    found = visit.trying(visit.inspector.paused_crons)
    return {} if "problem" in found and not isinstance(found["problem"], datetime) else found


def _row(inspector: Inspector, cron: CronInfo, paused: Mapping[str, datetime]) -> dict[str, Any]:
    last = _last(inspector, cron)
    return {
        "name": cron.name, "spec": cron.spec, "words": in_words(cron.spec), "timezone": cron.timezone,
        "type": cron.task_type, "queue": cron.queue, "catch_up": cron.catch_up, "previous": cron.previous,
        "next": cron.next, "daemons": cron.daemons, "hosts": sorted({each.rpartition(".")[0] for each in cron.daemons}),
        "paused_since": paused.get(cron.name), "problem": _problem(cron),
        "last_task": last.task_id if last else "", "last_state": last.state if last else None,
        "last_skipped": last.skipped if last else "",
    }  # fmt: skip


def _last(inspector: Inspector, cron: CronInfo) -> Any:
    try:
        return next(iter(inspector.ticks(cron.name, 1)), None)
    except BoilerdError:  # a stranger's key
        return None


def _problem(cron: CronInfo) -> str:
    if not cron.daemons:
        return "no daemon has it any more"
    if missed := _missed(cron):
        return f"{missed:,} ticks were missed" if missed > 1 else "a tick was missed"
    return ""


def _missed(cron: CronInfo) -> int:
    """How many ticks are due and were not taken."""
    last = cron.previous or cron.since
    schedule = _schedule(cron)
    if last is None or schedule is None:
        return 0
    last_s, due_s = last.timestamp(), time.time() - MISSED_AFTER_S
    return 1 + schedule.missed(last_s, due_s) if schedule.next_after(last_s) <= due_s else 0


def _nexts(cron: CronInfo) -> list[datetime]:
    """The next ticks."""
    schedule, moment_s, found = _schedule(cron), time.time(), []
    try:
        for _ in range(NEXT if schedule else 0):
            moment_s = schedule.next_after(moment_s)  # type: ignore[union-attr]
            found.append(datetime.fromtimestamp(moment_s, UTC))
    except (ValueError, OverflowError):  # a line that has no more
        pass
    return found


def _schedule(cron: CronInfo) -> Schedule | None:
    """None for a stranger's line."""
    try:
        return Schedule.parse(cron.spec, cron.timezone)
    except (ConfigError, ValueError, OverflowError):
        return None


def _about(visit: Visit) -> Data:
    name = visit.path["cron"]
    found = [each for each in visit.inspector.crons() if each.name == name and each.daemons]
    facts = [[each.spec, f"{each.task_type} in queue {each.queue}"] for each in found]
    return {
        "question": f"Enqueue the task of {name} now? Its ticks stay as they are.",
        "facts": facts,
        "is_allowed": bool(found),
        "back": _path(name),
    }


@action("/crons/{cron}/run", needs=Permission.CRON, title="Run now", about=_about)
def run(visit: Visit) -> Done:
    """Have a daemon that has it enqueue its task, beside its ticks."""
    name = visit.path["cron"]
    visit.inspector.run_cron(name)
    return Done(f"a daemon that has {name} enqueues its task within 5 seconds", to=_path(name))


def _switch(visit: Visit, do: Callable[[Inspector, str], bool], said: str, otherwise: str) -> Done:
    name = visit.path["cron"]
    is_new = do(visit.inspector, name)
    return Done(f"periodic task {name} {said if is_new else otherwise}", to=_path(name))


for _path_part, _title, _do, _said, _otherwise in (
    ("pause", "Pause", Inspector.pause_cron, "is paused: its ticks pass without a task", "was paused already"),
    ("resume", "Resume", Inspector.resume_cron, "runs at its ticks again", "was not paused"),
):
    action(f"/crons/{{cron}}/{_path_part}", needs=Permission.CRON, title=_title)(
        functools.partial(_switch, do=_do, said=_said, otherwise=_otherwise)
    )


def _path(name: str) -> str:
    return Links().to("crons", name)

"""Periodic tasks of all hosts, one with its history, and the actions on one."""

from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from boilerd.broker.pauses import paused_again
from boilerd.broker.ticks import TickInfo
from boilerd.errors import shown
from boilerd.web.cron_rows import DOTS, cron_row, cron_rows, paused_crons
from boilerd.web.links import Links
from boilerd.web.ordering import Row, in_order
from boilerd.web.page import Data, Done, action, page
from boilerd.web.pages.queues import how_long, pause_of
from boilerd.web.permissions import Permission
from boilerd.web.visit import NotThereError, Visit

#: Entries of a page, of which each has 30 nodes; and ticks in the history.
SIZE, TICKS = 40, 100
#: The one order that there is; those that are alike in it come by name.
_SORTS: dict[str, Callable[[Row], Any]] = {"problem": lambda row: (not row["problem"], not row["missed"])}
#: How long entries are shown before they are read again, and for how many times as long as that takes: hundreds of
#: workers and daemons have a word in it, so that everybody shares them.
FRESH_S, FRESH_TIMES = 2.0, 300
#: So is one with its history.
ONE_FRESH_S = 4.0
_FIELDS = tuple(field.name for field in fields(TickInfo))


@page("/crons", needs=Permission.VIEW, title="Periodic tasks", menu=60, rows="crons", of_shared=True)
def crons(visit: Visit) -> Data:
    """All entries, those with a problem first."""
    rows, left_out = visit.sharing(
        "cron rows", FRESH_S, lambda: cron_rows(visit.inspector, visit.inspector.crons()), FRESH_TIMES
    )
    shown_rows, order = in_order(visit, rows, _SORTS, "problem", size=SIZE)
    return {"crons": shown_rows, "order": order, "left_out": left_out}


@page("/crons/{cron}", needs=Permission.VIEW, title="Periodic task", template="cron.html", rows="ticks", of_shared=True)
def cron(visit: Visit) -> Data:
    """One entry, or the few of that name, with its ticks."""
    name = visit.path["cron"]
    return visit.sharing(("cron", name), ONE_FRESH_S, lambda: _one(visit, name), with_polls=True)


def _one(visit: Visit, name: str) -> Data:
    found = visit.sharing("crons", FRESH_S, visit.inspector.crons, FRESH_TIMES)
    entries = [each for each in found if each.name == name]
    ticks = visit.inspector.ticks(name, TICKS)
    if not entries and not ticks:
        raise _not_there(name)
    paused = paused_crons(visit.inspector)
    return {
        "name": name,
        "entries": [cron_row(each, paused, ticks[:DOTS]) for each in entries],
        "pause": pause_of(visit, "cron", name) if name in paused else None,
        "is_paused": name in paused,
        "is_held": any(each.daemons for each in entries),
        "outcomes": Counter(tick.outcome for tick in ticks),
        "ticks": [_tick(tick) for tick in ticks],
    }


def _tick(tick: TickInfo) -> dict[str, Any]:
    values = {name: getattr(tick, name) for name in _FIELDS}  # asdict() would copy each value
    return {**values, "outcome": tick.outcome, "late_s": tick.late_s}


def _about(visit: Visit) -> Data:
    name = visit.path["cron"]
    entries = [each for each in visit.inspector.crons() if each.name == name]
    if not entries:
        raise _not_there(name)
    found = [each for each in entries if each.daemons]
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


@action("/crons/{cron}/pause", needs=Permission.CRON, title="Pause")
def pause(visit: Visit) -> Done:
    """Have its ticks pass without a task."""
    name = visit.path["cron"]
    said, before = how_long(visit), pause_of(visit, "cron", name)
    is_new = visit.inspector.pause_cron(name, **said)
    now = "is paused: its ticks pass without a task" if is_new else paused_again(before, **said)
    return Done(f"periodic task {name} {now}", to=_path(name))


@action("/crons/{cron}/resume", needs=Permission.CRON, title="Resume")
def resume(visit: Visit) -> Done:
    """Have its ticks enqueue again."""
    name = visit.path["cron"]
    is_new = visit.inspector.resume_cron(name)
    return Done(f"periodic task {name} {'runs at its ticks again' if is_new else 'was not paused'}", to=_path(name))


def _not_there(name: str) -> NotThereError:
    return NotThereError(f"there is no periodic task {shown(name)}, and none had that name; /crons has all")


def _path(name: str) -> str:
    return Links().to("crons", name)

"""All queues, one queue, and the actions on one."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from boilerd.broker.overview import Overview
from boilerd.web.lately import Counts, Minute, pace_of
from boilerd.web.links import Links
from boilerd.web.page import Data, Done, action, page
from boilerd.web.permissions import Permission
from boilerd.web.sampler import waits_since
from boilerd.web.visit import Visit

#: Days of history on a queue's page.
DAYS = 14
#: How long it is shown which types are handled before it is read again, and for how many times as long as that takes.
FRESH_S, FRESH_TIMES = 2.0, 300
#: Minutes that the small chart in a queue's row has.
SPARK_MINUTES = 60


def queue_rows(overview: Overview, minutes: Sequence[Minute] = ()) -> list[dict[str, Any]]:
    """A row for each queue, those that hold something first, then by name."""
    rows = [
        {
            "name": queue.name,
            "pending": queue.detail.counts.pending,
            "active": queue.detail.counts.active,
            "scheduled": queue.detail.counts.scheduled,
            "archived": queue.detail.counts.archived,
            "completed": queue.detail.counts.completed,
            "waits_since": waits_since(queue.detail),
            "memory_bytes": queue.detail.memory_bytes,
            "max_active": queue.detail.max_active,
            "is_paused": queue.detail.counts.is_paused,
            "is_served": queue.is_served,
            "is_idle": queue.detail.counts.is_idle,
            "problem": queue.detail.counts.problem,
            **_lately(queue.name, queue.detail.counts.pending, minutes),
        }
        for queue in overview.queues
    ]
    return sorted(rows, key=lambda row: (row["is_idle"], row["name"]))


def _lately(name: str, pending: int, minutes: Sequence[Minute]) -> dict[str, Any]:
    """What the queue did in the last hour, and how its length changes."""
    ended = [minute.queues.get(name, Counts()).ended for minute in minutes[-SPARK_MINUTES:]]
    pace = pace_of(pending, minutes, name)
    return {"ended_by_minute": ended, "pace": pace.word, "drained_s": pace.drained_s}


@page("/queues", needs=Permission.VIEW, title="Queues", menu=20, of_snapshot=True, rows="queues")
def queues(visit: Visit) -> Data:
    """All queues, and what is wrong with the list of them."""
    snapshot = visit.snapshot()
    overview = snapshot.overview
    return {
        "queues": queue_rows(overview, snapshot.minutes),
        "problems": [row.problem for row in overview.wrong] + [*overview.misplaced],
    }


@page("/queues/{queue}", needs=Permission.VIEW, title="Queue")
def queue(visit: Visit) -> Data:
    """One queue with its last days."""
    name = visit.path["queue"]
    found = visit.inspector.queue(name)
    return {
        "queue": replace(found, latency_s=0.0),  # it would change by itself
        "waits_since": waits_since(found),
        "days": visit.inspector.history(name, DAYS),
        "types": visit.trying(lambda: {"handled": _handled(visit, name)}),
        "has_workers": visit.inspector.has_workers(name),
    }


def _handled(visit: Visit, name: str) -> list[str] | None:
    """All workers are asked for it, so that everybody shares it."""
    return visit.sharing(("handled", name), FRESH_S, lambda: visit.inspector.handled_types(name), FRESH_TIMES)


@action("/queues/{queue}/pause", needs=Permission.PAUSE, title="Pause")
def pause(visit: Visit) -> Done:
    """Let nobody claim from it."""
    name = visit.path["queue"]
    visit.inspector.queue(name)  # of a misspelt name nothing is paused
    is_new = visit.inspector.pause(name)
    return Done(f"queue {name} is paused" if is_new else f"queue {name} was paused already", to=_path(name))


@action("/queues/{queue}/resume", needs=Permission.PAUSE, title="Resume")
def resume(visit: Visit) -> Done:
    """Let workers claim from it again."""
    name = visit.path["queue"]
    visit.inspector.queue(name)
    is_new = visit.inspector.resume(name)
    return Done(f"queue {name} is open again" if is_new else f"queue {name} was not paused", to=_path(name))


def _path(name: str) -> str:
    return Links().to("queues", name)

"""All queues, one queue, and the actions on one."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from boilerd.broker.overview import Overview, QueueOverview
from boilerd.broker.pauses import Pause, paused_again
from boilerd.broker.type_metrics import figures
from boilerd.broker.views import QueueDetail
from boilerd.errors import BrokerRefusedError
from boilerd.tasks.metric_record import Numbers
from boilerd.web.lately import NOTHING, Late, Minute, of_late, pace_of
from boilerd.web.links import Links
from boilerd.web.moments import moment
from boilerd.web.page import Data, Done, action, page
from boilerd.web.permissions import Permission
from boilerd.web.sampler import waits_since
from boilerd.web.visit import Visit
from boilerd.web.what_if import WhatIf, what_if

#: Days of history on a queue's page, and those that its table begins with.
DAYS, RECENT_DAYS = 90, 14
#: How long numbers of one queue are shown that everybody shares.
FRESH_S = 10.0
#: And what is to be as it is now, but after an action.
NOW_S = 2.0
#: How long it is shown which types are handled before it is read again, and for how many times as long as that takes.
HANDLED_S, HANDLED_TIMES = 2.0, 1000
#: Concurrency keys that are shown.
MOST_KEYS = 20
#: Minutes that the small chart in a queue's row has.
SPARK_MINUTES = 60
#: Workers more that somebody may ask about: as many as a pool may have.
MOST_MORE = 1000


def queue_rows(overview: Overview, minutes: Sequence[Minute], at: datetime) -> list[dict[str, Any]]:
    """A row for each queue, those that hold something first, then by name.

    Args:
        overview: Has the queues.
        minutes: What they did lately.
        at: When both were read.
    """
    rows = [
        {
            "name": queue.name,
            "pending": queue.detail.counts.pending,
            "active": queue.detail.counts.active,
            "scheduled": queue.detail.counts.scheduled,
            "archived": queue.detail.counts.archived,
            "completed": queue.detail.counts.completed,
            "waits_since": waits_since(queue.detail, at),
            "memory_bytes": queue.detail.memory_bytes,
            "max_active": queue.detail.max_active,
            "workers": queue.workers,
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
    counts = [minute.queues.get(name, NOTHING) for minute in minutes[-SPARK_MINUTES:]]
    ended, (now, now_minutes) = sum([each.ended for each in counts]), of_late(minutes, name)
    now_s = 60.0 * now_minutes
    pace = pace_of(pending, Late(now, now_minutes))
    return {
        "ended_by_minute": [each.ended for each in counts],
        "pace": pace.word,
        "drained_s": pace.drained_s,
        "in_per_s": now.enqueued / now_s if now_s else None,
        "out_per_s": now.left / now_s if now_s else None,
        "failed_share": sum([each.failed for each in counts]) / ended if ended else None,
    }


def marks_of(queue: QueueOverview) -> dict[str, Any]:
    """What a queue's marks are made of: it is paused, or nobody serves it though tasks wait, or its keys are wrong."""
    counts = queue.detail.counts
    return {
        "is_paused": counts.is_paused,
        "is_served": queue.is_served,
        "pending": counts.pending,
        "scheduled": counts.scheduled,
        "problem": counts.problem,
    }


@page("/queues", needs=Permission.VIEW, title="Queues", menu=20, of_snapshot=True, rows="queues")
def queues(visit: Visit) -> Data:
    """All queues, and what is wrong with the list of them."""
    snapshot = visit.snapshot()
    overview = snapshot.overview
    return {
        "queues": queue_rows(overview, snapshot.minutes, snapshot.at),
        "problems": [row.problem for row in overview.wrong] + [*overview.misplaced],
    }


@page("/queues/{queue}", needs=Permission.VIEW, title="Queue", of_shared=True)
def queue(visit: Visit) -> Data:
    """One queue with its last days."""
    name = visit.path["queue"]
    snapshot = visit.snapshot()
    listed = [each for each in snapshot.overview.queues if each.name == name]
    row = queue_rows(replace(snapshot.overview, queues=listed), snapshot.minutes, snapshot.at)
    found = _detail(visit, name, listed)

    def shared(what: str, read: Callable[[], Any]) -> Any:
        return visit.trying(lambda: visit.sharing((what, name), FRESH_S, read))

    return {
        "queue": replace(found, latency_s=0.0),  # it would change by itself
        "waits_since": waits_since(found, snapshot.at),
        "lately": row[0] if row else None,
        "what_if": _what_if(visit, listed[0] if listed else QueueOverview(found)),
        "days": shared("days", lambda: visit.inspector.history(name, DAYS)),
        "recent_days": RECENT_DAYS,
        "types": visit.trying(lambda: {"handled": _handled(visit, name)}),
        "has_workers": any(each.workers for each in listed) or _has_workers(visit, name),
        "pause": _pause(visit, name) if found.counts.is_paused else None,
        "is_empty": not _held(found),
        "made_of": shared("composition", lambda: visit.inspector.composition(name)),
        "numbers": shared("numbers", lambda: _numbers(visit, name)),
        "keys": shared("keys", lambda: _keys(visit, name)),
        "served": shared("served", lambda: _served(visit, name)),
    }


def _detail(visit: Visit, name: str, listed: Sequence[QueueOverview]) -> QueueDetail:
    """It as the picture has it, but for the memory, for which that looks at fewer tasks; else as it is read now."""
    if not listed:
        return visit.sharing(("queue", name), NOW_S, lambda: visit.inspector.queue(name))
    memory = visit.sharing(("memory", name), FRESH_S, lambda: visit.inspector.queue(name).memory_bytes)
    return replace(listed[0].detail, memory_bytes=memory)


def _what_if(visit: Visit, queue: QueueOverview) -> WhatIf | None:
    """What would come of as many workers more as the query says; None: it does not say."""
    if not (more := visit.number("more", 0, most=MOST_MORE)):
        return None
    snapshot = visit.snapshot()
    return what_if(more, queue, snapshot.minutes, is_suspended=snapshot.overview.is_suspended)


def _has_workers(visit: Visit, name: str) -> bool:
    """Asked only where the picture has none, as there may be hundreds."""
    return visit.sharing(("has workers", name), NOW_S, lambda: visit.inspector.has_workers(name))


def _pause(visit: Visit, name: str) -> Pause | None:
    return visit.sharing(("pause", name), NOW_S, lambda: pause_of(visit, "queue", name))


def _handled(visit: Visit, name: str) -> list[str] | None:
    """All workers are asked for it, so that everybody shares it."""
    return visit.sharing(("handled", name), HANDLED_S, lambda: visit.inspector.handled_types(name), HANDLED_TIMES)


def _numbers(visit: Visit, name: str) -> Data:
    """How long tasks waited and ran in the last hour; read in ten minutes, of which there are few."""
    series = visit.inspector.metrics(timedelta(hours=1), step_s=600, queue=name)
    return {"since": series.periods[0].start, **figures(Numbers.sum_of(series.total().values()), series.lasting_s)}


def _keys(visit: Visit, name: str) -> Data:
    found = visit.inspector.concurrency_keys([name])
    return {"keys": found.keys[:MOST_KEYS], "looked": found.looked}


def _served(visit: Visit, name: str) -> Data:
    """Which pools serve it, with what weight; a daemon that does not tell has none."""
    pools = [
        {
            "daemon": daemon.name, "pool": pool.name, "weight": pool.queues[name], "of": sum(pool.queues.values()),
            "processes": pool.processes, "slots": pool.slots,
        }
        for daemon in visit.inspector.daemons()
        for pool in daemon.pools
        if name in pool.queues
    ]  # fmt: skip
    return {"pools": pools}


@action("/queues/{queue}/pause", needs=Permission.PAUSE, title="Pause")
def pause(visit: Visit) -> Done:
    """Let nobody claim from it."""
    name = visit.path["queue"]
    visit.inspector.queue(name)  # of a misspelt name nothing is paused
    said, before = how_long(visit), pause_of(visit, "queue", name)
    is_new = visit.inspector.pause(name, **said)
    return Done(f"queue {name} {'is paused' if is_new else paused_again(before, **said)}", to=_path(name))


def how_long(visit: Visit) -> dict[str, Any]:
    """Note and end that a form has for a pause."""
    given = visit.given("until").strip()
    return {"note": visit.given("note").strip(), "until": moment("until", given) if given else None}


def pause_of(visit: Visit, kind: str, name: str) -> Pause | None:
    """What was said of a pause; None: nothing, or it is hidden by another program's key."""
    try:
        return next((each for each in visit.inspector.pauses() if (each.kind, each.name) == (kind, name)), None)
    except BrokerRefusedError:
        return None


@action("/queues/{queue}/resume", needs=Permission.PAUSE, title="Resume")
def resume(visit: Visit) -> Done:
    """Let workers claim from it again."""
    name = visit.path["queue"]
    visit.inspector.queue(name)
    is_new = visit.inspector.resume(name)
    return Done(f"queue {name} is open again" if is_new else f"queue {name} was not paused", to=_path(name))


def _held(found: QueueDetail) -> int:
    """How many tasks it holds, in all states."""
    counts = found.counts
    return counts.pending + counts.active + counts.scheduled + counts.archived + counts.completed


def _about_deletion(visit: Visit) -> Data:
    name = visit.path["queue"]
    held = _held(visit.inspector.queue(name))
    is_served = visit.inspector.has_workers(name)
    return {
        "question": f"Have nobody list the queue {name} any more? The next task that is enqueued there brings it back.",
        "facts": [["Tasks", f"{held:,}"], ["Workers", "some serve it" if is_served else "nobody serves it"]],
        "is_allowed": not held and not is_served,
        "back": _path(name),
    }


@action("/queues/{queue}/delete", needs=Permission.PURGE, title="Delete queue", about=_about_deletion)
def delete(visit: Visit) -> Done:
    """Have nobody list a queue any more that holds nothing."""
    name = visit.path["queue"]
    visit.inspector.delete_queue(name)
    return Done(f"queue {name} is not listed any more", to="/queues")


def _path(name: str) -> str:
    return Links().to("queues", name)

"""What fails: the failure groups, one of them, and actions with all of its tasks."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from boilerd.broker.failure_groups import FailureGroup, FailureState
from boilerd.broker.operation_record import Deed, Order
from boilerd.web.page import Data, Done, action, page
from boilerd.web.pages.bulk import NEEDS, about, act
from boilerd.web.permissions import Permission
from boilerd.web.visit import Visit

SIZE, MOST_SIZE = 50, 1000
#: A longer list does not renew itself: each poll would take a quarter of a second.
MOST_LIVE = 200
#: A list in another order, the highest first.
_SORTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "last": lambda row: row["last_seen"],
    "first": lambda row: row["first_seen"] or row["last_seen"],
    "hour": lambda row: row["last_hour"],
    "count": lambda row: row["count"],
}
#: What can be done with a group: a task that failed for good is archived already.
_DEEDS: dict[Deed, Permission] = {deed: NEEDS[deed] for deed in ("run", "archive", "delete")}


@page("/failures", needs=Permission.VIEW, title="Failures", menu=35, rows="failures")
def failures(visit: Visit) -> Data:
    """The groups that were seen last."""
    size = visit.number("size", SIZE, most=MOST_SIZE)
    sort = visit.word("sort", "last", of=[*_SORTS])
    change = visit.word("change", of=["", *map(str, FailureState)])
    kind = visit.word("type")
    found = [_row(group) for group in visit.inspector.failures(size)]
    kept = [row for row in found if change in {"", row["state"]} and kind in {"", row["type"]}]
    return {
        "failures": sorted(kept, key=_SORTS[sort], reverse=True),
        "types": sorted({row["type"] for row in found} | ({kind} if kind else set())),
        "states": [*map(str, FailureState)],
        "sort": sort,
        "change": change,
        "type": kind,
        "looked_at": len(found),
        "has_more": len(found) == size,
        "is_live": len(found) <= MOST_LIVE,
    }


@page("/failures/{fingerprint}", needs=Permission.VIEW, title="Failure")
def failure(visit: Visit) -> Data:
    """One group with its last tasks."""
    group = visit.inspector.failure(visit.path["fingerprint"])
    return {
        "failure": _row(group),
        "frames": group.frames,
        "hours": _counts(group.hours, timedelta(hours=1)),
        "days": _counts(group.days, timedelta(days=1)),
        "tasks": visit.trying(lambda: _tasks(visit, group)),
        "latest": visit.trying(lambda: _latest(visit, group)),
        "actions": [deed for deed, permission in _DEEDS.items() if visit.may(permission)],
    }


def _row(group: FailureGroup) -> dict[str, Any]:
    return {
        "fingerprint": group.fingerprint, "type": group.type, "queue": group.queue, "error": group.error,
        "message": group.message, "state": group.state, "count": group.count, "last_hour": group.last_hour,
        "last_24_hours": sum(group.hours[-24:]), "last_7_days": sum(group.days[-7:]), "first_seen": group.first_seen,
        "last_seen": group.last_seen, "first_release": group.first_release, "last_release": group.last_release,
        "hours": group.hours,
    }  # fmt: skip


def _counts(counts: Sequence[int], step: timedelta) -> list[dict[str, Any]]:
    """How long ago each period began at least, and its count; the last one goes on."""
    places = len(counts) - 1
    return [{"ago_s": (places - place) * step.total_seconds(), "count": count} for place, count in enumerate(counts)]


def _tasks(visit: Visit, group: FailureGroup) -> Data:
    # Whole, as what is secret in a payload is hidden in the error that quotes it.
    return {"rows": visit.inspector.tasks_of(group.task_ids), "noted": len(group.task_ids)}


def _latest(visit: Visit, group: FailureGroup) -> Data:
    """The last task whose last attempt failed in this way, and left a traceback."""
    for task in visit.inspector.tasks_of(group.task_ids[:5]):
        found = visit.inspector.task(task.id)
        if task.fingerprint == group.fingerprint and found.attempts and found.attempts[-1].error:
            return {"task": replace(found, attempts=found.attempts[-1:])}
    return {"task": None}


def _order(visit: Visit, deed: Deed) -> Order:
    fingerprint = visit.path["fingerprint"]
    visit.inspector.failure(fingerprint)
    return Order(deed, fingerprint=fingerprint)


def _about(visit: Visit, deed: Deed) -> Data:
    return about(visit, _order(visit, deed))


def _act(visit: Visit, deed: Deed) -> Done:
    return act(visit, _order(visit, deed))


for _deed, _permission in _DEEDS.items():
    action(
        f"/failures/{{fingerprint}}/{_deed}",
        needs=_permission,
        title=_deed.capitalize(),
        about=functools.partial(_about, deed=_deed),
        template="bulk.html",
    )(functools.partial(_act, deed=_deed))

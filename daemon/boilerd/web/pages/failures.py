"""What fails: the failure groups, one of them, what people say of it, and actions with all of its tasks."""

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

from boilerd.broker.constants import FAILURE_HOURS
from boilerd.broker.failure_groups import FailureGroup, FailureState, Mark
from boilerd.broker.group_states import GroupStates
from boilerd.broker.operation_record import Deed, Order
from boilerd.web.failing import day_marks, hour_marks, row_of, sample_of
from boilerd.web.links import Links
from boilerd.web.page import Data, Done, action, page
from boilerd.web.pages.bulk import NEEDS, about, act
from boilerd.web.permissions import Permission
from boilerd.web.releases import releases
from boilerd.web.visit import Visit

#: A row has 30 nodes, which a browser compares at each poll.
SIZE, MOST_SIZE = 40, 1000
#: A longer list does not renew itself: each poll would take a quarter of a second.
MOST_LIVE = 200
#: The word that has muted groups shown.
SHOW = "show"
#: How long it is shown what is read for all who look.
FRESH_S, GROUPS_FRESH_S = 15.0, 4.0
#: So many completed tasks of so many queues are known, also where they are gone.
MOST_RECENT, MOST_QUEUES = 1000, 3
#: A list in another order, the highest first.
_SORTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "last": lambda row: row["last_seen"],
    "first": lambda row: row["first_seen"] or row["last_seen"],
    "hour": lambda row: row["last_hour"],
    "count": lambda row: row["count"],
    "rise": lambda row: row["rise"] or row["last_hour"],
}
#: What can be done with a group: a task that failed for good is archived already.
_DEEDS: dict[Deed, Permission] = {deed: NEEDS[deed] for deed in ("run", "archive", "delete")}


@page("/failures", needs=Permission.VIEW, title="Failures", menu=35, rows="failures", of_shared=True)
def failures(visit: Visit) -> Data:
    """The groups that were seen last, but for those that are muted."""
    size = visit.number("size", SIZE, most=MOST_SIZE)
    sort = visit.word("sort", "last", of=[*_SORTS])
    change = visit.word("change", of=["", *map(str, FailureState)])
    muted = visit.word("muted", of=["", SHOW])
    kind, release = visit.word("type"), visit.word("release")
    states = _states(visit)
    groups, skipped = _groups(visit, size)
    found = [row_of(group, states) for group in groups]
    heard = [row for row in found if muted or not row["muted_at"]]
    kept = [
        row
        for row in heard
        if change in {"", row["state"]} and kind in {"", row["type"]} and release in {"", row["first_release"]}
    ]
    known = releases(visit)
    return {
        "failures": sorted(kept, key=_SORTS[sort], reverse=True),
        "types": _choices((row["type"] for row in found), kind),
        "first_releases": _choices((row["first_release"] for row in found), release),
        "states": [*map(str, FailureState)],
        "tally": Counter(row["state"] for row in heard),
        "muted": sum(bool(row["muted_at"]) for row in found),
        "shows_muted": bool(muted),
        "marks": hour_marks(known, datetime.now(UTC), FAILURE_HOURS),
        "last_release": known[0].release if known else "",
        "sort": sort,
        "change": change,
        "type": kind,
        "release": release,
        "looked_at": len(found),
        "looked_at_tasks": states.looked,
        "is_exact": states.is_exact,
        "has_more": len(found) + len(skipped) == size,
        "skipped": skipped,
        "is_live": len(found) <= MOST_LIVE,
    }


@page("/failures/{fingerprint}", needs=Permission.VIEW, title="Failure", of_shared=True)
def failure(visit: Visit) -> Data:
    """One group with its last tasks, and what they have in common."""
    fingerprint = visit.path["fingerprint"]
    return {
        **visit.sharing(
            ("failure", fingerprint), GROUPS_FRESH_S, lambda: _of_group(visit, fingerprint), with_polls=True
        ),
        "actions": [deed for deed, permission in _DEEDS.items() if visit.may(permission)],
    }


def _of_group(visit: Visit, fingerprint: str) -> Data:
    """All that is known of a group, which takes a dozen round trips."""
    group = visit.inspector.failure(fingerprint)
    states, known, at = _states(visit), releases(visit), datetime.now(UTC)
    tasks = visit.trying(lambda: _tasks(visit, group))
    return {
        "failure": row_of(group, states),
        "is_exact": states.is_exact,
        "looked_at_tasks": states.looked,
        "frames": group.frames,
        "hours": _counts(group.hours, timedelta(hours=1)),
        "days": _counts(group.days, timedelta(days=1)),
        "hour_marks": hour_marks(known, at, len(group.hours)),
        "day_marks": day_marks(known, at, len(group.days)),
        "releases": [
            {"release": name, "count": count}
            for name, count in sorted(group.releases.items(), key=lambda one: (-one[1], one[0]))
        ],
        "tasks": tasks,
        "sample": sample_of(group, tasks.get("rows", ()), visit.trying(lambda: _completed(visit, group, tasks))),
        "latest": visit.trying(lambda: _latest(visit, group)),
    }


def _states(visit: Visit) -> GroupStates:
    return visit.sharing("failure states", FRESH_S, visit.inspector.failure_states)


def _groups(visit: Visit, size: int) -> tuple[list[FailureGroup], list[str]]:
    """Them, and why others are left out."""

    def read() -> tuple[list[FailureGroup], list[str]]:
        skipped: list[str] = []
        return visit.inspector.failures(size, skipped), skipped

    return visit.sharing(("groups", size), GROUPS_FRESH_S, read)


def _choices(found: Iterable[str], chosen: str) -> list[str]:
    return sorted({*found, chosen} - {""})


def _counts(counts: Sequence[int], step: timedelta) -> list[dict[str, Any]]:
    """How long ago each period began at least, and its count; the last one goes on."""
    places = len(counts) - 1
    return [{"ago_s": (places - place) * step.total_seconds(), "count": count} for place, count in enumerate(counts)]


def _tasks(visit: Visit, group: FailureGroup) -> Data:
    # Whole, as what is secret in a payload is hidden in the error that quotes it.
    return {"rows": visit.inspector.tasks_of(group.task_ids), "noted": len(group.task_ids)}


def _completed(visit: Visit, group: FailureGroup, tasks: Data) -> frozenset[str]:
    """The IDs of those that completed lately, if any of the tasks is gone."""
    rows = tasks.get("rows", ())
    if len(rows) == len(group.task_ids):
        return frozenset()
    queues = [*dict.fromkeys(filter(None, [group.queue, *(task.queue for task in rows)]))][:MOST_QUEUES]
    return frozenset(task_id for queue in queues for task_id in _recent(visit, queue))


def _recent(visit: Visit, queue: str) -> Sequence[str]:
    def read() -> Sequence[str]:
        return [task.id for task in visit.inspector.recent(queue, MOST_RECENT)]

    return visit.sharing(("recent", queue), FRESH_S, read)


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


#: Mark → what its button says, and what the page says when it is done.
_MARKS: dict[Mark, tuple[str, str]] = {
    "acknowledge": ("Acknowledge", "is acknowledged: if it fails from now on, it came back"),
    "unacknowledge": ("Not acknowledged", "is not acknowledged any more"),
    "mute": ("Mute", "is muted: lists leave it out, and it makes no finding"),
    "unmute": ("Unmute", "is in lists and findings again"),
    "note": ("Save note", "has this note"),
}


def _mark(visit: Visit, mark: Mark) -> Done:
    fingerprint = visit.path["fingerprint"]
    note = visit.given("note").strip() if mark == "note" else ""
    is_new = visit.inspector.mark_failure(fingerprint, mark, note)
    does = "has no note any more" if mark == "note" and not note else _MARKS[mark][1]
    says = f"the failure {does}" if is_new else "nothing has changed: it was so already"
    back, _, query = visit.given("back").partition("?")
    if back == "list":
        return Done(says, to="/failures", query=dict(parse_qsl(query)))
    return Done(says, to=Links().to("failures", fingerprint))


for _mark_name, (_title, _) in _MARKS.items():
    action(f"/failures/{{fingerprint}}/{_mark_name}", needs=Permission.FAILURES, title=_title)(
        functools.partial(_mark, mark=_mark_name)
    )

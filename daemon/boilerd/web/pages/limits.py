"""What holds tasks back on purpose: limits of queues, concurrency keys, unique locks."""

from typing import Any

from boilerd.web.page import Data, page
from boilerd.web.permissions import Permission
from boilerd.web.visit import Visit


@page("/limits", needs=Permission.VIEW, title="Limits", menu=70, rows="keys")
def limits(visit: Visit) -> Data:
    """All three; locks once somebody asks for them."""
    overview = visit.snapshot().overview
    names = [queue.name for queue in overview.queues]
    return {
        "queues": [_row(queue.detail) for queue in overview.queues if _is_limited(queue.detail)],
        "keys": [],
        **visit.trying(lambda: _keys(visit, names)),
        **_locks(visit),
    }


def _is_limited(detail: Any) -> bool:
    return bool(detail.max_active or detail.max_length)


def _row(detail: Any) -> dict[str, Any]:
    counts = detail.counts
    return {
        "name": counts.name,
        "active": counts.active,
        "max_active": detail.max_active,
        "pending": counts.pending,
        "max_length": detail.max_length,
    }


def _keys(visit: Visit, names: list[str]) -> Data:
    found = visit.inspector.concurrency_keys(names)
    return {"keys": found.keys, "looked": found.looked, "is_all": found.is_all}


def _locks(visit: Visit) -> Data:
    """A part of the locks that fit the search, if there is one."""
    queue, task_type, after = visit.word("queue"), visit.word("type"), visit.word("after")
    asked = {"search": "search" in visit.query, "queue": queue, "type": task_type}
    if not asked["search"]:
        return {**asked, "locks": [], "locks_looked": 0, "after": ""}
    found = visit.inspector.unique_locks(queue, task_type, after=after)
    return {**asked, "locks": found.locks, "locks_looked": found.looked, "after": found.after}

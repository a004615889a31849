"""What holds tasks back on purpose: limits of queues, concurrency keys, unique locks."""

from typing import Any

from boilerd.broker.overview import QueueOverview
from boilerd.errors import TaskNotFoundError, UniqueLockError
from boilerd.tasks.task import TaskState
from boilerd.web.links import Links
from boilerd.web.page import Data, Done, action, page
from boilerd.web.pages.queues import marks_of
from boilerd.web.permissions import Permission
from boilerd.web.visit import NotThereError, QueryError, Visit

#: How long concurrency keys are shown that everybody shares: up to a thousand tasks are looked at for them.
FRESH_S = 5.0
#: And how long all of it is to whoever may see the same, but after an action.
ALL_FRESH_S = 2.0
#: The states in which a task has ended.
_ENDED = (TaskState.COMPLETED, TaskState.ARCHIVED)


@page("/limits", needs=Permission.VIEW, title="Limits", menu=70, rows="keys", fresh_s=ALL_FRESH_S)
def limits(visit: Visit) -> Data:
    """All three; locks once somebody asks for them."""
    overview = visit.snapshot().overview
    names = [queue.name for queue in overview.queues]
    return {
        "queues": [_row(queue) for queue in overview.queues if _is_limited(queue.detail)],
        "keys": [],
        **visit.trying(lambda: visit.sharing("keys", FRESH_S, lambda: _keys(visit, names))),
        "key": visit.inspector.key_tasks(visit.word("key")) if visit.word("key") else None,
        "refusals": visit.trying(lambda: {"rows": visit.inspector.refusals()}),
        **_locks(visit, names),
    }


def _is_limited(detail: Any) -> bool:
    return bool(detail.max_active or detail.max_length)


def _row(queue: QueueOverview) -> dict[str, Any]:
    detail = queue.detail
    return {
        "name": queue.name,
        "active": detail.counts.active,
        "max_active": detail.max_active,
        "max_length": detail.max_length,
        **marks_of(queue),
    }


def _keys(visit: Visit, names: list[str]) -> Data:
    found = visit.inspector.concurrency_keys(names)
    return {"keys": found.keys, "looked": found.looked, "is_all": found.is_all}


def _locks(visit: Visit, names: list[str]) -> Data:
    """A part of the locks that fit the search, if there is one."""
    queue, task_type, after = visit.word("queue").strip(), visit.word("type").strip(), visit.word("after")
    is_asked = bool(visit.word("search", of=["", "1"]) or queue or task_type)
    asked = {"search": is_asked, "queue": queue, "type": task_type, "is_known": not queue or queue in names}
    if not is_asked or visit.is_poll:  # what was found stays as it was when the page was opened
        return {**asked, "locks": [], "locks_looked": 0, "after": ""}
    found = visit.inspector.unique_locks(queue, task_type, after=after)
    return {**asked, "locks": found.locks, "locks_looked": found.looked, "after": found.after}


def _named(visit: Visit) -> tuple[str, str, str]:
    """Queue, type and digest of the lock that the address names."""
    queue, task_type, digest = (visit.word(name) for name in ("queue", "type", "digest"))
    if not (queue and task_type and digest):
        raise QueryError("queue, type and digest: name a lock by all three, as the links of /limits do")
    return queue, task_type, digest


def _state_of(visit: Visit, task_id: str) -> tuple[str, bool]:
    """The state of a task in a word, and whether it has ended."""
    try:
        found = visit.inspector.task(task_id)
    except TaskNotFoundError:
        return "gone", True
    return str(found.state or found.rq_status), found.state in _ENDED


def _about(visit: Visit) -> Data:
    queue, task_type, digest = _named(visit)
    lock = visit.inspector.unique_lock(queue, task_type, digest)
    if lock is None:
        raise NotThereError("that lock is free by now; /limits finds those that are held")
    state, has_ended = _state_of(visit, lock.task_id)
    return {
        "question": "Release this lock? Another task with this payload may be enqueued then.",
        "facts": [["Queue", queue], ["Type", task_type], ["Held by", lock.task_id], ["Its state", state]],
        "holder": lock.task_id,
        "ends_at": lock.ends_at,
        "has_ended": has_ended,
        "lasts": lock.lasts,
        "is_allowed": True,
        "back": Links().to("limits", search=1, queue=queue, type=task_type),
    }


# By an address with a guessed digest nobody may learn of a payload that they may not see.
@action(
    "/limits/release",
    needs=Permission.DELETE,
    also=Permission.VIEW_PAYLOAD,
    title="Release lock",
    about=_about,
    template="lock.html",
)
def release(visit: Visit) -> Done:
    """Release a unique lock; of a task that has not ended its ID is written out."""
    queue, task_type, digest = _named(visit)
    holder, typed = visit.given("holder"), visit.given("id").strip()
    if typed and typed != holder:
        raise QueryError(f"id: write {holder}, the task that holds the lock")
    try:
        visit.inspector.release_lock(queue, task_type, digest, task_id=holder, also_of_living=bool(typed))
    except UniqueLockError as error:
        if error.answer == "free":
            raise NotThereError(str(error)) from error
        raise
    return Done("the lock is released", to="/limits", query={"search": "1", "queue": queue, "type": task_type})

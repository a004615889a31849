"""Make of a failure group what its pages show: marks in charts, and what its last tasks have in common."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from boilerd.broker.failure_groups import FailureGroup, is_rising
from boilerd.broker.group_states import GroupStates
from boilerd.broker.views import TaskDetail
from boilerd.tasks.task import TaskState
from boilerd.web.releases import Release

#: Kinds of a value that a table of samples has; the rest is one line.
MOST_KINDS = 10
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)
#: What a worker's name has behind that of its host.
_RUN_AND_ROW = re.compile(r"\.[^.]*\.[^.]*$")


def row_of(group: FailureGroup, states: GroupStates) -> dict[str, Any]:
    """A group, as its row and its page have it."""
    return {
        "fingerprint": group.fingerprint, "type": group.type, "queue": group.queue, "error": group.error,
        "message": group.message, "state": group.state, "rise": group.rise, "is_rising": is_rising(group),
        "count": group.count, "last_hour": group.last_hour, "last_24_hours": sum(group.hours[-24:]),
        "last_7_days": sum(group.days[-7:]), **states.of(group.fingerprint), "first_seen": group.first_seen,
        "last_seen": group.last_seen, "first_release": group.first_release, "last_release": group.last_release,
        "acknowledged_at": group.acknowledged_at, "acknowledged_by": group.acknowledged_by,
        "acknowledged_release": group.acknowledged_release, "since_acknowledged": group.since_acknowledged,
        "muted_at": group.muted_at, "muted_by": group.muted_by,
        "note": group.note, "noted_at": group.noted_at, "noted_by": group.noted_by, "hours": group.hours,
    }  # fmt: skip


def hour_marks(known: Iterable[Release], now: datetime, hours: int) -> list[dict[str, Any]]:
    """Where in a chart of the last hours of the clock releases began."""
    return _marks(known, now.replace(minute=0, second=0, microsecond=0) - (hours - 1) * _HOUR, _HOUR, hours)


def day_marks(known: Iterable[Release], now: datetime, days: int) -> list[dict[str, Any]]:
    """The same for days in UTC."""
    return _marks(known, now.replace(hour=0, minute=0, second=0, microsecond=0) - (days - 1) * _DAY, _DAY, days)


def _marks(known: Iterable[Release], start: datetime, step: timedelta, most: int) -> list[dict[str, Any]]:
    places = ((each, (each.at - start) / step) for each in known)
    return [{"release": each.release, "at": each.at, "place": place} for each, place in places if 0 <= place <= most]


def sample_of(group: FailureGroup, tasks: Sequence[TaskDetail], completed: Collection[str]) -> dict[str, Any]:
    """What the last tasks have in common, and what became of them.

    Args:
        group: Their group.
        tasks: Those of its last tasks that are there.
        completed: IDs of tasks that completed lately, whether they are there or not.
    """
    failed = [task for task in tasks if task.fingerprint == group.fingerprint]
    states = {task.id: task.state for task in tasks}
    became = Counter(_became(task_id, states, completed) for task_id in group.task_ids)
    return {
        "noted": len(group.task_ids),
        "there": len(tasks),
        "failed": len(failed),
        "succeeded": became["completed"],
        "became": _counts(became),
        "hosts": _counts(Counter(_RUN_AND_ROW.sub("", task.worker) for task in failed)),
        "attempts": _counts(Counter(map(_attempt, failed))),
        "variants": [
            {"message": row["value"], "count": row["count"]}
            for row in _counts(Counter(task.last_error for task in failed))
        ],
    }


def _became(task_id: str, states: dict[str, TaskState | None], completed: Collection[str]) -> str:
    if task_id not in states:
        return "completed" if task_id in completed else "gone"
    return str(states[task_id] or "elsewhere")


def _attempt(task: TaskDetail) -> int:
    """The number of the attempt that failed last, from 1: a task that waits for its retry has used that up."""
    return task.retried if task.state is TaskState.RETRY and task.retried else task.retried + 1


def _counts(counter: Counter[Any]) -> list[dict[str, Any]]:
    """The most frequent values first."""
    common = counter.most_common(MOST_KINDS)
    rest = counter.total() - sum(count for _, count in common)
    found = [{"value": str(value), "count": count} for value, count in common]
    return [*found, {"value": "others", "count": rest}] if rest else found

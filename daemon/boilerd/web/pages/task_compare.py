"""Two tasks side by side: what differs in payload, headers and options, as far as the person may see it."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from boilerd.broker.views import TaskDetail
from boilerd.web.page import Data, page
from boilerd.web.permissions import Permission
from boilerd.web.visit import Visit

#: Values of one task that are compared, and how deep they lie.
MOST_VALUES, MOST_DEPTH = 5000, 12
#: Rows that are shown.
MOST_ROWS = 300
_OPTIONS = ("type", "queue", "max_retries", "timeout_s", "retention_s", "deadline", "concurrency_limit")
_NOTHING = object()


@page("/tasks/{id}/compare", needs=Permission.VIEW, title="Compare", template="task_compare.html", quotes_payloads=True)
def compare(visit: Visit) -> Data:
    """A task and another one; without a name of that, the last of its type that completed and is kept."""
    this = visit.inspector.task(visit.path["id"])
    wanted = visit.word("with").strip()
    if wanted:
        other: TaskDetail | None = visit.inspector.task(wanted)
    else:
        other = visit.inspector.last_completed(this.queue, this.type)
    rows, is_cut = _rows(visit, this, other) if other else ([], False)
    return {
        "this": _about(this),
        "other": _about(other) if other else None,
        "with": wanted,
        "rows": rows[:MOST_ROWS],
        "found": len(rows),
        "is_cut": is_cut,
        "is_readable": all(each.is_readable for each in (this, other) if each),
    }


def _about(task: TaskDetail) -> dict[str, Any]:
    return {"id": task.id, "type": task.type, "queue": task.queue, "state": task.state or task.rq_status}


def _rows(visit: Visit, this: TaskDetail, other: TaskDetail) -> tuple[list[dict[str, Any]], bool]:
    """What differs, place by place, and whether not all was compared.

    What is hidden from the person is the same word on both sides: whether it differs is told to nobody.
    """
    left, right = (dict(_values(visit.seen(task))) for task in (this, other))
    rows = [
        {"place": place, "this": _text(left, place), "other": _text(right, place)}
        for place in dict.fromkeys([*left, *right])
        if left.get(place, _NOTHING) != right.get(place, _NOTHING)
    ]
    return rows, max(len(left), len(right)) >= MOST_VALUES


def _values(seen: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in _OPTIONS:
        yield name, _as_json(seen[name])
    left = iter(range(MOST_VALUES - len(_OPTIONS)))
    for name in ("payload", "headers"):
        yield from _leaves(name, seen[name], left, 0)


def _leaves(path: str, value: Any, left: Iterator[int], depth: int) -> Iterator[tuple[str, str]]:
    """The values of a payload by their places."""
    is_open = isinstance(value, Mapping | list) and bool(value) and depth < MOST_DEPTH
    if not is_open:
        if next(left, None) is not None:
            yield path, _as_json(value)
        return
    for name, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
        yield from _leaves(f"{path}.{name}", inner, left, depth + 1)


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str, sort_keys=True)


def _text(values: Mapping[str, str], place: str) -> str:
    return values.get(place, "")

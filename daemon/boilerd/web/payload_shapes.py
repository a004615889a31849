"""Payloads to begin a new task with: what those of its type have in them, without their values."""

from collections.abc import Mapping
from typing import Any

from boilerd.errors import BoilerdError
from boilerd.web.permissions import Permission
from boilerd.web.visit import Visit

#: Shapes that are offered, and how many tasks are looked at for them, and for how long.
MOST, _LOOKS, WITHIN_S = 3, 500, 0.1
#: Keys of one mapping, and how deep it goes.
_KEYS, _DEPTH = 100, 8


def shapes_of(visit: Visit, task_type: str, queue: str) -> list[Any]:
    """Those of tasks of this type that are kept, each once, for whoever may see payloads.

    They are looked for in all queues, but for those who have queues of their own in this one.
    """
    if not task_type or not visit.may(Permission.VIEW_PAYLOAD):
        return []
    try:
        found = visit.inspector.search(
            f'type:"{task_type.replace(chr(34), "")}"', queue=None if visit.who.queues is None else queue,
            size=20, looks=_LOOKS, within_s=WITHIN_S, sees=visit.seen,
        )  # fmt: skip
    except BoilerdError:
        return []
    shapes: list[Any] = []
    for task in found.tasks:
        shape = shape_of(visit.seen(task)["payload"])
        if shape not in shapes and shape not in (None, "", {}, []):
            shapes.append(shape)
    return shapes[:MOST]


def shape_of(value: Any, depth: int = 0) -> Any:
    """The value with an empty one of its kind in each place."""
    if isinstance(value, Mapping):
        if depth >= _DEPTH:
            return {}
        return {str(name): shape_of(inner, depth + 1) for name, inner in [*value.items()][:_KEYS]}
    if isinstance(value, list):
        return [shape_of(value[0], depth + 1)] if value and depth < _DEPTH else []
    if isinstance(value, bool):
        return False
    if isinstance(value, int | float):
        return 0
    return "" if isinstance(value, str) else None

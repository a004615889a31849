"""What is hidden in a form that somebody sends: it comes back as it was, is hidden still, and nothing is told of it.

A place is a path such as ``("payload", "card")``: there the form has `HIDDEN`, and the task a value.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from boilerd.web.quoting import HIDDEN
from boilerd.web.visit import QueryError

Place = tuple[str, ...]


def restored(name: str, edited: Any, seen: Any, old: Any) -> Any:
    """What was edited, with what is hidden as it was, where it stands as it stood; raises QueryError."""
    if edited == HIDDEN:
        if seen != HIDDEN:
            raise QueryError(f"{name}: {HIDDEN} stands where nothing was hidden; write the value")
        return old
    if isinstance(edited, dict):
        return {
            key: restored(f"{name}.{key}", inner, *(_inside(each, key) for each in (seen, old)))
            for key, inner in edited.items()
        }
    if isinstance(edited, list):
        return [
            restored(f"{name}.{place}", inner, *(_inside(each, place) for each in (seen, old)))
            for place, inner in enumerate(edited)
        ]
    return edited


def places_in(edited: Any, place: Place) -> Iterator[Place]:
    """Where it has what is hidden."""
    if edited == HIDDEN:
        yield place
    elif isinstance(edited, dict | list):
        pairs = edited.items() if isinstance(edited, dict) else enumerate(edited)
        for name, inner in pairs:
            yield from places_in(inner, (*place, str(name)))


def disclosed(seen: Mapping[str, Any], places: Collection[Place]) -> list[str]:
    """What would be told, with all that may be seen of the copy: a hook may hide it under one type, and not another."""
    return [
        f"{'.'.join(place)}: what is hidden there would be seen in this copy; write the value, or leave the type and"
        " what stands beside it as they were"
        for place in places
        if _at(seen, place) != HIDDEN
    ]


def blurred(problems: Sequence[str], places: Collection[Place]) -> list[str]:
    """The problems, each of which begins with its path, without what they tell of hidden values and their keys."""
    paths = [".".join(place) for place in places]
    found: dict[str, None] = {}
    for problem in problems:
        path = next((each for each in paths if problem.startswith((f"{each} ", f"{each}."))), "")
        found[f"{path}: what you do not see of it does not fit the type" if path else problem] = None
    return [*found]


def _at(value: Any, place: Place) -> Any:
    for part in place:
        value = _inside(value, int(part) if isinstance(value, list) else part)
    return value


def _inside(value: Any, part: Any) -> Any:
    try:
        return value[part]
    except (TypeError, KeyError, IndexError):
        return None

"""What a search looks for, as a person would say it."""

from collections.abc import Iterator

from boilerd.broker.task_filter import TaskFilter


def words_of(found: TaskFilter) -> str:
    """The parts of a search, behind "all tasks"; empty: it looks for nothing."""
    parts = [*_of_words(found), *_of_fields(found)]
    return ", ".join([", ".join(parts[:-1]) + " and " + parts[-1]] if len(parts) > 1 else parts)


def _of_words(found: TaskFilter) -> Iterator[str]:
    if found.type.endswith("*"):
        yield f"whose type begins with {found.type[:-1]}"
    elif found.type:
        yield f"of type {found.type}"
    where = "" if found.reads_payloads else " outside of their payloads"
    yield from (f"that have “{word}” somewhere{where}" for word in found.words)
    yield from (f"that have “{word}” nowhere{where}" for word in found.without)


def _of_fields(found: TaskFilter) -> Iterator[str]:
    yield from (f"whose last error has “{text}”" for text in found.errors)
    yield from (f"with “{value}” at {path} of the payload" for path, value in found.payload.items())
    yield from (f"with the header {name} “{value}”" for name, value in found.headers.items())
    if found.worker:
        yield f"whose last worker has “{found.worker}” in its name"
    if found.key:
        yield f"with the key “{found.key}”"
    if found.since:
        yield f"to which the last thing happened not before {found.since:%Y-%m-%d %H:%M:%S %Z}"
    if found.until:
        yield f"to which the last thing happened not after {found.until:%Y-%m-%d %H:%M:%S %Z}"

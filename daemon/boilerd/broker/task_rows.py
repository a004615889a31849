"""Tasks of a list as they were read, which become tasks only when somebody looks at one.

A list that renews itself is the same as before, as a rule, and what was read tells that: to make tasks of it takes
longer than to read it.
"""

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from boilerd.broker.view_reader import to_task
from boilerd.broker.views import TaskDetail

#: Bytes of a task's data, beyond which a list does not read it.
MOST_LISTED = 16 * 1024
#: What changes while a task runs, and nobody is shown.
_UNSEEN = b"last_heartbeat"

#: The ID of a task and its score, its job hash or the small fields of that, and how many bytes its data has where that
#: was not read, or 0.
TaskRow = tuple[tuple[str, float | None], Mapping[bytes, bytes], int]


class TaskRows(Sequence[TaskDetail]):
    """The tasks, without their attempts.

    Args:
        rows: What was read of each.
    """

    def __init__(self, rows: Sequence[TaskRow] = ()) -> None:
        self._rows = rows

    @functools.cached_property
    def mark(self) -> str:
        """A digest of all that the tasks are made of; raises ValueError where an ID is no text."""
        seen = [(member, {**record, _UNSEEN: b""}, size) for member, record, size in self._rows]
        return hashlib.sha256(msgspec.msgpack.encode(seen)).hexdigest()

    def __add__(self, others: "TaskRows") -> "TaskRows":
        return TaskRows([*self._rows, *others._rows])

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[TaskDetail]:
        return iter(self._tasks)

    def __getitem__(self, place: Any) -> Any:
        return self._tasks[place]

    @functools.cached_property
    def _tasks(self) -> list[TaskDetail]:
        return [_made(*row) for row in self._rows]


def _made(member: tuple[str, float | None], record: Mapping[bytes, bytes], size: int) -> TaskDetail:
    task_id, score = member
    task = to_task(task_id, record, score, ())
    return task.unread(size) if size > MOST_LISTED else task

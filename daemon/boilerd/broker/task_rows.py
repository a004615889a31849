"""Tasks of a list, which are read when somebody looks at one.

A list that renews itself is the same as before, as a rule, and a digest that Redis makes tells that: to read the tasks
takes longer.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from boilerd.broker.constants import MOST_LISTED
from boilerd.broker.view_reader import to_task
from boilerd.broker.views import TaskDetail

#: A task's ID and its score, which says when the task is due or expires, or since when it waits for a concurrency key;
#: None: its place has no score.
Member = tuple[str, float | None]
#: The fields of its job hash, or the small ones alone, and how many bytes its data has.
TaskRow = tuple[Mapping[bytes, bytes], int]


class Records(Protocol):
    """Reads the records of tasks."""

    def digests(self, members: Sequence[Member]) -> str:
        """What changes with all that is shown of them, but for their IDs and scores."""

    def listed(self, members: Sequence[Member]) -> tuple[str, Sequence[TaskRow]]:
        """The same, and what is shown, as it was at that moment."""


class TaskRows(Sequence[TaskDetail]):
    """The tasks, without their attempts.

    Args:
        members: Which tasks.
        records: Reads what they are made of; only where there are none, nobody.

    Attributes:
        members: The same.
    """

    def __init__(self, members: Sequence[Member] = (), records: Records | None = None) -> None:
        self.members = members
        self._records = records

    @functools.cached_property
    def digests(self) -> str:
        """What changes with all that is shown of them, but for their IDs and scores; never newer than that.

        They are not read for it; whoever shows them anyway calls `read` first, or Redis is asked twice.
        """
        if "_read" in self.__dict__:
            return self._read[0]
        return self._records.digests(self.members) if self._records else ""

    def read(self) -> None:
        """Read them now."""
        _ = self._read

    def __add__(self, others: "TaskRows") -> "TaskRows":
        return TaskRows([*self.members, *others.members], self._records or others._records)

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[TaskDetail]:
        return iter(self._tasks)

    def __getitem__(self, place: Any) -> Any:
        return self._tasks[place]

    @functools.cached_property
    def _read(self) -> tuple[str, Sequence[TaskRow]]:
        return self._records.listed(self.members) if self._records else ("", ())

    @functools.cached_property
    def _tasks(self) -> list[TaskDetail]:
        return [made(*row) for row in zip(self.members, self._read[1], strict=True)]


def made(member: Member, row: TaskRow) -> TaskDetail:
    """One of the tasks."""
    (task_id, score), (record, size) = member, row
    task = to_task(task_id, record, score, ())
    return task.unread(size) if size > MOST_LISTED else task

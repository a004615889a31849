"""Their tasks, and what is known of one."""

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from typing import Any

from boilerd.broker.explanation import Explanation, Reason, ReasonKind
from boilerd.broker.task_filter import TaskFilter
from boilerd.broker.task_search import TasksFound
from boilerd.broker.traces import Traces
from boilerd.broker.views import TaskDetail
from boilerd.errors import TaskNotFoundError
from boilerd.tasks.task import TaskState, no_such_task
from boilerd.web.own_queues.part import Part

#: Reasons why a task does not run that tell of other queues, or of tasks there.
_OF_OTHERS = frozenset(
    {
        ReasonKind.DEPENDENCIES, ReasonKind.CONCURRENCY_KEY, ReasonKind.STRAY, ReasonKind.HEAVIER, ReasonKind.BUSY,
    }
)  # fmt: skip


class TasksPart(Part):
    """Look at tasks, and find some."""

    def task(self, task_id: str) -> TaskDetail:
        """One task; that of another queue is unknown."""
        found = self._all.task(task_id)
        if not self._who.owns(found.queue):
            raise no_such_task(task_id)
        return self.told([found])[0]

    def reveal(self, task_id: str) -> TaskDetail:
        """One task, which is noted."""
        self.task(task_id)
        return self.told([self._all.reveal(task_id)])[0]

    def tasks_of(self, task_ids: Iterable[str]) -> list[TaskDetail]:
        """Those of them that are theirs."""
        return self.told(self._owned(task_ids))

    def owns_all(self, task_ids: Iterable[str]) -> bool:
        """Whether none of those of them that are there is of another queue."""
        return all(self._who.owns(task.queue) for task in self._all.tasks_of(task_ids))

    def explain(self, task_id: str, **more: Any) -> Explanation:
        """Why it does not run, as far as its own queue is the reason."""
        self.task(task_id)
        found = self._all.explain(task_id, **more)
        reasons = tuple(_cut(each, found.queue) for each in found.reasons if each.kind not in _OF_OTHERS)
        return replace(found, reasons=reasons)

    def key_holders(self, unique_key: str, concurrency_key: str) -> dict[str, list[str]]:
        """Those that are theirs."""
        found = self._all.key_holders(unique_key, concurrency_key)
        own = self._ids_of([*dict.fromkeys(id_ for ids in found.values() for id_ in ids)])
        return {kind: [task_id for task_id in ids if task_id in own] for kind, ids in found.items()}

    def traces(self, task_id: str, queue: str = "", since: datetime | None = None, **more: Any) -> Traces:
        """What the audit knows of one; of one that is gone nobody knows whose it was."""
        try:
            queue = self.task(task_id).queue
        except TaskNotFoundError:
            raise self.refusal("what is known of a task that is gone may be of another one") from None
        found = self._all.traces(task_id, queue, since, **more)
        own = self._ids_of(found.copies)
        return replace(found, copies=[copy for copy in found.copies if copy in own])

    def dependents(self, task_id: str) -> list[str]:
        """Those of them that are theirs."""
        found = self._all.dependents(self.task(task_id).id)
        own = self._ids_of(found)
        return [each for each in found if each in own]

    def last_completed(self, queue: str, task_type: str, **more: Any) -> TaskDetail | None:
        """The last one of a type."""
        found = self._all.last_completed(self._own(queue), task_type, **more)
        return self.told([found])[0] if found else None

    def parse_filter(self, given: str) -> TaskFilter:
        """What is sought."""
        return self._all.parse_filter(given)

    def tasks(self, queue: str, state: TaskState, **more: Any) -> list[TaskDetail]:
        """A part of a list."""
        return self.told(self._all.tasks(self._own(queue), state, **more))

    def search(self, wanted: TaskFilter | str = "", *, queue: str | None = None, **more: Any) -> TasksFound:
        """A part of a list, or what is found."""
        meant = self._meant(wanted)
        found = self._all.search(meant, queue=self._own(meant.queue or queue), **more)
        return replace(found, tasks=self.told(found.tasks))

    def export(
        self, wanted: TaskFilter | str = "", *, queue: str | None = None, **more: Any
    ) -> Generator[Sequence[TaskDetail]]:
        """All of it."""
        meant = self._meant(wanted)
        parts = self._all.export(meant, queue=self._own(meant.queue or queue), **more)
        return self._told_parts(parts)

    def _meant(self, wanted: TaskFilter | str) -> TaskFilter:
        return self.parse_filter(wanted) if isinstance(wanted, str) else wanted

    def _told_parts(self, parts: Generator[Sequence[TaskDetail]]) -> Generator[Sequence[TaskDetail]]:
        with closing(parts):
            for part in parts:
                yield self.told(part)

    def note_export(self, page: str, count: int) -> None:
        """Note that they got a list as a file."""
        self._all.note_export(page, count)

    def last_place(self, queue: str, state: TaskState, size: int = 30) -> str:
        """Where a list ends."""
        return self._all.last_place(self._own(queue), state, size)

    def place_around(self, queue: str, task_id: str, size: int = 30) -> str:
        """Where a task stands."""
        return self._all.place_around(self._own(queue), task_id, size)


def _cut(reason: Reason, queue: str) -> Reason:
    """The reason without what other queues there are."""
    if reason.kind is not ReasonKind.UNSERVED:
        return reason
    return replace(reason, fact=f"Nobody works on queue {queue}.", remedy="")

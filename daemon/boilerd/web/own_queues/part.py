"""What all parts of an inspector of some queues share."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NoReturn

from boilerd.broker.views import TaskDetail
from boilerd.inspector import Inspector
from boilerd.web.permissions import Principal
from boilerd.web.refusal import Refusal


class Part:
    """A part of it: whose queues these are, and what is of them."""

    def __init__(self, inspector: Inspector, who: Principal) -> None:
        self._all = inspector
        self._who = who

    def __getattr__(self, name: str) -> NoReturn:
        raise self.refusal("this shows or changes more than these")

    def refusal(self, why: str) -> Refusal:
        """What they are told who ask for more."""
        return Refusal(403, f"{self._who.name} has the queues {', '.join(self._who.queues or ())}: {why}")

    def _own(self, queue: str | None) -> str:
        """The queue, if it is theirs."""
        if not queue:
            raise self.refusal("name one of them, as in ?queue=NAME")
        if not self._who.owns(queue):
            raise self.refusal("this is of another one")
        return queue

    def _owned(self, task_ids: Iterable[str]) -> list[TaskDetail]:
        return [task for task in self._all.tasks_of(task_ids) if self._who.owns(task.queue)]

    def told(self, tasks: Sequence[TaskDetail]) -> list[TaskDetail]:
        """The same, of which no copy names a task that is not theirs, or gone."""
        others = {task.copied_from for task in tasks if task.copied_from}
        others -= self._ids_of(others) if others else set()
        return [replace(task, copied_from="") if task.copied_from in others else task for task in tasks]

    def _ids_of(self, task_ids: Iterable[str]) -> set[str]:
        """Those of them that are theirs."""
        return {task.id for task in self._owned(task_ids)}

"""An action with all tasks of a state, or of a failure group, chunk by chunk."""

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from boilerd.broker.broker import Broker
from boilerd.broker.inspection import Inspection
from boilerd.broker.states import ALLOWED, ONE_REGISTRY, Action
from boilerd.errors import TaskStateError
from boilerd.tasks.task import TaskState

if TYPE_CHECKING:
    from boilerd.broker.failure_groups import FailureGroups

#: Tasks in one step of a bulk action: Redis is busy with it for about a millisecond.
CHUNK = 100
#: Answers for a task that has left its place: the action was done with it, or it is in another state by now.
_LEFT = frozenset({"done", *TaskState})
#: Answers for a task that the action was done with.
_DONE = frozenset({"done", "blank"})
#: So many blanks of a bulk action are on a queue's list at most: to remove them walks the list.
MOST_BLANKS = 2000


@dataclass(frozen=True, slots=True)
class BulkProgress:
    """How far a bulk action has come.

    Attributes:
        done: Tasks that the action was done with.
        seen: Tasks looked at.
        total: Tasks that were there when it began.
    """

    done: int
    seen: int
    total: int


@dataclass(frozen=True, slots=True)
class Choice:
    """With which tasks a bulk action is done.

    Attributes:
        queue: Their queue.
        state: Their state.
        task_type: Their type; None: any.
        fingerprint: The failure group of their last failure; None: any.
    """

    queue: str
    state: TaskState
    task_type: str | None = None
    fingerprint: str | None = None


@dataclass(slots=True)
class Walk:
    """How far a bulk action has come with the tasks of a choice; one that was left can be continued from it.

    Attributes:
        total: Tasks to look at.
        done: Tasks that the action was done with.
        seen: Tasks looked at.
        stay: How many of these stand before the next one yet: not chosen, without a record, in a state of RQ's own.
        skipped: Why it was not done → with how many.
    """

    total: int
    done: int = 0
    seen: int = 0
    stay: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    def note(self, looked: int, answers: Sequence[str]) -> None:
        """Add what came of a chunk."""
        self.done += sum(answer in _DONE for answer in answers)
        self.seen += looked
        self.stay += looked - sum(answer in _LEFT or answer in _DONE for answer in answers)
        self.skipped.update(answer.partition(" ")[0] for answer in answers if answer not in _DONE)


class BulkActions:
    """Does them; raises BrokerError."""

    def __init__(self, broker: Broker, inspection: Inspection) -> None:
        self._broker = broker
        self._inspection = inspection

    def each_chunk(self, action: Action, choice: Choice, walk: Walk | None = None) -> Iterator[BulkProgress]:
        """Do the action with the tasks of the choice that are there now; `walk` is where one goes on."""
        queue = choice.queue
        walk = walk or Walk(self._inspection.length(queue, choice.state))
        blanks = 0
        try:
            while walk.seen < walk.total:
                # Behind those that stay, and the blanks in the place of those that do not.
                start = walk.stay + blanks
                looked, chosen = self._chunk(choice, start, min(CHUNK, walk.total - walk.seen))
                if not looked:
                    return
                with self._inspection.naming_keys(queue):
                    answers = self._broker.act(action, chosen, start)
                walk.note(looked, answers)
                blanks += answers.count("blank")
                if blanks >= MOST_BLANKS:
                    self._broker.remove_blanks(queue)
                    blanks = 0
                yield BulkProgress(walk.done, walk.seen, walk.total)
        finally:
            if blanks:
                self._broker.remove_blanks(queue)

    def each_chunk_of_group(self, action: Action, fingerprint: str) -> Iterator[BulkProgress]:
        """Do the action with the tasks of a failure group, in all queues and in each state that allows it."""
        lengths = self.places_of_group(action)
        done = seen = 0
        for place, length in lengths.items():
            last = BulkProgress(0, 0, 0)
            for last in self.each_chunk(action, Choice(*place, fingerprint=fingerprint)) if length else ():
                yield BulkProgress(done + last.done, seen + last.seen, sum(lengths.values()))
            done, seen = done + last.done, seen + last.seen

    def places_of_group(self, action: Action) -> dict[tuple[str, TaskState], int]:
        """The queues and states in which tasks of a failure group may be, and how many tasks are there."""
        # Archived ones first: one that runs and fails again is not run once more from the archive.
        states = [state for state in (TaskState.ARCHIVED, TaskState.RETRY) if state in ALLOWED[action]]
        places = [(name, state) for name in self._inspection.queue_names()[0] for state in states]
        return {place: self._inspection.length(*place) for place in places}

    def chosen(self, choice: Choice, start: int, count: int) -> tuple[int, list[str]]:
        """As a chunk finds them: how many tasks were looked at from that place on, and which are chosen."""
        return self._chunk(choice, start, count)

    def _chunk(self, choice: Choice, start: int, count: int) -> tuple[int, list[str]]:
        """How many tasks were looked at from place `start`, and the IDs of those that are chosen."""
        queue, state = choice.queue, choice.state
        if state in ONE_REGISTRY:
            looked, found = self._inspection.sift(queue, state, start, count, count)
        else:
            found = self._inspection.members(queue, state, start, count)
            looked = len(found)
        if choice.fingerprint is not None:
            prints = self.groups.of_tasks([task_id for task_id, _ in found])
            found = [member for member, one in zip(found, prints, strict=True) if one == choice.fingerprint]
        if choice.task_type is None:
            return looked, [task_id for task_id, _ in found]
        details = self._inspection.details(found, is_whole=False)
        return looked, [task.id for task in details if task.state is state and task.type == choice.task_type]

    @functools.cached_property
    def groups(self) -> "FailureGroups":
        """The failure groups."""
        from boilerd.broker.failure_groups import FailureGroups  # noqa: PLC0415 - each `boilerd enqueue` does without

        return FailureGroups(self._broker.connection)


def check_allowed(action: Action, state: TaskState) -> None:
    """Raise TaskStateError where the action cannot be done with tasks in that state."""
    if state not in ALLOWED[action]:
        raise TaskStateError(f"{state} tasks", state, action, ALLOWED[action])

"""An action with all tasks of a state, or of a failure group, chunk by chunk."""

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from boilerd.broker.anchor import Anchor, Stand
from boilerd.broker.broker import Broker
from boilerd.broker.inspection import Inspection
from boilerd.broker.states import ALLOWED, ONE_REGISTRY, Action
from boilerd.broker.task_rows import Member
from boilerd.broker.views import TaskDetail
from boilerd.errors import TaskStateError
from boilerd.tasks.task import TaskState

if TYPE_CHECKING:
    from boilerd.broker.failure_groups import FailureGroups
    from boilerd.broker.picker import Picker
    from boilerd.broker.task_filter import Condition, TaskFilter

#: Tasks in one step of a bulk action: Redis is busy with it for about a millisecond.
CHUNK = 100
#: Answers for a task that has left its place: the action was done with it, or it is in another state by now.
_LEFT = frozenset({"done", *TaskState})
#: Answers for a task that the action was done with.
_DONE = frozenset({"done", "blank"})
#: So many blanks of a bulk action are on a queue's list at most: to remove them walks the list.
MOST_BLANKS = 2000
#: So many places before a chunk are read again, for others take tasks between two calls; more are asked for once more.
OVERLAP = 64
#: Tasks that were rescheduled to one moment are due within this time.
_IN_TURN_S = 1.0
#: Does something with tasks, the first of which was found at that place; its answer for each, as of `Broker.act`.
Doing = Callable[[Sequence[str], int], Sequence[str]]


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
        sought: What else they must have; None: nothing.
        sees: Makes of a task what the search looks at; None: all of it.
        is_both: Whether scheduled tasks and those to be retried are meant, whichever of them is the state.
        due_s: They are to be due then; those of the registry that are so already are passed over.
    """

    queue: str
    state: TaskState
    task_type: str | None = None
    fingerprint: str | None = None
    sought: "TaskFilter | None" = None
    sees: Callable[[TaskDetail], Mapping[str, Any]] | None = None
    is_both: bool = False
    due_s: float | None = None

    def conditions(self) -> "Iterator[Condition]":
        """What Redis can tell of it, as of `TaskFilter.conditions`."""
        if self.state in ONE_REGISTRY and not self.is_both:
            yield "there" if self.state is TaskState.RETRY else "absent", "last_failed_at", "", ""
        if self.task_type is not None:
            yield "is", "task_type", self.task_type, ""
        if self.fingerprint is not None:
            yield "is", "fingerprint", self.fingerprint, ""
        if self.sought is not None:
            yield from self.sought.conditions()

    @property
    def states(self) -> frozenset[TaskState]:
        """The states that are meant."""
        return ONE_REGISTRY if self.is_both else frozenset({self.state})

    def is_due_so(self, member: Member) -> bool:
        """Whether it is due then already, in its turn: tasks of one moment are a microsecond apart."""
        score = member[1]
        return self.due_s is not None and score is not None and -1e-5 < score - self.due_s < _IN_TURN_S


@dataclass(frozen=True, slots=True)
class Looked:
    """What stands at some places.

    Attributes:
        start: The first of the places.
        count: How many tasks were looked at.
        members: Those of them that are known.
        chosen: The IDs of those that are chosen.
        passed: How many count as not there.
    """

    start: int
    count: int
    members: Sequence[Member]
    chosen: Sequence[str]
    passed: int = 0


@dataclass(slots=True)
class Walk:
    """How far a bulk action has come with the tasks of a choice; one that was left can be continued from it.

    Attributes:
        total: Tasks to look at.
        began: As of which moment they were counted.
        done: Tasks that the action was done with.
        seen: Tasks looked at.
        stay: How many of these stand before the next one yet: not chosen, without a record, in a state of RQ's own.
        places: The last ones of these, by which one that goes on sees what others have taken meanwhile.
        skipped: Why it was not done → with how many.
    """

    total: int
    began: datetime
    done: int = 0
    seen: int = 0
    stay: int = 0
    places: Mapping[str, int] = field(default_factory=dict)
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

    def each_chunk(
        self, action: Action, choice: Choice, walk: Walk | None = None, do: Doing | None = None
    ) -> Iterator[BulkProgress]:
        """Do the action, or what `do` does, with the tasks of the choice that are there now; `walk` is where one goes
        on.
        """  # noqa: D205 - one sentence
        queue = choice.queue
        walk = walk or Walk(self._inspection.length(queue, choice.state), self.now())
        do = do or functools.partial(self._broker.act, action)
        anchor = Anchor(self._broker.connection, queue, choice.state, walk.places)
        began = walk.began if choice.state in ONE_REGISTRY else None
        blanks = 0
        try:
            while walk.seen < walk.total:
                # Behind those that stay, and the blanks in the place of those that do not.
                walk.stay = max(walk.stay + anchor.drift(), -blanks)
                looked = self._chunk(choice, walk.stay + blanks, min(CHUNK, walk.total - walk.seen), anchor, began)
                if not looked.count:
                    return
                start, walk.stay = looked.start, looked.start - blanks
                with self._inspection.naming_keys(queue):
                    answers = do(looked.chosen, start)
                walk.note(looked.count - looked.passed, answers)
                walk.stay += looked.passed
                anchor.remember(_staying(looked, answers, Stand(start, blanks)))
                blanks += answers.count("blank")
                if blanks >= MOST_BLANKS:
                    self._broker.remove_blanks(queue)
                    anchor.note_removed()
                    blanks = 0
                walk.places = anchor.places
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

    def now(self) -> datetime:
        """The moment, by Redis's clock."""
        return datetime.fromtimestamp(self._broker.now(), UTC)

    def chosen(self, choice: Choice, start: int, count: int) -> tuple[int, Sequence[str]]:
        """As a chunk finds them: how many tasks were looked at from that place on, and which are chosen."""
        looked = self._chunk(choice, start, count)
        return looked.count, looked.chosen

    def _chunk(
        self, choice: Choice, start: int, count: int, anchor: Anchor | None = None, began: datetime | None = None
    ) -> Looked:
        """Look at tasks from place `start` on, or with an anchor where they are by now, but for what came since."""
        queue, state = choice.queue, choice.state
        if anchor:
            start, members = self._behind(anchor, choice, start, count)
        else:
            members = self._inspection.members(queue, state, start, count)
        there = [member for member in members if member[0] and not choice.is_due_so(member)]  # a blank is none
        if began:  # what came or failed again since may stand before those that were there
            there = self._picker.all_picked([came_before(began)], there)
        return Looked(start, len(members), members, self._meant(choice, there), len(members) - len(there))

    def _behind(self, anchor: Anchor, choice: Choice, start: int, count: int) -> tuple[int, list[Member]]:
        """Where the walk goes on that was to do so at place `start`, and the tasks from there on."""
        while True:
            first = max(0, start - OVERLAP)
            found = self._inspection.members(choice.queue, choice.state, first, start - first + count)
            # More may have been taken since `drift` than the overlap shows.
            if first == start or not anchor.is_lost_in(found) or not (drift := anchor.drift()):
                break
            start = max(0, start + drift)
        start = max(first, start + anchor.drift_in(found, first, start))
        return start, found[start - first :][:count]

    def _meant(self, choice: Choice, found: list[Member]) -> list[str]:
        """The IDs of those that are chosen."""
        if conditions := [*choice.conditions()]:
            found = self._picker.all_picked(conditions, found)
        if choice.sought is not None:
            see, fits = choice.sees or plain, choice.sought.fits
            whole = (task for portion in self._inspection.portions(found) for task, _ in portion)
            return [task.id for task in whole if _is_of(task, choice) and fits(see(task))]
        if choice.task_type is not None:
            return [task.id for task in self._inspection.details(found, is_whole=False) if _is_of(task, choice)]
        return [task_id for task_id, _ in found]

    @functools.cached_property
    def _picker(self) -> "Picker":
        from boilerd.broker.picker import Picker  # noqa: PLC0415 - as of `groups`

        return Picker(self._broker.connection)

    @functools.cached_property
    def groups(self) -> "FailureGroups":
        """The failure groups."""
        from boilerd.broker.failure_groups import FailureGroups  # noqa: PLC0415 - each `boilerd enqueue` does without

        return FailureGroups(self._broker.connection)


def came_before(moment: datetime) -> "Condition":
    """The condition that a task was neither enqueued after that moment, as far as Redis knows, nor failed since."""
    return "before", "", f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z", ""


def plain(task: TaskDetail) -> Mapping[str, Any]:
    """A task as a filter looks at it."""
    return {name: getattr(task, name) for name in TaskDetail.__dataclass_fields__}


def _is_of(task: TaskDetail, choice: Choice) -> bool:
    """Whether it is of the type, and in one of the states."""
    return task.state in choice.states and choice.task_type in {None, task.type}


def _staying(looked: Looked, answers: Sequence[str], start: Stand) -> dict[str, Stand]:
    """The tasks that stay, with their places by now; what is in no list or registry of its own is left out."""
    told = dict(zip(looked.chosen, answers, strict=True))
    is_pending = all(score is None for _, score in looked.members[:1])
    staying, gone, blanks = {}, 0, start.blanks
    for place, (task_id, score) in enumerate(looked.members, start.place):
        if is_pending and score is not None:
            break  # those that wait for a key stand behind the list
        if told.get(task_id) in _LEFT:
            gone += 1
        elif told.get(task_id) == "blank":
            blanks += 1
        elif task_id:
            staying[task_id] = Stand(place - gone, blanks)
    return staying


def check_allowed(action: Action, state: TaskState) -> None:
    """Raise TaskStateError where the action cannot be done with tasks in that state."""
    if state not in ALLOWED[action]:
        raise TaskStateError(f"{state} tasks", state, action, ALLOWED[action])

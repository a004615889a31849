"""Where a walk through a queue's tasks goes on, though others take tasks before it meanwhile, or put some back."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import redis

from boilerd.broker import keys
from boilerd.broker.connection import raw, text
from boilerd.broker.refusals import expecting
from boilerd.broker.states import REGISTRIES
from boilerd.broker.task_rows import Member
from boilerd.tasks.task import TaskState

#: Tasks of one chunk that are remembered: one of them stands there yet, as a rule.
MOST_REMEMBERED = 20
#: So many tasks may have left the head of a list since the last chunk.
_NEAR = 1000


class Stand(NamedTuple):
    """The place of a task, and how many blanks of the walk's own are before it."""

    place: int
    blanks: int = 0


class Anchor:
    """Remembers tasks that a walk has left where they are.

    Args:
        connection: The client of Redis.
        queue: Their queue.
        state: Their state.
        places: What an earlier walk has remembered, as of `places`.
    """

    def __init__(
        self, connection: redis.Redis, queue: str, state: TaskState, places: Mapping[str, int] | None = None
    ) -> None:
        self._connection: Any = connection  # whose answers redis-py cannot type
        self._queue = queue
        self._state = state
        self._stands = {raw(task_id): Stand(place) for task_id, place in (places or {}).items()}

    def remember(self, stands: Mapping[str, Stand]) -> None:
        """These tasks, in their order; of none, those before are remembered on."""
        if stands:
            self._stands = {raw(task_id): stand for task_id, stand in [*stands.items()][-MOST_REMEMBERED:]}

    @property
    def places(self) -> dict[str, int]:
        """Where the tasks stand when the walk's blanks are removed; a later walk may go on from there."""
        return {text(task_id): stand.place - stand.blanks for task_id, stand in self._stands.items()}

    def note_removed(self) -> None:
        """The walk's blanks are removed: those before each task counted for its place."""
        self._stands = {task_id: Stand(stand.place - stand.blanks) for task_id, stand in self._stands.items()}

    def drift(self) -> int:
        """By how many places they have moved by others' doing; all to the head, if none of them is found."""
        if not self._stands:
            return 0
        found = self._listed() if self._state is TaskState.PENDING else self._ranked()
        last = next((task_id for task_id in reversed(self._stands) if task_id in found), None)
        places = [stand.place for stand in self._stands.values()]
        return self._moved(found[last] - self._stands[last].place if last is not None else -max(places) - 1)

    def is_lost_in(self, members: Sequence[Member]) -> bool:
        """Whether none of the tasks is among these, which begin before the walk's place; its blanks may stand behind
        them.
        """  # noqa: D205 - one sentence
        begins_blank = any(not task_id for task_id, _ in members[:1])
        return not begins_blank and all(raw(task_id) not in self._stands for task_id, _ in members)

    def drift_in(self, members: Sequence[Member], first: int, start: int) -> int:
        """By how many places they have moved since `drift`, as these members show, which stand from `first` on.

        Where the walk goes on at `start`, only blanks of its own stand behind the last task that it has left.
        """
        for place, (task_id, _) in enumerate(members, first):
            if stand := self._stands.get(raw(task_id)):
                return self._moved(place - stand.place)
        before = enumerate(members[: start - first], first)
        return self._moved(next((place - start for place, (id_, score) in before if id_ and score is None), 0))

    def _moved(self, drift: int) -> int:
        self._stands = {id_: Stand(place + drift, blanks) for id_, (place, blanks) in self._stands.items()}
        return drift

    def _listed(self) -> Mapping[bytes, int]:
        key = keys.queue(self._queue)
        last, (place, _) = next(reversed(self._stands.items()))
        with expecting("list", key):
            if self._connection.lindex(raw(key), place) == last:
                return {last: place}
            start = max(min(stand.place for stand in self._stands.values()) - _NEAR, 0)
            ids = self._connection.lrange(raw(key), start, place + _NEAR)
        return {task_id: start + number for number, task_id in enumerate(ids)}

    def _ranked(self) -> Mapping[bytes, int]:
        key = keys.registry(REGISTRIES[self._state], self._queue)
        with expecting("sorted set", key), self._connection.pipeline(transaction=False) as pipeline:
            for task_id in self._stands:
                pipeline.zrank(raw(key), task_id)
            ranks = pipeline.execute()
        return {task_id: rank for task_id, rank in zip(self._stands, ranks, strict=True) if rank is not None}

"""Where a walk through a queue's tasks goes on, though others take tasks before it meanwhile, or put some back."""

from collections.abc import Mapping
from typing import Any

import redis

from boilerd.broker import keys
from boilerd.broker.connection import raw
from boilerd.broker.refusals import expecting
from boilerd.broker.states import REGISTRIES
from boilerd.tasks.task import TaskState

#: Tasks of one chunk that are remembered: one of them stands there yet, as a rule.
MOST_REMEMBERED = 20
#: So many tasks may have left the head of a list since the last chunk.
_NEAR = 1000


class Anchor:
    """Remembers tasks that a walk has left where they are.

    Args:
        connection: The client of Redis.
        queue: Their queue.
        state: Their state.
    """

    def __init__(self, connection: redis.Redis, queue: str, state: TaskState) -> None:
        self._connection: Any = connection  # whose answers redis-py cannot type
        self._queue = queue
        self._state = state
        self._places: dict[bytes, int] = {}

    def remember(self, places: Mapping[str, int]) -> None:
        """These tasks, each with its place, in their order; of none, those before are remembered on."""
        if places:
            self._places = {raw(task_id): place for task_id, place in [*places.items()][-MOST_REMEMBERED:]}

    def shift(self, by: int) -> None:
        """So many places before them have come, or gone, by the walk itself."""
        self._places = {task_id: place + by for task_id, place in self._places.items()}

    def drift(self) -> int:
        """By how many places they have moved by others' doing; all to the head, if none of them is found."""
        if not self._places:
            return 0
        found = self._listed() if self._state is TaskState.PENDING else self._ranked()
        last = next((task_id for task_id in reversed(self._places) if task_id in found), None)
        drift = found[last] - self._places[last] if last is not None else -max(self._places.values()) - 1
        self.shift(drift)
        return drift

    def _listed(self) -> Mapping[bytes, int]:
        key = keys.queue(self._queue)
        last, place = next(reversed(self._places.items()))
        with expecting("list", key):
            if self._connection.lindex(raw(key), place) == last:
                return {last: place}
            start = max(min(self._places.values()) - _NEAR, 0)
            ids = self._connection.lrange(raw(key), start, place + _NEAR)
        return {task_id: start + number for number, task_id in enumerate(ids)}

    def _ranked(self) -> Mapping[bytes, int]:
        key = keys.registry(REGISTRIES[self._state], self._queue)
        with expecting("sorted set", key), self._connection.pipeline(transaction=False) as pipeline:
            for task_id in self._places:
                pipeline.zrank(raw(key), task_id)
            ranks = pipeline.execute()
        return {task_id: rank for task_id, rank in zip(self._places, ranks, strict=True) if rank is not None}

"""Find tasks by a header, such as those of one request: nothing in Redis leads there, so records are looked at.

The search goes through queues and states in pieces of less than a millisecond of Redis, as far as its limits allow, and
says where it stopped.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from boilerd.broker.constants import MOST_SEARCHED
from boilerd.broker.inspection import Inspection
from boilerd.broker.job_hash import request_id_of
from boilerd.broker.script_calls import ScriptCalls
from boilerd.broker.states import ONE_REGISTRY
from boilerd.broker.views import TaskDetail
from boilerd.errors import InvalidTaskError, shown
from boilerd.tasks.headers import check_headers
from boilerd.tasks.task import TaskState

#: Tasks in one call of the script.
_CHUNK = 100
#: The order of the search; scheduled tasks and those to be retried stand in one registry.
_STATES = (TaskState.ACTIVE, TaskState.PENDING, TaskState.SCHEDULED, TaskState.ARCHIVED, TaskState.COMPLETED)


@dataclass(frozen=True, slots=True)
class TasksFound:
    """What a search has found.

    Attributes:
        tasks: The tasks, without their attempts.
        looked: How many tasks were looked at.
        after: Where to go on, for the next call; empty: all were looked at.
    """

    tasks: Sequence[TaskDetail]
    looked: int
    after: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """A place among the tasks of a queue in a state."""

    state: TaskState
    start: int
    queue: str

    def __str__(self) -> str:
        return f"{self.state.value}:{self.start}:{self.queue}"

    @classmethod
    def parse(cls, given: str) -> "Place":
        """Read one; raises InvalidTaskError."""
        state, _, rest = given.partition(":")
        start, _, queue = rest.partition(":")
        if state not in {one.value for one in _STATES} or not (start.isascii() and start.isdecimal()) or not queue:
            raise InvalidTaskError(
                f"place {shown(given)}: it is no STATE:NUMBER:QUEUE; give what the search before this one said"
            )
        return cls(TaskState(state), int(start), queue)


@dataclass(slots=True)
class Limits:
    """How far one search goes: how many tasks it may find, how many it may look at, and until when."""

    size: int
    looks: int
    ends_s: float


class HeaderSearch(ScriptCalls):
    """Finds tasks by their headers; raises BrokerError.

    Args:
        inspection: Reads queues and tasks.
        headers: All of these must be there; a ``request_id`` may be in the payload.
    """

    def __init__(self, inspection: Inspection, headers: Mapping[str, str]) -> None:
        super().__init__(inspection.connection)
        self._inspection = inspection
        self._headers = check_headers(headers)
        if not self._headers:
            raise InvalidTaskError("headers: there are none to look for; give one, as in {'request_id': 'r-9'}")

    def run(
        self, queues: Sequence[str], state: TaskState | None, after: str, *, size: int, looks: int, within_s: float
    ) -> TasksFound:
        """Search these queues, from the place `after` on."""
        limits = Limits(size, looks, time.monotonic() + within_s)
        found: list[TaskDetail] = []
        looked = 0
        for place in _places(queues, state, after):
            start = place.start
            while True:
                if len(found) >= limits.size or looked >= limits.looks or time.monotonic() > limits.ends_s:
                    return TasksFound(found, looked, str(Place(place.state, start, place.queue)))
                count = min(_CHUNK, limits.looks - looked)
                seen, some = self._look(Place(place.state, start, place.queue), count, limits.size - len(found))
                found += [task for task in some if state in {None, task.state}]
                start, looked = start + seen, looked + seen
                if not seen:
                    break
        return TasksFound(found, looked)

    def _look(self, place: Place, count: int, most: int) -> tuple[int, list[TaskDetail]]:
        """Look at the next tasks; how many they were, and those that have the headers."""
        members = self._inspection.members(place.queue, place.state, place.start, count)
        if not members:
            return 0, []
        name, value = next(iter(self._headers.items()))
        is_in_payload = int(name == "request_id")
        task_ids = [task_id for task_id, _ in members]
        looked, *places = self._run(
            "headed", [MOST_SEARCHED, msgspec.json.encode(value)[1:], json.dumps(value)[1:], is_in_payload, *task_ids]
        )
        # No more than may be found, as their records may be large; the rest is looked at again.
        chosen = [members[number - 1] for number in places[:most]]
        seen = places[most - 1] if len(places) >= most else looked
        return seen, [task for task in self._inspection.details(chosen) if self._has_headers(task)]

    def _has_headers(self, task: TaskDetail) -> bool:
        request_id = request_id_of(task.payload, task.headers) if self._headers.keys() & {"request_id"} else None
        has = {**task.headers, "request_id": request_id}
        return all(has.get(name) == value for name, value in self._headers.items())


def _places(queues: Sequence[str], state: TaskState | None, after: str) -> Iterator[Place]:
    """Where the search begins in each queue and state, in their order."""
    first = Place.parse(after) if after else None
    wanted = TaskState.SCHEDULED if state in ONE_REGISTRY else state
    found = [Place(one, 0, name) for name in sorted(queues) for one in _STATES if wanted in {None, one}]
    if first is None:
        yield from found
        return
    begins = (first.queue, _STATES.index(first.state))
    for place in found:
        here = (place.queue, _STATES.index(place.state))
        if here >= begins:
            yield first if here == begins else place

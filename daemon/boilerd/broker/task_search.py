"""Go through tasks place by place, and keep those that somebody looks for: nothing in Redis leads to them.

A search goes through queues and states in pieces of less than a millisecond of Redis, as far as its limits allow, and
says where it stopped. With nothing to look for it is a list, of which each part is found by where the last one ended.
"""

import base64
import binascii
import enum
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import redis

from boilerd.broker import keys
from boilerd.broker.connection import raw, text
from boilerd.broker.constants import MOST_LISTED, MOST_NEAR
from boilerd.broker.inspection import Inspection
from boilerd.broker.job_hash import request_id_of
from boilerd.broker.picker import Picker, chunk_of
from boilerd.broker.refusals import expecting
from boilerd.broker.states import ONE_REGISTRY, REGISTRIES
from boilerd.broker.task_filter import Condition, headers_have
from boilerd.broker.task_inspection import SIFTED_AT_ONCE
from boilerd.broker.task_rows import Member, TaskRows
from boilerd.broker.views import TaskDetail
from boilerd.errors import InvalidTaskError, shown
from boilerd.tasks.headers import check_headers
from boilerd.tasks.task import TaskState

#: Bytes of tasks that a part of an export may have.
_MUCH = 1024 * 1024
#: The order of the search; scheduled tasks and those to be retried stand in one registry.
_STATES = (TaskState.ACTIVE, TaskState.PENDING, TaskState.SCHEDULED, TaskState.ARCHIVED, TaskState.COMPLETED)

Keeps = Callable[[TaskDetail], bool]


class Reads(enum.Enum):
    """How much of the tasks a search reads, and leaves in what it has found."""

    #: All of all, at once.
    WHOLE = enum.auto()
    #: All of each, a few at a time; and it stops where it has found much.
    PORTIONS = enum.auto()
    #: All of each, a few at a time; what is large is not kept.
    LOOKED_THROUGH = enum.auto()
    #: Nothing that is large, of a list of all that there is.
    SMALL = enum.auto()


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
class Sought:
    """What a search looks for.

    Attributes:
        conditions: What pick.lua can tell; none: every task may be it.
        keeps: Says of a task that meets them whether it is one.
        state: In which state; None: in any.
        is_exact: Whether the next call goes on behind the last task, whatever came or went before it, and not at a
            number; pending tasks have only numbers.
        reads: How much of the tasks it reads.
    """

    conditions: Sequence[Condition]
    keeps: Keeps
    state: TaskState | None
    is_exact: bool = False
    reads: Reads = Reads.WHOLE

    @classmethod
    def of_headers(cls, headers: Mapping[str, str], state: TaskState | None) -> "Sought":
        """The tasks that have all of these headers; a ``request_id`` may be in the payload."""
        wanted = check_headers(headers)
        if not wanted:
            raise InvalidTaskError("headers: there are none to look for; give one, as in {'request_id': 'r-9'}")
        name, value = next(iter(wanted.items()))
        return cls([headers_have(value, in_payload=name == "request_id")], lambda task: _has(task, wanted), state)


@dataclass(frozen=True, slots=True)
class Place:
    """A place among the tasks of a queue in a state: behind a member with a score, or by its number."""

    state: TaskState
    start: int
    queue: str
    member: Member | None = None

    def __str__(self) -> str:
        behind = ""
        if self.member:
            encoded = base64.urlsafe_b64encode(raw(self.member[0])).decode().rstrip("=")
            behind = f"~{self.member[1]!r}~{encoded}"
        return f"{self.state.value}:{self.start}{behind}:{self.queue}"

    @classmethod
    def parse(cls, given: str) -> "Place":
        """Read one; raises InvalidTaskError."""
        state, _, rest = given.partition(":")
        start, _, queue = rest.partition(":")
        start, _, behind = start.partition("~")
        if state not in {one.value for one in _STATES} or not (start.isascii() and start.isdecimal()) or not queue:
            raise _no_place(given)
        if len(start) > 15:
            raise _no_place(given)
        return cls(TaskState(state), int(start), queue, _parse_member(given, behind) if behind else None)


def _parse_member(given: str, behind: str) -> Member:
    score, _, encoded = behind.partition("~")
    with suppress(ValueError, binascii.Error):
        member = text(base64.b64decode(encoded + "=" * (-len(encoded) % 4), b"-_", validate=True)), float(score)
        if not math.isnan(member[1]):
            return member
    raise _no_place(given)


def _no_place(given: str) -> InvalidTaskError:
    return InvalidTaskError(
        f"place {shown(given)}: it is no STATE:NUMBER:QUEUE; give what the search before this one said"
    )


@dataclass(slots=True)
class Limits:
    """How far one search goes: how many tasks it may find, how many it may look at, and until when."""

    size: int
    looks: int
    ends_s: float


class TaskSearch:
    """Finds tasks; raises BrokerError.

    Args:
        inspection: Reads queues and tasks.
        sought: What it looks for.
    """

    def __init__(self, inspection: Inspection, sought: Sought) -> None:
        self._inspection = inspection
        self._picker = Picker(inspection.connection)
        self._sought = sought
        self._conditions = [*sought.conditions, *_of_registry(sought.state)]
        self._is_sifted = sought.reads is Reads.SMALL and sought.state in ONE_REGISTRY
        self._chunk = SIFTED_AT_ONCE if self._is_sifted else chunk_of(self._conditions)
        self._bytes = 0
        self._ends_s = float("inf")

    def run(self, queues: Sequence[str], after: str, *, size: int, looks: int, within_s: float) -> TasksFound:
        """Search these queues, from the place `after` on."""
        limits = Limits(size, looks, time.monotonic() + within_s)
        self._ends_s = limits.ends_s
        found: Any = TaskRows() if self._sought.reads is Reads.SMALL else []
        looked = 0
        for first in _places(queues, self._sought.state, after):
            place = self._resolved(first)
            while True:
                if len(found) >= limits.size or looked >= limits.looks or self._is_over():
                    return TasksFound(found, looked, str(place))
                count = min(self._chunk, limits.looks - looked)
                seen, some, is_end = self._look(place, count, limits.size - len(found))
                if some:
                    found += some
                looked += seen.start - place.start
                place = seen
                if is_end:
                    break
        return TasksFound(found, looked)

    def _look(self, place: Place, count: int, most: int) -> tuple[Place, Sequence[TaskDetail], bool]:
        """Look at the next tasks; the place behind them, those that are sought, and whether these were the last."""
        if self._is_sifted:
            return self._sift(place, count, most)
        if not self._sought.conditions and self._sought.state is not TaskState.RETRY:
            count = min(count, most)  # as a rule all of them are shown; retries are few among scheduled ones
        members = self._inspection.members(place.queue, place.state, place.start, count)
        if not members:
            return place, [], True
        looked, numbers = self._picker.picked(self._conditions, members)
        found: Any
        if self._sought.reads is Reads.SMALL:
            looked, found = self._listed(members, looked, numbers[:most], most)
        else:
            looked, found = self._sifted(members, looked, numbers, most)
        is_end = looked == len(members) < count
        return self._behind(place, looked, members[looked - 1]), found, is_end

    def _sift(self, place: Place, count: int, most: int) -> tuple[Place, Sequence[TaskDetail], bool]:
        """The same for a list of one of the states that share a registry."""
        sifted = self._inspection.sift(place.queue, self._sought.state or place.state, place.start, count, most)
        if sifted.last is None:
            return place, [], True
        found = TaskRows(sifted.found, self._inspection)
        return self._behind(place, sifted.looked, sifted.last), found, sifted.is_end

    def _sifted(
        self, members: Sequence[Member], looked: int, numbers: Sequence[int], most: int
    ) -> tuple[int, list[TaskDetail]]:
        """How many of them were looked at, and those of these that are sought."""
        found: list[TaskDetail] = []
        for number, (task, size) in zip(numbers, self._read([members[number] for number in numbers]), strict=False):
            if self._is_sought(task):
                found.append(self._kept(task, size))
            if len(found) == most or (size and self._is_over()):  # the rest is looked at again
                looked = number + 1
                break
        return looked, found

    def _listed(
        self, members: Sequence[Member], looked: int, numbers: Sequence[int], most: int
    ) -> tuple[int, TaskRows]:
        """How many of them were looked at, and these of the tasks as they stand there: a list keeps them all."""
        if len(numbers) == most:
            looked = numbers[-1] + 1
        return looked, TaskRows([members[number] for number in numbers], self._inspection)

    def _read(self, members: Sequence[Member]) -> Iterator[tuple[TaskDetail, int]]:
        """Each task, with the size of what it holds where that counts."""
        if self._sought.reads is Reads.WHOLE:
            yield from ((task, 0) for task in self._inspection.details(members))
            return
        for portion in self._inspection.portions(members):
            self._bytes += sum(size for _, size in portion)
            yield from portion

    def _kept(self, task: TaskDetail, size: int) -> TaskDetail:
        is_large = self._sought.reads is Reads.LOOKED_THROUGH and size > MOST_LISTED
        return task.unread(size) if is_large else task

    def _is_over(self) -> bool:
        """Whether its time is, or so much was found that others go first."""
        is_much = self._sought.reads is Reads.PORTIONS and self._bytes > _MUCH
        return is_much or time.monotonic() > self._ends_s

    def _behind(self, place: Place, looked: int, last: Member) -> Place:
        is_exact = self._sought.is_exact and place.state in REGISTRIES and last[1] is not None
        return replace(place, start=place.start + looked, member=last if is_exact else None)

    def _is_sought(self, task: TaskDetail) -> bool:
        # A list shows what stands in it, also what has no record.
        is_there = self._sought.state in {None, task.state} or not self._sought.conditions
        return is_there and self._sought.keeps(task)

    def _resolved(self, place: Place) -> Place:
        """The place by its number: others may have come or gone before it since."""
        if place.member is None or place.state not in REGISTRIES:
            return place
        key = keys.registry(REGISTRIES[place.state], place.queue)
        member, score = place.member
        connection: Any = self._inspection.connection
        with expecting("sorted set", key), connection.pipeline(transaction=False) as pipeline:
            pipeline.zrank(raw(key), raw(member))
            pipeline.zscore(raw(key), raw(member))
            pipeline.zcount(raw(key), "-inf", f"({score!r}")
            rank, is_score, before = pipeline.execute()
        return replace(place, start=rank + 1 if rank is not None and is_score == score else before)


def last_place(inspection: Inspection, queue: str, state: TaskState, size: int) -> str:
    """Where the last tasks of a list begin."""
    return str(Place(_stands_as(state), max(0, inspection.length(queue, state) - size), queue))


def place_around(connection: redis.Redis, queue: str, task_id: str, size: int) -> str:
    """Where a part of the pending list begins that has the task in its middle; empty: it is not near either end."""
    key, wanted = raw(keys.queue(queue)), raw(task_id)
    asked: Any = connection
    with expecting("list", keys.queue(queue)):
        at = asked.lpos(key, wanted, rank=1, maxlen=MOST_NEAR)
        if at is None:
            at = asked.lpos(key, wanted, rank=-1, maxlen=MOST_NEAR)
    return "" if at is None else str(Place(TaskState.PENDING, max(0, at - size // 2), queue))


def _has(task: TaskDetail, wanted: Mapping[str, str]) -> bool:
    request_id = request_id_of(task.payload, task.headers) if wanted.keys() & {"request_id"} else None
    has = {**task.headers, "request_id": request_id}
    return all(has.get(name) == value for name, value in wanted.items())


def _of_registry(state: TaskState | None) -> list[Condition]:
    """The condition that tells the states of one registry apart."""
    if state not in ONE_REGISTRY:
        return []
    return [("there" if state is TaskState.RETRY else "absent", "last_failed_at", "", "")]


def _stands_as(state: TaskState) -> TaskState:
    return TaskState.SCHEDULED if state in ONE_REGISTRY else state


def _places(queues: Sequence[str], state: TaskState | None, after: str) -> Iterator[Place]:
    """Where the search begins in each queue and state, in their order."""
    first = Place.parse(after) if after else None
    wanted = _stands_as(state) if state else None
    found = [Place(one, 0, name) for name in sorted(queues) for one in _STATES if wanted in {None, one}]
    if first is None:
        yield from found
        return
    begins = (first.queue, _STATES.index(first.state))
    for place in found:
        here = (place.queue, _STATES.index(place.state))
        if here >= begins:
            yield first if here == begins else place

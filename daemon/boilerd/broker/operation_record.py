"""What an operation is: a bulk action that somebody has ordered, and how far it has come, as Redis has it."""

import enum
import json
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, Literal, Self, get_args

from boilerd.broker.connection import text
from boilerd.broker.task_filter import TaskFilter, parse_filter
from boilerd.errors import InvalidTaskError
from boilerd.tasks.task import TaskState

#: What an operation does with its tasks.
Deed = Literal["run", "archive", "delete", "cancel", "reschedule", "move"]
#: Whoever runs an operation gives a sign of life each second, or after each chunk. After this long without one it is
#: gone: a process that was killed, or lost Redis.
GONE_S = 15.0
#: Fields of an order that are written only where they say something.
_LATER = frozenset({"search", "as_of", "sees_payloads", "value"})
#: Fields of an order that name something; one that looks for something is a text, or there is no order.
_TEXTS = ("queue", "task_type", "fingerprint", "value")


class OperationState(enum.StrEnum):
    """How far an operation is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    UNDONE = "undone"
    FAILED = "failed"


#: States that somebody's process has to bring to an end.
OPEN = (OperationState.WAITING, OperationState.RUNNING)
#: States from which one can be continued.
HALTED = (OperationState.STOPPED, OperationState.FAILED)


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done, and with which tasks.

    Attributes:
        what: ``run``, ``archive``, ``delete``, ``cancel``, ``reschedule`` or ``move``.
        queue: Their queue; empty: all queues, of a failure group, a type or a search.
        state: Their state; None: each that allows it, of a failure group or a search.
        task_type: Their type; empty: any. Orders of before have one; by now a search says it.
        fingerprint: The failure group of their last failure; empty: any.
        task_ids: These tasks alone; then nothing else of it counts.
        search: What else they must have, as of `task_filter.parse_filter`; empty: nothing.
        as_of: The moment from which its ``after:2h`` counts back, in seconds since 1970.
        sees_payloads: Whether it looks at payloads, as far as whoever ordered it saw them.
        value: When they are due then, in seconds since 1970, or in which queue they wait.
    """

    what: Deed
    queue: str = ""
    state: TaskState | None = None
    task_type: str = ""
    fingerprint: str = ""
    task_ids: Sequence[str] = ()
    search: str = ""
    as_of: float = 0.0
    sees_payloads: bool = True
    value: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether it is for all tasks of a queue in a state, which can be counted."""
        return not (self.task_type or self.fingerprint or self.task_ids or self.search)

    @property
    def is_of_group(self) -> bool:
        """Whether it is for all tasks of a failure group, of all queues."""
        return bool(self.fingerprint) and not (self.queue or self.search or self.task_type)

    def sought(self) -> TaskFilter | None:
        """What its search looks for, whoever works on it and whenever; None: it has none."""
        if not self.search:
            return None
        found = parse_filter(self.search, datetime.fromtimestamp(self.as_of, UTC))
        return found if self.sees_payloads else found.without_payloads()

    def leads_to(self, queue: str) -> bool:
        """Whether tasks of this queue are where they are to go."""
        return self.what == "move" and queue == self.value

    def on(self) -> dict[str, str]:
        """As the audit has it."""
        goes = {"at": self._due()} if self.what == "reschedule" else {"to": self.value}
        if self.task_ids:
            more = f" and {len(self.task_ids) - 1:,} more" if len(self.task_ids) > 1 else ""
            return {"task": f"{self.task_ids[0]}{more}", **goes}
        return {
            "queue": self.queue, "state": self.state or "", "type": self.task_type, "fingerprint": self.fingerprint,
            "search": self.search, **goes,
        }  # fmt: skip

    def _due(self) -> str:
        """The moment of a reschedule as the audit has it of one task; what is no moment, as it stands."""
        with suppress(ValueError, OverflowError, OSError):
            if self.due_s is not None:
                return datetime.fromtimestamp(self.due_s, UTC).isoformat(timespec="seconds")
        return self.value

    def to_json(self) -> str:
        """As Redis has it, in ASCII: also what is no text comes back as it was."""
        # A dashboard of before does not know these fields, and takes an order that has one for none of its own.
        later = {each.name: each.default for each in fields(self) if each.name in _LATER}
        return json.dumps(
            {name: value for name, value in asdict(self).items() if name not in later or value != later[name]}
        )

    @classmethod
    def from_json(cls, given: str) -> Self | None:
        """The order that somebody stored; None: it is none. What is no text where one belongs is read as one."""
        try:
            found = json.loads(given)
            state = found["state"] and TaskState(found["state"])
            texts = {name: str(found[name]) for name in _TEXTS if name in found}
            task_ids = tuple(map(str, found["task_ids"]))
            order = cls(**{**found, **texts, "state": state or None, "task_ids": task_ids})
            return order if order.is_sound() else None
        except (ValueError, TypeError, KeyError, RecursionError):
            return None

    def is_sound(self) -> bool:
        """Whether it says something: somebody else may have written it."""
        with suppress(InvalidTaskError, ValueError, TypeError, OverflowError, OSError):
            self.sought()
            is_known = self.what in get_args(Deed) and isinstance(self.search, str)
            return is_known and (self.what != "reschedule" or math.isfinite(self.due_s or 0.0))
        return False

    @property
    def due_s(self) -> float | None:
        """When its tasks are due then, in seconds since 1970; None: they are not rescheduled, or it is not said yet."""
        return float(self.value) if self.what == "reschedule" and self.value else None


@dataclass(frozen=True, slots=True)
class Part:
    """Tasks of one queue in one state, as many as there were when the operation was ordered."""

    queue: str
    state: TaskState
    total: int


@dataclass(slots=True)
class Tally:
    """What an operation has done so far, and where it goes on.

    Attributes:
        done: Tasks that it was done with.
        seen: Tasks looked at.
        skipped: Why not → with how many: the state that forbade it, ``unknown`` for a task that is gone, or ``locked``.
        part: The number of the part that it is at.
        part_seen: Tasks of that part that were looked at.
        part_stay: Tasks at its beginning that were left where they are.
        part_places: The last ones of these, see `Walk`.
    """

    done: int = 0
    seen: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    part: int = 0
    part_seen: int = 0
    part_stay: int = 0
    part_places: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """As Redis has it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, given: str) -> Self:
        """The tally that somebody stored; an empty one, if it is none."""
        with suppress(ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            found = cls(**json.loads(given))
            counts = (found.done, found.seen, found.part, found.part_seen, found.part_stay)
            if min(counts) >= 0 and max(counts) < sys.maxsize:
                places = {str(task_id): int(place) for task_id, place in found.part_places.items()}
                skipped = {str(why): int(count) for why, count in found.skipped.items()}
                return replace(found, skipped=skipped, part_places=places)
        return cls()


@dataclass(frozen=True, slots=True)
class Operation:
    """A bulk action that somebody has ordered.

    Attributes:
        state: ``waiting``, while it can be undone; ``running``; or how it ended: ``done``, ``stopped``, ``undone``,
            ``failed``.
        is_gone: Whether it should go on, and nobody works on it any more.
        user: Who ordered it; `host` and `via` say from where.
        starts_at: Until then it can be undone.
        beat_at: The last sign of life of whoever works on it.
        total: Tasks to look at: as many as there were when it was ordered.
        tally: What was done; of one that is gone, a chunk of up to 100 tasks may have been done beyond that.
        speed: Tasks looked at in a second.
        why: Why it failed, or by whom it was stopped.
    """

    id: str
    order: Order
    state: OperationState
    is_gone: bool
    user: str
    host: str
    via: str
    created_at: datetime | None
    starts_at: datetime | None
    began_at: datetime | None
    beat_at: datetime | None
    ended_at: datetime | None
    total: int
    parts: Sequence[Part]
    tally: Tally
    speed: float
    why: str

    @property
    def can_continue(self) -> bool:
        """Whether somebody may take it up again."""
        return self.is_gone or self.state in HALTED


def to_operation(operation_id: str, record: Mapping[bytes, bytes], now_s: float) -> Operation | None:
    """The operation of a record; None: it is none of boilerd's."""
    has = {text(name): text(value) for name, value in record.items()}
    order = Order.from_json(has.get("order", ""))
    state = next((state for state in OperationState if state == has.get("state")), None)
    if order is None or state is None:
        return None
    beat_s, began_s = _number(has.get("beat")), _number(has.get("began"))
    tally = Tally.from_json(has.get("tally", ""))
    parts = read_parts(has.get("parts", ""))
    lasted_s = (beat_s or 0.0) - (began_s or 0.0) if began_s else 0.0
    looked = tally.seen - int(_number(has.get("begun_at")) or 0)
    return Operation(
        operation_id, order, state,
        state in OPEN and now_s - (beat_s or 0.0) > GONE_S,
        has.get("user", ""), has.get("host", ""), has.get("via", ""),
        _moment(has.get("created")), _moment(has.get("starts")), _moment(began_s), _moment(beat_s),
        _moment(has.get("ended")), sum(part.total for part in parts) or len(order.task_ids), parts, tally,
        looked / lasted_s if lasted_s > 0 else 0.0, has.get("why", ""),
    )  # fmt: skip


def write_parts(parts: Sequence[Part]) -> str:
    """As Redis has them."""
    return json.dumps([[part.queue, part.state, part.total] for part in parts])


def read_parts(given: str) -> list[Part]:
    """The parts that somebody stored; none, if they are none."""
    with suppress(ValueError, TypeError, OverflowError, RecursionError):
        parts = [Part(str(queue), TaskState(state), int(total)) for queue, state, total in json.loads(given)]
        return parts if all(0 <= part.total < sys.maxsize for part in parts) else []
    return []


def _number(given: Any) -> float | None:
    with suppress(TypeError, ValueError):
        found = float(given)
        return found if math.isfinite(found) else None
    return None


def _moment(given: Any) -> datetime | None:
    with suppress(ValueError, OverflowError, OSError):
        seconds = _number(given)
        return datetime.fromtimestamp(seconds, UTC) if seconds is not None else None
    return None

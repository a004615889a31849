"""What an operation is: a bulk action that somebody has ordered, and how far it has come, as Redis has it."""

import enum
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, Self

from boilerd.broker.connection import text
from boilerd.tasks.task import TaskState

#: What an operation does with its tasks.
Deed = Literal["run", "archive", "delete", "cancel"]
#: Whoever runs an operation gives a sign of life each second, or after each chunk. After this long without one it is
#: gone: a process that was killed, or lost Redis.
GONE_S = 15.0


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

    With a type and no queue it is for those of the type in all queues.

    Attributes:
        what: ``run``, ``archive``, ``delete`` or ``cancel``.
        queue: Their queue; empty: all queues, of a failure group.
        state: Their state; None: each that allows it, of a failure group.
        task_type: Their type; empty: any.
        fingerprint: The failure group of their last failure; empty: any.
        task_ids: These tasks alone; then nothing else of it counts.
    """

    what: Deed
    queue: str = ""
    state: TaskState | None = None
    task_type: str = ""
    fingerprint: str = ""
    task_ids: Sequence[str] = ()

    @property
    def is_whole(self) -> bool:
        """Whether it is for all tasks of a queue in a state, which can be counted."""
        return not (self.task_type or self.fingerprint or self.task_ids)

    def on(self) -> dict[str, str]:
        """As the audit has it."""
        if self.task_ids:
            more = f" and {len(self.task_ids) - 1:,} more" if len(self.task_ids) > 1 else ""
            return {"task": f"{self.task_ids[0]}{more}"}
        return {
            "queue": self.queue, "state": self.state or "", "type": self.task_type, "fingerprint": self.fingerprint
        }  # fmt: skip

    def to_json(self) -> str:
        """As Redis has it, in ASCII: also what is no text comes back as it was."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, given: str) -> Self | None:
        """The order that somebody stored; None: it is none."""
        try:
            found = json.loads(given)
            state = found["state"] and TaskState(found["state"])
            return cls(**{**found, "state": state or None, "task_ids": tuple(found["task_ids"])})
        except (ValueError, TypeError, KeyError, RecursionError):
            return None


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
    """

    done: int = 0
    seen: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    part: int = 0
    part_seen: int = 0
    part_stay: int = 0

    def to_json(self) -> str:
        """As Redis has it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, given: str) -> Self:
        """The tally that somebody stored; an empty one, if it is none."""
        with suppress(ValueError, TypeError, AttributeError, RecursionError):
            found = cls(**json.loads(given))
            if min(found.done, found.seen, found.part, found.part_seen, found.part_stay) >= 0:
                return replace(found, skipped={str(why): int(count) for why, count in found.skipped.items()})
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
    fields = {text(name): text(value) for name, value in record.items()}
    order = Order.from_json(fields.get("order", ""))
    state = next((state for state in OperationState if state == fields.get("state")), None)
    if order is None or state is None:
        return None
    beat_s, began_s = _number(fields.get("beat")), _number(fields.get("began"))
    tally = Tally.from_json(fields.get("tally", ""))
    parts = read_parts(fields.get("parts", ""))
    lasted_s = (beat_s or 0.0) - (began_s or 0.0) if began_s else 0.0
    looked = tally.seen - int(_number(fields.get("begun_at")) or 0)
    return Operation(
        operation_id, order, state,
        state in OPEN and now_s - (beat_s or 0.0) > GONE_S,
        fields.get("user", ""), fields.get("host", ""), fields.get("via", ""),
        _moment(fields.get("created")), _moment(fields.get("starts")), _moment(began_s), _moment(beat_s),
        _moment(fields.get("ended")), sum(part.total for part in parts) or len(order.task_ids), parts, tally,
        looked / lasted_s if lasted_s > 0 else 0.0, fields.get("why", ""),
    )  # fmt: skip


def write_parts(parts: Sequence[Part]) -> str:
    """As Redis has them."""
    return json.dumps([[part.queue, part.state, part.total] for part in parts])


def read_parts(given: str) -> list[Part]:
    """The parts that somebody stored; none, if they are none."""
    with suppress(ValueError, TypeError, RecursionError):
        return [Part(str(queue), TaskState(state), int(total)) for queue, state, total in json.loads(given)]
    return []


def _number(given: Any) -> float | None:
    with suppress(TypeError, ValueError):
        return float(given)
    return None


def _moment(given: Any) -> datetime | None:
    with suppress(ValueError, OverflowError, OSError):
        seconds = _number(given)
        return datetime.fromtimestamp(seconds, UTC) if seconds is not None else None
    return None

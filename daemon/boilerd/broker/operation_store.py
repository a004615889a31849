"""The records of operations in Redis: read, written, and changed only where they are as one takes them to be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from boilerd.broker import keys
from boilerd.broker.connection import raw, text
from boilerd.broker.constants import MOST_OPERATIONS, OPERATION_TTL_S
from boilerd.broker.operation_record import Operation, OperationState, to_operation
from boilerd.broker.refusals import expecting, sound, translated
from boilerd.broker.script_calls import ScriptCalls


@dataclass(frozen=True, slots=True)
class Expected:
    """How a record has to be, to be changed.

    Attributes:
        states: One of these is its state.
        runner: Who works on it; empty: anybody.
        silent_s: For so long nobody gave a sign of life.
    """

    states: Sequence[OperationState]
    runner: str = ""
    silent_s: float = 0.0


class OperationStore(ScriptCalls):
    """Keeps them; raises BrokerError."""

    def latest(self, size: int) -> list[Operation]:
        """Those that were ordered last, latest first."""
        connection: Any = self.connection
        with expecting("sorted set", keys.OPERATIONS):
            ids = connection.zrevrange(keys.OPERATIONS, 0, min(size, MOST_OPERATIONS) - 1)
        return self.read([text(operation_id) for operation_id in ids])

    def read(self, operation_ids: Sequence[str]) -> list[Operation]:
        """Those of them that are there; one round trip."""
        with translated(), self.connection.pipeline(transaction=False) as pipeline:
            pipeline.time()
            for operation_id in operation_ids:
                pipeline.hgetall(raw(keys.operation(operation_id)))
            (seconds, _), *records = sound(pipeline.execute(raise_on_error=False))
        found = (
            to_operation(operation_id, record or {}, seconds)
            for operation_id, record in zip(operation_ids, records, strict=True)
        )
        return [operation for operation in found if operation]

    def write(self, operation_id: str, record: Mapping[str, object], now_s: float) -> None:
        """Store a new one, and forget those that are too old or too many."""
        key = keys.operation(operation_id)
        with translated(), self.connection.pipeline() as pipeline:
            pipeline.hset(key, mapping={name: raw(str(value)) for name, value in record.items()})
            pipeline.expire(key, OPERATION_TTL_S)
            pipeline.zadd(keys.OPERATIONS, {operation_id: now_s})
            pipeline.zremrangebyscore(keys.OPERATIONS, 0, now_s - OPERATION_TTL_S)
            pipeline.zremrangebyrank(keys.OPERATIONS, 0, -MOST_OPERATIONS - 1)
            pipeline.expire(keys.OPERATIONS, OPERATION_TTL_S)
            pipeline.execute()

    def change(
        self, operation_id: str, expected: Expected, changes: Mapping[str, str], *, at: str = "", is_alive: bool = False
    ) -> tuple[bool, str]:
        """Change its record, if it is as expected.

        Args:
            operation_id: Its ID.
            expected: How it has to be.
            changes: Fields and their values.
            at: The field that gets this moment.
            is_alive: Whether this is a sign of life of whoever works on it.

        Returns:
            True, and why it is to stop, if it is; or False and its state, empty if it is gone.
        """
        states = f",{','.join(expected.states)},"
        args: list[str | bytes | float] = [
            operation_id,
            states,
            expected.runner,
            expected.silent_s,
            str(int(is_alive)),
            at,
        ]
        for pair in changes.items():
            args += pair
        is_done, told = self._run("operate", args)
        return bool(is_done), text(told)


def ended(state: OperationState, why: str) -> dict[str, str]:
    """The changes of a record that ends."""
    return {"state": state, "why": why[:500]}

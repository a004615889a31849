"""Operations with their tasks."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from boilerd.broker.operation_record import Operation, Order
from boilerd.broker.operations import Operations, Preview
from boilerd.errors import OperationNotFoundError
from boilerd.web.permissions import Principal

if TYPE_CHECKING:
    from boilerd.web.own_queues import OwnQueues


class OwnOperations:
    """Operations with tasks of some queues.

    Args:
        operations: All.
        own: Reads the tasks.
        who: Whose queues these are.
    """

    def __init__(self, operations: Operations, own: "OwnQueues", who: Principal) -> None:
        self._all = operations
        self._own = own
        self._who = who

    def __getattr__(self, name: str) -> NoReturn:
        raise self._own.refusal("this shows or changes more than these")

    def _is_own(self, found: Operation) -> bool:
        """One with tasks that were named may be of any queue, but that who ordered it was let.

        One that moves their tasks to another queue is none of theirs: it names that.
        """
        order = found.order
        if order.what == "move" and not self._who.owns(order.value):
            return False
        return found.user == self._who.name if order.task_ids else bool(order.queue) and self._who.owns(order.queue)

    def _let(self, order: Order) -> Order:
        """The order, if it is for nothing else; of tasks that are named, for those alone that are theirs."""
        if order.what == "move" and order.value and not self._who.owns(order.value):
            raise self._own.refusal("this is of another one")
        if order.task_ids:
            return replace(order, task_ids=tuple(task.id for task in self._own.tasks_of(order.task_ids)) or ("",))
        self._own.queue(order.queue)
        return order

    def latest(self, size: int = 50) -> list[Operation]:
        """Those that were ordered last."""
        return [found for found in self._all.latest(size) if self._is_own(found)]

    def one(self, operation_id: str) -> Operation:
        """One of them; that with other tasks is unknown, also where it was ordered when they had more queues."""
        found = self._all.one(operation_id)
        if not (self._is_own(found) and self._own.owns_all(found.order.task_ids)):
            raise OperationNotFoundError(operation_id)
        return found

    def preview(self, order: Order, **more: Any) -> Preview:
        """What it would change."""
        found = self._all.preview(self._let(order), **more)
        return replace(found, sample=self._own.told(found.sample))

    def begin(self, order: Order, **more: Any) -> tuple[Operation, str]:
        """Order it."""
        return self._all.begin(self._let(order), **more)

    def undo(self, operation_id: str) -> None:
        """Let it not begin."""
        self._all.undo(self.one(operation_id).id)

    def stop(self, operation_id: str) -> None:
        """Have it stop."""
        self._all.stop(self.one(operation_id).id)

    def take(self, operation_id: str) -> tuple[Operation, str]:
        """Continue it."""
        return self._all.take(self.one(operation_id).id)

    def run(self, operation: Operation, runner: str, ending: Any = None, **more: Any) -> None:
        """Work on one that `begin` or `take` gave."""
        self._all.run(operation, runner, ending, **more)

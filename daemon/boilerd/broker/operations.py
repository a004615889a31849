"""Operations: bulk actions that go on without whoever ordered them, and of which Redis knows how far they are.

One process works on an operation at a time: the one whose name stands in its record. It writes down what it did after
each chunk, and sees then whether it is to stop. Where it was killed, another may continue; the tasks of the chunk in
which that happened may have been done and not counted.
"""

import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from boilerd.broker.audit import Audit
from boilerd.broker.broker import Broker
from boilerd.broker.bulk_actions import CHUNK, BulkActions
from boilerd.broker.inspection import Inspection
from boilerd.broker.operation_record import (
    GONE_S,
    HALTED,
    OPEN,
    Deed,
    Operation,
    OperationState,
    Order,
    Part,
    write_parts,
)
from boilerd.broker.operation_run import ACTIONS, OperationRun, Sees, choice_of
from boilerd.broker.operation_store import Expected, OperationStore, ended
from boilerd.broker.states import ALLOWED, ONE_REGISTRY
from boilerd.broker.views import TaskDetail
from boilerd.errors import OperationNotFoundError, OperationStateError, TaskStateError
from boilerd.tasks.task import TaskState

#: The states whose tasks can be cancelled: one that waits is deleted, one that runs is interrupted.
CANCELLABLE = (TaskState.PENDING, TaskState.ACTIVE, TaskState.SCHEDULED, TaskState.RETRY)
#: The states whose tasks can be rescheduled or moved.
WAITING = (TaskState.PENDING, TaskState.SCHEDULED, TaskState.RETRY)
#: Archived ones first: one that is run and fails again is not run once more. Pending ones last: one that is rescheduled
#: is not found once more among scheduled ones.
_IN_TURN = (
    TaskState.ARCHIVED, TaskState.RETRY, TaskState.SCHEDULED, TaskState.COMPLETED, TaskState.ACTIVE, TaskState.PENDING,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Preview:
    """Which tasks an operation would change at this moment.

    Attributes:
        total: Tasks of the queues and states that it names.
        looked: How many of them were looked at, the first ones.
        found: How many of these are of the state, the type and the failure group that it names.
        sample: The first of them.
        most: Tasks of the largest of these queues and states: with no more of each it is done, if more come.
    """

    total: int
    looked: int
    found: int
    sample: Sequence[TaskDetail]
    most: int = 0

    @property
    def is_exact(self) -> bool:
        """Whether `found` is all that there are."""
        return self.looked >= self.total


class Operations:
    """Orders, reads, steers and runs them; raises BrokerError.

    Args:
        broker: Does things with tasks.
        inspection: Reads them.
        bulk: Does bulk actions.
        audit: In whose name; it gets an entry at an operation's beginning, and one at its end.
    """

    def __init__(self, broker: Broker, inspection: Inspection, bulk: BulkActions, audit: Audit) -> None:
        self._broker = broker
        self._inspection = inspection
        self._bulk = bulk
        self._audit = audit
        self._store = OperationStore(broker.connection)

    # --- Look

    def latest(self, size: int = 50) -> list[Operation]:
        """Those that were ordered last, latest first; 1,000 are kept, for 7 days each."""
        return self._store.latest(size)

    def one(self, operation_id: str) -> Operation:
        """One of them; raises OperationNotFoundError."""
        found = self._store.read([operation_id])
        if not found:
            raise OperationNotFoundError(operation_id)
        return found[0]

    def preview(
        self, order: Order, *, looks: int = 5000, within_s: float = 0.15, sample: int = 5, sees: Sees | None = None
    ) -> Preview:
        """Which tasks it would change now; raises TaskStateError, InvalidTaskError.

        Args:
            order: The operation.
            looks: How many tasks to look at where not all of a state are meant.
            within_s: For how long.
            sample: How many to show.
            sees: What its search looks at; None: all of a task.
        """
        if order.task_ids:
            details = self._inspection.details([(task_id, None) for task_id in order.task_ids], is_whole=False)
            found = [task for task in details if task.state in allowed(order.what)]
            return Preview(len(details), len(details), len(found), found[:sample])
        parts = self._parts(order)
        total, most = sum(part.total for part in parts), max((part.total for part in parts), default=0)
        is_counted = order.is_whole and order.state not in ONE_REGISTRY
        looked, ids = self._look(order, parts, sample if is_counted else looks, within_s, sees)
        shown = self._inspection.details([(task_id, None) for task_id in ids[:sample]], is_whole=False)
        return Preview(total, *((total, total) if is_counted else (looked, len(ids))), shown, most)

    def _look(
        self, order: Order, parts: Sequence[Part], looks: int, within_s: float, sees: Sees | None
    ) -> tuple[int, list[str]]:
        """How many tasks of these parts were looked at, and the IDs of those that are meant."""
        until_s, looked, ids = time.monotonic() + within_s, 0, list[str]()
        for part in parts:
            seen, choice = 0, choice_of(order, part, sees)
            while seen < part.total and looked < looks and time.monotonic() < until_s:
                count, chosen = self._bulk.chosen(choice, seen, min(CHUNK, looks - looked))
                ids += chosen
                seen, looked = seen + count, looked + count
                if not count:
                    break
        return looked, ids

    # --- Order and steer

    def begin(self, order: Order, *, most: int | None = None, undo_s: float = 0.0) -> tuple[Operation, str]:
        """Order an operation, which begins once somebody runs it.

        Args:
            order: What is to be done.
            most: With how many tasks of each queue and state at most: those that came later are left alone.
            undo_s: For how long it waits, so that it can be undone.

        Returns:
            The operation, and the name by which its `run` works on it.

        Raises:
            TaskStateError: It cannot be done in that state.
        """
        limit = float("inf") if most is None else most
        parts = [replace(part, total=int(min(part.total, limit))) for part in self._parts(order)]
        now_s, runner = self._broker.now(), secrets.token_hex(8)
        operation_id = f"{now_s:.0f}-{secrets.token_hex(4)}"
        user, host, via, _ = self._audit.by.args({})
        record = {
            "order": order.to_json(), "parts": write_parts(parts), "state": OperationState.WAITING, "runner": runner,
            "user": user, "host": host, "via": via, "created": now_s, "starts": now_s + undo_s, "beat": now_s,
        }  # fmt: skip
        self._store.write(operation_id, record, now_s)
        found = self.one(operation_id)
        self._audit.note(order.what, found.total, "begun", operation=operation_id, **order.on())
        return found, runner

    def undo(self, operation_id: str) -> None:
        """Let it not begin; raises OperationStateError if it has begun."""
        found, why = self.one(operation_id), f"undone by {self._user}"
        changes = ended(OperationState.UNDONE, why)
        self._change(found, "undo", Expected([OperationState.WAITING]), changes, at="ended")
        self._note_interrupted(found, 0, why)

    def stop(self, operation_id: str) -> None:
        """Have it stop after the chunk that it is at; raises OperationStateError if it has ended."""
        found, why = self.one(operation_id), f"stopped by {self._user}"
        if found.state is OperationState.WAITING:
            self.undo(operation_id)
        elif found.is_gone:
            changes = ended(OperationState.STOPPED, why)
            self._change(found, "stop", Expected(OPEN, silent_s=GONE_S), changes, at="ended")
            self._note_interrupted(found, found.tally.done, f"nobody worked on it any more; {why}")
        else:
            self._change(found, "stop", Expected(OPEN), {"wanted": why})

    def take(self, operation_id: str) -> tuple[Operation, str]:
        """Continue one that stopped or failed, or that nobody works on any more.

        Returns:
            As `begin`.

        Raises:
            OperationStateError: It goes on, or has ended.
        """
        found, runner = self.one(operation_id), secrets.token_hex(8)
        changes = {"state": OperationState.WAITING, "runner": runner, "wanted": "", "why": ""}
        changes["begun_at"] = str(found.tally.seen)
        expected = Expected(OPEN, silent_s=GONE_S) if found.is_gone else Expected(HALTED)
        self._change(found, "continue", expected, changes, at="starts", is_alive=True)
        if found.is_gone:
            self._note_interrupted(found, found.tally.done, "nobody worked on it any more")
        left = found.total - found.tally.seen
        self._audit.note(found.order.what, left, "begun", operation=operation_id, **found.order.on())
        return self.one(operation_id), runner

    def run(
        self,
        operation: Operation,
        runner: str,
        ending: threading.Event | None = None,
        *,
        sees: Sees | None = None,
    ) -> None:
        """Work on an operation until it ends, or somebody stops it.

        Args:
            operation: As `begin` or `take` gave it.
            runner: The name that they gave with it.
            ending: Is set when this process ends; the operation stops then, and may be continued.
            sees: What its search looks at, as of whoever ordered it; None: all of a task.
        """
        run = OperationRun(
            self._store, self._broker, self._bulk, self._audit, found=operation, runner=runner, sees=sees
        )
        run.run(ending or threading.Event())

    # --- Helpers

    @property
    def _user(self) -> str:
        return self._audit.by.args({})[0]

    def _parts(self, order: Order) -> list[Part]:
        if order.task_ids:
            return []
        if order.fingerprint and order.state is None:
            places = self._bulk.places_of_group(ACTIONS.get(order.what, "run"))
            return [Part(queue, state, total) for (queue, state), total in places.items() if total]
        state = order.state or (None if order.search else TaskState.PENDING)
        if not (order.queue and state):
            return self._parts_of_all(order, state)
        check(order.what, state)
        return [Part(order.queue, state, self._inspection.length(order.queue, state))]

    def _parts_of_all(self, order: Order, state: TaskState | None) -> list[Part]:
        """The queues and states through which one goes that does not name both."""
        if state:
            check(order.what, state)
        wanted = [each for each in _IN_TURN if each in ({state} if state else allowed(order.what))]
        if state is None and TaskState.RETRY in wanted:
            wanted.remove(TaskState.RETRY)  # they stand among the scheduled ones
        queues = [order.queue] if order.queue else self._inspection.queue_names()[0]
        counts = [each for each in self._inspection.counts(sorted(queues)) if not order.leads_to(each.name)]
        parts = [Part(each.name, state, each.of(state)) for state in wanted for each in counts]
        return [part for part in parts if part.total]

    def _change(
        self,
        found: Operation,
        action: str,
        expected: Expected,
        changes: Mapping[str, str],
        *,
        at: str = "",
        is_alive: bool = False,
    ) -> None:
        is_done, state = self._store.change(found.id, expected, changes, at=at, is_alive=is_alive)
        if not is_done:
            raise OperationStateError(found.id, state, action) if state else OperationNotFoundError(found.id)

    def _note_interrupted(self, found: Operation, count: int, why: str) -> None:
        self._audit.note(found.order.what, count, "interrupted", why, operation=found.id, **found.order.on())


def allowed(deed: Deed) -> Sequence[TaskState]:
    """The states in which it can be done with a task."""
    action = ACTIONS.get(deed)
    if action is None:
        return WAITING
    return CANCELLABLE if deed == "cancel" else ALLOWED[action]


def check(deed: Deed, state: TaskState) -> None:
    """Raise TaskStateError where it cannot be done with tasks in that state."""
    if state not in allowed(deed):
        raise TaskStateError(f"{state} tasks", state, deed, allowed(deed))

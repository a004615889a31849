"""Work on an operation chunk by chunk, until it ends or somebody stops it."""

import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from boilerd.broker.audit import Audit, Outcome
from boilerd.broker.broker import Broker
from boilerd.broker.bulk_actions import CHUNK, BulkActions, BulkProgress, Choice, Walk
from boilerd.broker.operation_record import Deed, Operation, OperationState, Order, Part
from boilerd.broker.operation_store import Expected, OperationStore, ended
from boilerd.broker.states import ONE_REGISTRY, Action
from boilerd.broker.views import TaskDetail
from boilerd.errors import BoilerdError
from boilerd.tasks.task import TaskState

#: Tasks that run and are looked at to be cancelled.
MOST_ACTIVE = 10_000
_DONE = frozenset({"done", "deleted", "told"})
#: Deed → the action for tasks that wait; with another one tasks are placed anew.
ACTIONS: Mapping[Deed, Action] = {"run": "run", "archive": "archive", "delete": "delete", "cancel": "delete"}
#: Makes of a task what a search looks at.
Sees = Callable[[TaskDetail], Mapping[str, Any]]
_OUTCOMES: Mapping[OperationState, Outcome] = {OperationState.DONE: "done", OperationState.FAILED: "failed"}


class OperationRun:
    """Works on one operation; raises BrokerError.

    Args:
        store: Where its record is.
        broker: Does things with tasks.
        bulk: Does bulk actions.
        audit: Gets an entry at its end.
        found: The operation.
        runner: Under which name it is worked on.
        sees: What its search looks at; None: all of a task.
    """

    def __init__(
        self,
        store: OperationStore,
        broker: Broker,
        bulk: BulkActions,
        audit: Audit,
        *,
        found: Operation,
        runner: str,
        sees: Sees | None = None,
    ) -> None:
        self._store = store
        self._broker = broker
        self._bulk = bulk
        self._audit = audit
        self._found = found
        self._runner = runner
        self._sees = sees
        self._tally = replace(found.tally, skipped={**found.tally.skipped})

    def run(self, ending: threading.Event) -> None:
        """Work until it ends, or is stopped, or this process ends."""
        if not self._wait(ending) or not self._begin():
            return
        try:
            state, why = self._work(ending)
        except BoilerdError as error:
            self._end(OperationState.FAILED, str(error))
            raise
        if state:
            self._end(state, why)

    def _wait(self, ending: threading.Event) -> bool:
        """False if it is not to begin: it was undone, or this process ends and it waits for another."""
        while (left_s := self._left_s()) > 0:
            is_ours, _ = self._beat(OperationState.WAITING, {})
            if not is_ours or ending.wait(min(left_s, 1.0)):
                return False
        return True

    def _left_s(self) -> float:
        starts_at = self._found.starts_at
        return starts_at.timestamp() - self._broker.now() if starts_at else 0.0

    def _begin(self) -> bool:
        return self._beat(OperationState.WAITING, {"state": OperationState.RUNNING}, at="began")[0]

    def _work(self, ending: threading.Event) -> tuple[OperationState | None, str]:
        """How it ended, and why; None: somebody else works on it by now."""
        with closing(self._steps()) as steps:
            for _ in steps:
                is_ours, wanted = self._beat(OperationState.RUNNING, {"tally": self._tally.to_json()})
                if not is_ours:
                    return None, ""
                if wanted or ending.is_set():
                    return OperationState.STOPPED, wanted or "its process ended"
        return OperationState.DONE, ""

    def _end(self, state: OperationState, why: str) -> None:
        self._beat(OperationState.RUNNING, {**ended(state, why), "tally": self._tally.to_json()}, at="ended")
        found, done = self._found, self._tally.done - self._found.tally.done
        self._audit.note(
            found.order.what, done, _OUTCOMES.get(state, "interrupted"), why, operation=found.id, **found.order.on()
        )

    def _beat(self, state: OperationState, changes: Mapping[str, str], at: str = "") -> tuple[bool, str]:
        """Give a sign of life with these changes; whether it is still ours, and why it is to stop."""
        return self._store.change(self._found.id, Expected([state], self._runner), changes, at=at, is_alive=True)

    # --- Steps

    def _steps(self) -> Generator[None]:
        """Do it chunk by chunk, and count it in the tally."""
        found, tally = self._found, self._tally
        if found.order.task_ids:
            yield from self._each(found.order.task_ids[tally.seen :])
        for number in range(tally.part, len(found.parts)):
            if number != tally.part:
                tally.part, tally.part_seen, tally.part_stay, tally.part_places = number, 0, 0, {}
            part = found.parts[number]
            if part.state is TaskState.ACTIVE:
                yield from self._each(self._active(part))
            else:
                yield from self._walk(part)

    def _walk(self, part: Part) -> Generator[None]:
        order, tally = self._found.order, self._tally
        before = replace(tally, skipped={**tally.skipped})
        began = self._found.created_at or self._bulk.now()
        walk = Walk(part.total, began, seen=tally.part_seen, stay=tally.part_stay, places=tally.part_places)
        if walk.seen:
            self._broker.remove_blanks(part.queue)  # which one left that was killed
        choice = choice_of(order, part, self._sees)
        for _ in self._chunks(order, choice, walk):
            tally.done, tally.seen = before.done + walk.done, before.seen + walk.seen - before.part_seen
            tally.part_seen, tally.part_stay, tally.part_places = walk.seen, max(walk.stay, 0), dict(walk.places)
            tally.skipped = dict(walk.skipped + Counter(before.skipped))
            yield

    def _chunks(self, order: Order, choice: Choice, walk: Walk) -> Iterator[BulkProgress]:
        action = ACTIONS.get(order.what)
        if action is None:
            return self._bulk.each_chunk("run", choice, walk, self._place)
        return self._bulk.each_chunk(action, choice, walk)

    def _place(self, task_ids: Sequence[str], start: int) -> Sequence[str]:
        order = self._found.order
        return self._broker.place_many(order.what, order.value, task_ids, start)

    def _active(self, part: Part) -> list[str]:
        """Tasks that run; those that were told before are told again, which changes nothing."""
        ids: list[str] = []
        for start in range(0, MOST_ACTIVE, CHUNK):
            looked, chosen = self._bulk.chosen(choice_of(self._found.order, part, self._sees), start, CHUNK)
            ids += chosen
            if looked < CHUNK:
                break
        return ids

    def _each(self, task_ids: Sequence[str]) -> Generator[None]:
        """Do it with tasks that are named, each in a call of its own: one that is deep in a list costs a walk there."""
        for number, task_id in enumerate(task_ids, 1):
            self._note(self._one(task_id).partition(" ")[0])
            if number % CHUNK == 0 or number == len(task_ids):
                yield

    def _note(self, answer: str) -> None:
        tally = self._tally
        tally.seen += 1
        if answer in _DONE:
            tally.done += 1
        else:
            tally.skipped[answer] = tally.skipped.get(answer, 0) + 1

    def _one(self, task_id: str) -> str:
        order = self._found.order
        if order.what == "cancel":
            return self._broker.cancel(task_id)
        if order.what not in ACTIONS:
            return self._place([task_id], 0)[0]
        return self._broker.act(order.what, [task_id])[0]


def choice_of(order: Order, part: Part, sees: Sees | None = None) -> Choice:
    """The tasks of a part that an order means."""
    sought = order.sought()
    return Choice(
        part.queue, part.state, order.task_type or None, order.fingerprint or None, sought, sees,
        is_both=sought is not None and order.state is None and part.state in ONE_REGISTRY,
        due_s=order.due_s,
    )  # fmt: skip

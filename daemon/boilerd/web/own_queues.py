"""Somebody with queues of their own: all that they see and change goes through here, and is of these queues.

`OwnQueues` stands in the place of the inspector. What it does not know it refuses, so that a page which asks for
something new is closed to them until it is said here how that is cut.
"""

from collections.abc import Callable, Generator, Hashable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NoReturn, TypeVar

from boilerd.broker.composition import Composition
from boilerd.broker.daemons import DaemonInfo
from boilerd.broker.explanation import Explanation, ReasonKind
from boilerd.broker.operation_record import Operation, Order
from boilerd.broker.operations import Operations, Preview
from boilerd.broker.overview import Overview
from boilerd.broker.pauses import Pause
from boilerd.broker.running import RunningFound
from boilerd.broker.shares import KeysFound, KeyTasks, Lock, LocksFound, Refusals
from boilerd.broker.task_filter import TaskFilter
from boilerd.broker.task_search import TasksFound
from boilerd.broker.ticks import TickInfo
from boilerd.broker.traces import Traces
from boilerd.broker.views import CompletedTask, CronInfo, Day, QueueDetail, TaskDetail
from boilerd.errors import OperationNotFoundError, TaskNotFoundError
from boilerd.inspector import Inspector
from boilerd.tasks.queues import DEFAULT_QUEUE
from boilerd.tasks.task import TaskState, no_such_task
from boilerd.verdict.table import judge
from boilerd.web.beside import Beside
from boilerd.web.lately import Minute
from boilerd.web.permissions import Principal
from boilerd.web.refusal import Refusal
from boilerd.web.sampler import Snapshot, facts_of, of_anywhere
from boilerd.web.shared import Shared

#: Pages of the menu that can be cut.
MENU = frozenset({"/", "/queues", "/tasks", "/types", "/crons", "/limits", "/operations"})
#: Reasons why a task does not run that tell of other queues, or of tasks there.
_OF_OTHERS = frozenset({ReasonKind.UNSERVED, ReasonKind.DEPENDENCIES, ReasonKind.CONCURRENCY_KEY, ReasonKind.STRAY})
#: Options of a task that is enqueued by hand; `unique`, `once` and the like keep others out.
_OPTIONS = frozenset(
    {
        "headers", "inherit", "timeout", "max_retries", "retention", "process_in", "process_at",
        "concurrency_key", "concurrency_limit",
    }
)  # fmt: skip

T = TypeVar("T")


class OwnQueues:
    """An inspector of some queues.

    Args:
        inspector: Of all.
        who: Whose queues these are.
    """

    def __init__(self, inspector: Inspector, who: Principal) -> None:
        self._all = inspector
        self._who = who
        self._crons: set[str] | None = None

    def __getattr__(self, name: str) -> NoReturn:
        raise self.refusal("this shows or changes more than these")

    def refusal(self, why: str) -> Refusal:
        """What they are told who ask for more."""
        return Refusal(403, f"{self._who.name} has the queues {', '.join(self._who.queues or ())}: {why}")

    def _own(self, queue: str | None) -> str:
        """The queue, if it is theirs."""
        if not queue:
            raise self.refusal("name one of them, as in ?queue=NAME")
        if not self._who.owns(queue):
            raise self.refusal("this is of another one")
        return queue

    # --- Queues

    def queue(self, name: str) -> QueueDetail:
        """One queue."""
        return self._all.queue(self._own(name))

    def history(self, name: str, days: int = 90) -> list[Day]:
        """Its days."""
        return self._all.history(self._own(name), days)

    def has_workers(self, queue: str) -> bool:
        """Whether somebody works on it."""
        return self._all.has_workers(self._own(queue))

    def handled_types(self, queue: str) -> list[str] | None:
        """What its workers know of the types that it had within a day; they know those of their other queues, too."""
        found = self._all.handled_types(self._own(queue))
        if found is None:
            return None
        had = {pair.type for pair in self.metrics(timedelta(days=1), step_s=3600, queue=queue).total()}
        had |= {name for name, _ in self.composition(queue).types}
        return [pattern for pattern in found if not pattern or any(name.startswith(pattern) for name in had)]

    def pause(self, name: str, **said: Any) -> bool:
        """Let nobody claim from it."""
        return self._all.pause(self._own(name), **said)

    def resume(self, name: str) -> bool:
        """Let workers claim again."""
        return self._all.resume(self._own(name))

    def pauses(self) -> list[Pause]:
        """What was said of their pauses."""
        found = self._all.pauses()
        crons = self._cron_names() if any(each.kind == "cron" for each in found) else set()
        return [each for each in found if (self._who.owns(each.name) if each.kind == "queue" else each.name in crons)]

    def composition(self, name: str) -> Composition:
        """Of which types its pending tasks are."""
        return self._all.composition(self._own(name))

    def delete_queue(self, name: str) -> None:
        """Have nobody list it any more."""
        self._all.delete_queue(self._own(name))

    def recent(self, queue: str, size: int = 30) -> list[CompletedTask]:
        """Its last completed tasks."""
        return self._all.recent(self._own(queue), size)

    def longest_running(self, queues: Sequence[str], size: int = 5) -> RunningFound:
        """What runs there longest."""
        return self._all.longest_running([self._own(queue) for queue in queues], size)

    def metrics(self, *when: Any, queue: str | None = None, **more: Any) -> Any:
        """What it did."""
        return self._all.metrics(*when, queue=self._own(queue), **more)

    def daemons(self) -> list[DaemonInfo]:
        """None: they tell of the types and settings of all queues."""
        return []

    # --- Periodic tasks

    def crons(self) -> list[CronInfo]:
        """Those that enqueue there and nowhere else, whichever daemon has one of the name."""
        found = self._all.crons()
        of_others = {each.name for each in found if not self._who.owns(each.queue)}
        own = [each for each in found if each.name not in of_others]
        self._crons = {each.name for each in own}
        return own

    def paused_crons(self) -> dict[str, datetime]:
        """Those of them that are paused."""
        names = self._cron_names()
        return {name: since for name, since in self._all.paused_crons().items() if name in names}

    def ticks(self, name: str, size: int = 100) -> list[TickInfo]:
        """The last ticks of one."""
        if name not in self._cron_names():
            raise self.refusal("this is of another one")
        return self._all.ticks(name, size)

    def histories(self, names: Sequence[str], size: int = 30) -> dict[str, list[TickInfo]]:
        """The last ticks of each of these."""
        own = self._cron_names()
        return self._all.histories([name for name in names if name in own], size)

    def last_ticks(self) -> dict[str, float]:
        """The last tick of each."""
        names = self._cron_names()
        return {name: at_s for name, at_s in self._all.last_ticks().items() if name in names}

    def _cron_names(self) -> set[str]:
        if self._crons is None:
            self.crons()
        return self._crons or set()

    # --- Limits

    def concurrency_keys(self, queues: Iterable[str]) -> KeysFound:
        """The keys of their tasks; how many run and wait is counted over all queues, as the limit is."""
        return self._all.concurrency_keys([self._own(queue) for queue in queues])

    def key_tasks(self, key: str) -> KeyTasks:
        """Their tasks of a key."""
        found = self._all.key_tasks(key)
        own = self._ids_of([*found.running, *found.waiting])
        return KeyTasks(
            found.key,
            [task_id for task_id in found.running if task_id in own],
            {task_id: since for task_id, since in found.waiting.items() if task_id in own},
        )

    def refusals(self) -> list[Refusals]:
        """What was refused there."""
        return [each for each in self._all.refusals() if self._who.owns(each.queue)]

    def unique_locks(self, queue: str = "", task_type: str = "", *, after: str = "") -> LocksFound:
        """The locks of one."""
        return self._all.unique_locks(self._own(queue), task_type, after=after)

    def unique_lock(self, queue: str, task_type: str, digest: str) -> Lock | None:
        """One lock."""
        return self._all.unique_lock(self._own(queue), task_type, digest)

    def release_lock(self, queue: str, task_type: str, digest: str, **more: Any) -> None:
        """Release it."""
        self._all.release_lock(self._own(queue), task_type, digest, **more)

    # --- Tasks

    def task(self, task_id: str) -> TaskDetail:
        """One task; that of another queue is unknown."""
        found = self._all.task(task_id)
        if not self._who.owns(found.queue):
            raise no_such_task(task_id)
        return self.told([found])[0]

    def reveal(self, task_id: str) -> TaskDetail:
        """One task, which is noted."""
        self.task(task_id)
        return self.told([self._all.reveal(task_id)])[0]

    def tasks_of(self, task_ids: Iterable[str]) -> list[TaskDetail]:
        """Those of them that are theirs."""
        return self.told(self._owned(task_ids))

    def owns_all(self, task_ids: Iterable[str]) -> bool:
        """Whether none of those of them that are there is of another queue."""
        return all(self._who.owns(task.queue) for task in self._all.tasks_of(task_ids))

    def _owned(self, task_ids: Iterable[str]) -> list[TaskDetail]:
        return [task for task in self._all.tasks_of(task_ids) if self._who.owns(task.queue)]

    def told(self, tasks: Sequence[TaskDetail]) -> list[TaskDetail]:
        """The same, of which no copy names a task that is not theirs, or gone."""
        others = {task.copied_from for task in tasks if task.copied_from}
        others -= self._ids_of(others) if others else set()
        return [replace(task, copied_from="") if task.copied_from in others else task for task in tasks]

    def explain(self, task_id: str) -> Explanation:
        """Why it does not run, as far as its own queue is the reason."""
        self.task(task_id)
        found = self._all.explain(task_id)
        return replace(found, reasons=tuple(each for each in found.reasons if each.kind not in _OF_OTHERS))

    def key_holders(self, unique_key: str, concurrency_key: str) -> dict[str, list[str]]:
        """Those that are theirs."""
        found = self._all.key_holders(unique_key, concurrency_key)
        own = self._ids_of([*dict.fromkeys(id_ for ids in found.values() for id_ in ids)])
        return {kind: [task_id for task_id in ids if task_id in own] for kind, ids in found.items()}

    def _ids_of(self, task_ids: Iterable[str]) -> set[str]:
        """Those of them that are theirs."""
        return {task.id for task in self._owned(task_ids)}

    def traces(self, task_id: str, queue: str = "", since: datetime | None = None) -> Traces:
        """What the audit knows of one; of one that is gone nobody knows whose it was."""
        try:
            queue = self.task(task_id).queue
        except TaskNotFoundError:
            raise self.refusal("what is known of a task that is gone may be of another one") from None
        found = self._all.traces(task_id, queue, since)
        own = self._ids_of(found.copies)
        return replace(found, copies=[copy for copy in found.copies if copy in own])

    def dependents(self, task_id: str) -> list[str]:
        """Those of them that are theirs."""
        found = self._all.dependents(self.task(task_id).id)
        own = self._ids_of(found)
        return [each for each in found if each in own]

    def last_completed(self, queue: str, task_type: str, **more: Any) -> TaskDetail | None:
        """The last one of a type."""
        found = self._all.last_completed(self._own(queue), task_type, **more)
        return self.told([found])[0] if found else None

    def parse_filter(self, given: str) -> TaskFilter:
        """What is sought."""
        return self._all.parse_filter(given)

    def tasks(self, queue: str, state: TaskState, **more: Any) -> list[TaskDetail]:
        """A part of a list."""
        return self.told(self._all.tasks(self._own(queue), state, **more))

    def search(self, wanted: TaskFilter | str = "", *, queue: str | None = None, **more: Any) -> TasksFound:
        """A part of a list, or what is found."""
        wanted = self.parse_filter(wanted) if isinstance(wanted, str) else wanted
        found = self._all.search(wanted, queue=self._own(wanted.queue or queue), **more)
        return replace(found, tasks=self.told(found.tasks))

    def export(self, wanted: TaskFilter, *, queue: str | None = None, **more: Any) -> Generator[Sequence[TaskDetail]]:
        """All of it."""
        parts = self._all.export(wanted, queue=self._own(wanted.queue or queue), **more)
        return self._told_parts(parts)

    def _told_parts(self, parts: Generator[Sequence[TaskDetail]]) -> Generator[Sequence[TaskDetail]]:
        with closing(parts):
            for part in parts:
                yield self.told(part)

    def note_export(self, page: str, count: int) -> None:
        """Note that they got a list as a file."""
        self._all.note_export(page, count)

    def last_place(self, queue: str, state: TaskState, size: int = 30) -> str:
        """Where a list ends."""
        return self._all.last_place(self._own(queue), state, size)

    def place_around(self, queue: str, task_id: str, size: int = 30) -> str:
        """Where a task stands."""
        return self._all.place_around(self._own(queue), task_id, size)

    # --- Act on one

    def run(self, task_id: str) -> None:
        """Run it now."""
        self._all.run(self.task(task_id).id)

    def archive(self, task_id: str) -> None:
        """Set it aside."""
        self._all.archive(self.task(task_id).id)

    def delete(self, task_id: str) -> None:
        """Delete it."""
        self._all.delete(self.task(task_id).id)

    def cancel(self, task_id: str) -> bool:
        """Cancel it."""
        return self._all.cancel(self.task(task_id).id)

    def reschedule(self, task_id: str, at: Any) -> None:
        """Have it run at another moment."""
        self._all.reschedule(self.task(task_id).id, at)

    def move(self, task_id: str, queue: str) -> None:
        """Have it wait in another queue of theirs."""
        self._all.move(self.task(task_id).id, self._own(queue))

    def enqueue(self, task_type: str, payload: Any = None, *, copied_from: str = "", **options: Any) -> Any:
        """Enqueue one, which holds back no task of another queue."""
        origin = self.task(copied_from) if copied_from else None
        queue = self._own(options.pop("queue", DEFAULT_QUEUE))
        if others := sorted(options.keys() - _OPTIONS):
            raise self.refusal(f"{others[0]} is nothing for a task that is enqueued by hand")
        if key := options.get("concurrency_key"):
            self._check_key(key, options.get("concurrency_limit") or 1, queue, origin)
        return self._all.enqueue(task_type, payload, copied_from=copied_from, queue=queue, **options)

    def _check_key(self, key: str, limit: int, queue: str, origin: TaskDetail | None) -> None:
        """A key is one of all queues: with a new one, or more shares, tasks of others would wait; raises Refusal."""
        if origin and (origin.concurrency_key, origin.concurrency_limit) == (key, limit):
            return
        if (key, limit) not in {(each.key, each.limit) for each in self.concurrency_keys([queue]).keys}:
            raise self.refusal(
                "concurrency_key: all queues share it; give one, with its limit, that a task has which runs or waits"
                " for it there, as /limits shows, or copy a task that has it"
            )

    # --- Act on many

    @property
    def operations(self) -> "OwnOperations":
        """Operations with their tasks."""
        return OwnOperations(self._all.operations, self, self._who)


class OwnOperations:
    """Operations with tasks of some queues.

    Args:
        operations: All.
        own: Reads the tasks.
        who: Whose queues these are.
    """

    def __init__(self, operations: Operations, own: OwnQueues, who: Principal) -> None:
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


class OwnShared(Shared):
    """What people with the same queues look at; nothing of it was read for others.

    Args:
        shared: What all look at.
        queues: Theirs.
    """

    def __init__(self, shared: Shared, queues: Sequence[str]) -> None:
        super().__init__()
        self._all = shared
        self._queues = tuple(queues)

    def get(self, key: Hashable, fresh_s: float, read: Callable[[], T], times: float = 0.0) -> T:
        """What `read` returned for one of them."""
        return self._all.get((self._queues, key), fresh_s, read, times)

    def forget(self, key: Hashable) -> None:
        """Have it read again for the next of them."""
        self._all.forget((self._queues, key))


def cut(snapshot: Snapshot, who: Principal, read_beside: Callable[[Overview], Beside]) -> Snapshot:
    """The picture without other queues; field by field, so that a new one is not in it.

    Args:
        snapshot: The picture.
        who: Whose queues are left.
        read_beside: Reads what stands beside them, which cannot be told from what stands beside all.
    """
    whole = snapshot.overview
    overview = Overview(
        clock_ahead_s=whole.clock_ahead_s,
        queues=[queue for queue in whole.queues if who.owns(queue.name)],
        is_suspended=whole.is_suspended,
        workers=whole.workers,
        unwritten_bytes=whole.unwritten_bytes,
        memory_share=whole.memory_share,
    )
    return Snapshot(
        number=snapshot.number,
        at=snapshot.at,
        took_s=snapshot.took_s,
        overview=overview,
        verdict=of_anywhere(judge(facts_of(overview))),
        minutes=[Minute(minute.start, _of(minute.queues, who)) for minute in snapshot.minutes],
        beside=read_beside(overview),
    )


def _of(queues: Mapping[str, T], who: Principal) -> dict[str, T]:
    return {name: value for name, value in queues.items() if who.owns(name)}

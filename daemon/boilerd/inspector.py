"""Look at queues, tasks and workers, and intervene: Asynq's Inspector.

Long queues and registries are read and changed in chunks, so that Redis is never kept from others for more than a few
milliseconds.
"""

import functools
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self, Unpack

import redis

from boilerd.broker.broker import Broker, is_cancelled
from boilerd.broker.bulk_actions import BulkActions, BulkProgress, Choice, check_allowed
from boilerd.broker.connection import connect, connect_to
from boilerd.broker.inspection import Inspection, Member
from boilerd.broker.states import ALLOWED, ONE_REGISTRY, Action
from boilerd.broker.views import Attempt, CompletedTask, CronInfo, Day, QueueDetail, QueueInfo, TaskDetail, WorkerInfo
from boilerd.errors import (
    BoilerdError,
    BrokerRefusedError,
    DuplicateTaskError,
    FailureNotFoundError,
    InvalidTaskError,
    MisplacedKeyError,
    QueueNotFoundError,
    TaskStateError,
    listed,
    shown,
)
from boilerd.settings.definitions import Settings
from boilerd.settings.finding import find_settings
from boilerd.tasks.payload import DEFAULT_MAX_PAYLOAD
from boilerd.tasks.queues import check_queue
from boilerd.tasks.task import TaskState, no_such_task

if TYPE_CHECKING:
    from boilerd.broker.audit import Actor, Audit, AuditEntry
    from boilerd.broker.daemons import DaemonInfo
    from boilerd.broker.explanation import Explanation
    from boilerd.broker.failure_groups import FailureGroup
    from boilerd.broker.metrics import Metrics, Series
    from boilerd.broker.operations import Operations
    from boilerd.broker.server_facts import ServerFacts
    from boilerd.broker.shares import KeysFound, LocksFound
    from boilerd.broker.task_filter import TaskFilter
    from boilerd.broker.task_search import Sought, TasksFound
    from boilerd.broker.ticks import TickInfo
    from boilerd.tasks.metric_record import Numbers, Pair
    from boilerd.tasks.options import EnqueueOptions
    from boilerd.tasks.task import TaskInfo

#: Tasks that one script looks at to tell retries from scheduled ones: Redis is busy with it for 1 to 5 ms.
LOOKS = 1000
#: The states in which a task may be rescheduled or moved.
_WAITING = (TaskState.PENDING, TaskState.SCHEDULED, TaskState.RETRY)


class Inspector:
    """Reads what the broker holds, and does what a person asks.

    It takes the same connections as `Client`. Every method raises BrokerError if Redis does not answer, or refuses.
    What changes something is noted in the audit.

    Args:
        connection: The client of Redis.
        by: Who intervenes, for the audit; without it the user of this process, from Python.
    """

    def __init__(self, connection: redis.Redis, *, by: "Actor | None" = None) -> None:
        self._broker = Broker(connection)
        self._inspection = Inspection(connection)
        self._bulk = BulkActions(self._broker, self._inspection)
        self._given_actor = by

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """An inspector of the Redis at `url`; options as `Client.from_url` has them."""
        return cls(connect(url, **options))

    @classmethod
    def from_settings(cls, settings: Settings | None = None) -> Self:
        """An inspector of the Redis that the settings name; without settings, those of the command line are used."""
        return cls(connect_to(settings or find_settings(), is_client=True))

    def close(self) -> None:
        """Close the connections."""
        self._broker.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # --- Queues

    def queues(self, known: Iterable[str] = ()) -> list[QueueInfo]:
        """Every queue that was ever used, and those in `known`, by name; a round trip for about 280 of them.

        What is wrong with the list of queues has a row of its own, as a queue with a problem.
        """
        names, wrong = self._inspection.queue_names()
        return sorted(wrong + self._inspection.counts([*{*names, *known}]), key=lambda queue: queue.name)

    def queue_details(self, only: Iterable[str] | None = None) -> list[QueueDetail]:
        """As `queues`, with all that `queue` tells, or of these queues alone; a round trip for about 170 of them."""
        if only is not None:
            return self._inspection.queue_details(sorted(only))
        names, wrong = self._inspection.queue_names()
        found = self._inspection.queue_details(names)
        today = datetime.fromtimestamp(self._broker.now(), UTC).date() if wrong else date.min
        rows = [QueueDetail(row, 0.0, 0, 0, 0, Day(today, 0, 0)) for row in wrong]
        return sorted(rows + found, key=lambda queue: queue.counts.name)

    def queue(self, name: str) -> QueueDetail:
        """One queue.

        Raises:
            QueueNotFoundError: It was never used.
        """
        self._check_used(name)
        (found,) = self._inspection.queue_details([name])
        return found

    def history(self, name: str, days: int = 90) -> list[Day]:
        """Processed and failed tasks of each of the last days, today first; 90 are kept."""
        today = datetime.fromtimestamp(self._broker.now(), UTC).date()
        return self._inspection.days(name, [today - timedelta(days=back) for back in range(days)])

    def pause(self, name: str) -> bool:
        """Let no worker claim from the queue; True if it was not paused before."""
        check_queue(name)
        with self._audit.noting("pause", queue=name) as noted:
            noted.count = int(self._inspection.pause(name))
        return bool(noted.count)

    def resume(self, name: str) -> bool:
        """Let workers claim from the queue again; True if it was paused."""
        check_queue(name)
        with self._audit.noting("resume", queue=name) as noted:
            noted.count = int(self._inspection.resume(name))
            self._broker.ring(name)
        return bool(noted.count)

    def is_suspended(self) -> bool:
        """True if `rq suspend` holds the claims of all workers, ours as well."""
        return self._inspection.is_suspended()

    def remembered_s(self, task_id: str) -> float:
        """For how many seconds ``once`` has this ID remembered yet, also where its task is gone; 0: it is not."""
        return self._inspection.remembered_s(task_id)

    def has_workers(self, queue: str) -> bool:
        """True if any worker, of whatever host, works on the queue."""
        return self._inspection.has_workers(queue)

    def handled_types(self, queue: str) -> list[str] | None:
        """The patterns for which living workers of the queue have handlers, sorted; an empty one fits all types.

        None: not known, as no worker works on it, or one is of a version that does not tell.
        """
        found = [worker for worker in self._inspection.living() if queue in worker.queues]
        told = [worker.declared for worker in found if worker.declared]
        if not told or len(told) < len(found):
            return None
        return sorted({pattern for declared in told for pattern in declared.types})

    def unserved(self) -> list[QueueDetail]:
        """The queues with tasks that nobody will claim: no worker, of whatever host, works on them."""
        found = self._inspection.queue_details(self._inspection.unserved())
        return [queue for queue in found if queue.counts.pending or queue.counts.scheduled]

    # --- Tasks

    def tasks(
        self, queue: str, state: TaskState, *, page: int = 1, size: int = 30, looks: int | None = None
    ) -> list[TaskDetail]:
        """A page of the queue's tasks in a state, in the order in which their turn comes (completed and
        archived ones: in which they expire; pending ones that wait for a concurrency key stand at the end).

        Args:
            queue: Its name.
            state: Retried tasks stand among the scheduled ones, so that Redis looks at all of those up to the page.
            page: From 1.
            size: Tasks of a page.
            looks: How many scheduled and retried tasks to look at, the next first, for either state; None: all.
                Redis takes 1 to 2 µs for each.

        Raises:
            QueueNotFoundError: It was never used.
            ValueError: There is no such page, or no such state.
        """  # noqa: D205 - one sentence
        if page < 1 or size < 1:
            raise ValueError(f"page {page} of size {size}: both begin at 1")
        state = TaskState(state)  # also of its word, from a program without type checks
        self._check_used(queue)
        if state in ONE_REGISTRY:
            return self._inspection.details(self._sift(queue, state, page * size, looks)[(page - 1) * size :])
        return self._inspection.details(self._inspection.members(queue, state, (page - 1) * size, size))

    def find(
        self,
        headers: Mapping[str, str],
        *,
        queue: str | None = None,
        state: TaskState | None = None,
        size: int = 30,
        looks: int = 300_000,
        within_s: float = 10.0,
        after: str = "",
    ) -> "TasksFound":
        """The tasks that have these headers, such as all of one request.

        Nothing in Redis leads from a header to its tasks, so it looks at each: two round trips for 100 of them. It
        stops at a limit, and says where to go on; tasks that move meanwhile may be found twice, or not.

        Args:
            headers: All of them must be there; a ``request_id`` may be in the payload, if that is of up to 64 KiB.
            queue: In which queue; None: in all.
            state: In which state; None: in all.
            size: How many tasks to find at most.
            looks: How many to look at at most.
            within_s: For how long to look, in seconds.
            after: The place at which an earlier call stopped.

        Raises:
            InvalidTaskError: No task has such headers, or there are none; or there is no such place.
            QueueNotFoundError: The queue was never used.
            ValueError: A limit is none, or there is no such state.
        """
        from boilerd.broker.task_search import Sought  # noqa: PLC0415 - as in `explain`

        sought = Sought.of_headers(headers, None if state is None else TaskState(state))
        return self._search(sought, queue, after, size=size, looks=looks, within_s=within_s)

    def search(
        self,
        wanted: "TaskFilter | str" = "",
        *,
        queue: str | None = None,
        state: TaskState | None = None,
        size: int = 30,
        looks: int = 5000,
        within_s: float = 0.15,
        after: str = "",
        sees: Callable[[TaskDetail], Mapping[str, Any]] | None = None,
    ) -> "TasksFound":
        """A part of the tasks, in the order of `tasks`, or those among them that somebody looks for.

        Nothing in Redis leads to a task but its ID, queue and state, so that it looks at each: two round trips for 100
        of them. It stops at a limit, and says where to go on: for all states but pending and active, that is just
        behind the last one, whatever has come or gone before it.

        Args:
            wanted: What a task must have, also as a text, such as ``type:mail:* error:timeout "two words" -word``; its
                queue and state win over those given beside it.
            queue: In which queue; None: in all.
            state: In which state; None: in all.
            size: How many tasks to find at most.
            looks: How many to look at at most.
            within_s: For how long to look, in seconds.
            after: The place at which an earlier call stopped, or of `last_place` or `place_around`.
            sees: Makes of a task what the one who asks may see of it, as plain values; nothing else is searched. None:
                all of it.

        Raises:
            InvalidTaskError: The text means nothing, or there is no such place.
            QueueNotFoundError: The queue was never used.
            ValueError: A limit is none, or there is no such state.
        """
        from boilerd.broker.task_search import Sought  # noqa: PLC0415 - as in `explain`

        found = self.parse_filter(wanted) if isinstance(wanted, str) else wanted
        see = sees or _plain
        return self._search(
            Sought([*found.conditions()], lambda task: not found.chooses or found.fits(see(task)),
                   found.state or (None if state is None else TaskState(state)), is_exact=True),
            found.queue or queue, after, size=size, looks=looks, within_s=within_s,
        )  # fmt: skip

    def parse_filter(self, given: str) -> "TaskFilter":
        """What somebody looks for, of a text; raises InvalidTaskError.

        ``after:2h`` and ``before:2h`` are by Redis's clock, which takes a round trip.
        """
        from boilerd.broker.task_filter import TaskFilter, parse_filter  # noqa: PLC0415 - as in `explain`

        given = given.strip()
        return parse_filter(given, datetime.fromtimestamp(self._broker.now(), UTC)) if given else TaskFilter()

    def last_place(self, queue: str, state: TaskState, size: int = 30) -> str:
        """Where the last tasks of a list begin, for `search`."""
        from boilerd.broker.task_search import last_place  # noqa: PLC0415 - as in `explain`

        return last_place(self._inspection, queue, TaskState(state), size)

    def place_around(self, queue: str, task_id: str, size: int = 30) -> str:
        """Where the tasks before and behind a pending one begin, for `search`; empty: it is not pending there, or more
        than 50,000 tasks from either end.
        """  # noqa: D205 - one sentence
        from boilerd.broker.task_search import place_around  # noqa: PLC0415 - as in `explain`

        return place_around(self._broker.connection, queue, task_id, size)

    def export(
        self,
        wanted: "TaskFilter | str" = "",
        *,
        queue: str | None = None,
        state: TaskState | None = None,
        most: int = 100_000,
        search: str = "",
        sees: Callable[[TaskDetail], Mapping[str, Any]] | None = None,
    ) -> Generator[Sequence[TaskDetail]]:
        """All tasks that somebody looks for, as of `search`, a few hundred at a time, while one iterates.

        The audit has one entry of it, written at the end, also where one stops to iterate; `search` is what was typed,
        where a filter does not say.
        """
        on = {"queue": queue or "", "state": state.value if state else ""}
        with self._audit.noting("export", **on, search=wanted if isinstance(wanted, str) else search) as noted:
            after, chosen = "", self.parse_filter(wanted) if isinstance(wanted, str) else wanted
            while noted.count < most:
                found = self.search(
                    chosen, queue=queue, state=state, size=min(500, most - noted.count), within_s=1.0, after=after,
                    sees=sees,
                )  # fmt: skip
                noted.count += len(found.tasks)
                yield found.tasks
                if not (after := found.after):
                    return

    def recent(self, queue: str, size: int = 30) -> list[CompletedTask]:
        """The tasks of the queue that completed last, latest first, also those that were not kept; up to 1,000.

        Raises:
            QueueNotFoundError: It was never used.
        """
        self._check_used(queue)
        return self._inspection.completed(queue, size)

    def task(self, task_id: str) -> TaskDetail:
        """One task with its attempts.

        Raises:
            TaskNotFoundError: There is no task with this ID, or it was deleted.
        """
        found = self._inspection.task(task_id)
        if found is None:
            raise no_such_task(task_id)
        return found

    def explain(self, task_id: str) -> "Explanation":
        """Why a task does not run yet, or what became of it: each reason with what would help, the first binds first.

        Three round trips. A task that completed lately and was not kept is known, too. That a daemon is quiet is not:
        only its control socket tells, which `boilerd task why` asks.

        Raises:
            TaskNotFoundError: There is no task with this ID, or it was deleted. A task that a unique lock refused was
                not stored and has no ID; its DuplicateTaskError names the task to ask about.
        """
        # Each `boilerd enqueue` would take 3 ms more.
        from boilerd.broker import reasons  # noqa: PLC0415
        from boilerd.broker.circumstance_reader import CircumstanceReader  # noqa: PLC0415

        reader = CircumstanceReader(self._broker.connection)
        if found := reader.read(task_id):
            return reasons.explain(found)
        if gone := reader.completed(task_id):
            return reasons.explain_gone(*gone)
        raise no_such_task(task_id)

    def run(self, task_id: str) -> None:
        """Make a scheduled, retried or archived task pending now.

        Raises:
            TaskNotFoundError: There is no such task.
            TaskStateError: It is in another state.
            DuplicateTaskError: It is archived, and another task holds its unique lock by now.
        """
        self._act("run", task_id)

    def archive(self, task_id: str) -> None:
        """Set a waiting task aside; raises TaskNotFoundError, TaskStateError."""
        self._act("archive", task_id)

    def delete(self, task_id: str) -> None:
        """Delete a task that does not run; raises TaskNotFoundError, TaskStateError."""
        self._act("delete", task_id)

    def cancel(self, task_id: str) -> bool:
        """Cancel a task, as `Client.cancel`: a waiting one is deleted, a running one is interrupted and archived.

        Returns:
            True if it is cancelled; False if it had ended before.

        Raises:
            TaskNotFoundError: There is no such task; it may have been completed and deleted.
        """
        return is_cancelled(task_id, self._broker.cancel(task_id, self._audit.by))

    def reschedule(self, task_id: str, at: datetime | timedelta) -> None:
        """Have a pending, scheduled or retried task run at another moment; one that is past means now.

        Args:
            task_id: Its ID.
            at: When, with a time zone; or after which time, by Redis's clock.

        Raises:
            TaskNotFoundError: There is no such task.
            TaskStateError: It is in another state.
            InvalidTaskError: The moment has no time zone.
        """
        if isinstance(at, timedelta):
            at = datetime.fromtimestamp(self._broker.now(), UTC) + at
        if at.tzinfo is None:
            raise InvalidTaskError("at: it has no time zone; give one, as in datetime.now(UTC) + timedelta(hours=1)")
        self._place("reschedule", repr(at.timestamp()), task_id, at=at.astimezone(UTC).isoformat(timespec="seconds"))

    def move(self, task_id: str, queue: str) -> None:
        """Have a pending, scheduled or retried task wait in another queue, whatever its limit of tasks is.

        A pending one stands at its end then. A unique lock stays that of the queue in which it was enqueued.

        Raises:
            TaskNotFoundError: There is no such task.
            TaskStateError: It is in another state.
            InvalidTaskError: No queue may have that name.
        """
        self._place("move", check_queue(queue), task_id, to=queue)

    def enqueue(
        self, task_type: str, payload: Any = None, *, copied_from: str = "", **options: Unpack["EnqueueOptions"]
    ) -> "TaskInfo":
        """Store a task by hand, as `Client.enqueue` does, with an entry in the audit.

        Args:
            task_type: Its type.
            payload: Any value that has a JSON form.
            copied_from: The ID of the task of which it is a copy, which it names then; empty: of none.
            options: As `Client.enqueue` has them; errors are the same, too.
        """
        from boilerd.enqueuing.composer import Composer  # noqa: PLC0415 - as in `explain`

        composer = Composer(None, DEFAULT_MAX_PAYLOAD, ())
        order = composer.order(composer.message(task_type, payload), options)
        (message,), (new,) = composer.tasks([order], names_place=False)
        on = {"task": new.id, "type": new.type, "queue": new.options.queue, "copied_from": copied_from}
        with self._audit.noting("copy" if copied_from else "enqueue", **on) as noted:
            if copied_from:
                answer = self._broker.enqueue_copy(new, copied_from)
            else:
                (answer,) = self._broker.enqueue([new])
            if isinstance(answer, BoilerdError):
                raise answer
            noted.count = 1
        return composer.info(new, message, answer)

    def key_holders(self, unique_key: str, concurrency_key: str) -> dict[str, list[str]]:
        """``unique`` and ``concurrency`` → the IDs of the tasks that hold these keys, 50 of them at most."""
        return self._inspection.key_holders(unique_key, concurrency_key)

    def bulk(
        self,
        action: Action,
        queue: str,
        state: TaskState,
        task_type: str | None = None,
        *,
        fingerprint: str | None = None,
    ) -> Generator[BulkProgress]:
        """Do the action with all tasks of the queue that are in the state now, and of the type if one is given.

        With a fingerprint, only with those whose last failure belongs to that group.

        Works while one iterates, chunk by chunk; tasks that come meanwhile are left alone. The audit has one entry of
        it, written at the end, also where one stops to iterate.

        Raises:
            TaskStateError: The action cannot be done in that state.
            QueueNotFoundError: The queue was never used.
        """
        state = TaskState(state)
        on = {"queue": queue, "state": state.value, "type": task_type or "", "fingerprint": fingerprint or ""}
        with self._audit.noting(action, **on) as noted:
            check_allowed(action, state)
            self._check_used(queue)
            for progress in self._bulk.each_chunk(action, Choice(queue, state, task_type, fingerprint)):
                noted.count = progress.done
                yield progress

    # --- Failure groups

    def failures(self, size: int = 100) -> "list[FailureGroup]":
        """What fails: the failure groups that were seen last, latest first; 1,000 are kept, for 30 days each."""
        return self._bulk.groups.latest(size)

    def failure(self, fingerprint: str) -> "FailureGroup":
        """One failure group with the IDs of its last tasks.

        Raises:
            FailureNotFoundError: There is none of this fingerprint.
        """
        found = self._bulk.groups.one(fingerprint)
        if found is None:
            raise FailureNotFoundError(fingerprint)
        return found

    def bulk_failure(self, action: Action, fingerprint: str) -> Generator[BulkProgress]:
        """Do the action with the tasks of all queues that wait for a retry or are archived, and whose last failure
        belongs to the group; where the action is not allowed in one of the states, with those in the other.

        Works while one iterates, as `bulk`. The audit has one entry of it, with the fingerprint.

        Raises:
            FailureNotFoundError: There is no such group.
        """  # noqa: D205 - one sentence
        with self._audit.noting(action, fingerprint=fingerprint) as noted:
            self.failure(fingerprint)
            for progress in self._bulk.each_chunk_of_group(action, fingerprint):
                noted.count = progress.done
                yield progress

    def tasks_of(self, task_ids: Iterable[str]) -> list[TaskDetail]:
        """Those of these tasks that are there, without their attempts; one round trip."""
        found = self._inspection.details([(task_id, None) for task_id in task_ids])
        return [task for task in found if task.queue]

    # --- Operations

    @functools.cached_property
    def operations(self) -> "Operations":
        """Bulk actions of which Redis knows how far they are, so that anybody sees, stops and continues them."""
        from boilerd.broker.operations import Operations  # noqa: PLC0415 - as in `explain`

        return Operations(self._broker, self._inspection, self._bulk, self._audit)

    # --- Metrics

    def metrics(
        self,
        since: datetime | timedelta,
        until: datetime | None = None,
        step_s: int | None = None,
        *,
        queue: str | None = None,
        task_type: str | None = None,
    ) -> "Series":
        """What was done by queue and task type: attempts by outcome, run and waiting times, payloads.

        Args:
            since: From when; or for how long back, by Redis's clock.
            until: To when; None: now.
            step_s: How long a period is: 60, kept for 3 hours; 600, for 3 days; 3600, for 14 days; 86400, for 90 days.
                None: the shortest that is kept for so long.
            queue: Only of this queue.
            task_type: Only of this type.

        Raises:
            ValueError: There is no such step.
        """
        return self._metrics.series(since, until, step_s, queue, task_type)

    def totals(self) -> "dict[Pair, Numbers]":
        """What was done ever since, by queue and task type; none of the numbers falls.

        A pair of which there was nothing for 90 days is forgotten.
        """
        return self._metrics.totals()

    # --- Workers and the broker

    def workers(self) -> list[WorkerInfo]:
        """All workers, by name, with the task that each runs."""
        return self._inspection.workers()

    def broker(self) -> dict[str, Any]:
        """``server uptime_s clients memory_bytes peak_memory_bytes`` of Redis or Valkey."""
        return self._inspection.server()

    def server(self) -> "ServerFacts":
        """Redis itself: memory, files and clients, its latency from here, its slow log; writes nothing."""
        from boilerd.broker.server_facts import read_server  # noqa: PLC0415 - as in `explain`

        return read_server(self._broker.connection)

    def concurrency_keys(self, queues: Iterable[str] | None = None) -> "KeysFound":
        """The concurrency keys of tasks that run or wait for one, in these queues or all, and how far was looked."""
        from boilerd.broker.shares import read_keys  # noqa: PLC0415 - as in `explain`

        names = self._inspection.queue_names()[0] if queues is None else queues
        return read_keys(self._broker.connection, sorted(names))

    def unique_locks(self, queue: str = "", task_type: str = "", *, after: str = "") -> "LocksFound":
        """Unique locks of a queue, a type or all, among the next 20,000 keys of Redis's; `after` goes on from there."""
        from boilerd.broker.shares import find_locks  # noqa: PLC0415 - as in `explain`

        if after and not (after.isascii() and after.isdecimal() and len(after) <= 20):
            raise InvalidTaskError(f"after {shown(after)} is no place of a search; leave it out to begin anew")
        return find_locks(self._broker.connection, queue, task_type, after)

    def daemons(self) -> "list[DaemonInfo]":
        """The daemons that live, of all hosts, as each tells of itself, by name; two round trips.

        A daemon of version 0.1.0 or before tells nothing, and one that was killed is among them for a minute.
        """
        from boilerd.broker.daemons import read_daemons  # noqa: PLC0415 - as in `explain`

        return read_daemons(self._broker.connection)

    def crons(self) -> list[CronInfo]:
        """The periodic tasks of all hosts, by name, with their ticks and the daemons that have them; eight round trips.

        Two daemons may have entries of one name with other lines: each line is told then.
        """
        from boilerd.broker.crons import crons_of_all  # noqa: PLC0415 - as in `explain`

        ticks, now_s, seen = self._broker.last_ticks(), self._broker.now(), []
        with suppress(MisplacedKeyError):  # the daemons tell
            seen = self._inspection.crons(ticks, now_s)
        return crons_of_all(seen, self.daemons(), self._inspection.living(), ticks, now_s)

    def paused_crons(self) -> dict[str, datetime]:
        """Name of each periodic task that is paused → since when."""
        return self._inspection.paused_crons()

    def pause_cron(self, name: str) -> bool:
        """Have the ticks of a periodic task pass without a task, on all hosts; True if it was not paused before.

        Raises:
            InvalidTaskError: No daemon has it, or had it.
        """
        self._check_cron(name)
        with self._audit.noting("pause", cron=name) as noted:
            noted.count = int(self._inspection.pause_cron(name))
        return bool(noted.count)

    def resume_cron(self, name: str) -> bool:
        """Have the next ticks of a periodic task enqueue again; True if it was paused."""
        with self._audit.noting("resume", cron=name) as noted:
            noted.count = int(self._inspection.resume_cron(name))
        return bool(noted.count)

    def run_cron(self, name: str) -> None:
        """Have a daemon that has this periodic task enqueue its task now, beside its ticks; it does within 5 s.

        Raises:
            InvalidTaskError: No daemon that lives has it.
        """
        self._check_cron(name, is_held=True)
        with self._audit.noting("cron run", cron=name) as noted:
            self._inspection.want_cron(name)
            noted.count = 1

    def _check_cron(self, name: str, *, is_held: bool = False) -> None:
        names = {cron.name for cron in self.crons() if cron.daemons or not is_held}
        if name not in names:
            has = "no daemon has a" if is_held else "there is no"
            raise InvalidTaskError(f"{has} periodic task {shown(name)}; there are: {listed(sorted(names)) or 'none'}")

    def ticks(self, name: str, size: int = 100) -> "list[TickInfo]":
        """The last ticks of a periodic task that any daemon took, latest first, up to 100, with what became of each.

        Where a task is gone, that is not known any more: it may have completed, or somebody deleted it.
        """
        from boilerd.broker.ticks import read_history  # noqa: PLC0415 - as in `explain`

        return read_history(self._broker.connection, name, size)

    def last_ticks(self) -> dict[str, float]:
        """Name of each periodic task → its last tick, in seconds since 1970."""
        return self._broker.read_ticks()

    def problems(self, queues: Iterable[str] = ()) -> list[str]:
        """What is wrong with RQ's and boilerd's keys: with those of these queues, and those that are no queue's."""
        _, wrong = self._inspection.queue_names()
        rows = wrong + [found.counts for found in self._inspection.queue_details(sorted(queues))]
        told = [part for row in rows if row.problem for part in row.problem.split("; ")]
        return [*dict.fromkeys(self._inspection.misplaced() + told)]  # a key that is of many queues is told once

    def audit(
        self,
        *,
        since: datetime | timedelta | None = None,
        who: str | None = None,
        what: str | None = None,
        on: str | None = None,
        page: int = 1,
        size: int = 30,
    ) -> list["AuditEntry"]:
        """A page of what people did, the latest last; the first page has the latest. The last 10,000 are kept.

        Args:
            since: Not what was before; or for how long back, by Redis's clock.
            who: Only what this user did.
            what: Only what is called so, such as ``delete``.
            on: Only what was done with a task, queue, failure group, operation or other thing of this name.
            page: From 1.
            size: Entries of a page.

        Raises:
            MisplacedKeyError: Another program's key stands where the audit should.
            ValueError: There is no such page.
        """
        if page < 1 or size < 1:
            raise ValueError(f"page {page} of size {size}: both begin at 1")
        return self._audit.page(lambda entry: entry.fits(who, what, on), since=since, page=page, size=size)

    def audit_after(self, entry_id: str) -> list["AuditEntry"]:
        """The entries behind the one with this ID, at most 1,000; empty: from the first one on."""
        return self._audit.after(entry_id)

    # --- Helpers

    @functools.cached_property
    def _audit(self) -> "Audit":
        # Each `boilerd enqueue` would take 3 ms more.
        from boilerd.broker.audit import Actor, Audit  # noqa: PLC0415

        return Audit(self._broker.connection, self._given_actor or Actor())

    @functools.cached_property
    def _metrics(self) -> "Metrics":
        from boilerd.broker.metrics import Metrics  # noqa: PLC0415 - as above

        return Metrics(self._broker.connection)

    def _search(
        self, sought: "Sought", queue: str | None, after: str, *, size: int, looks: int, within_s: float
    ) -> "TasksFound":
        from boilerd.broker.task_search import TaskSearch  # noqa: PLC0415 - as in `explain`

        if size < 1 or looks < 1:
            raise ValueError(f"size {size}, looks {looks}: both begin at 1")
        if queue is not None:
            self._check_used(queue)
        queues = self._inspection.queue_names()[0] if queue is None else [queue]
        return TaskSearch(self._inspection, sought).run(queues, after, size=size, looks=looks, within_s=within_s)

    def _check_used(self, name: str) -> None:
        if not self._inspection.is_used(name):
            check_queue(name)  # after the look: queues of plain RQ may have names that ours may not
            known = sorted(self.queues(), key=lambda queue: queue.is_idle)
            raise QueueNotFoundError(name, [queue.name for queue in known])

    def _sift(self, queue: str, state: TaskState, most: int, looks: int | None) -> list[Member]:
        """The first tasks of one of the states that share a registry."""
        found: list[Member] = []
        start = 0
        while len(found) < most and (looks is None or start < looks):
            looked, more = self._inspection.sift(queue, state, start, LOOKS, most - len(found))
            found += more
            start += looked
            if looked < LOOKS:
                break
        return found

    def _place(self, what: str, value: str, task_id: str, **on: str) -> None:
        answer = self._broker.place(what, value, task_id, self._audit.by, **on)
        if answer == "unknown":
            raise no_such_task(task_id)
        if answer != "done":
            raise TaskStateError(f"task {task_id}", answer, what, _WAITING)

    def _act(self, action: Action, task_id: str) -> None:
        try:
            (answer,) = self._broker.act(action, [task_id], by=self._audit.by)
        except BrokerRefusedError:
            found = self._inspection.task(task_id)
            with self._inspection.naming_keys(found.queue if found else ""):
                raise
        if answer == "unknown":
            raise no_such_task(task_id)
        if answer.startswith("locked "):
            raise DuplicateTaskError(answer.removeprefix("locked "))
        if answer != "done":
            raise TaskStateError(f"task {task_id}", answer, action, ALLOWED[action])


def _plain(task: TaskDetail) -> Mapping[str, Any]:
    """A task as a filter looks at it."""
    return {name: getattr(task, name) for name in TaskDetail.__dataclass_fields__}


__all__ = [
    "Action",
    "Attempt",
    "BulkProgress",
    "CompletedTask",
    "CronInfo",
    "Day",
    "Inspector",
    "QueueDetail",
    "QueueInfo",
    "TaskDetail",
    "WorkerInfo",
]

"""Look at tasks: pages of them, a search, one task and why it does not run."""

import functools
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from boilerd.broker.bulk_actions import plain
from boilerd.broker.states import ONE_REGISTRY
from boilerd.broker.task_rows import Member
from boilerd.broker.views import CompletedTask, TaskDetail
from boilerd.inspector.part import Part
from boilerd.tasks.task import TaskState, no_such_task

if TYPE_CHECKING:
    from boilerd.broker.circumstances import Server
    from boilerd.broker.explanation import Explanation
    from boilerd.broker.task_filter import TaskFilter
    from boilerd.broker.task_search import Reads, Sought, TasksFound
    from boilerd.broker.traces import Traces, Trail

#: Tasks that one script looks at to tell retries from scheduled ones: Redis is busy with it for 1 to 5 ms.
LOOKS = 1000


class TasksPart(Part):
    """Look at tasks: pages of them, a search, one task and why it does not run."""

    def tasks(
        self,
        queue: str,
        state: TaskState,
        *,
        page: int = 1,
        size: int = 30,
        looks: int | None = None,
        is_whole: bool = True,
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
            is_whole: False to leave payload, headers and result of large tasks unread.

        Raises:
            QueueNotFoundError: It was never used.
            ValueError: There is no such page, or no such state.
        """  # noqa: D205 - one sentence
        if page < 1 or size < 1:
            raise ValueError(f"page {page} of size {size}: both begin at 1")
        state = TaskState(state)  # also of its word, from a program without type checks
        self._check_used(queue)
        if state in ONE_REGISTRY:
            found = self._sift(queue, state, page * size, looks)[(page - 1) * size :]
        else:
            found = self._inspection.members(queue, state, (page - 1) * size, size)
        return self._inspection.details(found, is_whole=is_whole)

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
        from boilerd.broker.task_search import Sought  # noqa: PLC0415 - as in `Part`

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
        is_whole: bool = True,
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
            is_whole: False to leave payload, headers and result of large tasks out of what is found; where nothing is
                sought, the tasks are read when somebody looks at one.

        Raises:
            InvalidTaskError: The text means nothing, or there is no such place.
            QueueNotFoundError: The queue was never used.
            ValueError: A limit is none, or there is no such state.
        """
        from boilerd.broker.task_search import Reads  # noqa: PLC0415 - as in `Part`

        found = self.parse_filter(wanted) if isinstance(wanted, str) else wanted
        reads = Reads.WHOLE if is_whole else Reads.LOOKED_THROUGH if found.chooses else Reads.SMALL
        limits = {"size": size, "looks": looks, "within_s": within_s}
        return self._search_for(found, reads, queue=queue, state=state, after=after, sees=sees, **limits)

    def _search_for(
        self,
        found: "TaskFilter",
        reads: "Reads",
        *,
        queue: str | None,
        state: TaskState | None,
        after: str,
        sees: Callable[[TaskDetail], Mapping[str, Any]] | None,
        **limits: Any,
    ) -> "TasksFound":
        from boilerd.broker.task_search import Sought  # noqa: PLC0415 - as in `Part`

        see, is_list = sees or plain, not found.chooses
        wanted = found.state or (None if state is None else TaskState(state))
        sought = Sought(
            [*found.conditions()],
            lambda task: is_list or found.fits(see(task)),
            wanted,
            is_exact=True,
            reads=reads,
        )
        return self._search(sought, found.queue or queue, after, **limits)

    def parse_filter(self, given: str) -> "TaskFilter":
        """What somebody looks for, of a text; raises InvalidTaskError.

        ``after:2h`` and ``before:2h`` are by Redis's clock, which takes a round trip.
        """
        from boilerd.broker.task_filter import TaskFilter, parse_filter  # noqa: PLC0415 - as in `Part`

        given = given.strip()
        return parse_filter(given, datetime.fromtimestamp(self._broker.now(), UTC)) if given else TaskFilter()

    def last_place(self, queue: str, state: TaskState, size: int = 30) -> str:
        """Where the last tasks of a list begin, for `search`."""
        from boilerd.broker.task_search import last_place  # noqa: PLC0415 - as in `Part`

        return last_place(self._inspection, queue, TaskState(state), size)

    def place_around(self, queue: str, task_id: str, size: int = 30) -> str:
        """Where the tasks before and behind a pending one begin, for `search`; empty: it is not pending there, or more
        than 20,000 tasks from either end.
        """  # noqa: D205 - one sentence
        from boilerd.broker.task_search import place_around  # noqa: PLC0415 - as in `Part`

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
        from boilerd.broker.task_search import Reads  # noqa: PLC0415 - as in `Part`

        on = {"queue": queue or "", "state": state.value if state else ""}
        with self._audit.noting("export", **on, search=wanted if isinstance(wanted, str) else search) as noted:
            after, chosen = "", self.parse_filter(wanted) if isinstance(wanted, str) else wanted
            while noted.count < most:
                found = self._search_for(
                    chosen, Reads.PORTIONS, queue=queue, state=state, after=after, sees=sees,
                    size=min(500, most - noted.count), looks=5000, within_s=1.0,
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

    def reveal(self, task_id: str) -> TaskDetail:
        """One task with its attempts, for somebody who otherwise sees not all of it: the audit has an entry first.

        Raises:
            TaskNotFoundError: There is no such task.
            BrokerError: The audit could not be written; then nothing is shown.
        """
        found = self.task(task_id)
        self._audit.note_first("reveal", 1, task=task_id, queue=found.queue)
        return found

    def tasks_of(self, task_ids: Iterable[str]) -> list[TaskDetail]:
        """Those of these tasks that are there, without their attempts; one round trip."""
        found = self._inspection.details([(task_id, None) for task_id in task_ids])
        return [task for task in found if task.queue]

    def explain(
        self,
        task_id: str,
        *,
        sharing: "Callable[[str, Callable[[], Sequence[Server]]], Sequence[Server]] | None" = None,
    ) -> "Explanation":
        """Why a task does not run yet, or what became of it: each reason with what would help, the first binds first.

        Four round trips, and more where hundreds of workers work on its queue. A task that completed lately and was not
        kept is known, too. That a daemon is quiet is not: only its control socket tells, which `boilerd task why` asks.

        Raises:
            TaskNotFoundError: There is no task with this ID, or it was deleted. A task that a unique lock refused was
                not stored and has no ID; its DuplicateTaskError names the task to ask about.
        """
        # Each `boilerd enqueue` would take 3 ms more.
        from boilerd.broker import reasons  # noqa: PLC0415
        from boilerd.broker.circumstance_reader import CircumstanceReader  # noqa: PLC0415
        from boilerd.broker.server_reader import ServerReader  # noqa: PLC0415

        connection, read = self._broker.connection, ServerReader(self._broker.connection).of_queue
        reader = CircumstanceReader(
            connection, sharing and (lambda queue: sharing(queue, functools.partial(read, queue)))
        )
        if found := reader.read(task_id):
            return reasons.explain(found)
        if gone := reader.completed(task_id):
            return reasons.explain_gone(*gone)
        raise no_such_task(task_id)

    def traces(
        self, task_id: str, queue: str = "", since: datetime | None = None, *, trail: "Trail | None" = None
    ) -> "Traces":
        """What the audit knows of a task, also of one that is gone: what was done with it, its copies, and when its
        queue was paused; of all that is kept, or since a moment.

        With the `trail` of an earlier call for the same, it reads on from where that was.
        """  # noqa: D205 - one sentence
        from boilerd.broker.traces import Trail  # noqa: PLC0415 - as in `explain`

        return (trail or Trail(task_id, queue, since)).follow(self._audit)

    def dependents(self, task_id: str) -> list[str]:
        """Jobs of plain RQ's that wait for this one, 20 of them at most."""
        return self._inspection.dependents(task_id)

    def last_completed(self, queue: str, task_type: str, *, looks: int = 300) -> TaskDetail | None:
        """The task of a type that completed last and is kept, among so many of the queue that are kept longest."""
        return self._inspection.last_completed(queue, task_type, looks)

    def remembered_s(self, task_id: str) -> float:
        """For how many seconds ``once`` has this ID remembered yet, also where its task is gone; 0: it is not."""
        return self._inspection.remembered_s(task_id)

    def key_holders(self, unique_key: str, concurrency_key: str) -> dict[str, list[str]]:
        """``unique`` and ``concurrency`` → the IDs of the tasks that hold these keys, 50 of them at most."""
        return self._inspection.key_holders(unique_key, concurrency_key)

    def _search(
        self, sought: "Sought", queue: str | None, after: str, *, size: int, looks: int, within_s: float
    ) -> "TasksFound":
        from boilerd.broker.task_search import TaskSearch  # noqa: PLC0415 - as in `Part`

        if size < 1 or looks < 1:
            raise ValueError(f"size {size}, looks {looks}: both begin at 1")
        queues = self._inspection.queue_names()[0] if queue is None else [queue]
        found = TaskSearch(self._inspection, sought).run(queues, after, size=size, looks=looks, within_s=within_s)
        if queue is not None and not found.looked:
            self._check_used(queue)  # of one that has tasks nobody need ask
        return found

    def _sift(self, queue: str, state: TaskState, most: int, looks: int | None) -> list[Member]:
        """The first tasks of one of the states that share a registry."""
        found: list[Member] = []
        start = 0
        while len(found) < most and (looks is None or start < looks):
            sifted = self._inspection.sift(queue, state, start, LOOKS, most - len(found))
            found += sifted.found
            start += sifted.looked
            if sifted.is_end:
                break
        return found

"""Look at what there is besides queues and tasks: numbers, workers, daemons, keys, Redis and the audit."""

import functools
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from boilerd.broker.views import WorkerInfo
from boilerd.errors import (
    InvalidTaskError,
    UniqueLockError,
    shown,
)
from boilerd.inspector.part import Part

if TYPE_CHECKING:
    from boilerd.broker.audit import AuditEntry, Note, What
    from boilerd.broker.daemons import DaemonInfo
    from boilerd.broker.deaths import WorkerDeath
    from boilerd.broker.kept_pages import KeptPages
    from boilerd.broker.metrics import Metrics, Period, Series
    from boilerd.broker.running import RunningFound
    from boilerd.broker.server_facts import ServerFacts
    from boilerd.broker.shares import KeysFound, KeyTasks, Lock, LocksFound, Refusals
    from boilerd.tasks.metric_record import Numbers, Pair


class SystemPart(Part):
    """Look at what there is besides queues and tasks: numbers, workers, daemons, keys, Redis and the audit."""

    def metrics(
        self,
        since: datetime | timedelta,
        until: datetime | None = None,
        step_s: int | None = None,
        *,
        queue: str | None = None,
        task_type: str | None = None,
        each: "Callable[[Period], None] | None" = None,
    ) -> "Series":
        """What was done by queue and task type: attempts by outcome, run and waiting times, payloads.

        Args:
            since: From when; or for how long back, by Redis's clock.
            until: To when; None: now.
            step_s: How long a period is: 60, kept for 3 hours; 600, for 3 days; 3600, for 14 days; 86400, for 90 days.
                None: the shortest that is kept for so long.
            queue: Only of this queue.
            task_type: Only of this type.
            each: Gets each period as it is read, with its numbers, which the series has not then: of many queues and
                types they are megabytes.

        Raises:
            ValueError: There is no such step.
        """
        return self._metrics.series(since, until, step_s, queue, task_type, each=each)

    def totals(self) -> "dict[Pair, Numbers]":
        """What was done ever since, by queue and task type; none of the numbers falls.

        A pair of which there was nothing for 90 days is forgotten.
        """
        return self._metrics.totals()

    def workers(self) -> list[WorkerInfo]:
        """All workers, by name, with the task that each runs."""
        return self._inspection.workers()

    def deaths(self) -> "list[WorkerDeath]":
        """The workers of all hosts that died within a day, latest first, 200 at most; a recycled one has not.

        A worker's successor notes its death, so what is missing are those of daemons of earlier versions, and of hosts
        that are gone.

        Raises:
            MisplacedKeyError: Another program's key stands where they should.
        """
        from boilerd.broker.deaths import read_deaths  # noqa: PLC0415 - as in `Part`

        return read_deaths(self._broker.connection)

    def longest_running(self, queues: Sequence[str], size: int = 5) -> "RunningFound":
        """The tasks of these queues that run longest, of 40 that run; 61 commands at most."""
        from boilerd.broker.running import read_running  # noqa: PLC0415 - as in `Part`

        return read_running(self._broker.connection, queues, size)

    def daemons(self) -> "list[DaemonInfo]":
        """The daemons that live, of all hosts, as each tells of itself, by name; two round trips.

        A daemon of version 0.1.0 or before tells nothing, and one that was killed is among them for a minute.
        """
        from boilerd.broker.daemons import read_daemons  # noqa: PLC0415 - as in `Part`

        return read_daemons(self._broker.connection)

    def broker(self) -> dict[str, Any]:
        """``server uptime_s clients memory_bytes peak_memory_bytes`` of Redis or Valkey."""
        return self._inspection.server()

    def server(self) -> "ServerFacts":
        """Redis itself: memory, files and clients, its latency from here, its slow log; writes nothing."""
        from boilerd.broker.server_facts import read_server  # noqa: PLC0415 - as in `Part`

        return read_server(self._broker.connection)

    def concurrency_keys(self, queues: Iterable[str] | None = None) -> "KeysFound":
        """The concurrency keys of tasks that run or wait for one, in these queues or all, and how far was looked."""
        from boilerd.broker.shares import read_keys  # noqa: PLC0415 - as in `Part`

        names = self._inspection.queue_names()[0] if queues is None else queues
        return read_keys(self._broker.connection, sorted(names))

    def unique_locks(self, queue: str = "", task_type: str = "", *, after: str = "") -> "LocksFound":
        """Unique locks of a queue, a type or all, among the next 20,000 keys of Redis's; `after` goes on from there.

        A type may be what it begins with and ``*``.
        """
        from boilerd.broker.shares import find_locks  # noqa: PLC0415 - as in `Part`

        if after and not (after.isascii() and after.isdecimal() and len(after) <= 20):
            raise InvalidTaskError(f"after {shown(after)} is no place of a search; leave it out to begin anew")
        return find_locks(self._broker.connection, queue, task_type, after)

    def key_tasks(self, key: str) -> "KeyTasks":
        """The tasks that run with a concurrency key, and those that wait for it, 50 of each at most."""
        from boilerd.broker.shares import read_key  # noqa: PLC0415 - as in `Part`

        return read_key(self._broker.connection, key)

    def refusals(self) -> "list[Refusals]":
        """How many enqueues each queue's `max_length`, and unique locks, have refused in this hour and the last."""
        from boilerd.broker.shares import read_refusals  # noqa: PLC0415 - as in `Part`

        return read_refusals(self._broker.connection)

    def unique_lock(self, queue: str, task_type: str, digest: str) -> "Lock | None":
        """One unique lock, by the digest that `unique_locks` tells; None: it is free."""
        from boilerd.broker.shares import read_lock  # noqa: PLC0415 - as in `Part`

        return read_lock(self._broker.connection, queue, task_type, digest)

    def release_lock(
        self, queue: str, task_type: str, digest: str, *, task_id: str, also_of_living: bool = False
    ) -> None:
        """Release a unique lock, so that a task with its payload may be enqueued.

        Args:
            queue: Its queue.
            task_type: Its type.
            digest: Of its payload, as `unique_locks` tells it.
            task_id: The task that holds it: if another one does by now, nothing is released.
            also_of_living: Also where that task has not ended, so that another may run beside it.

        Raises:
            UniqueLockError: It is free, or held by another task, or its task has not ended.
        """
        with self._audit.noting("unlock", task=task_id, queue=queue, type=task_type) as noted:
            answer = self._inspection.unlock(queue, task_type, digest, task_id, also_of_living=also_of_living)
            if answer != "done":
                raise UniqueLockError(task_type, queue, task_id, answer)
            noted.count = 1

    @functools.cached_property
    def kept_pages(self) -> "KeptPages":
        """Pages of the web dashboard as they were, which somebody has kept."""
        from boilerd.broker.kept_pages import KeptPages  # noqa: PLC0415 - as in `Part`

        return KeptPages(self._broker.connection, self._audit)

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
        until: datetime | timedelta | None = None,
        who: str | None = None,
        what: str | None = None,
        on: str | None = None,
        page: int = 1,
        size: int = 30,
    ) -> list["AuditEntry"]:
        """A page of what people did, the latest last; the first page has the latest. The last 10,000 are kept.

        Args:
            since: Not what was before; or for how long back, by Redis's clock.
            until: Not what was later; in the same way.
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
        between = self._audit.between(since, until)
        return self._audit.page(lambda entry: entry.fits(who, what, on), between, page=page, size=size)

    def export_audit(
        self,
        *,
        since: datetime | timedelta | None = None,
        until: datetime | timedelta | None = None,
        who: str | None = None,
        what: str | None = None,
        on: str | None = None,
        most: int = 100_000,
    ) -> Generator[Sequence["AuditEntry"]]:
        """All entries that `audit` has, the latest first, a thousand at a time, while one iterates.

        The audit has one entry of that, written at the end.
        """
        with self._audit.noting("export", page="/audit", who=who or "") as noted:
            between = self._audit.between(since, until)
            for found in self._audit.chunks(lambda entry: entry.fits(who, what, on), between):
                rows = found[: most - noted.count]
                noted.count += len(rows)
                yield rows
                if noted.count >= most:
                    return

    def note_export(self, page: str, count: int) -> None:
        """Note that somebody got so many rows of a list as a file."""
        self._audit.note("export", count, "done", page=page)

    def audit_after(self, entry_id: str) -> list["AuditEntry"]:
        """The entries behind the one with this ID, at most 1,000; empty: from the first one on."""
        return self._audit.after(entry_id)

    def noting(self, what: "What", **on: str) -> "AbstractContextManager[Note]":
        """Note in the audit what is done in the block, such as to a daemon, by whoever this inspector acts for.

        Args:
            what: What is done; the block sets the `count` of what it gets.
            on: On what.
        """
        return self._audit.noting(what, **on)

    @functools.cached_property
    def _metrics(self) -> "Metrics":
        from boilerd.broker.metrics import Metrics  # noqa: PLC0415 - as above

        return Metrics(self._broker.connection)

"""Look at what there is besides queues and tasks: numbers, workers, daemons, keys, Redis and the audit."""

import functools
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from boilerd.broker.views import WorkerInfo
from boilerd.errors import (
    InvalidTaskError,
    shown,
)
from boilerd.inspector.part import Part

if TYPE_CHECKING:
    from boilerd.broker.audit import AuditEntry
    from boilerd.broker.daemons import DaemonInfo
    from boilerd.broker.kept_pages import KeptPages
    from boilerd.broker.metrics import Metrics, Series
    from boilerd.broker.server_facts import ServerFacts
    from boilerd.broker.shares import KeysFound, LocksFound
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

    def workers(self) -> list[WorkerInfo]:
        """All workers, by name, with the task that each runs."""
        return self._inspection.workers()

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
        """Unique locks of a queue, a type or all, among the next 20,000 keys of Redis's; `after` goes on from there."""
        from boilerd.broker.shares import find_locks  # noqa: PLC0415 - as in `Part`

        if after and not (after.isascii() and after.isdecimal() and len(after) <= 20):
            raise InvalidTaskError(f"after {shown(after)} is no place of a search; leave it out to begin anew")
        return find_locks(self._broker.connection, queue, task_type, after)

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

    @functools.cached_property
    def _metrics(self) -> "Metrics":
        from boilerd.broker.metrics import Metrics  # noqa: PLC0415 - as above

        return Metrics(self._broker.connection)

"""Look at queues, pause them and let them go on."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta

from boilerd.broker.views import Day, QueueDetail, QueueInfo
from boilerd.inspector.part import Part
from boilerd.tasks.queues import check_queue


class QueuesPart(Part):
    """Look at queues, pause them and let them go on."""

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

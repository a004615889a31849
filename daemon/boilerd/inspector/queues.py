"""Look at queues, pause them and let them go on."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from boilerd.broker.views import Day, QueueDetail, QueueInfo
from boilerd.errors import QueueInUseError
from boilerd.inspector.part import Part
from boilerd.tasks.queues import check_queue

if TYPE_CHECKING:
    from boilerd.broker.composition import Composition
    from boilerd.broker.pauses import Pause


class QueuesPart(Part):
    """Look at queues, pause them and let them go on."""

    def queue_names(self) -> list[str]:
        """The names of all queues that were ever used; one round trip."""
        return self._inspection.queue_names()[0]

    def queues(self, known: Iterable[str] = ()) -> list[QueueInfo]:
        """Every queue that was ever used, and those in `known`, by name; a round trip for 21 of them.

        What is wrong with the list of queues has a row of its own, as a queue with a problem.
        """
        names, wrong = self._inspection.queue_names()
        return sorted(wrong + self._inspection.counts([*{*names, *known}]), key=lambda queue: queue.name)

    def queue_details(self, only: Iterable[str] | None = None) -> list[QueueDetail]:
        """As `queues`, with all that `queue` tells, or of these queues alone; a round trip for six of many."""
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

    def composition(self, name: str) -> "Composition":
        """Of which types its pending tasks are, by a sample of a hundred; two round trips."""
        from boilerd.broker.composition import read_composition  # noqa: PLC0415 - as in `Part`

        return read_composition(self._broker.connection, name)

    def delete_queue(self, name: str) -> None:
        """Have nobody list a queue any more that holds no task and that no worker serves; its numbers expire.

        A limit, a pause and its place in the settings of daemons stay: the next task that is enqueued brings it back.

        Raises:
            QueueNotFoundError: It was never used.
            QueueInUseError: It holds tasks, or a worker that lives serves it.
        """
        self._check_used(name)
        with self._audit.noting("delete", queue=name) as noted:
            if any(name in worker.queues for worker in self._inspection.living()):
                raise QueueInUseError(name, "a worker serves it")
            if not self._inspection.delete_queue(name):
                raise QueueInUseError(name, "it holds tasks")
            noted.count = 1

    def pause(self, name: str, *, note: str = "", until: datetime | timedelta | None = None) -> bool:
        """Let no worker claim from the queue; True if it was not paused before.

        Args:
            name: Its name.
            note: Why; of a queue that is paused already, this note and end replace those that it has.
            until: When a scheduler resumes it by itself, with a time zone; or after which time, by Redis's clock. None:
                nobody does.

        Raises:
            InvalidTaskError: The end is past, or the note too long.
        """
        check_queue(name)
        return self._pause("queue", name, note, until, self._inspection.pause)

    def resume(self, name: str) -> bool:
        """Let workers claim from the queue again; True if it was paused."""
        check_queue(name)
        with self._audit.noting("resume", queue=name) as noted:
            noted.count = int(self._inspection.resume(name))
            self._forget_pause("queue", name)
            self._broker.ring(name)
        return bool(noted.count)

    def pauses(self) -> "list[Pause]":
        """What was said of the pauses of queues and periodic tasks, with note and end; none of those without either."""
        from boilerd.broker.pauses import read_pauses  # noqa: PLC0415 - as in `Part`

        return [*read_pauses(self._broker.connection).values()]

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

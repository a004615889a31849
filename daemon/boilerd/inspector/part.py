"""What all parts of the inspector share."""

import functools
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import redis

from boilerd.broker.broker import Broker
from boilerd.broker.bulk_actions import BulkActions
from boilerd.broker.inspection import Inspection
from boilerd.errors import QueueNotFoundError
from boilerd.tasks.queues import check_queue

if TYPE_CHECKING:
    from boilerd.broker.audit import Actor, Audit
    from boilerd.broker.pauses import Kind


class Part:
    """A part of the inspector: what it reads and writes with."""

    def __init__(self, connection: redis.Redis, *, by: "Actor | None" = None) -> None:
        self._broker = Broker(connection)
        self._inspection = Inspection(connection)
        self._bulk = BulkActions(self._broker, self._inspection)
        self._given_actor = by

    @functools.cached_property
    def _audit(self) -> "Audit":
        # Each `boilerd enqueue` would take 3 ms more.
        from boilerd.broker.audit import Actor, Audit  # noqa: PLC0415

        return Audit(self._broker.connection, self._given_actor or Actor())

    def _pause(
        self,
        kind: "Kind",
        name: str,
        note: str,
        until: datetime | timedelta | None,
        pause: Callable[[str], bool],
    ) -> bool:
        """Pause a queue or a periodic task, with what was said of that; True if it was not paused before."""
        from boilerd.broker.pauses import describe  # noqa: PLC0415 - as above

        with self._audit.noting("pause", **{kind: name}) as noted:
            self._broker.end_pauses()  # one that is over, and that no scheduler has ended, would count as a pause
            noted.on = describe(self._broker.connection, kind, name, note, until)
            noted.count = int(pause(name))
        return bool(noted.count)

    def _forget_pause(self, kind: "Kind", name: str) -> None:
        from boilerd.broker.pauses import forget  # noqa: PLC0415 - as above

        forget(self._broker.connection, kind, name)

    def _check_used(self, name: str) -> None:
        if not self._inspection.is_used(name):
            check_queue(name)  # after the look: queues of plain RQ may have names that ours may not
            known = sorted(self._inspection.counts(self._inspection.queue_names()[0]), key=lambda queue: queue.is_idle)
            raise QueueNotFoundError(name, [queue.name for queue in known])

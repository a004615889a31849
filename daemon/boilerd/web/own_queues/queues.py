"""Their queues."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from boilerd.broker.composition import Composition
from boilerd.broker.daemons import DaemonInfo
from boilerd.broker.running import RunningFound
from boilerd.broker.views import CompletedTask, Day, QueueDetail
from boilerd.web.own_queues.part import Part


class QueuesPart(Part):
    """Look at queues, pause them and let them go on."""

    def queue_names(self) -> list[str]:
        """Those of them that were ever used."""
        return [name for name in self._all.queue_names() if self._who.owns(name)]

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

"""What holds their tasks back on purpose."""

from collections.abc import Iterable
from typing import Any

from boilerd.broker.shares import KeysFound, KeyTasks, Lock, LocksFound, Refusals
from boilerd.web.own_queues.part import Part


class LimitsPart(Part):
    """Look at concurrency keys and unique locks, and release one."""

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

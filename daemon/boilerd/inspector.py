"""Look at queues and workers."""

from collections.abc import Iterable
from dataclasses import dataclass

import redis

from boilerd import keys
from boilerd.connection import text, translated


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """How many tasks of a queue are in each state.

    Attributes:
        scheduled: Those to be retried included.
    """

    name: str
    pending: int
    active: int
    scheduled: int
    completed: int
    archived: int
    is_paused: bool


class Inspector:
    """Reads what the broker holds; changes nothing."""

    def __init__(self, connection: redis.Redis) -> None:
        self._connection = connection

    def queues(self, known: Iterable[str] = ()) -> list[QueueInfo]:
        """Every queue that was ever used, and those in `known`, by name; two round trips.

        Raises:
            BrokerError: Redis did not answer, or refused.
        """
        with translated():
            prefix = keys.queue("")
            used = {text(key).removeprefix(prefix) for key in self._connection.smembers(keys.QUEUES)}
            names = sorted(used | set(known))
            with self._connection.pipeline(transaction=False) as pipeline:
                for name in names:
                    pipeline.llen(keys.queue(name))
                    pipeline.zcard(keys.wip(name))
                    for kind in ("scheduled", "finished", "failed"):
                        pipeline.zcard(keys.registry(kind, name))
                    pipeline.sismember(keys.PAUSED, name)
                answers = pipeline.execute()
        rows = [answers[i : i + 6] for i in range(0, len(answers), 6)]
        return [
            QueueInfo(name, pending, active, scheduled, completed, archived, bool(is_paused))
            for name, (pending, active, scheduled, completed, archived, is_paused) in zip(names, rows, strict=True)
        ]

    def has_workers(self, queue: str) -> bool:
        """Whether any worker, of whatever host, works on the queue."""
        with translated():
            names = [text(name) for name in self._connection.smembers(f"{keys.WORKERS}:{queue}")]
            # The set keeps the names of daemons that were killed; their records expire.
            return bool(names) and bool(self._connection.exists(*names))

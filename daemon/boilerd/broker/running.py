"""What runs longest: no registry has claims in the order in which they began, so that a part of them is looked at."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import redis

from boilerd.broker import keys
from boilerd.broker.connection import raw, text
from boilerd.broker.refusals import sound, translated

#: Queues and claims that are looked at: each is one command.
MOST_QUEUES, MOST_CLAIMS = 20, 40


@dataclass(frozen=True, slots=True)
class Running:
    """A task that runs."""

    id: str
    type: str
    queue: str
    worker: str
    started_at: datetime


@dataclass(frozen=True, slots=True)
class RunningFound:
    """Those that run longest, longest first, of so many that were looked at."""

    tasks: Sequence[Running] = ()
    looked: int = 0


def read_running(connection: redis.Redis, queues: Sequence[str], size: int) -> RunningFound:
    """Those of these queues; two round trips."""
    asked: Any = connection  # redis-py's types take no bytes
    looked_at = queues[:MOST_QUEUES]
    with translated(), asked.pipeline(transaction=False) as pipeline:
        for name in looked_at:
            pipeline.zrange(raw(keys.wip(name)), 0, max(1, MOST_CLAIMS // len(looked_at)) - 1)
        claims = sound(pipeline.execute(raise_on_error=False))
    ids = [text(claim).rpartition(":")[0] for found in claims for claim in found or ()]
    with translated(), asked.pipeline(transaction=False) as pipeline:
        for task_id in ids:
            pipeline.hmget(raw(keys.job(task_id)), "started_at", "task_type", "origin", "worker_name", "status")
        records = sound(pipeline.execute(raise_on_error=False))
    found = [task for pair in zip(ids, records, strict=True) if (task := _to_running(*pair))]
    return RunningFound(sorted(found, key=lambda task: task.started_at)[:size], len(ids))


def _to_running(task_id: str, record: Sequence[bytes | None] | None) -> Running | None:
    started, task_type, queue, worker, status = (text(value or b"") for value in record or [None] * 5)
    with suppress(ValueError):
        at = datetime.fromisoformat(started)
        if status == "started":  # what waits behind others in a hand has not begun
            return Running(task_id, task_type, queue, worker, at if at.tzinfo else at.replace(tzinfo=UTC))
    return None

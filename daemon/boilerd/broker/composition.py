"""Of which types a queue's pending tasks are: by a sample of its first and last ones, for no list has its types."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis

from boilerd.broker import keys
from boilerd.broker.connection import raw, text
from boilerd.broker.job_hash import name_in
from boilerd.broker.refusals import sound, translated

#: Tasks that are looked at, from each end of the queue: each is one command.
AT_EACH_END = 50


@dataclass(frozen=True, slots=True)
class Composition:
    """What a sample of a queue's pending tasks is made of.

    Attributes:
        types: Type → how many of the sample are of it, the most frequent first.
        looked: How many tasks the sample has.
        pending: How many the queue has, but for those that wait for a concurrency key.
    """

    types: Sequence[tuple[str, int]]
    looked: int
    pending: int


def read_composition(connection: redis.Redis, queue: str) -> Composition:
    """That of a queue, two round trips."""
    asked: Any = connection  # redis-py's types take no bytes
    key = raw(keys.queue(queue))
    with translated(), asked.pipeline(transaction=False) as pipeline:
        pipeline.llen(key)
        pipeline.lrange(key, 0, AT_EACH_END - 1)
        pipeline.lrange(key, -AT_EACH_END, -1)
        length, first, last = sound(pipeline.execute(raise_on_error=False))
    length, ids = length or 0, first or []
    if length > AT_EACH_END:
        ids = ids + (last or [])[-(length - AT_EACH_END) :]
    with translated(), asked.pipeline(transaction=False) as pipeline:
        for task_id in ids:
            pipeline.hmget(raw(keys.job(text(task_id))), "task_type", "description")
        records = sound(pipeline.execute(raise_on_error=False))
    found = Counter(_type_of(*(text(each or b"") for each in record or (b"", b""))) for record in records)
    return Composition(found.most_common(), len(ids), length)


def _type_of(task_type: str, description: str) -> str:
    return task_type or name_in(description)

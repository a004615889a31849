"""How the workers ended that died within a day, of all hosts, as their last words tell.

Redis may hold anything there; what cannot be read is left out.
"""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import redis

from boilerd.broker import keys
from boilerd.broker.connection import text
from boilerd.broker.constants import DEATHS_TTL_S, MOST_DEATHS
from boilerd.broker.last_words import LastWords
from boilerd.broker.refusals import expecting, translated


@dataclass(frozen=True, slots=True)
class WorkerDeath:
    """How a worker ended that died.

    Attributes:
        worker: Its name; its successor has the same one.
        at: When that was noted, within a moment of its end as a rule.
        exit: How it ended, such as ``signal 9 (SIGKILL)``.
        because: Why, where that is known; empty: it is not.
        task_id: The task that it ran, or one of those that count as failed by its end; empty: none, or nobody knows.
        tasks: How many tasks it held; more than one in a batch, or with several slots.
        rss_bytes: What it had in memory at its last heartbeat; None: not known.
        lived_s: How long it lived; None: not known.
    """

    worker: str
    at: datetime
    host: str
    pool: str
    pid: int
    exit: str
    because: str = ""
    task_id: str = ""
    task_type: str = ""
    tasks: int = 0
    rss_bytes: int | None = None
    lived_s: int | None = None

    @property
    def why(self) -> str:
        """How it ended and why, in one line."""
        return ", ".join(filter(None, (self.exit, self.because))) or "not known"


class _Noted(LastWords, frozen=True):
    at: float = 0.0


def place_of(worker: str) -> tuple[str, str]:
    """Of a worker's name: its host, and the number of its row, which its successors have in later runs, too."""
    rest, _, row = worker.rpartition(".")
    return rest.rpartition(".")[0], row


def read_deaths(connection: redis.Redis) -> list[WorkerDeath]:
    """Those of the last day, latest first, `MOST_DEATHS` at most; one round trip."""
    reader: Any = connection
    with translated(), expecting("list", keys.DEATHS):
        notes: Sequence[bytes] = reader.lrange(keys.DEATHS, 0, MOST_DEATHS - 1)
    oldest_s = time.time() - DEATHS_TTL_S
    found = [death for note in notes if (death := _to_death(note))]
    return [death for death in found if death.at.timestamp() > oldest_s]


def _to_death(note: bytes) -> WorkerDeath | None:
    with suppress(ValueError, RecursionError, OverflowError, OSError, msgspec.ValidationError):
        told = msgspec.convert(json.loads(text(note)), _Noted)
        lived_s = None if told.lived_s < 0 else told.lived_s
        return WorkerDeath(
            told.worker, datetime.fromtimestamp(told.at, UTC), told.host, told.pool, told.pid, told.exit, told.because,
            told.task_id, told.task_type, told.tasks, told.rss_bytes or None, lived_s,
        )  # fmt: skip
    return None

"""What is written of a worker that died: by its successor, or by a scheduler that finds it dead with its daemon."""

import json
import os

import msgspec

from boilerd.broker.constants import MOST_TEXT
from boilerd.tasks.queues import DEFAULT_POOL


class LastWords(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is written of a worker that died.

    Attributes:
        worker: Its name.
        exit: How it ended, in words.
        because: Why, where that is known.
        task_id: The task that it ran, or the first of those that count as failed by its end.
        tasks: How many tasks it held.
        rss_bytes: What it had in memory at its last heartbeat; 0: not known.
        lived_s: How long it lived; -1: not known.
    """

    worker: str
    pool: str = DEFAULT_POOL
    host: str = ""
    pid: int = 0
    exit: str = ""
    because: str = ""
    task_id: str = ""
    task_type: str = ""
    tasks: int = 0
    rss_bytes: int = 0
    lived_s: int = -1

    def encoded(self) -> str:
        """As an object in ASCII, with names of a bounded length."""
        fields = msgspec.structs.asdict(self) | {"host": self.host or os.uname().nodename}
        cut = {name: value[:MOST_TEXT] if isinstance(value, str) else value for name, value in fields.items()}
        return json.dumps(cut, separators=(",", ":"))

"""What this dashboard costs, since its process serves it."""

import os
import resource
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from boilerd.process.identity import resident_bytes
from boilerd.web.pace import Pace


@dataclass(slots=True)
class Costs:
    """Counts what it is asked, and asks; beside other threads about so many.

    Attributes:
        commands: How many commands were sent to Redis; None: the client is the application's own, and not counted.
        requests: How many requests were answered.
        polls: How many of them were polls of open pages.
        unchanged: How many of these found nothing new.
        since: From when on.
        pace: How often open pages renew themselves.
    """

    commands: Callable[[], int] | None = None
    requests: int = 0
    polls: int = 0
    unchanged: int = 0
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    pace: Pace = field(default_factory=Pace)

    def note(self, status: int, *, is_poll: bool) -> None:
        """Note a request and how it was answered."""
        self.requests += 1
        self.polls += is_poll
        self.unchanged += is_poll and status == 304

    def told(self) -> dict[str, Any]:
        """All of it, with what the process takes; that is also another's where the dashboard is mounted in one."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "pid": os.getpid(), "memory_bytes": resident_bytes(), "cpu_s": round(used.ru_utime + used.ru_stime),
            "threads": threading.active_count(), "since": self.since,
            "requests": self.requests, "polls": self.polls, "unchanged": self.unchanged,
            "wait_s": round(self.pace.wait_s, 1),
            "commands": self.commands() if self.commands else None,
        }  # fmt: skip

"""Check-ins of periodic tasks at Sentry: each entry is the monitor of its name, with its schedule."""

import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import sentry_sdk
from sentry_sdk.crons import MonitorStatus, capture_checkin

from boilerd.tasks.cron import CronEntry, entry_of_tick
from boilerd.tasks.task import Task
from boilerd.units import Duration

if TYPE_CHECKING:
    from sentry_sdk._types import MonitorConfig

#: Characters of a monitor's slug at most.
_MOST_SLUG = 50
#: What an interval may be counted in.
_UNITS = (("week", 604800), ("day", 86400), ("hour", 3600), ("minute", 60))
#: Sentry has the other shorthands.
_SHORTHANDS = {"@midnight": "@daily", "@annually": "@yearly"}


class Monitors:
    """The check-ins of the periodic tasks of a mux.

    Args:
        entries: What has them, asked at the first task: more may be registered until then.
    """

    def __init__(self, entries: Callable[[], Sequence[CronEntry]]) -> None:
        self._entries = entries
        self._configs: dict[str, MonitorConfig | None] | None = None

    def begin(self, task: Task) -> None:
        """Check in where the first attempt of a tick's task begins; its retries belong to the same check-in."""
        if task.runs == 1:
            self._check_in(task, MonitorStatus.IN_PROGRESS)

    def end(self, task: Task, *, is_ok: bool) -> None:
        """Check in again where the task has ended, in whatever process that is known."""
        self._check_in(task, MonitorStatus.OK if is_ok else MonitorStatus.ERROR)

    def _check_in(self, task: Task, status: str) -> None:
        if self._configs is None:
            self._configs = {entry.name: to_config(entry) for entry in self._entries()}
        if self._configs and (name := entry_of_tick(task.id)) and (config := self._configs.get(name)):
            # From the task's ID, so that all of its attempts have it.
            environment = sentry_sdk.get_client().options.get("environment")
            check_in_id = uuid.uuid5(uuid.NAMESPACE_URL, f"boilerd:{environment}:{task.id}").hex
            capture_checkin(name.lower()[:_MOST_SLUG], check_in_id, status, monitor_config=config)


def to_config(entry: CronEntry) -> "MonitorConfig | None":
    """What Sentry has to know of an entry; None: it ticks more often than once a minute, or between two minutes."""
    schedule = _schedule(entry.spec.lower().split())
    return {"schedule": schedule, "timezone": entry.timezone} if schedule else None


def _schedule(words: Sequence[str]) -> Any:
    if words[0] == "@every":
        seconds = Duration.parse(" ".join(words[1:]))
        found = next(((unit, size_s) for unit, size_s in _UNITS if seconds % size_s == 0), None)
        return found and {"type": "interval", "value": int(seconds // found[1]), "unit": found[0]}
    if len(words) == 6:
        if not words[0].isdecimal():
            return None
        words = words[1:]
    line = " ".join(words).replace("?", "*")
    return {"type": "crontab", "value": _SHORTHANDS.get(line, line)}

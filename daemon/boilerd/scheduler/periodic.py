"""Periodic tasks: enqueue each at its ticks, once on however many hosts."""

import logging
from collections.abc import Sequence

from boilerd.broker.broker import Broker
from boilerd.broker.job_hash import NewTask
from boilerd.errors import BrokerRefusedError
from boilerd.tasks.cron import CronEntry, check_unique_names
from boilerd.tasks.options import task_options
from boilerd.tasks.payload import encode_payload

logger = logging.getLogger("boilerd.periodic")

#: A tick that is older when it is noticed was missed: no scheduler ran, or the broker was away.
LATE_S = 10.0
#: The longest sleep, so that a change of Redis's clock is noticed.
LONGEST_SLEEP_S = 60.0


class Periodic:
    """The cron entries of the settings and the mux.

    Redis remembers the last tick of each entry, and since when it has its schedule: the host that moves the tick on
    takes it, and stores the task in the same step. All moments are Redis's.

    Raises:
        ConfigError: Two entries have one name.
    """

    def __init__(self, entries: Sequence[CronEntry]) -> None:
        self._entries = entries
        self._last: dict[str, float] = {}
        check_unique_names(entries)

    def __bool__(self) -> bool:
        """True if there is an entry."""
        return bool(self._entries)

    def enqueue_due(self, broker: Broker) -> float:
        """Enqueue the tasks of all entries that are due; seconds until the next tick.

        Raises:
            BrokerRefusedError: Redis refused the task of an entry; all other entries had their turn.
        """
        now_s = broker.now()
        if not self._last:
            self._last = broker.ticks_since({entry.name: f"{entry.timezone} {entry.spec}" for entry in self._entries})
        refusal: BrokerRefusedError | None = None
        for entry in self._entries:
            # A tick in the future was taken while Redis's clock was ahead; the script knows whether to take it again.
            last_s = self._last[entry.name] = min(self._last[entry.name], now_s)
            tick_s = entry.schedule.latest_at_or_before(now_s, last_s)
            if tick_s is None:
                continue
            try:
                self._take(broker, entry, tick_s, now_s)
            except BrokerRefusedError as error:  # the other entries may be enqueued
                refusal = error
        if refusal:
            raise refusal
        next_s = min(entry.schedule.next_after(now_s) for entry in self._entries)
        return min(max(next_s - broker.now(), 0.0), LONGEST_SLEEP_S)

    def _take(self, broker: Broker, entry: CronEntry, tick_s: float, now_s: float) -> None:
        """Enqueue the task of a tick, unless it is too late or another host has done so."""
        is_late = now_s - tick_s > LATE_S and not entry.catch_up
        missed = entry.schedule.missed(self._last[entry.name], now_s) + is_late
        is_ours, refusal = broker.tick(entry.name, tick_s, None if is_late else new_task(entry, tick_s))
        self._last[entry.name] = tick_s
        if refusal:
            logger.error("periodic task was not enqueued", extra={"cron": entry.name, "error": str(refusal)})
        if is_ours and missed:
            fields = {"cron": entry.name, "missed": missed, "caught_up": not is_late}
            logger.warning("periodic task missed its time", extra=fields)


def new_task(entry: CronEntry, tick_s: float) -> NewTask:
    """Make the task of a tick."""
    options = task_options(task_id=entry.tick_id(tick_s), **entry.options)
    return NewTask(entry.tick_id(tick_s), entry.task_type, encode_payload(entry.payload), options)

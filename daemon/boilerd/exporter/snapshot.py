"""All that the exporter tells of, read at one moment: of Redis, of the daemon, and what that amounts to."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import redis

from boilerd.broker.in_parts import in_parts
from boilerd.broker.inspection import Inspection
from boilerd.broker.metrics import Metrics
from boilerd.broker.overview import Overview, read_overview
from boilerd.broker.sudden_failures import SuddenFailure, sudden_failures
from boilerd.errors import BrokerError, BrokerRefusedError, MisplacedKeyError
from boilerd.inspector import Inspector
from boilerd.settings.definitions import Settings
from boilerd.tasks.cron import CronEntry
from boilerd.tasks.metric_record import Numbers, Pair
from boilerd.verdict.facts import AskDaemon, DaemonStatus, Facts
from boilerd.verdict.finding import Finding, Severity
from boilerd.verdict.table import judge
from boilerd.worker.left_outcomes import count_left

#: A tick that was not taken is missed from so long after it on: it takes the scheduler a moment.
MISSED_AFTER_S = 10.0
#: Which types fail suddenly is looked at so often: of 300 busy ones it takes a third of a second of CPU.
LOOK_EVERY_S = 30.0


@dataclass(frozen=True, slots=True)
class Tick:
    """A periodic task of this daemon.

    Attributes:
        last_s: Its last tick; None: there was none yet.
        next_s: Its next one.
        missed: How many are due and were not taken.
    """

    name: str
    last_s: float | None
    next_s: float
    missed: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was read.

    Attributes:
        overview: Of Redis; None: it did not answer.
        broker_error: Why it did not; empty: it did.
        totals: What was done, by queue and type.
        ticks: Of this daemon's periodic tasks.
        info: What the daemon told of itself.
        findings: What the verdict found.
        took_s: How long it took to read this.
    """

    overview: Overview | None = None
    broker_error: str = ""
    totals: Mapping[Pair, Numbers] = field(default_factory=dict)
    ticks: Sequence[Tick] = ()
    info: Mapping[str, Any] = field(default_factory=dict)
    findings: Sequence[Finding] = ()
    took_s: float = 0.0

    @property
    def fault(self) -> str:
        """Why the daemon does not do its work, as a sentence; empty: it does."""
        bad = (Severity.FAULT, Severity.PASSING)
        return next((finding.says for finding in self.findings if finding.severity in bad), "")


class Reader:
    """Reads snapshots.

    Args:
        settings: Those of the daemon.
        connection: The client of Redis.
        ask_daemon: Asks the daemon how it is.
        crons: Its periodic tasks.
    """

    def __init__(
        self,
        settings: Settings,
        connection: redis.Redis,
        ask_daemon: AskDaemon,
        crons: Sequence[CronEntry] = (),
    ) -> None:
        self._settings = settings
        self._connection = connection = in_parts(connection)  # others enqueue meanwhile
        self._inspector = Inspector(connection)
        self._inspection = Inspection(connection)
        self._metrics = Metrics(connection)
        self._ask_daemon = ask_daemon
        self._crons = crons
        self._look_s, self._found = 0.0, list[SuddenFailure]()

    def read(self) -> Snapshot:
        """The snapshot at this moment."""
        began_s = time.monotonic()
        daemon = self._ask_daemon()
        overview, totals, ticks, error = self._of_redis()
        failing = self._failing() if overview else []
        findings = judge(self._facts(daemon, overview, failing, error)).findings
        took_s = time.monotonic() - began_s
        return Snapshot(overview, error, totals, ticks, daemon.info, findings, took_s)

    def _of_redis(self) -> tuple[Overview | None, Mapping[Pair, Numbers], Sequence[Tick], str]:
        try:
            overview = read_overview(self._connection, self._settings.served_queues())
            return overview, self._totals(), self._ticks(time.time() - overview.clock_ahead_s), ""
        except BrokerError as error:
            self._connection.connection_pool.disconnect()  # the name may lead elsewhere by now
            return None, {}, (), str(error)

    def _totals(self) -> Mapping[Pair, Numbers]:
        """What was done; nothing for a user who may not read that: tasks run all the same."""
        with suppress(BrokerRefusedError):
            return self._inspector.totals()
        return {}

    def _failing(self) -> list[SuddenFailure]:
        """The types that fail suddenly, as of a moment ago; none where that is not told: the rest is worth more."""
        if time.monotonic() >= self._look_s:
            self._look_s, self._found = time.monotonic() + LOOK_EVERY_S, []
            with suppress(BrokerError):
                self._found = sudden_failures(self._metrics)
        return self._found

    def _ticks(self, now_s: float) -> list[Tick]:
        """Those of this daemon. `Inspector.crons` would read what all daemons tell of theirs, which is megabytes."""
        if not self._crons:
            return []
        last, since = self._inspector.last_ticks(), {}
        with suppress(MisplacedKeyError):  # a key of another program's; the last ticks are known all the same
            seen = self._inspection.crons(last, now_s)
            since = {(cron.name, cron.spec, cron.timezone): cron.since for cron in seen}
        return [
            _tick(entry, last.get(entry.name), since.get((entry.name, entry.spec, entry.timezone)), now_s)
            for entry in self._crons
        ]

    def _facts(
        self, daemon: DaemonStatus, overview: Overview | None, failing: Sequence[SuddenFailure], error: str
    ) -> Facts:
        seen = Facts(broker_error=error, overview=overview, failing=failing)
        return seen.of_host(self._settings, daemon, count_left(self._settings))


def _tick(entry: CronEntry, last_s: float | None, since: datetime | None, now_s: float) -> Tick:
    since_s = last_s if last_s is not None else since.timestamp() if since else now_s
    due_s = now_s - MISSED_AFTER_S
    is_late = entry.schedule.next_after(since_s) <= due_s
    missed = 1 + entry.schedule.missed(since_s, due_s) if is_late else 0
    return Tick(entry.name, last_s, entry.schedule.next_after(now_s), missed)

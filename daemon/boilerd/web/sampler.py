"""One picture of all queues for however many look: it is taken again when somebody asks and it is some seconds old."""

import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import msgspec
import redis

from boilerd.broker.metrics import Metrics
from boilerd.broker.overview import Overview, read_overview
from boilerd.broker.sudden_failures import SuddenFailure, sudden_failures
from boilerd.broker.views import QueueDetail
from boilerd.errors import BoilerdError, BrokerRefusedError, BrokerUnavailableError
from boilerd.inspector import Inspector
from boilerd.verdict.facts import Facts, Silence
from boilerd.verdict.finding import Verdict
from boilerd.verdict.table import judge
from boilerd.web.beside import Beside, BesideReader
from boilerd.web.heaviest import heaviest
from boilerd.web.lately import Ends, Lately, Minute
from boilerd.web.outages import Outage, Outages
from boilerd.web.pace import Pace

#: A picture is shown for so long; one of much, for so many times as long as it used the CPU, up to four times as long;
#: and to polls for as long as pages wait before they ask again.
FRESH_S, FRESH_TIMES = 1.0, 200
#: And for so many pictures what workers tell, which they do every five seconds, and how much memory tasks take; of many
#: workers for more, so that it is no more than so many a picture. But one that gave no sign of life for 30 s is dead,
#: and a new one is read at once.
WORKERS_PICTURES, WORKERS_A_PICTURE, MOST_PICTURES = 5, 50, 15
#: Which types fail suddenly is looked for so often: it takes a quarter of an hour to become so.
LOOK_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What stood in Redis at one moment.

    Attributes:
        at: When it was taken, by this host's clock.
        took_s: How long that took.
        verdict: Whether all is well, by what Redis shows.
        minutes: What each queue did in each of the last minutes.
        types: What each type did in the last hour of them.
        beside: What the first page shows beside the queues.
        outages: When Redis was away before, the latest first.
        mark: Tells it from all that differ, those of other dashboards and processes as well.
    """

    at: datetime
    took_s: float
    overview: Overview
    verdict: Verdict
    minutes: Sequence[Minute] = ()
    types: Mapping[str, Ends] = field(default_factory=dict)
    beside: Beside = field(default_factory=Beside)
    outages: Sequence[Outage] = ()
    mark: str = ""


class Sampler:
    """Takes the pictures, one at a time; raises BrokerError.

    Args:
        connection: The client of Redis.
        read_facts: What the verdict is made of; None: what Redis shows.
        pace: How often open pages ask.

    Attributes:
        outages: When Redis was away; who finds so elsewhere tells it.
    """

    def __init__(
        self,
        connection: redis.Redis,
        read_facts: Callable[[Overview], Facts] | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._connection = connection
        self._read_facts = read_facts or facts_of
        self._pace = pace or Pace()
        self._lately = Lately(Inspector(connection))
        self._beside = BesideReader(Inspector(connection))
        self.outages = Outages()
        self._lock = threading.Lock()
        self._last: Snapshot | None = None
        self._last_told: object = None
        #: Queue → since when its oldest pending task waits, as the last picture was compared by.
        self._waits_since: dict[str, float] = {}
        self._failure: BoilerdError | None = None
        self._fresh_until_s = self._polls_until_s = self._failed_until_s = self._workers_until_s = self._look_s = 0.0
        self._found: Sequence[SuddenFailure] = ()
        #: How often something was changed, and how often it had been when the last picture was begun.
        self._changes = self._seen_changes = 0

    def fresh(self, *, is_poll: bool = False) -> Snapshot | None:
        """The last picture, if it is fresh; never waits."""
        until_s = self._polls_until_s if is_poll else self._fresh_until_s
        is_fresh = time.monotonic() < until_s and self._seen_changes == self._changes
        return self._last if is_fresh else None

    def read(self, *, is_poll: bool = False) -> Snapshot:
        """A picture that is fresh; whoever comes while one is taken waits for that one, and fails with it.

        Args:
            is_poll: Whether it is for a page that will ask again, and may be as old as such pages wait.
        """
        with self._lock:
            if found := self.fresh(is_poll=is_poll):
                return found
            if self._failure and time.monotonic() < self._failed_until_s:
                raise self._failure.with_traceback(None)
            try:
                return self._take()
            except BoilerdError as error:
                if isinstance(error, BrokerUnavailableError):
                    self.outages.note(error)
                self._failure, self._failed_until_s = error, time.monotonic() + FRESH_S
                self._look_s = 0.0  # what fails suddenly may not have been looked for
                raise

    def _take(self) -> Snapshot:
        began_s, used_s, changes = time.monotonic(), time.thread_time(), self._changes
        last = self._last if changes == self._seen_changes else None
        if last is None:
            self._beside.forget()
        before = last.overview if last and began_s < self._workers_until_s else None
        overview = read_overview(self._connection, before=before)
        minutes = self._lately.read()
        # Each takes about as long as all else together: not both in one picture, where the next will come soon.
        is_often = began_s < self._fresh_until_s + FRESH_S
        beside = last.beside if last and before is None and is_often else self._beside.read(overview)
        facts = msgspec.structs.replace(self._read_facts(overview), failing=self._failing())
        verdict = of_anywhere(judge(facts))
        self._last = self._next(
            Snapshot(
                overview=overview,
                verdict=verdict,
                minutes=minutes,
                types=self._lately.types,
                beside=beside,
                outages=self.outages.over(),
                at=datetime.now(UTC),
                took_s=time.monotonic() - began_s,
            )
        )
        if before is None:
            pictures = max(WORKERS_PICTURES, len(overview.records) / WORKERS_A_PICTURE)
            self._workers_until_s = began_s + min(pictures, MOST_PICTURES) * FRESH_S
        fresh_s = max(FRESH_S, FRESH_TIMES * (time.thread_time() - used_s))
        self._fresh_until_s = time.monotonic() + min(fresh_s, 4 * FRESH_S)
        self._polls_until_s = time.monotonic() + min(fresh_s, max(4 * FRESH_S, self._pace.wait_s))
        self._seen_changes = changes
        return self._last

    def _failing(self) -> Sequence[SuddenFailure]:
        """The types that fail suddenly, as of a moment ago; none where Redis refuses to tell."""
        if time.monotonic() >= self._look_s:
            self._look_s, self._found = time.monotonic() + LOOK_EVERY_S, ()
            with suppress(BrokerRefusedError):
                # Of many types it takes long, and as a rule what was read for the charts shows that there are none.
                self._found = sudden_failures(Metrics(self._connection)) if self._lately.has_failing() else ()
        return self._found

    def forget(self) -> None:
        """Take a new picture for the next one who asks, also where one is being taken: something was changed."""
        self._failed_until_s = self._look_s = 0.0
        self._changes += 1

    def _next(self, taken: Snapshot) -> Snapshot:
        """With its mark: that of the last one, if it differs in nothing that is looked at."""
        self._waits_since = _still(self._waits_since, taken)
        told = taken.minutes, taken.types, taken.beside, self._waits_since, _told(taken.overview, taken.verdict)
        is_same = told == self._last_told
        self._last_told = told
        return replace(taken, mark=self._last.mark if is_same and self._last else secrets.token_hex(8))


def facts_of(overview: Overview, archive_limit: int = 0) -> Facts:
    """The facts that Redis alone shows: all queues are judged, and no daemon."""
    return Facts(silence=Silence.ABSENT, overview=overview, archive_limit=archive_limit)


def of_anywhere(verdict: Verdict) -> Verdict:
    """A dashboard may be on a host without a daemon; that no worker lives is found by what Redis shows."""
    return Verdict.of([finding for finding in verdict.findings if finding.kind != "absent"])


def waits_since(detail: QueueDetail, at: datetime) -> datetime | None:
    """Since when the oldest pending task waits, to the second: unlike how long, it does not change by itself.

    Args:
        detail: Of the queue.
        at: When it was read.
    """
    if not detail.counts.pending:
        return None
    return datetime.fromtimestamp(round(at.timestamp() - detail.latency_s), UTC)


def _still(before: Mapping[str, float], taken: Snapshot) -> dict[str, float]:
    """Queue → since when its oldest pending task waits; as before where it differs by less than a second.

    Two clocks and the way to Redis have a word in it, so that the same task waits since another moment each time.
    """
    at_s = taken.at.timestamp()
    details = [queue.detail for queue in taken.overview.queues if queue.detail.counts.pending]
    found = {detail.counts.name: at_s - detail.latency_s for detail in details}
    return {
        name: before[name] if abs(since_s - before.get(name, float("inf"))) < 1 else since_s
        for name, since_s in found.items()
    }


def _told(overview: Overview, verdict: Verdict) -> object:
    """What is compared: not what changes by itself."""
    details = [queue.detail for queue in overview.queues]
    still = [
        (replace(each, latency_s=0.0), queue.is_served, queue.workers, queue.archived_lately)
        for each, queue in zip(details, overview.queues, strict=True)
    ]
    return (
        overview.counts, still, overview.misplaced, heaviest(overview.living), overview.workers, overview.is_suspended,
        verdict,
    )  # fmt: skip

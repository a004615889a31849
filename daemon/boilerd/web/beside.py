"""What the first page shows beside the queues, read now and then for all who look at it."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from boilerd.broker.failure_groups import FailureGroup, is_rising
from boilerd.broker.overview import Overview
from boilerd.errors import BoilerdError
from boilerd.inspector import Inspector
from boilerd.web.cron_rows import first_rows
from boilerd.web.refusal import Refusal
from boilerd.web.releases import Release, latest_releases

#: How often it is read.
FRESH_S = 10.0
#: Rows of each kind.
MOST = 5
#: Failure groups that are looked at.
_GROUPS = 20

_NOTHING_RUNS: Mapping[str, Any] = {"tasks": (), "looked": 0, "of": 0}


@dataclass(frozen=True, slots=True)
class Beside:
    """All kinds of it.

    Attributes:
        crons: The periodic tasks with a problem, or of which a tick was missed lately, then those that are due next.
        more_crons: How many there are beside these.
        failures: The failure groups that failed most in the last hour.
        longest: The tasks that run longest, ``tasks`` of so many that were ``looked`` at.
        releases: The last releases of the application.
        audit: What people did last.
        problems: Why one of them could not be read.
    """

    crons: Sequence[Mapping[str, Any]] = ()
    more_crons: int = 0
    failures: Sequence[Mapping[str, Any]] = ()
    longest: Mapping[str, Any] = field(default_factory=lambda: dict(_NOTHING_RUNS))
    releases: Sequence[Release] = ()
    audit: Sequence[Mapping[str, Any]] = ()
    problems: Sequence[str] = ()


class BesideReader:
    """Reads it, where it is older than `FRESH_S`."""

    def __init__(self, inspector: Inspector) -> None:
        self._inspector = inspector
        self._fresh_until_s = 0.0
        self._read = Beside()

    def read(self, overview: Overview) -> Beside:
        """What stands there; what cannot be read is told in `problems`."""
        if time.monotonic() >= self._fresh_until_s:
            self._read = self._read_all(overview)
            self._fresh_until_s = time.monotonic() + FRESH_S
        return self._read

    def forget(self) -> None:
        """Read it for the next one who asks."""
        self._fresh_until_s = 0.0

    def _read_all(self, overview: Overview) -> Beside:
        problems: list[str] = []

        def trying(read: Callable[[], Any], otherwise: Any) -> Any:
            try:
                return read()
            except Refusal:  # who has queues of their own does without what is of all
                return otherwise
            except BoilerdError as error:
                problems.append(str(error))
                return otherwise

        groups = trying(lambda: self._inspector.failures(_GROUPS), [])
        crons, more = trying(lambda: first_rows(self._inspector, self._inspector.crons(), MOST), ([], 0))
        return Beside(
            crons=crons,
            more_crons=more,
            failures=_worst(groups),
            releases=latest_releases(trying(self._inspector.daemons, ()), groups),
            longest=trying(lambda: self._longest(overview), _NOTHING_RUNS),
            audit=trying(self._audit, ()),
            problems=problems,
        )

    def _longest(self, overview: Overview) -> dict[str, Any]:
        active = {queue.name: queue.detail.counts.active for queue in overview.queues if queue.detail.counts.active}
        found = self._inspector.longest_running(sorted(active, key=lambda name: -active[name]), MOST)
        return {"tasks": found.tasks, "looked": found.looked, "of": sum(active.values())}

    def _audit(self) -> list[dict[str, Any]]:
        return [
            {
                "at": entry.at, "user": entry.user, "via": entry.via, "what": entry.what, "on": entry.on,
                "count": entry.count, "outcome": entry.outcome,
            }
            for entry in self._inspector.audit(size=MOST)[::-1]
        ]  # fmt: skip


def _worst(groups: Sequence[FailureGroup]) -> list[dict[str, Any]]:
    """Those that failed most in the last hour, but for those that are muted."""
    heard = [group for group in groups if not group.muted_at]
    return [
        {
            "fingerprint": group.fingerprint, "type": group.type, "error": group.error, "message": group.message,
            "state": str(group.state), "rise": group.rise, "is_rising": is_rising(group), "last_hour": group.last_hour,
            "hours": group.hours, "last_seen": group.last_seen, "last_release": group.last_release,
            "first_release": group.first_release, "acknowledged_release": group.acknowledged_release,
            "muted_at": group.muted_at,
        }
        for group in sorted(heard, key=lambda group: (-group.last_hour, -group.last_seen.timestamp()))[:MOST]
    ]  # fmt: skip

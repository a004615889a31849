"""When releases of the application began, as far as anything in Redis knows: daemons and failure groups do."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from boilerd.broker.daemons import DaemonInfo
from boilerd.broker.failure_groups import FailureGroup
from boilerd.web.visit import Visit

#: Releases that are told, the last ones.
MOST = 10
#: How long they are shown before they are read again.
FRESH_S = 30.0


@dataclass(frozen=True, slots=True)
class Release:
    """A release.

    Attributes:
        release: Its name.
        at: The first time at which something is known of it; it may have begun earlier.
        type: Where only a failure of a task type tells of it, that; empty: a daemon does.
    """

    release: str
    at: datetime
    type: str = ""


def releases(visit: Visit) -> list[Release]:
    """The last ones, the latest first; none for who sees some queues alone, as they are of all."""
    if visit.who.queues is not None:
        return []
    return visit.sharing(
        "releases", FRESH_S, lambda: latest_releases(visit.inspector.daemons(), visit.inspector.failures())
    )


def latest_releases(daemons: Iterable[DaemonInfo], groups: Iterable[FailureGroup]) -> list[Release]:
    """The last ones that these tell of, the latest first."""
    earliest: dict[str, Release] = {}
    for one in _told(daemons, groups):
        if one.release not in earliest or one.at < earliest[one.release].at:
            earliest[one.release] = one
    return sorted(earliest.values(), key=lambda one: one.at, reverse=True)[:MOST]


def _told(daemons: Iterable[DaemonInfo], groups: Iterable[FailureGroup]) -> Iterable[Release]:
    for daemon in daemons:
        if daemon.release and daemon.started_at:
            yield Release(daemon.release, daemon.started_at)
    for group in groups:
        if group.first_release and group.first_seen:
            yield Release(group.first_release, group.first_seen, group.type)

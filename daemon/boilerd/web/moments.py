"""Read a moment that somebody typed."""

from datetime import UTC, datetime, timedelta

from boilerd.units import Duration, in_utc
from boilerd.web.visit import QueryError


def moment(name: str, given: str) -> datetime | timedelta:
    """A time from now, or a moment, in UTC where it does not say; raises QueryError."""
    given = given.strip()
    try:
        return timedelta(seconds=Duration.parse(given))
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(given)
        return in_utc(found if found.tzinfo else found.replace(tzinfo=UTC))
    except ValueError:
        raise QueryError(f"{name}: no time; use 2h, or 2026-01-31T14:00, which is in UTC") from None

"""What moves by itself, as a page of HTML shows it: so that it stands still while nothing has changed for a person.

Heartbeats, memory and counters are others at each poll, which would bring the whole page each time. Programs get them
as they are.
"""

import math
from datetime import UTC, datetime, timedelta
from typing import TypeVar

#: Who tells of itself every five seconds is late after so long; until then it is not shown when it did.
LATE = timedelta(seconds=15)
#: What is shown instead.
IN_TIME = "in time"

Number = TypeVar("Number", int, float)


def heard(seen_at: datetime | None) -> datetime | str | None:
    """When somebody told of themselves, if that is too long ago by this host's clock."""
    return IN_TIME if seen_at and datetime.now(UTC) - seen_at < LATE else seen_at


def rough(value: Number, digits: int = 2) -> Number:
    """A number with so many digits that count: 1,234 is 1,200."""
    return round(value, digits - 1 - math.floor(math.log10(abs(value)))) if value else value


def magnitude(value: float) -> str:
    """Between which powers of ten a number is that jumps: 345 is "100 to 1,000"."""
    least = 10 ** math.floor(math.log10(value)) if value >= 1 else 0
    return f"{least:,} to {10 * least or 1:,}"


def in_steps(size: int) -> int:
    """A number of bytes with two digits that count, in the unit that people read: 85.3 MiB are 85."""
    unit = 1 << max(0, size.bit_length() - 1) // 10 * 10
    return round(rough(size / unit) * unit)

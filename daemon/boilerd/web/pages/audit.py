"""Who did what."""

from datetime import timedelta

from boilerd.broker.audit import KINDS
from boilerd.web.page import Data, page
from boilerd.web.permissions import Permission
from boilerd.web.visit import Visit

SIZE, MOST_SIZE = 50, 1000
#: How far back one looks.
PERIODS = {
    "1h": timedelta(hours=1),
    "24h": timedelta(days=1),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}


@page("/audit", needs=Permission.AUDIT, title="Audit", menu=85, rows="entries")
def audit(visit: Visit) -> Data:
    """What people did, the latest first."""
    since, what = visit.word("since", of=["", *PERIODS]), visit.word("what", of=["", *KINDS])
    who, on = visit.word("who"), visit.word("on")
    number, size = visit.number("page", 1), visit.number("size", SIZE, most=MOST_SIZE)
    found = visit.inspector.audit(
        since=PERIODS.get(since), who=who or None, what=what or None, on=on or None, page=number, size=size
    )
    return {
        "entries": found[::-1],
        "kinds": KINDS,
        "periods": [*PERIODS],
        "since": since,
        "what": what,
        "who_did": who,
        "on": on,
        "page": number,
        "has_more": len(found) == size,
        # To look for what is seldom takes a quarter of a second, which a poll should not.
        "is_live": number == 1 and not (who or what or on),
    }

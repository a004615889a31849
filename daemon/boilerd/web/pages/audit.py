"""Who did what."""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from boilerd.broker.audit import KINDS, AuditEntry
from boilerd.web.audited import told_on
from boilerd.web.moments import moment
from boilerd.web.ordering import most_exported
from boilerd.web.page import Data, page
from boilerd.web.permissions import Permission
from boilerd.web.visit import Visit

SIZE, MOST_SIZE = 50, 1000
#: How long it is shown before it is read again.
FRESH_S = 4.0
#: How far back one looks, as a rule.
PERIODS = ("1h", "24h", "7d", "30d")


def _chosen(visit: Visit) -> dict[str, Any]:
    """What the query asks for."""
    who, on = visit.word("who"), visit.word("on")
    what = visit.word("what", of=["", *KINDS])
    return {
        "since": _when(visit, "since"), "until": _when(visit, "until"), "who": who or None, "what": what or None,
        "on": on or None,
    }  # fmt: skip


def _when(visit: Visit, name: str) -> datetime | timedelta | None:
    given = visit.word(name)
    return moment(name, given) if given else None


def export(visit: Visit) -> Generator[Sequence[AuditEntry]]:
    """All of what the same query shows, or as much as it says, the latest first."""
    chosen = _chosen(visit)
    most = most_exported(visit)
    with closing(visit.inspector.export_audit(**chosen, most=most)) as parts:
        for part in parts:
            yield _told(visit, part, chosen["on"])


def _told(visit: Visit, entries: Sequence[AuditEntry], on: str | None) -> list[AuditEntry]:
    """Those that are on a thing of this name, as far as the person may know on what they are."""
    told = (replace(entry, on=told_on(visit, entry.on)) for entry in entries)
    return [entry for entry in told if entry.fits(None, None, on)]


@page(
    "/audit", needs=Permission.AUDIT, title="Audit", menu=85, rows="entries", stream=export, quotes_payloads=True,
    of_shared=True,
)  # fmt: skip
def audit(visit: Visit) -> Data:
    """What people did, the latest first."""
    chosen = _chosen(visit)
    number, size = visit.number("page", 1), visit.number("size", SIZE, most=MOST_SIZE)
    found = visit.sharing(
        ("audit", *chosen.values(), number, size),
        FRESH_S,
        lambda: visit.inspector.audit(**chosen, page=number, size=size),
        with_polls=True,
    )
    return {
        "entries": _told(visit, found[::-1], chosen["on"]),
        "kinds": KINDS,
        "periods": PERIODS,
        "since": visit.word("since"),
        "until": visit.word("until"),
        "what": chosen["what"] or "",
        "who_did": chosen["who"] or "",
        "on": chosen["on"] or "",
        "page": number,
        "has_more": len(found) == size,
        # To look for what is seldom takes a quarter of a second, which a poll should not.
        "is_live": number == 1 and not any(chosen.values()),
    }

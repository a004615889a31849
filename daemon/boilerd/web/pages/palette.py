"""One index of names, for the palette of `static/palette.js`; without JavaScript a page of links."""

from collections.abc import Callable, Iterable

from boilerd.web.page import Data, page
from boilerd.web.permissions import Permission
from boilerd.web.visit import Visit

#: Names of each kind.
MOST = 1000
#: Types and periodic tasks are read again after so long.
FRESH_S = 30.0


@page("/palette", needs=Permission.VIEW, title="Go to")
def palette(visit: Visit) -> Data:
    """Queues, types and periodic tasks by name; of a kind that cannot be read there are none."""
    found = {
        "queues": _names(visit, "queues", lambda: _queues(visit)),
        "types": _names(visit, "types", lambda: _types(visit)),
        "crons": _names(visit, "crons", lambda: {cron.name for cron in visit.inspector.crons()}),
    }
    return {
        **{kind: names[:MOST] for kind, names in found.items()},
        "left_out": sum(max(0, len(names) - MOST) for names in found.values()),
    }


def _queues(visit: Visit) -> set[str]:
    return {row.name for row in visit.snapshot().overview.queues}


def _types(visit: Visit) -> set[str]:
    """Those of which something was counted in the last 90 days."""
    return {pair.type for pair in visit.inspector.totals()}


def _names(visit: Visit, kind: str, read: Callable[[], Iterable[str]]) -> list[str]:
    found = visit.trying(lambda: visit.sharing(("palette", kind), FRESH_S, lambda: sorted(read())))
    return found if isinstance(found, list) else []

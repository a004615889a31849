"""What many look at, without other queues."""

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from boilerd.broker.overview import Overview
from boilerd.verdict.table import judge
from boilerd.web.beside import Beside
from boilerd.web.lately import Minute
from boilerd.web.permissions import Principal
from boilerd.web.sampler import Snapshot, facts_of, of_anywhere
from boilerd.web.shared import Shared

T = TypeVar("T")


class OwnShared(Shared):
    """What people with the same queues look at; nothing of it was read for others.

    Args:
        shared: What all look at.
        queues: Theirs.
    """

    def __init__(self, shared: Shared, queues: Sequence[str]) -> None:
        super().__init__()
        self._all = shared
        self._queues = tuple(queues)

    def get(self, key: Hashable, fresh_s: float, read: Callable[[], T], times: float = 0.0, *, anew: bool = False) -> T:
        """What `read` returned for one of them."""
        return self._all.get((self._queues, key), fresh_s, read, times, anew=anew)


def cut(snapshot: Snapshot, who: Principal, read_beside: Callable[[Overview], Beside]) -> Snapshot:
    """The picture without other queues; field by field, so that a new one is not in it.

    Args:
        snapshot: The picture.
        who: Whose queues are left.
        read_beside: Reads what stands beside them, which cannot be told from what stands beside all.
    """
    whole = snapshot.overview
    overview = Overview(
        clock_ahead_s=whole.clock_ahead_s,
        queues=[queue for queue in whole.queues if who.owns(queue.name)],
        is_suspended=whole.is_suspended,
        workers=whole.workers,
        unwritten_bytes=whole.unwritten_bytes,
        memory_share=whole.memory_share,
    )
    beside, verdict = read_beside(overview), of_anywhere(judge(facts_of(overview)))
    return Snapshot(
        at=snapshot.at,
        took_s=snapshot.took_s,
        overview=overview,
        verdict=verdict,
        minutes=[Minute(minute.start, _of(minute.queues, who)) for minute in snapshot.minutes],
        beside=beside,
        # Both may change while nothing does that is told of all.
        mark=hashlib.sha256(f"{snapshot.mark} {verdict} {beside}".encode("utf-8", "surrogatepass")).hexdigest(),
    )


def _of(queues: Mapping[str, T], who: Principal) -> dict[str, T]:
    return {name: value for name, value in queues.items() if who.owns(name)}

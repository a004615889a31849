"""Pause all queues at once, and resume them, as when what all tasks need is down."""

from collections.abc import Sequence

from boilerd.web.page import Data, Done, action
from boilerd.web.permissions import Permission
from boilerd.web.visit import Visit

#: Names that the question says.
MOST_NAMED = 10


def _about_pause(visit: Visit) -> Data:
    return _asked(
        _those(visit, paused=False),
        "Let nobody claim from any of these queues? What runs goes on; a queue that comes later is open.",
    )


@action("/all-queues/pause", needs=Permission.PAUSE, title="Pause all queues", about=_about_pause)
def pause_all(visit: Visit) -> Done:
    """Let nobody claim from any of them."""
    count = sum(visit.inspector.pause(name) for name in _those(visit, paused=False))
    return Done(f"{_queues(count)} paused now", to="/queues", data={"count": count})


def _about_resume(visit: Visit) -> Data:
    return _asked(
        _those(visit, paused=True),
        "Let workers claim from all of these queues again, also from those that somebody paused by itself?",
    )


@action("/all-queues/resume", needs=Permission.PAUSE, title="Resume all queues", about=_about_resume)
def resume_all(visit: Visit) -> Done:
    """Let workers claim from all of them again."""
    count = sum(visit.inspector.resume(name) for name in _those(visit, paused=True))
    return Done(f"{_queues(count)} open again", to="/queues", data={"count": count})


def _queues(count: int) -> str:
    return "1 queue is" if count == 1 else f"{count:,} queues are"


def _those(visit: Visit, *, paused: bool) -> Sequence[str]:
    """The queues that are paused, or open, of those that this person sees."""
    found = visit.snapshot().overview.queues
    return [queue.name for queue in found if queue.detail.counts.is_paused is paused]


def _asked(names: Sequence[str], question: str) -> Data:
    more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return {
        "question": question,
        "facts": [["How many", f"{len(names):,}"], ["Queues", ", ".join(names[:MOST_NAMED]) + more]],
        "is_allowed": bool(names),
        "back": "/queues",
    }

"""What the audit knows of one task: what people did with it, its copies, and when its queue was paused."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from boilerd.broker.audit import Audit, AuditEntry

#: Of so many entries at most something is told.
MOST_ENTRIES = 200
_OF_QUEUE = frozenset({"pause", "resume"})


@dataclass(frozen=True, slots=True)
class Pause:
    """A time in which nothing was claimed from a queue.

    Attributes:
        ends_at: None: it has not ended.
        user: Who paused it.
    """

    since: datetime
    ends_at: datetime | None
    user: str


@dataclass(frozen=True, slots=True)
class Traces:
    """What the audit knows of a task.

    Attributes:
        deeds: What was done with it alone, latest last.
        copies: The IDs of tasks that were made of it.
        pauses: When its queue was paused, in their order.
    """

    deeds: Sequence[AuditEntry] = ()
    copies: Sequence[str] = ()
    pauses: Sequence[Pause] = ()


def read_traces(audit: Audit, task_id: str, queue: str, since: datetime | None) -> Traces:
    """Those of a task of this queue, since a moment; raises BrokerError.

    It reads the entries since then, of which there are 10,000 at most.
    """

    def is_told(entry: AuditEntry) -> bool:
        return _names(entry, task_id) or entry.on.get("copied_from") == task_id or _is_pause(entry, queue)

    names = [task_id, queue] if queue else [task_id]
    entries = audit.page(is_told, audit.between(since, None), page=1, size=MOST_ENTRIES, names=names)
    copies = [entry.on.get("task", "") for entry in entries if entry.on.get("copied_from") == task_id]
    deeds = [entry for entry in entries if _names(entry, task_id)]
    return Traces(deeds, [each for each in copies if each], [*_pauses(entries, queue)])


def _names(entry: AuditEntry, task_id: str) -> bool:
    """Whether it is about this task, first of those that were selected or alone."""
    named = entry.on.get("task", "")
    return named == task_id or (bool(entry.on.get("operation")) and named.startswith(f"{task_id} and "))


def _is_pause(entry: AuditEntry, queue: str) -> bool:
    return bool(queue) and entry.what in _OF_QUEUE and entry.on.get("queue") == queue and entry.count > 0


def _pauses(entries: Sequence[AuditEntry], queue: str) -> Iterator[Pause]:
    begun: AuditEntry | None = None
    for entry in entries:
        if not _is_pause(entry, queue):
            continue
        if entry.what == "pause":
            begun = begun or entry
        elif begun:
            yield Pause(begun.at, entry.at, begun.user)
            begun = None
    if begun:
        yield Pause(begun.at, None, begun.user)

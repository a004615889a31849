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


class Trail:
    """Finds the traces of one task, then reads on from where it was: of 10,000 entries only those that are new.

    Threads may share one: each leaves all that it has found, and the last one counts.

    Args:
        task_id: Of the task.
        queue: In which it is; empty: of no queue are pauses told.
        since: Nothing that was done before is told; None: of all that is kept.
    """

    def __init__(self, task_id: str, queue: str = "", since: datetime | None = None) -> None:
        self._task_id, self._queue, self._since = task_id, queue, since
        #: The audit's latest entry when it was read, and what was found until then.
        self._seen: tuple[AuditEntry | None, Sequence[AuditEntry]] = (None, ())

    def follow(self, audit: Audit) -> Traces:
        """What is known by now, which takes one command where nothing is new; raises BrokerError.

        All is read anew where the latest entry that it knows is gone, as when another stream stands there. Until then
        an entry that makes way in the audit is told all the same.
        """
        known, found = self._seen
        least, most = audit.between(self._since, None)
        latest = _latest(audit, least, most)  # up to which is read: one that comes meanwhile is the next call's
        if latest != known:
            if known and _latest(audit, known.id, known.id) == known:
                least = f"({known.id}"
            else:
                found = ()
            if latest:
                found = [*found, *self._entries(audit, least, latest.id)][-MOST_ENTRIES:]
            self._seen = latest, found  # in one step, when nothing can fail any more
        return self._told(found)

    def _entries(self, audit: Audit, least: str, most: str) -> list[AuditEntry]:
        """Those between these IDs of which something is told, latest last."""
        names = [self._task_id, self._queue] if self._queue else [self._task_id]
        return audit.page(self._is_told, (least, most), page=1, size=MOST_ENTRIES, names=names)

    def _is_told(self, entry: AuditEntry) -> bool:
        task_id = self._task_id
        return _names(entry, task_id) or entry.on.get("copied_from") == task_id or _is_pause(entry, self._queue)

    def _told(self, entries: Sequence[AuditEntry]) -> Traces:
        copies = [entry.on.get("task", "") for entry in entries if entry.on.get("copied_from") == self._task_id]
        deeds = [entry for entry in entries if _names(entry, self._task_id)]
        return Traces(deeds, [each for each in copies if each], [*_pauses(entries, self._queue)])


def _latest(audit: Audit, least: str, most: str) -> AuditEntry | None:
    """The latest entry between these IDs; None: there is none."""
    return next(iter(audit.page(lambda _: True, (least, most), page=1, size=1)), None)


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

"""Read many workers' records, and what they run, with few commands: there may be hundreds of workers."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from boilerd.broker.connection import raw, text
from boilerd.broker.script_calls import ScriptCalls

#: Workers of which one call reads the records, or what they run. It keeps Redis for an eighth of a millisecond: whoever
#: enqueues waits for it where hundreds of workers are read every few seconds.
AT_ONCE = 20


class Run(NamedTuple):
    """What a worker runs.

    Attributes:
        held: How many claims it holds.
        task_id: The task of one of them; None: its record lacks it.
        claimed_at: When it was claimed, in seconds since 1970.
        task_type: Its type.
    """

    held: int
    task_id: bytes | None
    claimed_at: bytes | None
    task_type: bytes | None


class WorkerRecords(ScriptCalls):
    """Reads them; raises BrokerError."""

    def read(self, names: Iterable[bytes | str], fields: Sequence[str]) -> dict[str, Sequence[bytes | None] | None]:
        """Key of each record → these fields of it; None: the key is of another kind."""
        found: dict[str, Sequence[bytes | None] | None] = {}
        ordered = [raw(text(name)) for name in names]
        for first in range(0, len(ordered), AT_ONCE):
            some = ordered[first : first + AT_ONCE]
            answers = self._run("workers", [len(fields), *fields, *some])
            found |= {text(name): answer or None for name, answer in zip(some, answers, strict=True)}
        return found

    def runs(self, names: Sequence[bytes | str]) -> list[Run | None]:
        """What each of the workers with these keys of records runs; None: another kind of key is where that stands."""
        found: list[Any] = []
        for first in range(0, len(names), AT_ONCE):
            found += self._run("runs", [raw(text(name)) for name in names[first : first + AT_ONCE]])
        return [Run(*answer) if answer else None for answer in found]

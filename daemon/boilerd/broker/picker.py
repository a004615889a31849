"""Have Redis tell, among tasks, those that may fit a search; whoever asks looks at them again."""

from collections.abc import Sequence
from typing import Any

from boilerd.broker.connection import raw
from boilerd.broker.constants import MOST_SEARCHED
from boilerd.broker.script_calls import ScriptCalls
from boilerd.broker.task_filter import Condition
from boilerd.broker.task_rows import Member

#: Tasks in one call of the script, and where words are looked for in all of a record.
_CHUNK, _CHUNK_OF_WORDS = 50, 25


def chunk_of(conditions: Sequence[Condition]) -> int:
    """Tasks that one call looks at, so that Redis is kept for less than a millisecond."""
    return _CHUNK_OF_WORDS if any(kind == "word" for kind, *_ in conditions) else _CHUNK


class Picker(ScriptCalls):
    """Asks it; raises BrokerError."""

    def picked(self, conditions: Sequence[Condition], members: Sequence[Member]) -> tuple[int, list[int]]:
        """How many of the tasks were looked at, and the numbers of those that meet the conditions."""
        if not conditions:
            return len(members), [*range(len(members))]
        flat: list[Any] = [part for condition in conditions for part in condition]
        ids = [raw(task_id) for task_id, _ in members]
        looked, *places = self._run("pick", [MOST_SEARCHED, len(conditions), *flat, *ids])
        return looked, [number - 1 for number in places]

    def all_picked(self, conditions: Sequence[Condition], members: Sequence[Member]) -> list[Member]:
        """All of these tasks that meet the conditions, in as many calls as it takes."""
        found: list[Member] = []
        start, size = 0, chunk_of(conditions)
        while start < len(members):
            some = members[start : start + size]
            looked, numbers = self.picked(conditions, some)
            found += [some[number] for number in numbers]
            start += max(looked, 1)
        return found

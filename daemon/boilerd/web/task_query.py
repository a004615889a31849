"""What the query of the list of tasks says: which of them are sought, as far as the person may see them."""

from boilerd.broker.task_filter import TaskFilter
from boilerd.tasks.task import TaskState
from boilerd.web.permissions import Permission
from boilerd.web.visit import Visit

#: Name in the query → what the search box calls it.
PARTS = {"type": "type", "error": "error", "worker": "worker", "key": "key", "since": "after", "until": "before"}
#: All that chooses tasks of a list.
FILTERS = ("queue", "state", "q", *PARTS)


def typed(visit: Visit) -> str:
    """What is sought, as one would type it: of the search box, and of the rest of the query."""
    parts = [f'{word}:"{text}"' for name, word in PARTS.items() if (text := visit.word(name).replace('"', ""))]
    return " ".join([visit.word("q").strip(), *parts]).strip()


def chosen(visit: Visit) -> tuple[str, TaskState | None]:
    """Queue and state as the query has them; an empty queue means all, no state any."""
    known = visit.word("state", of=["", *map(str, TaskState)])
    return visit.word("queue"), TaskState(known) if known else None


def filter_of(visit: Visit) -> TaskFilter:
    """What is sought, as far as the person may see it."""
    found = visit.inspector.parse_filter(typed(visit))
    return found if visit.may(Permission.VIEW_PAYLOAD) else found.without_payloads()

"""What the query of the list of tasks says: which of them are sought, as far as the person may see them."""

import re

from boilerd.broker.task_filter import TaskFilter
from boilerd.tasks.task import TaskState
from boilerd.web.permissions import Permission
from boilerd.web.visit import Visit

#: Name in the query → what the search box calls it.
PARTS = {"type": "type", "error": "error", "worker": "worker", "key": "key", "since": "after", "until": "before"}
#: All that chooses tasks of a list, and how that is written.
FILTERS = ("queue", "state", "q", *PARTS, "escaped")
#: What `escaped` writes; no half of a character.
_ESCAPE = re.compile(
    r"\\(?:[\\nrt]|x[\da-f]{2}|u(?!d[89a-f])[\da-f]{4}|udc[89a-f][\da-f]|U000(?!0d[89a-f])[\da-f]{5}|U0010[\da-f]{4})",
    re.ASCII,
)


# A field of a form cannot hold a NUL, and nobody would see others of these characters in it. Without escapes there, a
# form that is sent again would look for what it shows in their place: so it says that it has some. A text that a person
# types has none: a backslash is one.
def escaped(text: str) -> str:
    """The text with escapes for characters that are not seen, and for backslashes; `unescaped` takes them back."""
    return "".join(char if char.isprintable() and char != "\\" else ascii(char)[1:-1] for char in text)


def unescaped(text: str) -> str:
    """The text that is meant by one with such escapes; what is none of them stays."""
    return _ESCAPE.sub(lambda found: found[0].encode("ascii").decode("unicode_escape"), text)


def meant(visit: Visit, name: str) -> str:
    """What the query says under this name of what is sought."""
    return unescaped(visit.word(name)) if visit.word("escaped", of=["", "1"]) else visit.word(name)


def typed(visit: Visit) -> str:
    """What is sought, as one would type it: of the search box, and of the rest of the query."""
    parts = [f'{word}:"{text}"' for name, word in PARTS.items() if (text := meant(visit, name).replace('"', ""))]
    return " ".join([meant(visit, "q").strip(), *parts]).strip()


def chosen(visit: Visit) -> tuple[str, TaskState | None]:
    """Queue and state as the query has them; an empty queue means all, no state any."""
    known = visit.word("state", of=["", *map(str, TaskState)])
    return visit.word("queue"), TaskState(known) if known else None


def filter_of(visit: Visit) -> TaskFilter:
    """What is sought, as far as the person may see it."""
    found = visit.inspector.parse_filter(typed(visit))
    return found if visit.may(Permission.VIEW_PAYLOAD) else found.without_payloads()

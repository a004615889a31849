"""Refuse parameters that an address does not know: without them, a list would have more than was asked for."""

from collections.abc import Iterable

from boilerd.errors import closest, listed, shown
from boilerd.web.described import QUERIES
from boilerd.web.page import Action, Page
from boilerd.web.visit import QueryError

#: What each address may have beside what is its own.
OF_BROWSERS = frozenset({"told", "seal", "renew"})
#: So many unknown ones are named.
MOST_TOLD = 3


def check_parameters(of: Page | Action, query: Iterable[str]) -> None:
    """Raise QueryError for parameters that this page or action does not know.

    A page that has no rows and knows none is the same with any; a bulk action tells itself by what none chooses.
    """
    known = QUERIES.get(of.path, {})
    unknown = sorted({*query} - known.keys() - OF_BROWSERS)
    is_same = isinstance(of, Page) and not (known or of.rows)
    if not unknown or is_same or of.path.startswith("/bulk/"):
        return
    # Of those that are told: there may be thousands, and this holds up all others.
    close = next(filter(None, (closest(name, known) for name in unknown[:MOST_TOLD])), "")
    hint = f"; did you mean {close}?" if close else ";"
    there_are = f"there {'are' if len(known) > 1 else 'is'} {', '.join(sorted(known))}" if known else "it takes none"
    raise QueryError(f"{listed([*map(shown, unknown)], MOST_TOLD)}: no parameter of this address{hint} {there_are}")


def is_sized(path: str) -> bool:
    """Whether the page is a list of which the address may say how many rows a page of it has."""
    return QUERIES.get(path, {}).keys() >= {"page", "size"}

"""Links of a page to itself: what it was asked for goes along, but for what a link is there to change."""

from collections.abc import Mapping
from typing import Any

from jinja2 import pass_context
from jinja2.runtime import Context

#: What says where in a list one is.
PLACES = frozenset({"page", "place", "last", "around", "looks", "after"})
#: What an action said before the page is shown.
SAID = frozenset({"told", "seal"})
#: What a file of rows has no use for.
_OF_PAGES = {"size": "", "renew": ""}


@pass_context
def own_query(context: Context) -> dict[str, str]:
    """The query of the page that is shown; without where in a list it is, and what an action said before it."""
    query: Mapping[str, str] = context["query"]
    return {name: value for name, value in query.items() if name not in PLACES | SAID}


@pass_context
def own_place(context: Context) -> dict[str, str]:
    """Where in a list the page that is shown is."""
    query: Mapping[str, str] = context["query"]
    return {name: value for name, value in query.items() if name in PLACES}


@pass_context
def to_same(context: Context, **changed: Any) -> str:
    """The address of the page that is shown, with its query; a list begins anew where nothing is said of its place."""
    return _address(context, "", changed)


@pass_context
def to_file(context: Context, form: str, **changed: Any) -> str:
    """The address of all rows of the page that is shown, in this form."""
    return _address(context, f".{form}", {**_OF_PAGES, **changed})


def _address(context: Context, end: str, changed: Mapping[str, Any]) -> str:
    path = context["here"].partition("?")[0]
    found: str = context["links"].path(f"{path}{end}", {**own_query(context), **changed})
    return found

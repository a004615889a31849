"""On what something was done, as far as somebody who sees the audit may know it."""

from collections.abc import Mapping

from boilerd.web.permissions import Permission
from boilerd.web.quoting import HIDDEN
from boilerd.web.visit import Visit


def told_on(visit: Visit, on: Mapping[str, str]) -> Mapping[str, str]:
    """The same without what was sought, also in a page's address: that may be parts of payloads."""
    if visit.may(Permission.VIEW_PAYLOAD):
        return on
    return {name: _without_search(name, value) for name, value in on.items()}


def _without_search(name: str, value: str) -> str:
    if name == "search":
        return value and HIDDEN
    return value.partition("?")[0] if name == "page" else value

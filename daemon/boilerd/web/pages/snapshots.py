"""Pages that somebody has kept as they were, such as for the report of an incident."""

from dataclasses import replace
from importlib.metadata import version
from typing import Any
from urllib.parse import parse_qsl, urlencode

from boilerd.broker.kept_pages import KeptPage
from boilerd.web.frozen import find_page, freeze, thaw
from boilerd.web.links import Links
from boilerd.web.page import Data, Done, Elsewhere, Missing, Page, action, page
from boilerd.web.permissions import Permission
from boilerd.web.refusal import Refusal
from boilerd.web.visit import NotThereError, QueryError, Visit

#: What an address says but once.
_ONCE = frozenset({"told", "seal", "renew"})
#: What an address seeks in payloads, or in what quotes them: which tasks are found tells of them.
_SEEKS = frozenset({"q", "error", "key"})


@page("/snapshots", needs=Permission.VIEW, title="Kept pages", rows="snapshots")
def snapshots(visit: Visit) -> Data:
    """Those that this person may see, latest first."""
    found = [kept for kept in visit.inspector.kept_pages.latest() if _may_see(visit, kept)]
    return {"snapshots": [_row(kept) for kept in found]}


@page("/snapshots/{snapshot}", needs=Permission.VIEW, title="Kept page")
def snapshot(visit: Visit) -> Data:
    """One of them, for who may see the page that it is of."""
    found = visit.inspector.kept_pages.one(visit.path["snapshot"])
    if not found:
        raise NotThereError("there is no such page that is kept; they are kept for 7 days, and /snapshots has all")
    kept, content = found
    declared = _declared(visit, kept)
    hides = kept.about.shows_payloads and not visit.may(Permission.VIEW_PAYLOAD)
    try:
        data = thaw(content)
        content = freeze(visit.seen(data) if hides else data)
    except (ValueError, RecursionError) as error:
        raise NotThereError("what is kept there is no page; /snapshots has all") from error
    path, _, query = kept.about.path.partition("?")
    return {
        "about": _row(kept),
        "template": declared.template,
        "path": path,
        "query_of_it": dict(parse_qsl(query)),
        "content": content,  # a text, in which nothing is hidden once more
    }


@action("/snapshots/keep", needs=Permission.KEEP, title="Keep this picture")
def keep(visit: Visit) -> Done:
    """Keep the page at the address `of` as this person sees it now."""
    path, _, query = visit.given("of").partition("?")
    if not (found := find_page(path)):
        raise QueryError("of: no page that can be kept is there; use its address without the prefix, such as /queues")
    declared, parts = found
    _check(visit, [declared.needs])
    pairs = [(name, value) for name, value in parse_qsl(query) if name not in _ONCE]
    # Nothing that only the person who keeps it may see or do, beside what the page is for.
    least = frozenset({Permission.VIEW, Permission.VIEW_PAYLOAD, declared.needs}) & visit.who.permissions
    asked = replace(
        visit, who=replace(visit.who, permissions=least), path=parts, query=dict(pairs), queries=_listed(pairs), form={}
    )
    data = declared.view(asked)
    if isinstance(data, Elsewhere):
        raise QueryError(f"of: this address leads to {data.to}; use that")
    if isinstance(data, Missing):
        raise NotThereError("what this page is of is not there; keep a page that shows something")
    address = f"{path}?{urlencode(pairs)}" if pairs else path
    kept = visit.inspector.kept_pages.keep(
        freeze(visit.seen(data)), path=address, title=declared.title, user=visit.who.name, version=version("boilerd"),
        shows_payloads=visit.may(Permission.VIEW_PAYLOAD),
    )  # fmt: skip
    return Done("this page is kept for 7 days, as it was", to=Links().to("snapshots", kept), data={"snapshot": kept})


@action("/snapshots/{snapshot}/delete", needs=Permission.KEEP, title="Delete")
def delete(visit: Visit) -> Done:
    """Keep it no longer."""
    if not visit.inspector.kept_pages.delete(visit.path["snapshot"]):
        raise NotThereError("there is no such page that is kept; /snapshots has all")
    return Done("the page is no longer kept", to="/snapshots")


def _row(kept: KeptPage) -> dict[str, Any]:
    about = kept.about
    return {
        "id": kept.id, "title": about.title, "of": about.path, "user": about.user, "at": about.at,
        "version": about.version, "shows_payloads": about.shows_payloads,
    }  # fmt: skip


def _listed(pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found


def _may_see(visit: Visit, kept: KeptPage) -> bool:
    found = find_page(kept.about.path.partition("?")[0])
    return found is not None and all(map(visit.may, _needs(kept, found[0])))


def _needs(kept: KeptPage, declared: Page) -> list[Permission]:
    """The permissions that it takes to see one."""
    sought = _SEEKS & {name for name, _ in parse_qsl(kept.about.path.partition("?")[2])}
    tells_payloads = kept.about.shows_payloads and (declared.quotes_payloads or sought)
    return [declared.needs, *([Permission.VIEW_PAYLOAD] if tells_payloads else [])]


def _declared(visit: Visit, kept: KeptPage) -> Page:
    """The page that it is of; raises Refusal."""
    found = find_page(kept.about.path.partition("?")[0])
    if not found:
        raise NotThereError("the page that is kept there is one that this version does not have")
    _check(visit, _needs(kept, found[0]))
    return found[0]


def _check(visit: Visit, needs: list[Permission]) -> None:
    if missing := [each for each in needs if not visit.may(each)]:
        raise Refusal(403, f"{visit.who.name} may not do this; it needs the permission {missing[0]}")

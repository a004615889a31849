"""Declare a page or an action of the dashboard: an address, the permission that it needs, and a function.

A page is a function of a `Visit` that returns plain data, a template of the same name, and this line above it::

    @page("/queues/{queue}", needs=Permission.VIEW, title="Queue")
    def queue(visit: Visit) -> Data:
        return {"queue": visit.inspector.queue(visit.path["queue"])}

The data is redacted, then shown by ``templates/queue.html``, or as JSON under the same address with ``.json``. An
action changes something, by POST alone; with `about`, GET shows a page that asks before it. All functions run in
threads, may block, and let errors of boilerd's through: those become pages.
"""

import importlib
import pkgutil
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from boilerd.web.permissions import Permission

if TYPE_CHECKING:
    from boilerd.web.visit import Visit

Data = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Done:
    """How an action ended.

    Attributes:
        says: A sentence for the person.
        to: The path where that is shown, without the prefix.
        query: Its query.
        data: More of it, for programs.
    """

    says: str
    to: str
    query: Mapping[str, object] = field(default_factory=dict)
    data: Data = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What a page returns to lead to another one.

    Attributes:
        to: Its path, without the prefix.
    """

    to: str


@dataclass(frozen=True, slots=True)
class Missing:
    """What a page returns where that is not there of which it is; the status is 404.

    Attributes:
        data: What is known all the same.
        template: Shows it.
    """

    data: Data
    template: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page.

    Attributes:
        path: Where it is; ``{name}`` is a part that `Visit.path` has.
        needs: The permission, without which nobody sees it.
        view: Makes its data.
        title: Its heading, and what the menu says.
        template: The template's name.
        menu: Its place in the menu; 0: it has none.
        of_snapshot: True if it shows nothing but `Visit.snapshot` and its query, so that a poll costs next to nothing.
        of_shared: True if it shows its query and what it got by `Visit.sharing` and `Visit.snapshot` alone: as cheap.
        fresh_s: For so many seconds a poll is told, as cheaply, what was found for the last one who may see the same: a
            page that reads something by itself; 0: it is made for each poll.
        rows: The name of a list in its data that can be exported; empty: there is none.
        stream: Makes the rows of an export part by part, where there may be more than the page shows.
        quotes_payloads: True if parts of payloads stand in fields that do not tell by their names that they are hidden
            from some, so that one that is kept is for those alone who may see payloads.
        steady: Makes of its data what HTML shows of it, where that moves by itself (see `boilerd.web.steady`), so that
            most polls bring nothing; None: all of it.
    """

    path: str
    needs: Permission
    view: "Callable[[Visit], Data | Elsewhere | Missing]"
    title: str
    template: str
    menu: int = 0
    of_snapshot: bool = False
    of_shared: bool = False
    fresh_s: float = 0.0
    rows: str = ""
    stream: "Callable[[Visit], Generator[Sequence[Any]]] | None" = None
    quotes_payloads: bool = False
    steady: "Callable[[Data], Data] | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """Something that a person does.

    Attributes:
        path: Where it is sent.
        needs: The permission.
        act: Does it; or returns data for the template, to ask again.
        title: What the button says.
        about: Makes what the page shows that asks before; None: nobody is asked.
        template: Of that page.
        also: A permission that it needs beside; None: none.
        reveals: True if its data is shown as it is, with what is hidden everywhere else.
    """

    path: str
    needs: Permission
    act: "Callable[[Visit], Done | Data]"
    title: str
    about: "Callable[[Visit], Data] | None" = None
    template: str = "confirm.html"
    also: Permission | None = None
    reveals: bool = False


View = TypeVar("View", bound="Callable[[Visit], Data | Elsewhere | Missing]")
Act = TypeVar("Act", bound="Callable[[Visit], Done | Data]")
PAGES: list[Page] = []
ACTIONS: list[Action] = []


def page(path: str, *, needs: Permission, title: str, template: str = "", **more: Any) -> "Callable[[View], View]":
    """Make a page of a function; see `Page` for the rest."""

    def declare(view: "View") -> "View":
        shown = template or f"{getattr(view, '__name__', '')}.html"
        PAGES.append(Page(path=path, needs=needs, view=view, title=title, template=shown, **more))
        return view

    return declare


def action(path: str, *, needs: Permission, title: str, **more: Any) -> "Callable[[Act], Act]":
    """Make an action of a function; see `Action` for the rest."""

    def declare(act: "Act") -> "Act":
        ACTIONS.append(Action(path=path, needs=needs, act=act, title=title, **more))
        return act

    return declare


def load_pages() -> None:
    """Import all modules of `boilerd.web.pages`: each is there by being there."""
    from boilerd.web import pages  # noqa: PLC0415 - they import this module

    for found in pkgutil.iter_modules(pages.__path__):
        importlib.import_module(f"{pages.__name__}.{found.name}")

"""Fixtures of what is tried in a real browser: one of it for all tests of a module, and a dashboard for each test."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis
from playwright.sync_api import Browser

from boilerd.web import pace, sampler
from browser import web_app
from chromium import Place, Visitor, launched, served

#: Opens a browser's window at the test's dashboard; what it takes is a `Visitor`'s.
Open = Callable[..., Visitor]


class Visitors:
    """Those of a module, by the options of their browsers."""

    def __init__(self, chromium: Browser, stack: ExitStack) -> None:
        self._chromium = chromium
        self._stack = stack
        self._known: list[tuple[dict[str, Any], Visitor]] = []

    def other_than(self, came: list[Visitor], root: str, **options: Any) -> Visitor:
        """Somebody who has not come yet."""
        for known, visitor in self._known:
            if known == options and visitor not in came:
                visitor.come_again(root)
                return visitor
        visitor = self._stack.enter_context(Visitor(self._chromium, root, **options))
        self._known.append((options, visitor))
        return visitor


# Playwright leaves an event loop running in its thread, which tests of other modules could not bear.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with launched() as found:
        yield found


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[Place, str]]:
    """Where the dashboards of all tests of a module are, one after the other."""
    found = Place()
    with served(found) as root:
        yield found, root


@pytest.fixture
def dashboard(place: tuple[Place, str], connection: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a dashboard that always looks anew."""
    monkeypatch.setattr(sampler, "FRESH_S", 0.0)
    monkeypatch.setattr(pace, "SHARE", 1e9)  # browsers' clocks run ahead, and ask for a minute's polls in a second
    place[0].app = web_app(connection)
    return place[1]


@pytest.fixture(scope="module")
def visitors(chromium: Browser) -> Iterator[Visitors]:
    """Visitors come again in each test."""
    with ExitStack() as stack:
        yield Visitors(chromium, stack)


@pytest.fixture
def visit(visitors: Visitors, dashboard: str) -> Iterator[Open]:
    """Have somebody visit the dashboard; whatever their browser finds wrong fails the test."""
    came: list[Visitor] = []

    def come(**options: Any) -> Visitor:
        came.append(visitors.other_than(came, options.pop("root", dashboard), **options))
        return came[-1]

    yield come
    wrong = [visitor.wrong.copy() for visitor in came if visitor.wrong]
    for visitor in came:
        visitor.leave()
    assert wrong == []

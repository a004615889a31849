"""Fixtures of what is tried in a real browser: one of it for all tests of a module, and a dashboard for each test."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis
from playwright.sync_api import Browser

from boilerd.web import sampler
from browser import web_app
from chromium import Visitor, launched, served

#: Opens a browser's window at the test's dashboard; what it takes is a `Visitor`'s.
Open = Callable[..., Visitor]


# Playwright leaves an event loop running in its thread, which tests of other modules could not bear.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with launched() as found:
        yield found


@pytest.fixture
def dashboard(connection: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a dashboard that always looks anew."""
    monkeypatch.setattr(sampler, "FRESH_S", 0.0)
    with served(web_app(connection)) as root:
        yield root


@pytest.fixture
def visit(chromium: Browser, dashboard: str) -> Iterator[Open]:
    """Have somebody visit the dashboard; whatever their browser finds wrong fails the test."""
    with ExitStack() as stack:
        visitors: list[Visitor] = []

        def come(**options: Any) -> Visitor:
            visitors.append(stack.enter_context(Visitor(chromium, options.pop("root", dashboard), **options)))
            return visitors[-1]

        yield come
        assert [visitor.wrong for visitor in visitors if visitor.wrong] == []

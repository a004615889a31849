"""Every page that is declared, in a real browser: nothing is wrong with it, for anybody, in any width or colour."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser

from boilerd import Client
from boilerd.broker.connection import connect
from browser import web_app
from chromium import SIZES, Visitor, findings, overflow, served
from dashboard_world import PATHS, address, fill
from support import Valkey, private_directory

World = tuple[str, dict[str, str]]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A dashboard that nobody changes, and examples of what its addresses name."""
    with ExitStack() as stack:
        server = Valkey(stack.enter_context(private_directory())).start()
        stack.callback(server.stop)
        connection = stack.enter_context(connect(server.url))
        examples = fill(stack.enter_context(Client.from_url(server.url)), connection)
        yield stack.enter_context(served(web_app(connection))), examples


@pytest.fixture(scope="module")
def scripted(chromium: Browser, world: World) -> Iterator[Visitor]:
    with Visitor(chromium, world[0]) as found:
        yield found


@pytest.fixture(scope="module")
def plain(chromium: Browser, world: World) -> Iterator[Visitor]:
    """Somebody whose browser runs no scripts."""
    with Visitor(chromium, world[0], java_script_enabled=False) as found:
        yield found


@pytest.mark.parametrize("path", PATHS)
def test_a_page_works_with_scripts_and_without(path: str, scripted: Visitor, plain: Visitor, world: World) -> None:
    headings = []
    for visitor in (scripted, plain):
        visitor.wrong.clear()
        visitor.open(address(path, world[1]))
        headings.append(visitor.text("h1"))

    assert headings[0] == headings[1] != ""
    assert [scripted.wrong, plain.wrong] == [[], []]


@pytest.mark.parametrize("path", PATHS)
def test_a_page_can_be_read_by_everybody_in_both_themes_and_widths(path: str, scripted: Visitor, world: World) -> None:
    page = scripted.open(address(path, world[1]))

    for width in SIZES:
        scripted.resize(width)
        page.emulate_media(color_scheme="light")
        assert findings(page) == [], f"light, {width} px"
        page.emulate_media(color_scheme="dark")
        assert findings(page, of="cat.color") == [], f"dark, {width} px"
        assert overflow(page) == 0, f"{width} px"

"""Every page that is declared, in a real browser: nothing is wrong with it, for anybody, in any width or colour."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Literal

import pytest
import redis
from playwright.sync_api import Browser
from starlette.responses import PlainTextResponse

from boilerd import Client
from boilerd.broker.connection import connect
from boilerd.settings.web import PasswordHash, WebUser
from boilerd.web import passwords
from browser import web_app
from chromium import AXE, OF_LAYOUT, SIZES, Place, Visitor, findings, out_of_sight, overflow, served
from dashboard_world import MORE, PATHS, address, fill
from support import Valkey, private_directory

Open = Callable[..., Visitor]
World = tuple[str, dict[str, str]]

THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
#: The heading of a page that is not opened, and all addresses that it names.
READ = """async address => {
  const page = new DOMParser().parseFromString(await (await fetch(address)).text(), "text/html");
  const named = ["href", "src", "action"].flatMap(
    name => [...page.querySelectorAll(`[${name}]`)].map(each => each.getAttribute(name)));
  return [page.querySelector("h1").textContent, ...named.filter(each => !each.startsWith("#"))];
}"""


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
        found.context.add_init_script(path=AXE)
        yield found


@pytest.fixture(scope="module")
def plain(chromium: Browser, world: World) -> Iterator[Visitor]:
    """Somebody whose browser runs no scripts."""
    with Visitor(chromium, world[0], java_script_enabled=False) as found:
        yield found


@pytest.mark.parametrize("path", PATHS)
def test_a_page_works_without_scripts_and_is_read_by_everybody_in_both_themes_and_widths(
    path: str, scripted: Visitor, plain: Visitor, world: World
) -> None:
    for visitor in (plain, scripted):
        visitor.wrong.clear()
        visitor.open(address(path, world[1]))
    page = scripted.page
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")

    for number, (width, theme) in enumerate(itertools.product(SIZES, THEMES)):
        scripted.resize(width)
        page.emulate_media(color_scheme="light" if theme == "light" else "dark")
        rules = OF_LAYOUT if number else ()  # the elements are the same in all
        assert findings(page, of=rules) == [], f"{theme}, {width} px"
        assert overflow(page) == 0, f"{width} px"
        assert out_of_sight(page) == [], f"{width} px"

    assert plain.text("h1") == scripted.text("h1") != ""
    assert [plain.wrong, scripted.wrong] == [[], []]


def behind(app: Any, prefix: str, *, strips: bool) -> Any:
    """A proxy that serves an application under a path alone, and takes the path away or leaves it."""

    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        if not scope["path"].startswith(f"{prefix}/"):
            await PlainTextResponse("not of the dashboard", 404)(scope, receive, send)
            return
        path = scope["path"].removeprefix(prefix) if strips else scope["path"]
        await app({**scope, "path": path}, receive, send)

    return proxy


@pytest.mark.parametrize("strips", [True, False], ids=["takes it away", "leaves it"])
def test_all_pages_and_actions_work_under_a_prefix_of_a_proxy_that(
    strips: bool, visit: Open, place: tuple[Place, str], connection: redis.Redis, client: Client
) -> None:
    examples = fill(client, connection)
    place[0].app = behind(web_app(connection, prefix="/ops/jobs"), "/ops/jobs", strips=strips)
    visitor = visit(root=f"{place[1]}/ops/jobs", has_clock=True)

    page = visitor.open("/queues")
    for path in {*PATHS} - {*MORE}:  # their scripts are those of this one
        heading, *addresses = page.evaluate(READ, f"{visitor.root}{address(path, examples)}")
        assert heading, path
        assert {each for each in addresses if not each.startswith("/ops/jobs/")} == set(), path
    page.click("text=images")
    page.click("text=Pause")
    visitor.sees("queue images is paused")
    page.clock.run_for(2500)
    visitor.sees("as of", "#live")
    page.click("header >> text=Tasks")
    page.wait_for_url(f"{visitor.root}/tasks")

    assert {path for path in visitor.asked if not path.startswith("/")} == set()


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without"])
def test_somebody_logs_in_and_out(
    scripts: bool, visit: Open, place: tuple[Place, str], connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords, "N", 2)
    user = WebUser(password=PasswordHash(passwords.hash_password("correct horse")), role="viewer")
    place[0].app = web_app(connection, users={"anna": user})
    visitor = visit(java_script_enabled=scripts)
    page = visitor.open("/tasks?state=archived")

    wrong = findings(page) if scripts else []
    for password in ("wrong", "correct horse"):
        page.fill("[name=name]", "anna")
        page.fill("[name=password]", password)
        page.click("main button")
        visitor.sees("is wrong" if password == "wrong" else "Archived tasks")
    there = page.url
    page.click("text=Log out anna")

    visitor.sees("Password")
    assert there == f"{visitor.root}/tasks?state=archived"
    assert wrong == []

"""What tests look at the dashboard with as people do: Debian's Chromium, and a server that it reaches.

Each visitor has an empty profile, and everything that the browser finds wrong is kept: errors on its console, faults
of scripts, and what the Content-Security-Policy forbade.
"""

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import uvicorn
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright
from playwright.sync_api import TimeoutError as NotInTime
from starlette.responses import HTMLResponse

from support import DEADLINE_S, wait_until

PROGRAM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--in-process-gpu", "--renderer-process-limit=1",
)  # fmt: skip
#: Width → height of what pages are looked at with: a small telephone and a desk.
SIZES = {320: 640, 1280: 800}
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
#: A page on which nothing is.
NOWHERE = "/nowhere"
#: The console has an error for each of these.
_FORBIDDEN = "addEventListener('securitypolicyviolation', e => console.error('forbidden', e.violatedDirective))"


class Place:
    """Serves one application after the other at the same address: a new one costs browsers a process.

    Attributes:
        app: The one that is there.
    """

    def __init__(self, app: Any = None) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request."""
        # Without an icon, the browser would ask for one a moment later, in the midst of the next test.
        blank = HTMLResponse('<link rel="icon" href="data:,">', headers={"cross-origin-opener-policy": "same-origin"})
        await (blank if scope["path"].endswith(NOWHERE) else self.app)(scope, receive, send)


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser without a screen."""
    assert PROGRAM.exists(), f"{PROGRAM} is missing: run scripts/debian-packages"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=[*FLAGS])
        yield browser
        browser.close()


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve an application on the loopback, in a thread; the address without a slash at its end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(
            uvicorn.Config(app, http="h11", ws="none", loop="asyncio", lifespan="off", log_config=None,
                           proxy_headers=False, timeout_graceful_shutdown=1)
        )  # fmt: skip
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        wait_until(lambda: server.started or not thread.is_alive(), "the server started")
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(DEADLINE_S)


class Visitor:
    """Somebody at a browser of their own.

    Args:
        browser: The program.
        root: Where the dashboard is.
        has_clock: True if the clock of their pages moves only when the test says so.
        options: Of Playwright's context.

    Attributes:
        page: What they see.
        wrong: What the browser found wrong.
        asked: The path of each request, as it was sent.
        answers: Path and status of each answer that came.
    """

    def __init__(self, browser: Browser, root: str = "", *, has_clock: bool = False, **options: Any) -> None:
        self.root = root
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.answers: list[tuple[str, int]] = []
        self._has_clock = has_clock
        self._documents: set[str] = set()
        self.context: BrowserContext = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        self.context.set_default_timeout(DEADLINE_S * 1000)
        if options.get("java_script_enabled", True):
            self.context.add_init_script(_FORBIDDEN)
        self.page: Page = self.context.new_page()
        if has_clock:
            now = time.time()
            self.page.clock.install(time=now)
            self.page.clock.pause_at(now + 1)
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", self._note_request)
        self.page.on("response", lambda got: self.answers.append((got.url.removeprefix(self.root), got.status)))

    def come_again(self, root: str) -> None:
        """Be somebody else: a new profile would cost half a second."""
        self.root = root
        self.context.clear_cookies()
        self.page.evaluate("0")  # what the last page did wrong is known before its answer
        for kept in (self.wrong, self.asked, self.answers):
            kept.clear()
        if self._has_clock:
            self.page.clock.set_system_time(time.time())

    def leave(self) -> None:
        """End what the page does, and forget what the browser has kept of it."""
        self.page.evaluate("localStorage.clear()")
        self.page.goto(f"{self.root}{NOWHERE}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.context.close()

    def open(self, path: str) -> Page:
        """Go to a page, and wait until its scripts have begun."""
        self.page.goto(f"{self.root}{path}")
        return self.page

    def text(self, selector: str = "main") -> str:
        """What stands in a part of the page."""
        return " ".join(self.page.inner_text(selector).split())

    def sees(self, wanted: str, selector: str = "main") -> None:
        """Wait until it stands there."""
        try:
            self.page.locator(selector).filter(has_text=wanted).first.wait_for()
        except NotInTime:
            raise AssertionError(f"{wanted!r} is not in: {self.text(selector)}") from None

    def resize(self, width: int) -> None:
        self.page.set_viewport_size({"width": width, "height": SIZES[width]})

    def _note_request(self, sent: Request) -> None:
        self.asked.append(sent.url.removeprefix(self.root))
        if sent.is_navigation_request():
            self._documents.add(sent.url)

    def _note(self, message: ConsoleMessage) -> None:
        # A page that says that something is not there is answered with 404, which is no fault of its own.
        is_page_itself = message.text.startswith("Failed to load") and message.location["url"] in self._documents
        if message.type in {"error", "warning"} and not is_page_itself:
            self.wrong.append(f"{message.type}: {message.text} at {message.location['url']}")


#: Rules that look at how a page is laid out and coloured, beside its elements.
OF_LAYOUT = ("color-contrast", "link-in-text-block", "scrollable-region-focusable", "target-size")


def findings(page: Page, *, of: Sequence[str] = ()) -> list[str]:
    """What axe finds wrong that is serious or worse; by all of its rules, or by these."""
    if not page.evaluate("typeof axe !== 'undefined'"):
        page.evaluate(AXE.read_text("utf-8"))
    rules = {"runOnly": {"type": "rule", "values": [*of]}} if of else {}
    found = page.evaluate("rules => axe.run(document, {resultTypes: ['violations'], ...rules})", rules)
    return [
        f"{each['id']} ({each['impact']}): {node['html'][:200]}; {node['failureSummary']}"
        for each in found["violations"]
        if each["impact"] in {"serious", "critical"}
        for node in each["nodes"]
    ]


def overflow(page: Page) -> int:
    """By how many pixels the page is wider than the window, or a table than the place that it is moved about in."""
    wider: list[int] = page.evaluate(
        "[document.scrollingElement.scrollWidth - innerWidth,"
        " ...[...document.querySelectorAll('section')].map(each => each.scrollWidth - each.clientWidth)]"
    )
    return max(wider)


def out_of_sight(page: Page) -> list[str]:
    """What of the page's content can be focused, and is beside the window."""
    found: list[str] = page.evaluate(
        "[...document.querySelectorAll('main :is(a[href], button, input, select, textarea, summary)')].filter(each => {"
        " const {left, right, width} = each.getBoundingClientRect();"
        " return width && (left < 0 || right > innerWidth);"
        "}).map(each => each.outerHTML.slice(0, 200))"
    )
    return found

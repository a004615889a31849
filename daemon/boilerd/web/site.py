"""All that requests share, put together once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import redis

from boilerd.broker.audit import Actor
from boilerd.inspector import Inspector
from boilerd.web.access import Access
from boilerd.web.costs import Costs
from boilerd.web.guard import Guard
from boilerd.web.local_daemon import LocalDaemon
from boilerd.web.operators import Operators
from boilerd.web.page import Page
from boilerd.web.permissions import Principal
from boilerd.web.proxies import Proxies
from boilerd.web.redaction import Redaction
from boilerd.web.refusal import Refusal
from boilerd.web.sampler import Sampler
from boilerd.web.sessions import Seals
from boilerd.web.shared import Answers, Shared
from boilerd.web.static_files import StaticFiles
from boilerd.web.templating import Templates

#: Requests that ask Redis at once.
MOST_THREADS = 4
#: Whoever waits for longer for a thread is told so.
PATIENCE_S = 10.0

T = TypeVar("T")


@dataclass
class Site:
    """The collaborators of all endpoints.

    Attributes:
        connection: The client of Redis.
        menu: Pages of the menu, in their order.
        outside: Name → address of another tool, with places for what is shown.
        environment: What the head says beside `boilerd`, such as production.
        daemon: The daemon of this host.
        costs: What all of this costs.
    """

    connection: redis.Redis
    access: Access
    guard: Guard
    proxies: Proxies
    redaction: Redaction
    sampler: Sampler
    seals: Seals
    menu: list[Page]
    outside: Mapping[str, str] = field(default_factory=dict)
    environment: str = ""
    templates: Templates = field(default_factory=Templates)
    static: StaticFiles = field(default_factory=StaticFiles)
    shared: Shared = field(default_factory=Shared)
    operators: Operators = field(default_factory=Operators)
    daemon: LocalDaemon | None = None
    costs: Costs = field(default_factory=Costs)
    answers: Answers = field(init=False)
    _threads: Any = None

    def __post_init__(self) -> None:
        self.answers = Answers(self.shared)

    @cached_property
    def letters(self) -> Mapping[str, str]:
        """By the pages' paths: of each the first letter of its path that no page before it has."""
        found: dict[str, str] = {}
        for page in self.menu:
            free = (letter for letter in (page.path.strip("/") or page.title).lower() if letter not in found.values())
            found[page.path] = next(free, "")
        return found

    def inspector(self, who: Principal, address: str) -> Inspector:
        """An inspector that acts in their name."""
        return Inspector(self.connection, by=Actor("web", who.name, address))

    async def in_thread(self, work: Callable[[], T]) -> T:
        """What a function returns that may wait for Redis; raises Refusal where too many others wait."""
        if self._threads is None:  # it belongs to a running loop
            self._threads = anyio.CapacityLimiter(MOST_THREADS)
        try:
            with anyio.fail_after(PATIENCE_S):  # what has a thread is not cut: Redis's own time limits end it
                return await anyio.to_thread.run_sync(work, limiter=self._threads)
        except TimeoutError as error:
            raise Refusal(503, f"all threads have waited for Redis for {PATIENCE_S:g} s; try again") from error

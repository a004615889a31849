"""All that requests share, put together once."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from typing import TypeVar
from weakref import WeakValueDictionary

import anyio
import anyio.to_thread
import redis

from boilerd.broker.audit import Actor
from boilerd.inspector import Inspector
from boilerd.web.access import PATIENCE_S, Access
from boilerd.web.costs import Costs
from boilerd.web.guard import Guard
from boilerd.web.local_daemon import LocalDaemon
from boilerd.web.operators import Operators
from boilerd.web.page import Page
from boilerd.web.per_loop import PerLoop
from boilerd.web.permissions import Principal
from boilerd.web.proxies import Proxies
from boilerd.web.redaction import Redaction
from boilerd.web.refusal import Refusal
from boilerd.web.sampler import Sampler
from boilerd.web.sessions import Seals
from boilerd.web.shared import Answers, Shared
from boilerd.web.static_files import StaticFiles
from boilerd.web.templating import Templates

#: Requests that ask Redis at once, and those of one person or program: the others are left to others.
MOST_THREADS, MOST_OF_ONE = 4, 2

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

    def __post_init__(self) -> None:
        self.answers = Answers(self.shared, self._mark)
        self._threads = PerLoop(lambda: anyio.CapacityLimiter(MOST_THREADS))
        #: By name, of those alone who wait or have a thread.
        self._turns = PerLoop(WeakValueDictionary[str, anyio.Semaphore])

    @cached_property
    def letters(self) -> Mapping[str, str]:
        """By the pages' paths: of each the first letter of its path that no page before it has."""
        found: dict[str, str] = {}
        for page in self.menu:
            free = (letter for letter in (page.path.strip("/") or page.title).lower() if letter not in found.values())
            found[page.path] = next(free, "")
        return found

    @cached_property
    def look(self) -> str:
        """What all pages are made of beside their data: another release, or other settings, have them sent again."""
        return f"{version('boilerd')} {self.static.version} {self.environment} {sorted(self.outside.items())}"

    def forget_all(self) -> None:
        """Have all read anew for those who ask next: something was changed."""
        self.sampler.forget()
        self.shared.forget_all()
        self.answers.forget_all()

    def _mark(self) -> str | None:
        """That of the picture, if that is fresh."""
        picture = self.sampler.fresh()
        return picture.mark if picture else None

    def inspector(self, who: Principal, address: str) -> Inspector:
        """An inspector that acts in their name."""
        return Inspector(self.connection, by=Actor("web", who.name, address))

    async def in_thread(self, work: Callable[[], T], who: Principal | None = None) -> T:
        """What a function returns that may wait for Redis; raises Refusal where it comes to no thread.

        Args:
            work: The function.
            who: For whom it is; None: for everybody, or nobody knows.
        """
        busy = "your other requests"
        try:
            with anyio.fail_after(PATIENCE_S):  # what has a thread is not cut: Redis's own time limits end it
                async with self._turn(who):
                    busy = "all threads"
                    return await anyio.to_thread.run_sync(work, limiter=self._threads.get())
        except TimeoutError as error:
            raise Refusal(503, f"{busy} have waited for Redis for {PATIENCE_S:g} s; try again") from error

    def _turn(self, who: Principal | None) -> AbstractAsyncContextManager[object]:
        """Waits until they have few enough threads; where nobody says who they are, all have one name."""
        if who is None or self.access.is_open:
            return nullcontext()
        turns = self._turns.get()
        found = turns.get(who.name)
        if found is None:
            found = turns[who.name] = anyio.Semaphore(MOST_OF_ONE, fast_acquire=True)
        return found

"""Who asks for much at once leaves threads to others."""

import asyncio
import functools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import redis

import boilerd.web
from boilerd import Client
from boilerd.broker.web_sessions import WebSessions
from boilerd.settings.definitions import Settings
from boilerd.settings.web import PasswordHash, Web, WebToken, WebUser
from boilerd.web import access, passwords, site
from boilerd.web.passwords import hash_password, hash_token
from browser import ROLES, WHO
from support import DEADLINE_S, wait_until

#: Two people, and a program.
ADMIN, OPERATOR, CI = {WHO: "admin"}, {WHO: "operator"}, {"authorization": "Bearer of-ci"}


@dataclass
class Dashboard:
    """One that tells of tasks of the type `slow` only when it may.

    Attributes:
        waiting: Threads that wait for that.
        counts: How many they were whenever one came.
    """

    connection: redis.Redis
    open_to_all: bool = False
    may_go_on: threading.Event = field(default_factory=threading.Event)
    waiting: set[int] = field(default_factory=set)
    counts: list[int] = field(default_factory=list)

    def _hold(self, task_type: str, value: Any) -> Any:
        if task_type == "slow":
            self.waiting.add(threading.get_ident())
            self.counts.append(len(self.waiting))
            self.may_go_on.wait(DEADLINE_S)
            self.waiting.discard(threading.get_ident())
        return value

    @functools.cached_property
    def app(self) -> Any:
        known: dict[str, Any] = {} if self.open_to_all else {
            "trusted_proxies": ["127.0.0.1"], "trusted_header": WHO, "roles": ROLES,
            "tokens": {"ci": WebToken(sha256=hash_token("of-ci"), role="admin")},
        }  # fmt: skip
        settings = Settings(web=Web(**known))
        return boilerd.web.app(settings, authorize=None, connection=self.connection, redact=self._hold)

    def client(self) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app)
        return httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=DEADLINE_S)

    async def has(self, threads: int) -> None:
        """Returns once so many wait."""
        await asyncio.to_thread(wait_until, lambda: len(self.waiting) == threads, f"{threads} threads wait")


@pytest.fixture
def dashboard(connection: redis.Redis, client: Client) -> Iterator[Dashboard]:
    for task_id in ("slow", "fast"):
        client.enqueue(task_id, {"a": 1}, task_id=task_id)
    found = Dashboard(connection)
    yield found
    found.may_go_on.set()


@pytest.mark.parametrize("who", [ADMIN, CI])
def test_who_asks_for_much_at_once_holds_half_of_the_threads_and_others_are_answered(
    who: dict[str, str], dashboard: Dashboard
) -> None:
    async def ask() -> tuple[int, list[int]]:
        async with dashboard.client() as client:
            asked = [asyncio.create_task(client.get("/tasks/slow", headers=who)) for _ in range(8)]
            await dashboard.has(site.MOST_OF_ONE)
            other = await client.get("/tasks/fast", headers=OPERATOR)
            dashboard.may_go_on.set()
            return other.status_code, [answer.status_code for answer in await asyncio.gather(*asked)]

    other, asked = asyncio.run(ask())

    assert (other, asked) == (200, [200] * 8)
    assert max(dashboard.counts) == site.MOST_OF_ONE


def test_a_request_that_waits_for_others_of_its_own_gets_a_page_that_says_so(
    dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask() -> tuple[httpx.Response, httpx.Response]:
        async with dashboard.client() as client:
            asked = [asyncio.create_task(client.get("/tasks/slow", headers=ADMIN)) for _ in range(2)]
            await dashboard.has(site.MOST_OF_ONE)
            monkeypatch.setattr(site, "PATIENCE_S", 0.01)
            third = await client.get("/tasks/fast", headers=ADMIN)
            monkeypatch.undo()
            dashboard.may_go_on.set()
            await asyncio.gather(*asked)
            return third, await client.get("/tasks/fast", headers=ADMIN)

    third, later = asyncio.run(ask())

    assert third.status_code == 503
    assert "your other requests have waited for Redis for 0.01 s; try again" in third.text
    assert later.status_code == 200


def test_where_nobody_says_who_they_are_all_threads_are_for_all(dashboard: Dashboard) -> None:
    dashboard.open_to_all = True

    async def ask() -> list[int]:
        async with dashboard.client() as client:
            asked = [asyncio.create_task(client.get("/tasks/slow")) for _ in range(8)]
            await dashboard.has(site.MOST_THREADS)
            dashboard.may_go_on.set()
            return [answer.status_code for answer in await asyncio.gather(*asked)]

    assert asyncio.run(ask()) == [200] * 8


def test_an_application_with_two_event_loops_lets_none_wait_for_threads_of_the_other(dashboard: Dashboard) -> None:
    async def fill() -> list[int]:
        async with dashboard.client() as client:
            asked = [client.get("/tasks/slow", headers=who) for who in (ADMIN, OPERATOR) for _ in range(3)]
            return [answer.status_code for answer in await asyncio.gather(*asked)]

    async def ask() -> int:
        async with dashboard.client() as client:
            await dashboard.has(site.MOST_THREADS)
            return (await client.get("/tasks/fast", headers=ADMIN)).status_code

    with ThreadPoolExecutor(1) as other_loop:
        filled = other_loop.submit(asyncio.run, fill())
        found = asyncio.run(ask())
        dashboard.may_go_on.set()

        assert (found, filled.result(DEADLINE_S)) == (200, [200] * 6)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[int], threading.Event]]:
    """How many threads looked for a session whenever one more did; none of them finds it before the event."""
    look, looking, counts, may_go_on = WebSessions.owner, set[int](), list[int](), threading.Event()

    def slowly(sessions: WebSessions, session: str) -> str:
        looking.add(threading.get_ident())
        counts.append(len(looking))
        may_go_on.wait(DEADLINE_S)
        looking.discard(threading.get_ident())
        return look(sessions, session)

    monkeypatch.setattr(WebSessions, "owner", slowly)
    monkeypatch.setattr(passwords, "N", 2)
    yield counts, may_go_on
    may_go_on.set()


def with_session(connection: redis.Redis) -> httpx.AsyncClient:
    users = {"anna": WebUser(password=PasswordHash(hash_password("correct horse")), role="viewer")}
    app = boilerd.web.app(Settings(web=Web(users=users)), authorize=None, connection=connection)
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://localhost", timeout=DEADLINE_S,
        cookies={"boilerd_session": "of-long-ago", "__Host-boilerd": "of-long-ago"},
    )  # fmt: skip


def test_sessions_of_many_people_are_looked_for_in_few_threads(
    connection: redis.Redis, looks: tuple[list[int], threading.Event]
) -> None:
    counts, may_go_on = looks

    async def ask() -> list[int]:
        async with with_session(connection) as client:
            asked = [asyncio.create_task(client.get("/settings")) for _ in range(8)]
            await asyncio.to_thread(wait_until, lambda: len(counts) == access.MOST_THREADS, "some look")
            may_go_on.set()
            return [answer.status_code for answer in await asyncio.gather(*asked)]

    assert asyncio.run(ask()) == [303] * 8
    assert max(counts) == access.MOST_THREADS


def test_who_waits_too_long_for_their_session_gets_a_page_that_says_so(
    connection: redis.Redis, looks: tuple[list[int], threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, may_go_on = looks

    async def ask() -> httpx.Response:
        async with with_session(connection) as client:
            asked = [asyncio.create_task(client.get("/settings")) for _ in range(access.MOST_THREADS)]
            await asyncio.to_thread(wait_until, lambda: len(counts) == access.MOST_THREADS, "all look")
            monkeypatch.setattr(access, "PATIENCE_S", 0.01)
            late = await client.get("/settings")
            may_go_on.set()
            await asyncio.gather(*asked)
            return late

    late = asyncio.run(ask())

    assert late.status_code == 503
    assert "all threads have waited for Redis for 0.01 s; try again" in late.text

"""While Redis takes connections and answers none, whoever asks the dashboard is told so within one of its time limits.

How long that takes is not measured: it is counted how many answers of Redis were waited for in vain.
"""

import asyncio
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_plus

import httpx
import pytest
import redis
from redis.connection import UnixDomainSocketConnection

import boilerd.web
from boilerd import Client, Inspector
from boilerd.broker import connection, hang
from boilerd.broker.inspection import Inspection
from boilerd.broker.script_calls import ScriptCalls
from boilerd.settings.definitions import Settings
from boilerd.settings.web import PasswordHash, Web, WebUser
from boilerd.web import access, passwords, site
from boilerd.web.page import PAGES, load_pages
from support import DEADLINE_S, StartValkey, Valkey, wait_until

LIMIT_S = 0.5
PASSWORD = "correct horse"


@dataclass
class Dashboard:
    """One of a Redis that a test stops.

    Attributes:
        sent: Commands, or pipelines, that went to Redis.
        waited: Answers that were waited for in vain.
    """

    valkey: Valkey
    app: Any
    sent: list[Any] = field(default_factory=list)
    waited: list[Exception] = field(default_factory=list)

    def hang(self) -> None:
        assert self.valkey.process
        self.valkey.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.valkey.process
        self.valkey.process.send_signal(signal.SIGCONT)

    def forget(self) -> None:
        self.sent.clear()
        self.waited.clear()

    async def person(self, name: str) -> httpx.AsyncClient:
        """Somebody who has logged in."""
        client = self.stranger()
        assert (await log_in(client, name)).headers["location"] == "/"
        return client

    def stranger(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url="http://localhost", timeout=DEADLINE_S,
            headers={"sec-fetch-site": "same-origin"},
        )  # fmt: skip


async def log_in(client: httpx.AsyncClient, name: str = "anna") -> httpx.Response:
    return await client.post("/login", data={"name": name, "password": PASSWORD})


@pytest.fixture
def dashboard(start_valkey: StartValkey, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dashboard]:
    monkeypatch.setattr(passwords, "N", 2)
    monkeypatch.setattr(connection, "DEFAULT_TIMEOUT_S", LIMIT_S)
    valkey = start_valkey()
    user = WebUser(password=PasswordHash(passwords.hash_password(PASSWORD)), role="admin")
    settings = Settings(redis_url=valkey.url, web=Web(users={"anna": user, "bob": user}))
    found = Dashboard(valkey, boilerd.web.app(settings, authorize=None))
    kind: Any = UnixDomainSocketConnection
    send, read = kind.send_packed_command, kind.read_response

    def count_sent(self: Any, *args: Any, **options: Any) -> Any:
        found.sent.append(self)
        return send(self, *args, **options)

    def count_waits(self: Any, *args: Any, **options: Any) -> Any:
        try:
            return read(self, *args, **options)
        except redis.TimeoutError as error:
            found.waited.append(error)
            raise

    monkeypatch.setattr(kind, "send_packed_command", count_sent)
    monkeypatch.setattr(kind, "read_response", count_waits)
    yield found
    found.go_on()


def test_one_answer_is_waited_for_and_all_else_is_told_at_once(
    dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hang, "PAUSE_S", 2 * DEADLINE_S)
    load_pages()
    asks_nothing = {"/settings", "/palette"}
    paths = {page.path for page in PAGES if "{" not in page.path} - asks_nothing

    async def ask() -> list[httpx.Response]:
        anna = await dashboard.person("anna")
        dashboard.hang()
        dashboard.forget()
        found = [await anna.get(path, headers=live) for path in sorted(paths) for live in ({}, {"boilerd-live": "1"})]
        return [*found, await anna.post("/logout")]

    answers = asyncio.run(ask())

    assert {answer.status_code for answer in answers} == {503}
    assert [answer.text for answer in answers if "Redis did not answer within 0.5 s" not in answer.text] == []
    assert len(dashboard.waited) == 1


def test_people_who_ask_together_all_hear_of_it_and_hold_no_thread_any_more(
    dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hang, "PAUSE_S", 2 * DEADLINE_S)

    async def ask() -> list[httpx.Response]:
        anna, bob = await dashboard.person("anna"), await dashboard.person("bob")
        dashboard.hang()
        dashboard.forget()
        paths = ["/", "/failures", "/types", "/workers", "/queues", "/system"] * 2
        asked = [client.get(path) for path in paths for client in (anna, bob)]
        return await asyncio.gather(*asked)

    answers = asyncio.run(ask())

    assert {answer.status_code for answer in answers} == {503}
    assert [answer.text for answer in answers if "Redis did not answer within 0.5 s" not in answer.text] == []
    assert 1 <= len(dashboard.waited) <= site.MOST_THREADS + access.MOST_THREADS


def test_somebody_logs_in_meanwhile(dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hang, "PAUSE_S", 2 * DEADLINE_S)

    async def ask() -> tuple[httpx.Response, httpx.Response]:
        client = await dashboard.person("anna")
        dashboard.hang()
        dashboard.forget()
        return await log_in(client), await client.get("/settings")

    done, shown = asyncio.run(ask())

    assert (done.status_code, done.headers["location"]) == (303, "/")
    assert (shown.status_code, "Log out anna" in shown.text) == (200, True)
    assert len(dashboard.waited) == 1


def test_all_comes_back_by_itself_when_redis_goes_on(dashboard: Dashboard) -> None:
    with asyncio.Runner() as runner:
        people = [runner.run(dashboard.person(name)) for name in ("anna", "bob")]

        async def ask() -> set[int]:
            return {answer.status_code for answer in await asyncio.gather(*(each.get("/queues") for each in people))}

        dashboard.hang()
        assert runner.run(ask()) == {503}
        dashboard.go_on()

        wait_until(lambda: runner.run(ask()) == {200}, "both see the queues")


def test_an_action_that_had_no_answer_may_have_been_done_and_says_so(
    dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hang, "PAUSE_S", 2 * DEADLINE_S)
    pause = Inspection.pause

    def hang_there(inspection: Inspection, queue: str) -> bool:
        dashboard.hang()
        return pause(inspection, queue)

    async def ask() -> list[httpx.Response]:
        anna = await dashboard.person("anna")
        with Client.from_url(dashboard.valkey.url) as client:
            client.enqueue("a")
        monkeypatch.setattr(Inspection, "pause", hang_there)
        return [await anna.post("/queues/default/pause") for _ in range(2)]

    waited, told = asyncio.run(ask())
    dashboard.go_on()

    assert (waited.status_code, told.status_code) == (503, 503)
    assert "it may have been done all the same, look before you do it again" in waited.text
    assert "Redis did not answer within 0.5 s, a moment ago" in told.text
    assert "may have been done" not in told.text
    with Inspector.from_url(dashboard.valkey.url) as inspector:
        wait_until(lambda: inspector.queue("default").counts.is_paused, "Redis does what it was sent")


def test_a_copy_of_which_nobody_knows_whether_the_old_task_is_deleted_says_so(
    dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = ScriptCalls._call

    def hang_there(calls: ScriptCalls, script: str, *args: Any, **options: Any) -> Any:
        if script == "act":
            dashboard.hang()
        return call(calls, script, *args, **options)

    async def ask() -> httpx.Response:
        anna = await dashboard.person("anna")
        with Client.from_url(dashboard.valkey.url) as client:
            client.enqueue("a", task_id="old")
        monkeypatch.setattr(ScriptCalls, "_call", hang_there)
        shown = await anna.post("/tasks/old/edit", data={"old": "delete"})
        checked = re.search(r'name="checked" value="(\w+)"', shown.text)
        assert checked
        return await anna.post("/tasks/old/edit", data={"old": "delete", "step": "send", "checked": checked[1]})

    told = unquote_plus(asyncio.run(ask()).headers["location"])

    assert "a copy of old, which may be gone: Redis did not answer within 0.5 s" in told

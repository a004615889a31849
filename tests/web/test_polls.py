"""Polls of open pages: what was just found for somebody is told to all who may see the same."""

import ast
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis

from boilerd import Client, Inspector, web
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.errors import BrokerUnavailableError
from boilerd.web import Principal, sampler, shared
from boilerd.web.shared import Answers, Shared
from browser import WHO, Browser, web_app
from builders import Clock, enqueue, fail_as, failure_kind, tell_cron
from support import DEADLINE_S, wait_until

GROUP = "a" * 12


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """By it what is shared becomes old, when a test puts it forward and not before; a picture does not."""
    found = Clock()
    monkeypatch.setattr(shared, "time", SimpleNamespace(monotonic=lambda: found.ahead_s, thread_time=lambda: 0.0))
    monkeypatch.setattr(sampler, "FRESH_S", 600.0)
    return found


def sent(connection: redis.Redis) -> int:
    """How many commands Redis was sent, this one among them."""
    found: int = connection.info("stats")["total_commands_processed"]
    return found


@pytest.mark.usefixtures("clock")
def test_a_poll_behind_an_answer_asks_redis_nothing(
    browser: Browser, connection: redis.Redis, client: Client, broker: Broker
) -> None:
    fail_as(broker, "failed", failure_kind(GROUP))
    enqueue(client, "a")
    tell_cron(broker, "nightly")

    for page in (
        "/queues/default",
        "/crons/nightly",
        f"/failures/{GROUP}",
        "/audit",
        "/tasks/a",
        "/limits",
        "/system",
    ):
        tag = browser.get(page).headers["etag"]
        before = sent(connection)
        again = browser.get(page, if_none_match=tag)
        assert (again.status_code, sent(connection) - before) == (304, 1), page


def test_what_was_found_for_one_person_is_told_to_another_who_may_see_the_same(
    connection: redis.Redis, clock: Clock
) -> None:
    roles = {"ann": "admin", "bob": "admin"}
    app = web_app(connection, trusted_proxies=["127.0.0.1"], trusted_header=WHO, roles=roles)
    with Browser(app) as browser:
        tags = {who: browser.get("/audit", **{WHO: who}).headers["etag"] for who in roles}
        clock.ahead_s += 60
        before = sent(connection)
        first = browser.get("/audit", if_none_match=tags["ann"], **{WHO: "ann"})
        between = sent(connection)

        second = browser.get("/audit", if_none_match=tags["bob"], **{WHO: "bob"})

        after = sent(connection)
    assert tags["ann"] != tags["bob"]
    assert (first.status_code, second.status_code) == (304, 304)
    assert between - before > 1
    assert after - between == 1


def test_what_others_change_is_seen_when_an_answer_is_old_and_what_somebody_does_here_at_once(
    browser: Browser, connection: redis.Redis, client: Client, clock: Clock
) -> None:
    enqueue(client, "a")

    def poll(tag: str) -> tuple[int, str]:
        answer = browser.get("/tasks/a", if_none_match=tag)
        return answer.status_code, answer.headers["etag"]

    _, tag = poll("")
    Inspector(connection).archive("a")
    at_once, _ = poll(tag)
    clock.ahead_s += 60
    later, tag = poll(tag)
    browser.post("/tasks/a/run")
    acted, _ = poll(tag)

    assert (at_once, later, acted) == (304, 200, 200)


@pytest.mark.usefixtures("clock")
def test_what_stands_beside_a_task_is_read_anew_for_who_opens_its_page_and_told_to_polls(
    browser: Browser, connection: redis.Redis, client: Client, clock: Clock
) -> None:
    enqueue(client, "a")

    def poll(tag: str) -> tuple[int, str]:
        answer = browser.get("/tasks/a", if_none_match=tag, boilerd_live="1")
        return answer.status_code, answer.headers["etag"]

    before = browser.get("/tasks/a").text
    _, tag = poll("")
    Inspector(connection).pause("default")
    clock.ahead_s += 2
    at_once, _ = poll(tag)
    opened = browser.get("/tasks/a").text
    told, tag = poll(tag)
    Inspector(connection).resume("default")
    clock.ahead_s += 5
    later, _ = poll(tag)

    assert ("is paused" in before, "is paused" in opened) == (False, True)
    assert (at_once, told, later) == (304, 200, 200)


def note(connection: redis.Redis, what: str, task: str, times: int = 1) -> None:
    """Have the audit know of what others did with a task, or a task that is gone."""
    with connection.pipeline(transaction=False) as pipeline:
        for _ in range(times):
            pipeline.xadd(keys.AUDIT, {"what": what, "outcome": "done", "on": json.dumps({"task": task})})
        pipeline.execute()


def looks_at_audit(connection: redis.Redis) -> int:
    """How often Redis was asked for entries."""
    found: int = connection.info("commandstats").get("cmdstat_xrevrange", {"calls": 0})["calls"]
    return found


@pytest.mark.parametrize(("task_id", "queues"), [("a", None), ("a", ["default"]), ("gone", None)])
def test_what_people_did_with_a_task_is_read_on_for_all_who_look_and_not_read_again(
    task_id: str, queues: list[str] | None, connection: redis.Redis, client: Client, clock: Clock
) -> None:
    enqueue(client, "a")
    note(connection, "run", task_id)
    note(connection, "run", "other", 400)
    app = web_app(connection, authorize=lambda _: Principal.of_role("anna", "operator", queues=queues))

    with Browser(app) as browser:

        def seen(ahead_s: float, **headers: str) -> tuple[list[str], int]:
            clock.ahead_s += ahead_s
            before = looks_at_audit(connection)
            data = browser.get(f"/tasks/{task_id}.json", **headers).json()
            deeds = data["known"]["deeds"] if task_id == "gone" else data["deeds"]
            return [deed["what"] for deed in deeds], looks_at_audit(connection) - before

        browser.get("/queues")  # has the picture, which tells of the audit, too, taken before
        first, again = seen(0), seen(5)
        note(connection, "reveal", task_id)
        polled, opened = seen(2, boilerd_live="1"), seen(0)
        note(connection, "export", task_id)
        later = seen(5, boilerd_live="1")

    assert first == (["run"], 4)
    assert again == (["run"], 1)
    assert polled == (["run"], 0)
    assert opened == (["run", "reveal"], 3)
    assert later == (["run", "reveal", "export"], 3)


def test_what_the_audit_has_dropped_of_a_task_is_told_for_some_minutes_more_at_most(
    browser: Browser, connection: redis.Redis, client: Client, clock: Clock
) -> None:
    enqueue(client, "a")
    note(connection, "reveal", "a")
    note(connection, "run", "other")

    def deeds() -> list[str]:
        return [deed["what"] for deed in browser.get("/tasks/a.json").json()["deeds"]]

    before = deeds()
    connection.xtrim(keys.AUDIT, maxlen=1, approximate=False)
    clock.ahead_s += 300

    assert (before, deeds()) == (["reveal"], [])


@pytest.mark.usefixtures("clock")
def test_what_somebody_did_is_seen_at_once_also_where_redis_answered_too_late(
    browser: Browser, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue(client, "a")
    archive = Inspector.archive

    def late(inspector: Inspector, task_id: str) -> None:
        archive(inspector, task_id)
        raise BrokerUnavailableError("Redis did not answer")

    monkeypatch.setattr(Inspector, "archive", late)
    tag = browser.get("/tasks/a").headers["etag"]
    done = browser.post("/tasks/a/archive")
    again = browser.get("/tasks/a", if_none_match=tag)

    assert (done.status_code, again.status_code) == (503, 200)


def test_what_is_changed_while_an_answer_is_made_has_it_made_again() -> None:
    answers = Answers(Shared(), lambda: None)
    note = answers.begin(60.0)
    answers.forget_all()

    note("a page", "content", {})

    assert answers.content("a page") is None
    answers.begin(60.0)("a page", "content", {})
    assert answers.content("a page") == "content"


def test_an_answer_is_known_for_as_long_as_the_picture_that_it_was_made_of() -> None:
    pictures = ["first", "first", None, "second"]
    answers = Answers(Shared(), lambda: pictures.pop(0))

    answers.begin()("a page", "content", {shared.PICTURE: "first"})

    assert [answers.content("a page") for _ in range(4)] == ["content", "content", None, None]


@pytest.mark.usefixtures("clock")
def test_a_queue_that_came_after_the_picture_has_a_page_all_the_same(browser: Browser, client: Client) -> None:
    browser.get("/queues")
    enqueue(client, "a", queue="new")

    found = browser.get("/queues/new.json").json()

    assert browser.get("/queues.json").json()["queues"] == []
    assert (found["queue"]["counts"]["pending"], found["lately"]) == (1, None)


def test_no_two_things_are_shared_under_one_name(browser: Browser) -> None:
    places: dict[str, list[str]] = {}
    for file in sorted(Path(web.__file__).parent.rglob("*.py")):
        for call in ast.walk(ast.parse(file.read_text("utf-8"))):
            is_sharing = isinstance(call, ast.Call) and ast.unparse(call.func).endswith((".sharing", "shared.get"))
            if is_sharing and isinstance(call, ast.Call):
                key = call.args[0].elts[0] if isinstance(call.args[0], ast.Tuple) else call.args[0]
                places.setdefault(ast.unparse(key), []).append(f"{file.name}:{call.lineno}")

    twice = {key: where for key, where in places.items() if key.startswith("'") and len(where) > 1}
    opened = {page: browser.get(page).status_code for page in ("/workers", "/system", "/workers.json", "/system.json")}

    assert len(places) > 15
    assert twice == {}
    assert set(opened.values()) == {200}


def test_a_page_is_sent_again_when_the_dashboard_begins_anew_with_other_links(connection: redis.Redis) -> None:
    tags = []

    for settings in ({}, {}, {"environment": "production"}, {"links": {"traces": "https://traces.example/{id}"}}):
        with Browser(web_app(connection, **settings)) as browser:
            tags.append(browser.get("/audit").headers["etag"])

    assert tags[0] == tags[1]
    assert len({*tags}) == 3


def test_who_wants_it_anew_is_not_told_what_was_being_read_before() -> None:
    kept, ends, begun = Shared(), threading.Event(), list[int]()

    def read() -> int:
        begun.append(len(begun))
        if len(begun) == 1:
            ends.wait(DEADLINE_S)
        return begun[-1]

    with ThreadPoolExecutor(4) as pool:
        poll = pool.submit(kept.get, "a", 60.0, read)
        wait_until(lambda: bool(begun), "the poll reads")
        opened = [pool.submit(kept.get, "a", 60.0, read, anew=True) for _ in range(3)]
        ends.set()
        found = [each.result(DEADLINE_S) for each in (poll, *opened)]

    assert (found[0], min(found[1:])) == (0, 1)
    assert kept.get("a", 60.0, read) == max(found)

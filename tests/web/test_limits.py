"""Keys with their tasks, what limits refuse, and locks that are released by hand: on the page and by commands."""

import re
from typing import Any
from urllib.parse import urlencode

import pytest
import redis
from click.testing import CliRunner, Result

from boilerd import Client, DuplicateTaskError, Inspector, QueueFullError
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.shares import Lock
from boilerd.cli import boilerd as main
from boilerd.web.permissions import Permission, Principal
from browser import Browser, text_of, web_app
from builders import claim, complete_next, enqueue
from support import Valkey


def take_lock(client: Client, task_id: str, **options: object) -> Lock:
    """Have a task hold the one lock that there is."""
    client.enqueue("report:build", {"of": 1}, task_id=task_id, unique=3600, **options)  # type: ignore[arg-type]
    (lock,) = Inspector(client.connection).unique_locks().locks
    return lock


def address(lock: Lock) -> str:
    return f"/limits/release?{urlencode({'queue': lock.queue, 'type': lock.type, 'digest': lock.digest})}"


def test_a_key_leads_to_the_tasks_that_run_and_wait(browser: Browser, client: Client, broker: Broker) -> None:
    enqueue(client, "runs", "waits", concurrency_key="printer")
    enqueue(client, "free")
    claim(broker)
    claim(broker, row=1)

    found = browser.get("/limits.json?key=printer").json()["key"]

    assert 'href="/limits?key=printer"' in browser.get("/limits").text
    assert (found["running"], [*found["waiting"]]) == (["runs"], ["waits"])
    assert "waits" in text_of(browser.get("/limits?key=printer").text)


def test_a_queue_with_a_limit_that_is_paused_says_so(browser: Browser, client: Client, broker: Broker) -> None:
    enqueue(client, "a")
    broker.set_limits({"default:max_active": 1})
    Inspector(broker.connection).pause("default")

    shown = browser.get("/limits").text
    row = re.search(r'<td data-label="State">(.*?)</td>', shown, re.DOTALL)

    assert text_of(row[1] if row else "") == "paused nobody serves it"


@pytest.mark.parametrize(
    ("query", "is_found"),
    [
        ("search=1", True), ("type=report:build", True), ("search=1&type=+report:*+", True), ("queue=+default+", True),
        ("type=report", False), ("type=build", False), ("search=1&queue=nothere", False),
    ],
)  # fmt: skip
def test_locks_are_looked_for_as_people_type_what_they_seek(
    query: str, is_found: bool, browser: Browser, client: Client
) -> None:
    take_lock(client, "holder")

    shown = text_of(browser.get(f"/limits?{query}").text)

    assert ("holder" in shown) is is_found
    assert "Locks among all keys of Redis" in shown
    assert ("There is no queue nothere." in shown) is ("nothere" in query)


def test_a_word_that_asks_for_no_search_is_told_the_one_that_does(browser: Browser) -> None:
    assert "search: not known; use one of 1" in text_of(browser.get("/limits?search=0").text)


def test_a_poll_of_a_page_with_locks_looks_for_none(browser: Browser, client: Client, connection: redis.Redis) -> None:
    take_lock(client, "a")
    opened = browser.get("/limits?search=1").text
    connection.config_resetstat()
    browser.get("/limits?search=1", boilerd_live="1")

    assert 'data-label="Held by"' in opened
    assert "cmdstat_scan" not in connection.info("commandstats")


def test_who_may_not_see_payloads_sees_no_digest_of_one_by_which_it_could_be_guessed(
    client: Client, connection: redis.Redis
) -> None:
    lock = take_lock(client, "holder")
    search = "/limits{}?search=1&queue=default"

    def authorize(request: Any) -> Principal:
        rights = frozenset({Permission.VIEW, Permission.EXPORT, Permission.DELETE})
        return Principal("eve", rights | ({Permission.VIEW_PAYLOAD} if "x-all" in request.headers else set()))

    with Browser(web_app(connection, authorize=authorize)) as browser:
        blind = [browser.get(search.format(form)).text for form in ("", ".json")]
        seeing = browser.get(search.format("")).text, browser.get(search.format(""), x_all="1").text

    assert [lock.digest[:12] in text for text in blind] == [False, False]
    assert "holder" in blind[0]
    assert ["Release…" in text for text in seeing] == [False, True]


def test_enqueues_that_a_limit_or_a_lock_refuses_are_counted(
    browser: Browser, client: Client, broker: Broker, connection: redis.Redis
) -> None:
    broker.set_limits({"low:max_length": 1})
    enqueue(client, "fits", queue="low")
    take_lock(client, "holder")
    for _ in range(2):
        with pytest.raises(QueueFullError):
            enqueue(client, "more", queue="low")
    with pytest.raises(DuplicateTaskError):
        take_lock(client, "other")

    rows = browser.get("/limits.json").json()["refusals"]["rows"]

    counts = {(row["queue"], row["why"]): row["this_hour"] + row["last_hour"] for row in rows}
    assert counts == {("low", "full"): 2, ("default", "unique"): 1}
    assert "a task held the unique lock" in browser.get("/limits").text
    assert all(0 < connection.ttl(key) <= 2 * 86400 for key in connection.scan_iter("boilerd:refused:*"))


def test_a_foreign_key_in_the_place_of_that_count_refuses_as_ever(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    broker.set_limits({"low:max_length": 1})
    enqueue(client, "fits", queue="low")
    hour = connection.time()[0] // 3600
    for number in (hour, hour + 1):
        connection.set(keys.refused(number), "foreign")

    with pytest.raises(QueueFullError):
        enqueue(client, "more", queue="low")

    assert Inspector(connection).refusals() == []


def test_a_lock_whose_task_is_gone_is_released_by_a_page_that_says_so(
    browser: Browser, client: Client, broker: Broker, connection: redis.Redis
) -> None:
    lock = take_lock(client, "holder", unique_until="ttl")
    complete_next(broker)

    asked = text_of(browser.get(address(lock)).text)
    done = browser.post(address(lock), {"holder": "holder"})
    again = browser.post(address(lock), {"holder": "holder"})

    assert "holder" in asked
    assert "gone" in asked
    assert "ID of the task" not in asked
    assert done.status_code == 303
    assert again.status_code == browser.get(address(lock)).status_code == 404
    assert take_lock(client, "next").task_id == "next"
    assert [(entry.what, entry.on["task"], entry.outcome) for entry in Inspector(connection).audit()] == [
        ("unlock", "holder", "done"), ("unlock", "holder", "refused"),
    ]  # fmt: skip


def test_the_lock_of_a_task_that_has_not_ended_needs_its_id_written_out(browser: Browser, client: Client) -> None:
    lock = take_lock(client, "holder")

    asked = text_of(browser.get(address(lock)).text)
    answers = [
        browser.post(address(lock), {"holder": "holder", **typed}) for typed in ({}, {"id": "other"}, {"id": "holder"})
    ]

    assert "pending" in asked
    assert "ID of the task that holds it" in asked
    assert [answer.status_code for answer in answers] == [409, 400, 303]
    assert "id: write holder, the task that holds the lock" in text_of(answers[1].text)
    assert 'name="id" required value="other"' in answers[1].text


def test_a_lock_that_another_task_has_taken_meanwhile_is_not_released(browser: Browser, client: Client) -> None:
    lock = take_lock(client, "second")

    refused = browser.post(address(lock), {"holder": "first", "id": "first"})

    assert refused.status_code == 409
    assert "second" in text_of(refused.text)
    assert Inspector(client.connection).unique_lock(lock.queue, lock.type, lock.digest)


def test_commands_list_locks_and_release_one(
    valkey: Valkey, client: Client, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOILERD_REDIS_URL", valkey.url)
    lock = take_lock(client, "holder")
    words = ("lock", "release", lock.queue, lock.type, lock.digest, "--yes")

    def run(*words: str) -> Result:
        return CliRunner().invoke(main, words)

    listed = run("lock", "ls", "--type", "report:build").stdout
    refused = run(*words)
    released = run(*words, "--task", "holder")
    free = run(*words)

    assert lock.digest in listed
    assert "holder" in listed
    assert "has not ended" in str(refused.exception)
    assert (released.exit_code, released.stdout) == (0, "holder\n")
    assert "it is free" in str(free.exception)
    assert [entry.via for entry in Inspector(connection).audit()] == ["cli", "cli"]

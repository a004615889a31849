"""The first page, and the page of a queue, with what stands beside its tasks."""

import json
import re
import time
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import redis

from boilerd import Client, Inspector
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.overview import QueueOverview
from boilerd.broker.views import Day, QueueDetail, QueueInfo
from boilerd.settings.web import Grant
from boilerd.tasks.metric_record import ENQUEUED
from boilerd.verdict.finding import Row
from boilerd.verdict.table import TABLE
from boilerd.web.lately import Counts, Minute
from boilerd.web.page import PAGES, load_pages
from boilerd.web.pages.overview import page_for
from boilerd.web.what_if import WhatIf, what_if
from browser import WHO, Browser, text_of, web_app
from builders import (
    WORKER,
    claim,
    complete_next,
    count_in_minute,
    counted,
    enqueue,
    fail_as,
    failure_kind,
    new_task,
    tell_cron,
)


def queue_of(max_active: int = 0, workers: int = 1, aside: int = 0, **counts: Any) -> QueueOverview:
    """A queue with nine pending tasks, unless the counts say otherwise."""
    none = {"active": 0, "scheduled": 0, "completed": 0, "archived": 0, "is_paused": False}
    detail = QueueDetail(
        counts=QueueInfo("q", **{"pending": 9, **none, **counts}), latency_s=0, memory_bytes=0, max_active=max_active,
        max_length=0, today=Day(date(2026, 1, 31), 0, 0),
    )  # fmt: skip
    return QueueOverview(detail, workers=workers, aside=aside)


def done_lately(**counts: int) -> list[Minute]:
    """The last 15 minutes, in one of which the queue `q` did so."""
    start = datetime(2026, 1, 31, tzinfo=UTC)
    return [
        Minute(start + timedelta(minutes=number), {"q": Counts(**counts)} if not number else {}) for number in range(15)
    ]


def serve(broker: Broker, queue: str) -> None:
    """Have a worker live that works on the queue."""
    now = datetime.now(UTC).isoformat()
    broker.register(WORKER, [queue], {"queues": queue, "birthmark": "x", "last_heartbeat": now})


def test_the_first_page_has_what_failed_runs_ticks_and_was_done_by_whom(
    browser: Browser, viewer: Browser, client: Client, broker: Broker, connection: redis.Redis
) -> None:
    fail_as(broker, "failed", failure_kind(release="2026.11"))
    enqueue(client, "runs", queue="slow")
    claim(broker, "slow")
    tell_cron(broker, "nightly")
    broker.tick("nightly", broker.now() - 60, new_task("cron-nightly"), missed=2)
    count_in_minute(connection, int(time.time()) // 60 - 2, "slow", "mail:send", counted(3, archived=1))
    Inspector(connection).pause("low")

    found = browser.get("/overview.json").json()
    shown, seen = text_of(browser.get("/").text), text_of(viewer.get("/").text)

    beside = found["beside"]
    assert [row["fingerprint"] for row in beside["failures"]] == ["a" * 12]
    assert [row["id"] for row in beside["longest"]["tasks"]] == ["runs"]
    assert [(row["name"], row["missed"]) for row in beside["crons"]] == [("nightly", 2)]
    assert [row["release"] for row in beside["releases"]] == ["2026.11"]
    assert [(row["what"], row["on"]) for row in beside["audit"]] == [("pause", {"queue": "low"})]
    assert found["types"] == [{"type": "mail:send", "failed": 1, "ended": 4}]
    assert found["lately"]["archived"] == 1
    assert "2 missed lately" in shown
    assert "What people did last" in shown
    assert "What people did last" not in seen
    assert viewer.get("/overview.json").json()["beside"]["audit"] == []


@pytest.mark.parametrize(
    "row", [row for row in TABLE if re.match("boilerd (?!logs)", row.command)], ids=lambda row: row.kind
)
def test_what_the_verdict_finds_leads_to_the_page_that_shows_more(row: Row) -> None:
    command = row.command.replace("TYPE", "a").replace("ID", "b")

    load_pages()
    path, _ = page_for(command)

    assert any(re.fullmatch(re.sub(r"{\w+}", "[^/]+", page.path), path) for page in PAGES)


def test_a_foreign_key_hides_nothing_else_of_the_first_page(browser: Browser, connection: redis.Redis) -> None:
    connection.set(keys.FAILURES, "foreign")

    shown = browser.get("/")

    assert shown.status_code == 200
    assert keys.FAILURES in shown.text
    assert "What runs longest" in shown.text


def test_the_page_of_a_queue_tells_of_types_times_keys_and_who_serves_it(
    browser: Browser, client: Client, broker: Broker, connection: redis.Redis
) -> None:
    enqueue(client, *map(str, range(120)), queue="low")
    client.enqueue("mail:send", task_id="last", queue="low", concurrency_key="printer")
    count_in_minute(connection, int(time.time()) // 60 - 2, "low", "mail:send", counted(8, run_s=2.0))
    pools = [{"name": "default", "queues": {"low": 1, "default": 3}, "processes": 4, "slots": 2}]
    facts = json.dumps({"host": "web1", "pools": pools})
    broker.publish("web1.a1", len(facts), facts)

    found = browser.get("/queues/low.json").json()
    shown = text_of(browser.get("/queues/low").text)

    assert found["made_of"] == {"types": [["test:echo", 99], ["mail:send", 1]], "looked": 100, "pending": 121}
    assert "the first and last 50 of 121" in shown
    assert 1 < found["numbers"]["run_s"]["p50"] < 4
    assert found["served"]["pools"] == [
        {"daemon": "web1.a1", "pool": "default", "weight": 1, "of": 4, "processes": 4, "slots": 2}
    ]
    assert len(found["days"]) == 90
    assert found["lately"]["ended_by_minute"][-2:] == [8, 0] or sum(found["lately"]["ended_by_minute"]) == 8
    assert "1 of 4" in shown


def test_the_page_of_a_queue_leads_to_its_tasks_in_each_state(browser: Browser, client: Client) -> None:
    client.enqueue("a", queue="low")

    page = browser.get("/queues/low").text

    for state, count in (("pending", 1), ("active", 0), ("scheduled", 0), ("archived", 0), ("completed", 0)):
        assert f'<a href="/tasks?queue=low&amp;state={state}">{count}</a>' in page


def test_the_list_of_queues_tells_of_pace_failures_memory_and_workers(
    browser: Browser, client: Client, broker: Broker, connection: redis.Redis
) -> None:
    serve(broker, "low")
    enqueue(client, "waits", queue="low")
    count_in_minute(connection, int(time.time()) // 60 - 2, "low", "mail:send", counted(3, archived=1))

    (row,) = browser.get("/queues.json").json()["queues"]

    assert (row["workers"], row["failed_share"]) == (1, 0.25)
    assert row["memory_bytes"] > 0
    assert row["out_per_s"] == 4 / 900
    assert "Pause queue low" in browser.get("/queues").text


def test_an_empty_queue_that_nobody_serves_is_deleted_and_no_other(
    browser: Browser, client: Client, broker: Broker, connection: redis.Redis
) -> None:
    enqueue(client, "one", queue="old")

    offered = "Delete queue" in browser.get("/queues/old").text
    refused = browser.post("/queues/old/delete")
    complete_next(broker, "old")
    asked = text_of(browser.get("/queues/old/delete").text)
    browser.post("/queues/old/delete")

    assert not offered
    assert refused.status_code == 409
    assert "Have nobody list the queue old any more?" in asked
    assert browser.get("/queues.json").json()["queues"] == []
    assert browser.get("/queues/old").status_code == 404
    assert [(entry.what, entry.on, entry.outcome) for entry in Inspector(connection).audit()] == [
        ("delete", {"queue": "old"}, "refused"), ("delete", {"queue": "old"}, "done"),
    ]  # fmt: skip


def test_a_queue_that_a_worker_serves_is_not_deleted(browser: Browser, broker: Broker, client: Client) -> None:
    enqueue(client, "one", queue="old")
    complete_next(broker, "old")
    serve(broker, "old")

    refused = browser.post("/queues/old/delete.json")

    assert refused.status_code == 409
    assert "a worker serves it" in refused.json()["error"]


def test_all_queues_are_paused_and_resumed_at_once_after_a_question(
    browser: Browser, client: Client, connection: redis.Redis
) -> None:
    for queue in ("high", "low"):
        enqueue(client, f"task-{queue}", queue=queue)
    Inspector(connection).pause("low")

    asked = text_of(browser.get("/all-queues/pause").text)
    before = connection.smembers("boilerd:paused")
    paused = browser.post("/all-queues/pause.json").json()
    during = connection.smembers("boilerd:paused")
    resumed = browser.post("/all-queues/resume.json").json()

    assert "How many 1 Queues high" in asked
    assert before == {b"low"}
    assert (paused["count"], paused["done"]) == (1, "1 queue is paused now")
    assert during == {b"high", b"low"}
    assert (resumed["count"], resumed["done"]) == (2, "2 queues are open again")
    assert connection.smembers("boilerd:paused") == set()


def test_somebody_with_queues_of_their_own_pauses_these_alone(connection: redis.Redis, client: Client) -> None:
    for queue in ("mail-in", "low"):
        enqueue(client, f"task-{queue}", queue=queue)
    app = web_app(
        connection,
        trusted_proxies=["127.0.0.1"],
        trusted_header=WHO,
        roles={"anna": Grant(role="operator", queues=["mail-*"])},
    )

    with Browser(app, **{WHO: "anna"}) as browser:
        asked = browser.get("/all-queues/pause").text
        browser.post("/all-queues/pause")

    assert "low" not in text_of(asked)
    assert connection.smembers("boilerd:paused") == {b"mail-in"}


def test_the_page_of_a_queue_says_how_long_its_backlog_takes_with_more_workers(
    browser: Browser, client: Client, broker: Broker, connection: redis.Redis
) -> None:
    serve(broker, "low")
    enqueue(client, *map(str, range(12)), queue="low")
    done = {key: count for key, count in counted(90).items() if key != ENQUEUED}
    count_in_minute(connection, int(time.time()) // 60 - 4, "low", "mail:send", done)

    without = browser.get("/queues/low.json").json()["what_if"]
    found = browser.get("/queues/low.json?more=2").json()
    shown = text_of(browser.get("/queues/low?more=2").text)

    assert without is None
    assert (found["lately"]["drained_s"], round(found["what_if"]["drained_s"], 6)) == (120.0, 40.0)
    assert "Backlog with 2 workers more gone in about 40 s" in shown
    assert "its one worker did in the last 15 minutes" in shown
    assert browser.get("/queues/low?more=many").status_code == 400


@pytest.mark.parametrize(
    ("queue", "left", "why"),
    [
        (queue_of(pending=0), 1, "nothing is pending"),
        (queue_of(is_paused=True), 1, "it is paused"),
        (queue_of(workers=0), 1, "it has no workers now to go by"),
        (queue_of(), 0, "its workers were done with nothing in the last 15 minutes"),
        (queue_of(aside=9), 1, "all that is pending waits for its concurrency key"),
        (queue_of(3, workers=2), 1, "no more than 3 of its tasks run at once"),
        (queue_of(3, active=2), 1, "no more than 3 of its tasks run at once"),
        (queue_of(5, active=2), 1, "no more than 5 of its tasks run at once"),  # it has slots, and so have the others
    ],
    ids=str,
)
def test_nothing_is_said_of_more_workers_where_what_these_did_tells_nothing(
    queue: QueueOverview, left: int, why: str
) -> None:
    found = what_if(2, queue, done_lately(left=left))

    assert found == WhatIf(2, queue.workers, "", None, why)


def test_nothing_is_said_of_more_workers_while_all_are_held(
    browser: Browser, client: Client, broker: Broker, connection: redis.Redis
) -> None:
    serve(broker, "low")
    enqueue(client, "a", queue="low")
    count_in_minute(connection, int(time.time()) // 60 - 4, "low", "mail:send", counted(9))
    connection.set("rq:suspended", 1)

    found = browser.get("/queues/low.json?more=2").json()["what_if"]

    assert (found["pace"], found["why"]) == ("", "`rq suspend` holds all workers")


@pytest.mark.parametrize(("workers", "more", "left"), [(1, 2, 1), (1, 2, 17), (3, 4, 12), (11, 19, 297)], ids=str)
def test_with_as_many_workers_as_come_tasks_a_queue_is_steady(workers: int, more: int, left: int) -> None:
    found = what_if(
        more, queue_of(workers=workers), done_lately(enqueued=left * (workers + more) // workers, left=left)
    )

    assert (found.pace, found.drained_s) == ("steady", None)


def test_more_workers_may_be_too_few_and_may_fit_a_limit() -> None:
    found = [what_if(2, queue_of(max_active=3), done_lately(enqueued=number, left=900)) for number in (2701, 0)]

    assert [(each.pace, each.drained_s) for each in found] == [("grows", None), ("drains", 3.0)]

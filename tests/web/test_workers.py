"""The page on workers shows what each does and takes, sorted by what is clicked; and those that died."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from boilerd.broker.neighbours import DEAD_S
from boilerd.web.pages import workers
from boilerd.web.pages.workers import SORTS
from browser import Browser, text_of
from support import StartDaemon, wait_until


def put(connection: redis.Redis, name: str, *, seen_ago_s: float = 0.0, **fields: Any) -> None:
    """The record of a worker that has lived for 100 s."""
    now = datetime.fromtimestamp(connection.time()[0], UTC) - timedelta(seconds=seen_ago_s)
    record: dict[Any, Any] = {
        "hostname": name.partition(".")[0], "queues": "default", "state": "idle", "birthmark": "x",
        "birth": f"{now - timedelta(seconds=100):%Y-%m-%dT%H:%M:%S.%fZ}",
        "last_heartbeat": f"{now:%Y-%m-%dT%H:%M:%S.%fZ}", "successful_job_count": 0, "failed_job_count": 0,
    }  # fmt: skip
    connection.hset(f"rq:worker:{name}", mapping=record | fields)
    connection.sadd("rq:workers", f"rq:worker:{name}")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "FRESH_S", 0.0)


def names(browser: Browser, query: str = "") -> list[str]:
    return [row["name"] for row in browser.get(f"/workers.json?{query}").json()["workers"]]


def test_the_worker_that_eats_memory_is_found_by_one_click(browser: Browser, connection: redis.Redis) -> None:
    for number, rss in enumerate((50, 900, 80)):
        put(connection, f"a.run.{number}", rss=rss << 20)
    put(connection, "b.run.0", rss=1 << 20)
    put(connection, "old.run.0")
    html = browser.get("/workers").text
    (link,) = re.findall(r'href="([^"]*)">Memory</a>', html)

    clicked = browser.get(link.replace("&amp;", "&"))
    found = names(browser, link.partition("?")[2].replace("&amp;", "&"))

    assert found == ["a.run.1", "a.run.2", "a.run.0", "b.run.0", "old.run.0"]
    assert 'aria-sort="descending"' in clicked.text
    assert "900 MiB" in text_of(clicked.text)
    assert clicked.text.index("worker-a.run.1") < clicked.text.index("worker-a.run.0")


def test_an_export_has_the_workers_of_all_pages(browser: Browser, connection: redis.Redis) -> None:
    for number in range(60):
        put(connection, f"a.run.{number}")

    exported = [browser.get(f"/workers.ndjson?{query}").text.splitlines() for query in ("", "page=2", "size=20&page=3")]

    assert [len(rows) for rows in exported] == [60, 60, 20]


@pytest.mark.parametrize("column", SORTS)
@pytest.mark.parametrize("way", ["up", "down"])
def test_the_workers_are_sorted_by_any_column(column: str, way: str, browser: Browser, connection: redis.Redis) -> None:
    put(connection, "a.run.0", rss=5, cpu_ms=10_000, pool="x", state="busy", successful_job_count=3)
    put(connection, "b.run.0", seen_ago_s=5, failed_job_count=2)

    assert sorted(names(browser, f"sort={column}&way={way}")) == ["a.run.0", "b.run.0"]


def test_the_workers_of_a_host_a_pool_or_a_state_are_shown_alone(browser: Browser, connection: redis.Redis) -> None:
    put(connection, "a.run.0", pool="mail")
    put(connection, "a.run.1", state="busy")
    put(connection, "b.run.0", seen_ago_s=DEAD_S + 5, state="busy")

    assert sorted(names(browser, "host=a")) == ["a.run.0", "a.run.1"]
    assert names(browser, "pool=mail") == ["a.run.0"]
    assert names(browser, "state=busy") == ["a.run.1"]
    assert names(browser, "state=dead") == ["b.run.0"]
    assert "No worker is like this" in text_of(browser.get("/workers?host=c").text)


def test_a_worker_without_a_sign_of_life_is_dead_but_not_one_of_plain_rq(
    browser: Browser, connection: redis.Redis
) -> None:
    put(connection, "ours.run.0", seen_ago_s=DEAD_S + 5)
    put(connection, "lives.run.0", seen_ago_s=DEAD_S - 15)
    put(connection, "rq", seen_ago_s=200, birthmark="")

    found = {row["name"]: row["shown_state"] for row in browser.get("/workers.json").json()["workers"]}

    assert found == {"ours.run.0": "dead", "lives.run.0": "idle", "rq": "idle"}


def test_the_hosts_have_the_sums_of_their_workers(browser: Browser, connection: redis.Redis) -> None:
    put(connection, "small.run.0", rss=100)
    put(connection, "large.run.0", rss=300, successful_job_count=2)
    put(connection, "large.run.1", rss=500, successful_job_count=3, seen_ago_s=DEAD_S + 5)

    large, small = browser.get("/workers.json").json()["hosts"]

    assert (large["host"], large["workers"], large["dead"]) == ("large", 2, 1)
    assert (large["rss_bytes"], large["most_rss_bytes"], large["succeeded"]) == (800, 500, 5)
    assert small["host"] == "small"


def test_hundreds_of_workers_are_pages_and_one_list_for_programs(browser: Browser, connection: redis.Redis) -> None:
    for number in range(120):
        put(connection, f"h{number % 3}.run.{number}", rss=number)

    html = browser.get("/workers?sort=memory").text
    table = browser.get("/workers.csv?size=1000").text

    assert html.count('<tr id="worker-') == 50
    assert "1 to 50 of 120" in text_of(html)
    assert len(table.splitlines()) == 121


def test_without_workers_the_page_says_what_would_start_one(browser: Browser) -> None:
    assert "boilerd run" in text_of(browser.get("/workers").text)


def test_a_record_of_another_kind_is_told_and_hides_no_other(browser: Browser, connection: redis.Redis) -> None:
    put(connection, "a.run.0")
    connection.set("rq:worker:strange", "a text")
    connection.sadd("rq:workers", "rq:worker:strange")

    shown = browser.get("/workers")

    assert shown.status_code == 200
    assert "rq:worker:strange" in text_of(shown.text)
    assert "worker-a.run.0" in shown.text


def test_the_workers_of_a_daemon_tell_their_memory_cpu_and_release(browser: Browser, start_daemon: StartDaemon) -> None:
    start_daemon("--concurrency", "2", "--release", "shop-7")

    def told() -> list[dict[str, Any]]:
        rows = browser.get("/workers.json").json()["workers"]
        return [row for row in rows if row["rss_bytes"] and row["cpu_ms"] is not None and row["release"]]

    wait_until(lambda: len(told()) == 2, "both workers to tell what they take")
    first = told()[0]
    assert first["rss_bytes"] > 10 << 20
    assert first["release"] == "shop-7"
    assert first["version"]
    assert [each["release"] for each in browser.get("/types.json").json()["releases"]] == ["shop-7"]

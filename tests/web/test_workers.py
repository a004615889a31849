"""The page on workers shows what each does and takes, sorted by what is clicked; and those that died."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from boilerd import Client
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.connection import connect
from boilerd.broker.last_words import LastWords
from boilerd.broker.neighbours import DEAD_S
from boilerd.broker.overview import LivingWorker
from boilerd.errors import BrokerUnavailableError
from boilerd.web import answers, sampler
from boilerd.web.heaviest import heaviest
from boilerd.web.page import PAGES
from boilerd.web.pages import workers
from boilerd.web.pages.workers import SORTS
from browser import Browser, text_of, web_app
from proxy import Proxy
from support import StartDaemon, Valkey, wait_until


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
    monkeypatch.setattr(workers, "FRESH_TIMES", 0)


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


@pytest.mark.parametrize("path", ["/workers", "/workers/a.run.0"])
def test_a_page_of_workers_is_sent_again_where_one_is_late_but_not_for_each_heartbeat(
    path: str, browser: Browser, connection: redis.Redis
) -> None:
    tag = ""

    def beat(**fields: Any) -> tuple[int, str]:
        nonlocal tag
        put(connection, "a.run.0", birth="2026-01-31T14:00:00.000000Z", **fields)
        answer = browser.get(path, if_none_match=tag)
        tag = answer.headers["etag"]
        return answer.status_code, answer.text

    first, in_time, grown, late = (
        beat(rss=86 << 20, cpu_ms=50_000, seen_ago_s=4),
        beat(rss=(86 << 20) + 9000, cpu_ms=50_020),
        beat(rss=96 << 20, cpu_ms=50_020),
        beat(rss=96 << 20, cpu_ms=50_020, seen_ago_s=20),
    )
    (row,) = browser.get("/workers.json").json()["workers"]

    assert [first[0], in_time[0], grown[0], late[0]] == [200, 304, 200, 200]
    assert "in time" in first[1]
    assert "in time" not in late[1]
    assert (row["rss_bytes"], row["cpu_ms"]) == (96 << 20, 50_020)


def test_the_page_of_the_system_is_not_sent_again_for_what_each_poll_costs(
    browser: Browser,
) -> None:
    (page,) = [page for page in PAGES if page.path == "/system"]
    found = browser.get("/system.json").json()
    costs = {"requests": 2100, "polls": 2000, "unchanged": 1810, "commands": 30_000, "memory_bytes": 70 << 20}

    def shown(more: int, told: list[list[Any]]) -> Any:
        moved = {name: value + more for name, value in costs.items()}
        data = {
            **found,
            "server": {**found["server"], "told": told, "latency_ms": 0.1 + more / 100},
            "dashboard": {**found["dashboard"], **moved, "picture_s": 0.01 + more / 1000},
        }
        assert page.steady
        return page.steady(data)

    before = shown(0, [["Up for, s", 86_400], ["Memory, bytes", 300 << 20], ["Role", "master"], ["Clients", 5]])
    after = shown(20, [["Up for, s", 86_402], ["Memory, bytes", 301 << 20], ["Role", "master"], ["Clients", 5]])
    more = shown(20, [["Up for, s", 86_402], ["Memory, bytes", 301 << 20], ["Role", "master"], ["Clients", 6]])

    assert before == after
    assert before != more


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


# --- The dead, one worker, and the one that is far too large


def test_a_worker_has_a_page_with_what_it_takes_its_last_tasks_and_who_died_in_its_place(
    browser: Browser, connection: redis.Redis
) -> None:
    put(connection, "a.run.0", rss=900 << 20, pid=4711)
    note = '{"id":"%s","type":"mail:send","worker":"%s","started_at":1.0,"ended_at":3.5}'
    for task_id, worker in (("mine", "a.run.0"), ("other", "a.run.1")):
        connection.lpush(keys.completed("default"), note % (task_id, worker))
    connection.sadd(keys.QUEUES, keys.queue("default"))
    for worker, why in (("a.earlier.0", "signal 11 (SIGSEGV)"), ("a.run.1", "exit status 1")):
        Broker(connection).note_death(LastWords(worker, exit=why, task_id="order-7").encoded())

    data = browser.get("/workers/a~2Erun~2E0.json").json()
    page = text_of(browser.get("/workers/a~2Erun~2E0").text)

    assert [each["id"] for each in data["tasks"]] == ["mine"]
    assert [each["worker"] for each in data["deaths"]["before"]] == ["a.earlier.0"]
    assert "900 MiB" in page
    assert "2.5 s" in page
    assert "signal 11 (SIGSEGV)" in page


def test_a_worker_that_died_has_a_page_and_one_that_never_was_has_none(
    browser: Browser, connection: redis.Redis
) -> None:
    Broker(connection).note_death(LastWords("a.run.0", exit="exit status 1").encoded())

    gone, unknown = browser.get("/workers/a~2Erun~2E0"), browser.get("/workers/a~2Erun~2E1")

    assert (gone.status_code, unknown.status_code) == (200, 404)
    assert "It has ended" in text_of(gone.text)


def test_the_dead_are_listed_by_when_by_memory_and_as_a_table_for_programs(
    browser: Browser, connection: redis.Redis
) -> None:
    for number, rss in enumerate((5, 900, 80)):
        Broker(connection).note_death(LastWords(f"a.run.{number}", rss_bytes=rss << 20).encoded())

    latest, largest = ([each["worker"] for each in browser.get(f"/workers/dead.json{query}").json()["deaths"]]
                       for query in ("", "?sort=memory"))  # fmt: skip
    table = browser.get("/workers/dead.csv").text

    assert (latest, largest) == (["a.run.2", "a.run.1", "a.run.0"], ["a.run.1", "a.run.2", "a.run.0"])
    assert len(table.splitlines()) == 4
    assert "The last of 3 workers that died" in text_of(browser.get("/workers").text)


def test_a_key_of_another_kind_hides_the_dead_and_no_worker(browser: Browser, connection: redis.Redis) -> None:
    put(connection, "a.run.0")
    connection.set(keys.DEATHS, "a text")

    shown, one = browser.get("/workers"), browser.get("/workers/a~2Erun~2E0")

    assert (shown.status_code, one.status_code) == (200, 200)
    assert "boilerd:deaths" in text_of(shown.text)
    assert "worker-a.run.0" in shown.text


def test_the_first_page_names_a_worker_that_takes_far_more_memory_and_leads_to_it(
    browser: Browser, connection: redis.Redis
) -> None:
    for number, rss in enumerate((50, 900, 80)):
        put(connection, f"a.run.{number}", rss=rss << 20)

    page = browser.get("/").text

    (link,) = re.findall(r'<a href="([^"]*)">Worker a.run.1 takes 900 MiB of memory</a>', page)
    assert names(browser, link.partition("?")[2])[0] == "a.run.1"


@pytest.mark.parametrize(("sizes", "found"), [
    ((), None), ((900,), None), ((50, 60, 100), None), ((300, 400, 500), None), ((50, 60, 200), 200),
    ((0, 0, 900), None), ((0, 50, 900), 900),
])  # fmt: skip
def test_a_worker_is_far_too_large_by_what_the_others_take(sizes: tuple[int, ...], found: int | None) -> None:
    living = [LivingWorker("h", "idle", size << 20, f"w{size}") for size in sizes]

    most = heaviest(living)

    assert (most and most.mib) == found


def test_the_page_of_five_hundred_workers_stays_small(browser: Browser, connection: redis.Redis) -> None:
    broker = Broker(connection)
    for number in range(500):
        queues, host = ["critical", "default", "low", "mail"], f"host-{number % 25}"
        fields: dict[str, Any] = {
            "queues": ",".join(queues),
            "hostname": host,
            "rss": number << 20,
            "cpu_ms": 5000,
            "state": "busy",
        }
        broker.register(f"{host}.run.{number}", queues, fields)
        broker.note_death(LastWords(f"{host}.run.{number}", task_id="t").encoded())

    page = browser.get("/workers?sort=memory").text

    assert "1 to 50 of 500" in text_of(page)
    assert len(re.findall("<[a-z]", page)) <= 1500


def test_what_the_dashboard_costs_is_counted(connection: redis.Redis, valkey: Valkey) -> None:
    with connect(valkey.url) as counted, Browser(web_app(counted)) as browser:
        browser.get("/queues")
        before, calls = browser.get("/system.json").json()["dashboard"], connection.info("stats")
        browser.get("/workers")
        browser.get("/queues", boilerd_live="1")
        after, later = browser.get("/system.json").json()["dashboard"], connection.info("stats")

    sent = later["total_commands_processed"] - calls["total_commands_processed"]
    assert after["requests"] - before["requests"] == 3
    assert after["polls"] - before["polls"] == 1
    assert 0 < after["commands"] - before["commands"] <= sent + 20


def test_the_system_tells_when_redis_was_away_once_it_is_back(
    directory: Path, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "FRESH_S", 0.0)
    with Proxy(directory, valkey.socket) as proxy, connect(proxy.url) as cut, Browser(web_app(cut)) as browser:
        before = browser.get("/system")
        proxy.refuse()
        wait_until(lambda: browser.get("/system").status_code == 503, "Redis is away")
        proxy.accept()
        wait_until(lambda: browser.get("/system").status_code == 200, "Redis is back")
        (found,) = browser.get("/system.json").json()["outages"]
        shown = text_of(browser.get("/system").text)

    assert "Redis answered it whenever somebody looked." in before.text
    assert found["since"] <= found["last"] < found["until"]
    assert found["why"]
    assert "When Redis was away from it" in shown


@pytest.mark.parametrize("path", ["/failures", "/audit.csv", "/tasks/a.json"])
def test_an_outage_is_known_by_whatever_somebody_looked_at(
    path: str, directory: Path, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "FRESH_S", 0.0)
    with Proxy(directory, valkey.socket) as proxy, connect(proxy.url) as cut, Browser(web_app(cut)) as browser:
        browser.get("/system")
        proxy.refuse()
        failed = browser.get(path)
        proxy.accept()
        wait_until(lambda: browser.get("/system").status_code == 200, "Redis is back")
        found = browser.get("/system.json").json()["outages"]

    assert failed.status_code == 503
    assert len(found) == 1


def test_an_outage_is_known_by_an_export_that_it_has_cut(
    directory: Path, client: Client, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "FRESH_S", 0.0)
    client.enqueue_many([("test:echo", number) for number in range(2000)])
    written = answers._csv
    with Proxy(directory, valkey.socket) as proxy, connect(proxy.url) as cut, Browser(web_app(cut)) as browser:

        def write_and_cut(*args: Any) -> str:
            proxy.refuse()
            return written(*args)

        monkeypatch.setattr(answers, "_csv", write_and_cut)
        with pytest.raises(BrokerUnavailableError):
            browser.get("/tasks.csv?queue=default&state=pending")
        proxy.accept()
        wait_until(lambda: browser.get("/system").status_code == 200, "Redis is back")
        found = browser.get("/system.json").json()["outages"]

    assert len(found) == 1


def test_commands_of_an_applications_own_client_are_not_counted(valkey: Valkey) -> None:
    with redis.Redis.from_url(valkey.url) as own, Browser(web_app(own)) as browser:
        assert browser.get("/system.json").json()["dashboard"]["commands"] is None
        assert "not counted" in text_of(browser.get("/system").text)


@pytest.mark.parametrize("path", ["/system", "/workers", "/workers/dead"])
def test_a_page_says_what_a_user_of_redis_may_not_read_and_works_on_a_replica(
    path: str, connection: redis.Redis, valkey: Valkey
) -> None:
    asked: Any = connection
    asked.execute_command("ACL", "SETUSER", "look", "on", ">x", "~*", "&*", "+@all", "-info", "-slowlog", "-config")
    connection.replicaof("127.0.0.1", 1)  # where nobody listens

    try:
        with connect(f"{valkey.url}?username=look&password=x") as own, Browser(web_app(own)) as browser:
            page = browser.get(path)
    finally:
        connection.replicaof("NO", "ONE")
        asked.execute_command("ACL", "DELUSER", "look")

    assert page.status_code == 200
    assert ("This user of Redis may not ask it" in page.text) is (path == "/system")

"""Charts are pictures of a handful of elements, with a title, whatever their values."""

import math
import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
import redis

from boilerd import Client, Inspector
from boilerd.broker.broker import Broker
from boilerd.tasks.metric_record import ENQUEUED
from boilerd.web import lately
from boilerd.web.charts import bars, heat, lines, sparkline, tallied
from boilerd.web.lately import Counts, Lately, Minute, of_late, pace_of
from browser import Browser, text_of
from builders import complete_next, count_in_minute, counted, enqueue, fail_as, failure_kind

AT = datetime(2026, 1, 1, tzinfo=UTC)


def numbers_in(svg: str) -> list[float]:
    return [float(found) for drawn in re.findall(r' d="([^"]*)"', svg) for found in re.findall(r"-?[\d.]+", drawn)]


@pytest.mark.parametrize("values", [[], [0], [None], [5], [0, 0], [1, None, 2.5, 1e12], [1e-9] * 1000], ids=str)
def test_a_chart_of_any_values_stays_inside_its_picture(values: list[float | None]) -> None:
    for svg in (sparkline(values, "x"), bars(values, "x"), lines({"a": values, "b": []}, "x")):
        assert svg.count("<title>") == 1
        assert len(re.findall("<path", svg)) <= 2
        assert all(-1 <= number <= max(100, len(values)) for number in numbers_in(svg))
        assert "nan" not in svg
        assert "inf" not in svg


def test_the_label_of_a_chart_is_text() -> None:
    svg = sparkline([1], "<script>\u202e\0")

    assert "<title>&lt;script&gt;\\u202e\\x00</title>" in svg


def test_words_are_tallied_in_the_order_in_which_they_come() -> None:
    assert tallied(["gone", "completed", "gone"]) == "2 gone, 1 completed"
    assert tallied([]) == ""


def test_a_value_that_is_not_known_leaves_a_gap() -> None:
    svg = lines({"a": [1, None, 1, 1]}, "x")

    assert re.findall(r"[ML]", svg.partition(' d="')[2].partition('"')[0]) == ["M", "M", "L"]


def test_a_heat_map_has_the_stronger_shades_the_more_there_are() -> None:
    svg = heat([[1, 0], [100, 25]], [0.001, 0.0025, 0.005], "x", {"p50": [0.001, 0.005]})

    assert re.findall(r'class="heat heat-(\d)"', svg) == ["1", "3", "5"]
    assert "M0 50h1v50h-1z" in svg  # one value, in the lowest bucket of the first moment
    assert ' d="M0.5 100h.01L1.5 0"' in svg


@pytest.mark.parametrize("edges", [[], [0.0, 0.001], [0.1, math.inf]], ids=str)
def test_a_heat_map_of_any_edges_can_be_drawn(edges: list[float]) -> None:
    svg = heat([[3]], edges, "x", {"p50": [0.0], "p95": [7.0], "p99": [None]}, [0.5])

    assert "nan" not in svg
    assert 'class="mark-line"' in svg


def minutes(**counts: Counts) -> list[Minute]:
    return [Minute(AT + timedelta(minutes=number), counts) for number in range(lately.PACE_MINUTES)]


@pytest.mark.parametrize(
    ("pending", "counts", "word", "drained_s"),
    [
        (0, Counts(enqueued=9), "empty", None),
        (100, Counts(), "stands still", None),
        (100, Counts(enqueued=9, left=9), "steady", None),
        (100, Counts(enqueued=9, left=4), "grows", None),
        (100, Counts(enqueued=5, left=15), "drains", 600.0),
        (100, Counts(ended=50), "stands still", None),
    ],
)
def test_how_a_queue_changes_follows_from_what_comes_and_what_is_done_with(
    pending: int, counts: Counts, word: str, drained_s: float | None
) -> None:
    found = pace_of(pending, of_late(minutes(q=counts, other=Counts(left=1000)), "q"))

    assert (found.word, found.drained_s) == (word, drained_s)


def test_the_overview_has_the_last_hours_by_minute(browser: Browser, client: Client, connection: redis.Redis) -> None:
    this = int(connection.time()[0]) // 60
    count_in_minute(connection, this - 170, "low", "a", counted(5))
    count_in_minute(connection, this - 5, "default", "a", counted(30, archived=10))

    found = browser.get("/overview.json").json()
    html = browser.get("/").text

    assert len(found["minutes"]) == lately.MINUTES
    assert sum(minute["ended"] for minute in found["minutes"]) == 45
    assert sum(minute["failed"] for minute in found["minutes"]) == 10
    assert "45 tasks were enqueued, 45 attempts ended and 10 failed" in html
    assert "As table" in text_of(html)
    assert "In the last 60 whole minutes 40 tasks were enqueued" in text_of(html)


def test_what_a_chart_tells_those_who_do_not_see_it_is_of_what_and_of_which_time(
    browser: Browser, client: Client, broker: Broker
) -> None:
    enqueue(client, "done")
    complete_next(broker)
    fail_as(broker, "failed", failure_kind())

    queue, failures = (browser.get(path).text for path in ("/queues/default", "/failures"))

    assert "<title>Attempts in the last 90 days: 2 ended, 1 failed</title>" in queue
    assert "<title>Failed attempts: 1 in the last 48 hours, 1 in the worst of them</title>" in failures


def test_a_queues_row_says_when_it_is_drained(browser: Browser, client: Client, connection: redis.Redis) -> None:
    enqueue(client, "a", "b")
    this = int(connection.time()[0]) // 60
    for back in range(1, 20):
        record = {key: count for key, count in counted(30).items() if key != ENQUEUED}
        count_in_minute(connection, this - back, "default", "a", record)

    found = browser.get("/queues.json").json()["queues"][0]
    shown = text_of(browser.get("/queues").text)

    assert (found["pace"], found["drained_s"]) == ("drains", 4.0)
    assert sum(found["ended_by_minute"]) == 19 * 30
    assert "about 4 s" in shown


def test_minutes_that_are_over_are_read_once(connection: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lately, "FRESH_S", 0.0)
    this = int(connection.time()[0]) // 60
    count_in_minute(connection, this - 100, "default", "a", counted(1))
    count_in_minute(connection, this - 2, "default", "a", counted(1))
    reader = Lately(Inspector(connection))
    reader.read()
    count_in_minute(connection, this - 2, "low", "a", counted(1))
    before = scans(connection)

    found = reader.read()

    assert sum(minute.total().ended for minute in found) == 3
    assert scans(connection) - before <= 6
    assert found == reader.read()


@pytest.mark.parametrize(
    ("minutes", "fails"),
    [({9: (10, 9), 3: (1, 6)}, True), ({9: (20, 9), 3: (1, 6)}, False), ({0: (0, 20)}, True), ({16: (0, 20)}, False)],
)
def test_whether_a_type_fails_much_is_told_of_a_quarter_of_an_hour_together(
    connection: redis.Redis, minutes: dict[int, tuple[int, int]], fails: bool
) -> None:
    this = int(connection.time()[0]) // 60
    for back, (completed, archived) in minutes.items():
        count_in_minute(connection, this - back, "default", "a", counted(completed, archived=archived))
        count_in_minute(connection, this - back, "default", "sound", counted(50))
    reader = Lately(Inspector(connection))
    reader.read()

    found = reader.has_failing()

    assert found is fails


def test_many_minutes_with_many_types_are_read_in_several_parts(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lately, "FRESH_S", 0.0)
    monkeypatch.setattr(lately, "MOST_RECORDS", 0)
    this = int(connection.time()[0]) // 60
    for back in (2, 10, 20, 170):
        count_in_minute(connection, this - back, "default", "a", counted(1))
    reader = Lately(Inspector(connection))

    parts = [reader.read() for _ in range(lately.MINUTES // lately.AT_ONCE + 1)]

    assert [len(part) for part in parts[:2]] == [lately.PACE_MINUTES, lately.PACE_MINUTES + lately.AT_ONCE]
    assert sum(minute.total().ended for minute in parts[0]) == 2
    assert len(parts[-1]) == lately.MINUTES
    assert sum(minute.total().ended for minute in parts[-1]) == 4
    assert all(later.start - one.start == timedelta(minutes=1) for one, later in pairwise(parts[-1]))


def test_another_programs_key_in_the_place_of_a_minute_hides_no_other(
    browser: Browser, connection: redis.Redis
) -> None:
    this = int(connection.time()[0]) // 60
    connection.set(f"boilerd:metrics:minute:{this - 7}", "a text")
    count_in_minute(connection, this - 5, "default", "a", counted(3))

    answer = browser.get("/overview.json")

    assert sum(minute["ended"] for minute in answer.json()["minutes"]) == 3


def test_a_user_of_redis_who_may_not_read_metrics_sees_the_queues(
    browser: Browser, client: Client, connection: redis.Redis
) -> None:
    enqueue(client, "a")
    server: Any = connection
    server.execute_command("ACL", "SETUSER", "default", "-hscan")

    try:
        shown = browser.get("/queues")
    finally:
        server.execute_command("ACL", "SETUSER", "default", "+@all")

    assert shown.status_code == 200
    assert 'href="/queues/default"' in shown.text


def scans(connection: redis.Redis) -> int:
    return int(connection.info("commandstats").get("cmdstat_hscan", {"calls": 0})["calls"])

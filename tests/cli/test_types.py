"""``boilerd types``: what it shows of metrics, as a table and as JSON."""

import json
from typing import Any

import pytest
import redis

from boilerd.broker import keys
from boilerd.cli.tables import brief, pace
from boilerd.tasks.metric_record import OUTCOME_KEYS
from builders import count_in_minute, counted
from support import Valkey, shown_by


@pytest.fixture
def minute(connection: redis.Redis) -> int:
    """One that is over."""
    return int(connection.time()[0]) // 60 - 5


def lines(valkey: Valkey, *words: str) -> list[dict[str, Any]]:
    printed = shown_by("types", "--json", "--redis-url", valkey.url, *words)
    return [json.loads(line) for line in printed.splitlines()]


def test_each_type_has_a_line_the_one_that_takes_most_time_first(
    valkey: Valkey, connection: redis.Redis, minute: int
) -> None:
    count_in_minute(connection, minute, "default", "email:send", counted(30))
    count_in_minute(connection, minute, "low", "email:send", counted(30))
    count_in_minute(connection, minute, "low", "report", counted(15, archived=5, run_s=10))

    head, *rows = [line.split() for line in shown_by("types", "--redis-url", valkey.url).splitlines()]

    assert head[:3] == ["TYPE", "RATE", "FAILED"]
    assert [(row[0], row[2]) for row in rows] == [("report", "25.00%"), ("email:send", "0.00%")]
    assert 19.6 < float(rows[0][1].removesuffix("/h")) <= 20
    assert rows[0][3] == "20ms"
    assert rows[0][6:] == ["8.8s", "9.9s", "10.0s", "10s", "94.3%", "100", "B", "low"]
    assert rows[1][-4:] == ["100", "B", "default,", "low"]


def test_as_json_a_type_has_all_numbers(valkey: Valkey, connection: redis.Redis, minute: int) -> None:
    count_in_minute(connection, minute, "default", "a", counted(3, archived=1))
    count_in_minute(connection, minute, "default", "b", counted(4))

    (found, _) = lines(valkey)

    assert (found["type"], found["queues"], found["enqueued"], found["failed_share"]) == ("a", ["default"], 4, 0.25)
    assert found["attempts"] == dict.fromkeys(OUTCOME_KEYS, 0) | {"completed": 3, "archived": 1}
    assert found["time_share"] == 0.5
    assert found["run_s"] == found["run_s"] | {"count": 4, "mean": 0.2, "max": 0.2}
    assert 0.15 < found["run_s"]["p50"] < found["run_s"]["p99"] <= 0.2
    assert (found["payload_bytes"]["mean"], found["payload_bytes"]["max"]) == (100, None)
    assert 3600 <= found["lasting_s"] <= 3660


def test_one_type_is_shown_over_time(valkey: Valkey, connection: redis.Redis, minute: int) -> None:
    count_in_minute(connection, minute, "default", "a", counted(3))
    count_in_minute(connection, minute + 1, "low", "a", counted(1))
    count_in_minute(connection, minute + 1, "low", "b", counted(7))

    text = shown_by("types", "a", "--since", "10m", "--redis-url", valkey.url).splitlines()
    found = lines(valkey, "a", "--since", "10m")

    assert len(text) == len(found) + 1 == 12
    assert text[0].split()[:4] == ["FROM", "ENDED", "RATE", "FAILED"]
    assert [period["attempts"]["completed"] for period in found if period["enqueued"]] == [3, 1]
    assert {period["step_s"] for period in found} == {60}


@pytest.mark.parametrize(
    ("since", "step_s", "most"),
    [("1h", 60, 61), ("3h", 600, 19), ("12h", 600, 73), ("24h", 3600, 25), ("72h", 3600, 73), ("1000h", 86400, 43)],
)
def test_there_are_so_few_periods_that_one_can_read_them(valkey: Valkey, since: str, step_s: int, most: int) -> None:
    found = lines(valkey, "a", "--since", since)

    assert {period["step_s"] for period in found} == {step_s}
    assert most - 1 <= len(found) <= most


def test_a_queue_is_shown_alone(valkey: Valkey, connection: redis.Redis, minute: int) -> None:
    count_in_minute(connection, minute, "default", "a", counted(3))
    count_in_minute(connection, minute, "low", "a", counted(1))

    (found,) = lines(valkey, "--queue", "low")

    assert (found["queues"], found["attempts"]["completed"], found["time_share"]) == (["low"], 1, 1)


def test_a_terminal_obeys_no_name_of_a_type(valkey: Valkey, connection: redis.Redis, minute: int) -> None:
    count_in_minute(connection, minute, "default", "a\x1b[2J\udcff", counted(1))

    text = shown_by("types", "--redis-url", valkey.url)
    (found,) = lines(valkey)

    assert "a\\x1b[2J\\udcff" in text
    assert found["type"] == "a\x1b[2J\udcff"


def test_without_metrics_the_table_is_empty(valkey: Valkey) -> None:
    assert len(shown_by("types", "--redis-url", valkey.url).splitlines()) == 1
    assert lines(valkey) == []


@pytest.mark.parametrize(
    ("words", "sought"),
    [
        (["email:snd"], "type 'email:snd'"),
        (["--queue", "lwo"], "queue 'lwo'"),
        (["email:send", "--queue", "lwo"], "type 'email:send' in queue 'lwo'"),
    ],
)
def test_where_nothing_was_counted_the_types_and_queues_are_told_of_which_there_is_something(
    valkey: Valkey, connection: redis.Redis, minute: int, words: list[str], sought: str
) -> None:
    count_in_minute(connection, minute, "low", "email:send", counted(3))

    last = shown_by("types", *words, "--redis-url", valkey.url).splitlines()[-1]

    assert last == f"note: nothing of {sought} was counted in this time, but of email:send (low)"


def test_a_type_of_which_nothing_was_counted_has_a_note_and_no_empty_table(valkey: Valkey) -> None:
    shown = shown_by("types", "email:snd", "--redis-url", valkey.url).splitlines()

    assert shown == ["note: nothing of type 'email:snd' was counted in this time, nor of any other"]
    assert len(lines(valkey, "email:snd")) >= 60


def test_where_nothing_at_all_was_counted_the_note_says_so(valkey: Valkey) -> None:
    last = shown_by("types", "--queue", "low", "--redis-url", valkey.url).splitlines()[-1]

    assert last == "note: nothing of queue 'low' was counted in this time, nor of any other"


def test_what_is_left_out_is_told_and_the_rest_is_shown(valkey: Valkey, connection: redis.Redis, minute: int) -> None:
    count_in_minute(connection, minute, "default", "a", counted(3))
    for number in range(1, 6):
        connection.rpush(keys.metrics("minute", minute - number), "x")

    shown = shown_by("types", "--redis-url", valkey.url).splitlines()

    assert shown[1].startswith("a ")
    assert [line.partition(":")[0] for line in shown[2:]] == ["left out"] * 3


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0, "0.0ms"), (0.00034, "0.3ms"), (0.0123, "12ms"), (0.4504, "450ms"), (1.24, "1.2s"), (200.0, "3m")],
)
def test_times_are_short(seconds: float, shown: str) -> None:
    assert brief(seconds) == shown


@pytest.mark.parametrize(
    ("count", "seconds", "shown"),
    [
        (0, 60, ""), (5, 0, ""), (120, 60, "2.0/s"), (60, 60, "1.0/s"), (59, 60, "59.0/min"), (1, 60, "1.0/min"),
        (1, 3600, "1.0/h"), (100_000, 10, "10,000.0/s"),
    ],
)  # fmt: skip
def test_rates_are_in_the_unit_that_one_can_imagine(count: int, seconds: float, shown: str) -> None:
    assert pace(count, seconds) == shown

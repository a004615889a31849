"""Pauses with a note and an end: who sees them, and who resumes what."""

import json
import logging
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result

from boilerd import Client, Inspector, InvalidTaskError
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.cli import boilerd as main
from boilerd.scheduler.pause_watch import PauseWatch
from builders import claim_batch, enqueue, new_task, pending, tell_cron
from support import Valkey

HOUR = timedelta(hours=1)


@pytest.fixture
def inspector(connection: redis.Redis) -> Inspector:
    return Inspector(connection)


def end(connection: redis.Redis, field: str, ago_s: float = 1.0) -> float:
    """Put the end of a pause before now."""
    told = json.loads(connection.hget(keys.PAUSES, field) or b"")
    told["until"] = connection.time()[0] - ago_s
    connection.hset(keys.PAUSES, field, json.dumps(told))
    return float(told["until"])


def test_a_queue_is_open_again_when_its_pause_has_come_to_its_end(
    inspector: Inspector, broker: Broker, client: Client, connection: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    watch = PauseWatch(broker)
    enqueue(client, "waits")
    inspector.pause("default", note="the mail server moves", until=HOUR)

    watch.look()
    before = claim_batch(broker)
    (pause,) = inspector.pauses()
    end(connection, "queue:default")
    connection.delete(keys.bell("default"))
    watch.look()

    assert before == []
    assert (pause.kind, pause.name, pause.note) == ("queue", "default", "the mail server moves")
    assert pause.until is not None
    assert abs(pause.until - datetime.now(UTC) - HOUR) < timedelta(minutes=1)
    assert [each.task_id for each in claim_batch(broker)] == ["waits"]
    assert connection.llen(keys.bell("default")) == 128
    assert inspector.pauses() == []
    (line,) = [each for each in caplog.records if each.message == "pause has come to its end"]
    assert line.queue == "default"  # type: ignore[attr-defined]


def test_the_first_tick_that_is_not_before_the_end_has_a_task_though_no_scheduler_has_looked(
    inspector: Inspector, broker: Broker, connection: redis.Redis
) -> None:
    tell_cron(broker)
    inspector.pause_cron("nightly", until=HOUR)
    until = end(connection, "cron:nightly", ago_s=10)

    broker.tick("nightly", until - 1, new_task("before"))
    broker.tick("nightly", until, new_task("after"))

    assert pending(connection) == ["after"]
    assert inspector.paused_crons() == {}
    assert [tick.skipped for tick in inspector.ticks("nightly")] == ["", "it is paused"]


def test_a_pause_that_is_made_again_has_the_note_and_end_of_the_last_time(
    inspector: Inspector, broker: Broker, connection: redis.Redis
) -> None:
    tell_cron(broker)
    inspector.pause_cron("nightly", note="first", until=HOUR)

    is_new = inspector.pause_cron("nightly")
    again = inspector.pauses()
    inspector.pause_cron("nightly", until=HOUR)
    end(connection, "cron:nightly")

    assert (is_new, again) == (False, [])
    assert inspector.pause_cron("nightly") is True  # that one was over
    assert inspector.paused_crons().keys() == {"nightly"}


def test_what_is_resumed_by_hand_leaves_no_note(inspector: Inspector, broker: Broker) -> None:
    tell_cron(broker)
    inspector.pause("default", note="why")
    inspector.pause_cron("nightly", note="why")

    inspector.resume("default")
    inspector.resume_cron("nightly")

    assert inspector.pauses() == []


@pytest.mark.parametrize(
    "said",
    [
        {"until": timedelta(0)},
        {"until": datetime(2020, 1, 1, tzinfo=UTC)},
        {"until": datetime(2090, 1, 1)},  # noqa: DTZ001 - it has no zone
        {"until": datetime(9999, 12, 31, 23, tzinfo=timezone(-HOUR))},
        {"until": timedelta.max},
        {"note": "x" * 501},
    ],
    ids=["no time", "past", "no zone", "year 10000", "ages", "long"],
)
def test_an_end_that_is_past_and_a_long_note_pause_nothing(
    said: dict[str, Any], inspector: Inspector, connection: redis.Redis
) -> None:
    with pytest.raises(InvalidTaskError, match=next(iter(said))):
        inspector.pause("default", **said)

    assert connection.smembers(keys.PAUSED) == set()
    assert connection.exists(keys.PAUSES) == 0


@pytest.mark.parametrize("value", ["no json", "[]", '{"until": "soon"}', '{"until": 1e300}', b"\xff", "[" * 5000])
def test_a_strangers_pause_ends_nothing_and_hides_no_other(
    value: Any, inspector: Inspector, broker: Broker, connection: redis.Redis
) -> None:
    inspector.pause("low", note="why")
    inspector.pause("default")
    connection.hset(keys.PAUSES, "queue:default", value)

    broker.end_pauses()

    assert [pause.name for pause in inspector.pauses() if pause.note] == ["low"]
    assert connection.smembers(keys.PAUSED) == {b"low", b"default"}


def test_a_foreign_key_keeps_no_tick_and_no_watch(
    broker: Broker, inspector: Inspector, connection: redis.Redis
) -> None:
    tell_cron(broker)
    inspector.pause_cron("nightly")
    connection.set(keys.PAUSES, "foreign")

    broker.tick("nightly", broker.now(), new_task("task"))

    assert broker.end_pauses() == []
    assert pending(connection) == []


def test_a_foreign_key_keeps_no_queue_and_no_tick_from_a_pause_that_says_nothing_and_from_its_end(
    inspector: Inspector, broker: Broker, client: Client, connection: redis.Redis
) -> None:
    enqueue(client, "waits")
    tell_cron(broker)
    connection.set(keys.PAUSES, "foreign")

    paused = inspector.pause("default"), inspector.pause_cron("nightly")
    connection.delete(keys.bell("default"))
    resumed = inspector.resume("default"), inspector.resume_cron("nightly")

    assert (paused, resumed) == ((True, True), (True, True))
    assert connection.llen(keys.bell("default")) == 128
    assert connection.get(keys.PAUSES) == b"foreign"
    assert {entry.outcome for entry in inspector.audit()} == {"done"}


def test_commands_pause_with_a_note_and_an_end_and_resume(
    valkey: Valkey, broker: Broker, client: Client, inspector: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOILERD_REDIS_URL", valkey.url)
    monkeypatch.setenv("BOILERD_APP", "")
    tell_cron(broker)
    enqueue(client, "task")

    def run(*words: str) -> Result:
        return CliRunner().invoke(main, words, catch_exceptions=False)

    done = [
        run("cron", "pause", "nightly", "--note", "rebuilt", "--until", "2h"),
        run("queue", "pause", "default", "--until", "2090-01-31T08:00Z"),
    ]
    pauses = {(each.kind, each.note, each.until and each.until.year == 2090) for each in inspector.pauses()}
    listed = run("cron", "ls").stdout
    done += [run("cron", "resume", "nightly"), run("cron", "resume", "nightly")]

    assert [each.exit_code for each in done] == [0] * 4
    assert pauses == {("cron", "rebuilt", False), ("queue", "", True)}
    assert "paused until" in listed
    assert "rebuilt" in listed
    assert "periodic task nightly was not paused" in done[-1].stderr
    assert inspector.audit()[0].on == {"cron": "nightly", "note": "rebuilt", "until": inspector.audit()[0].on["until"]}
    assert run("queue", "pause", "default", "--until", "soon").exit_code == 2

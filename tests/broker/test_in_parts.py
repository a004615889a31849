"""Pipelines in parts: Redis serves others in between, and the answers are as those of a whole one."""

from types import SimpleNamespace
from typing import Any

import pytest
import redis

import boilerd.web
from boilerd.broker import keys
from boilerd.broker.in_parts import AT_ONCE, in_parts
from boilerd.exporter.snapshot import Reader
from boilerd.settings.definitions import Settings
from boilerd.verdict.facts import Silence
from browser import Browser
from support import Valkey


def reads(connection: redis.Redis) -> int:
    """How often Redis has read what a client sent: it works that off before it serves another."""
    return int(connection.info("stats")["total_reads_processed"])


@pytest.fixture
def own(connection: redis.Redis) -> redis.Redis:
    return in_parts(connection)


def test_others_get_their_turn_between_the_parts_of_a_long_pipeline(own: redis.Redis) -> None:
    before = reads(own)

    with own.pipeline(transaction=False) as pipeline:
        for number in range(3 * AT_ONCE + 1):
            pipeline.echo(str(number))
        answers = pipeline.execute()

    assert answers == [str(number).encode() for number in range(3 * AT_ONCE + 1)]
    assert reads(own) - before == 4 + 1  # and that of INFO


def test_an_error_of_one_command_keeps_none_from_being_sent_and_is_told_with_its_number(own: redis.Redis) -> None:
    own.set("text", "no list")

    with own.pipeline(transaction=False) as pipeline:
        for _ in range(AT_ONCE):
            pipeline.incr("count")
        pipeline.lpush("text", "x")
        for _ in range(AT_ONCE):
            pipeline.incr("count")
        with pytest.raises(redis.ResponseError, match=f"Command # {AT_ONCE + 1} "):
            pipeline.execute()

    assert own.get("count") == str(2 * AT_ONCE).encode()


def test_a_transaction_stays_whole(own: redis.Redis) -> None:
    own.config_resetstat()

    with own.pipeline() as pipeline:
        for _ in range(2 * AT_ONCE):
            pipeline.incr("count")
        answers = pipeline.execute()

    assert answers == [*range(1, 2 * AT_ONCE + 1)]
    assert own.info("commandstats")["cmdstat_exec"]["calls"] == 1


def test_a_scrape_of_the_exporters_asks_in_parts(
    valkey: Valkey, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection.sadd(keys.WORKERS, *(keys.worker(f"w{each}") for each in range(100)))
    asleep = SimpleNamespace(info={}, processes=(), silence="not asked", cause=Silence.ABSENT)
    reader = Reader(Settings(redis_url=valkey.url), connection, lambda: asleep)
    reader.read()

    def reads_of(at_once: int) -> int:
        monkeypatch.setattr("boilerd.broker.in_parts.AT_ONCE", at_once)
        before = reads(connection)
        reader.read()
        return reads(connection) - before

    assert reads_of(1) >= reads_of(200) + 99  # each worker is asked for by a command


def test_the_dashboard_asks_in_parts_but_not_on_a_client_of_an_applications_own(
    valkey: Valkey, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boilerd.broker.in_parts.AT_ONCE", 1)
    connection.sadd(keys.QUEUES, *(keys.queue(f"q{each:02}") for each in range(50)))

    def reads_of(**options: Any) -> int:
        with Browser(boilerd.web.app(Settings(redis_url=valkey.url), authorize=None, **options)) as browser:
            before = reads(connection)
            assert len(browser.get("/queues.json").json()["queues"]) == 50
            return reads(connection) - before

    own, applications = reads_of(), reads_of(connection=connection)

    assert own > applications + 2 * 50  # each queue is asked for by several commands

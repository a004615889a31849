"""The scheduler tells what the daemon is, and keeps it true; that is worth no failure of another duty."""

import os
from collections.abc import Mapping

import pytest
import redis

from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.connection import text
from boilerd.process.scoreboard import Scoreboard
from boilerd.scheduler.publisher import PUBLISH_EVERY_S, Publisher

ROWS = 4


class Facts:
    """Tells how many workers the groups have; counts how often it was asked."""

    name = "host.run"

    def __init__(self) -> None:
        self.asked = 0

    def encoded(self, processes: Mapping[str, int]) -> str:
        self.asked += 1
        return f'{{"host": "{sorted(processes.items())}"}}'


@pytest.fixture
def scoreboard() -> Scoreboard:
    board = Scoreboard()
    for row in range(2):
        board.put(row, os.getpid())
        board.note_group(row, "worker")
    return board


@pytest.fixture
def facts() -> Facts:
    return Facts()


@pytest.fixture
def publisher(broker: Broker, scoreboard: Scoreboard, facts: Facts) -> Publisher:
    return Publisher(broker, scoreboard, ROWS, facts)


def told(connection: redis.Redis) -> str:
    return text(connection.get(keys.daemon("host.run")) or b"")


def test_the_facts_are_sent_once_and_then_renewed(publisher: Publisher, facts: Facts, connection: redis.Redis) -> None:
    publisher.publish()
    connection.expire(keys.daemon("host.run"), 5)

    due_in_s = publisher.publish()

    assert (told(connection), facts.asked) == ('{"host": "[(\'worker\', 2)]"}', 1)
    assert connection.ttl(keys.daemon("host.run")) > 5
    assert due_in_s == PUBLISH_EVERY_S


def test_they_are_sent_again_when_a_pool_has_changed_or_redis_has_lost_them(
    publisher: Publisher, scoreboard: Scoreboard, connection: redis.Redis
) -> None:
    publisher.publish()
    scoreboard.put(2, os.getpid())
    scoreboard.note_group(2, "mail")
    publisher.publish()
    grown = told(connection)
    connection.flushall()

    publisher.publish()

    assert grown == told(connection) == "{\"host\": \"[('mail', 1), ('worker', 2)]\"}"


def test_they_are_withdrawn_when_the_last_worker_has_ended(
    publisher: Publisher, scoreboard: Scoreboard, connection: redis.Redis
) -> None:
    publisher.publish()
    publisher.withdraw()
    is_kept = bool(told(connection))
    for row in range(2):
        scoreboard.clear(row, 0)

    publisher.withdraw()

    assert is_kept
    assert connection.keys("*") == []


def test_a_redis_that_refuses_them_is_told_once_and_fails_no_duty(
    publisher: Publisher, connection: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    connection.config_set("min-replicas-to-write", 1)
    try:
        due_in_s = [publisher.publish(), publisher.publish()]
    finally:
        connection.config_set("min-replicas-to-write", 0)
    publisher.publish()

    assert due_in_s == [PUBLISH_EVERY_S] * 2
    assert [record.message for record in caplog.records] == ["facts about the daemon are not published"]
    assert told(connection)

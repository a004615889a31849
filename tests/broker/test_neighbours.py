"""Which applications share a Redis, as the workers' records tell."""

from typing import Any

import pytest
import redis

from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.neighbours import MOST_BYTES, Declared, Neighbour, neighbours, strangers

LARGE = f'{{"types": ["{"x" * MOST_BYTES}"]}}'
SHOP = Declared(("shop:send", "shop:bill"), ("nightly",))


def register(broker: Broker, row: int, declared: str, **record: Any) -> None:
    broker.register(f"host.run.{row}", ["default"], {"queues": "default,low", "application": declared, **record})


def test_living_workers_tell_what_their_application_declares(broker: Broker, connection: redis.Redis) -> None:
    register(broker, 0, SHOP.encoded())
    register(broker, 1, "")

    found = neighbours(connection)

    assert found == [
        Neighbour("host.run.0", ["default", "low"], SHOP), Neighbour("host.run.1", ["default", "low"], None),
    ]  # fmt: skip


def test_dead_and_foreign_workers_are_left_out(broker: Broker, connection: redis.Redis) -> None:
    register(broker, 0, SHOP.encoded())
    connection.hset(keys.worker("host.run.0"), "last_heartbeat", "2026-01-01T00:00:00Z")
    register(broker, 1, SHOP.encoded())
    connection.hset(keys.worker("host.run.1"), "last_heartbeat", "yesterday")
    register(broker, 2, SHOP.encoded())
    connection.set(keys.worker("host.run.2"), "a stranger's")

    assert neighbours(connection) == []


def test_a_registry_of_another_kind_has_no_workers(connection: redis.Redis) -> None:
    connection.set(keys.WORKERS, "a stranger's")

    assert neighbours(connection) == []


@pytest.mark.parametrize("encoded", ["{", "[]", '{"types": 5}', '{"types": [5]}', "[" * 8000, LARGE])
def test_what_cannot_be_read_tells_nothing(broker: Broker, connection: redis.Redis, encoded: str) -> None:
    register(broker, 0, encoded)

    assert [found.declared for found in neighbours(connection)] == [None]


def test_an_application_that_declares_very_much_tells_nothing() -> None:
    types = tuple(f"type:{number}" for number in range(MOST_BYTES // 8))

    assert Declared(types).encoded() == ""


@pytest.mark.parametrize(
    ("types", "queues", "crons", "count"),
    [
        (("blog:send",), ["default"], (), 1),
        (("blog:send",), ["other"], (), 0),
        (("blog:send",), ["other"], ("nightly",), 1),
        (("shop:send",), ["default"], ("nightly",), 0),
        (("shop:send", "shop:bill", "shop:new"), ["default"], ("nightly",), 0),
        (("shop:send", "shop:new"), ["default"], (), 1),
    ],
    ids=["another", "apart", "one tick", "an older version", "a newer version", "either has more"],
)
def test_an_application_is_a_stranger_if_either_has_types_that_the_other_has_not(
    types: tuple[str, ...], queues: list[str], crons: tuple[str, ...], count: int
) -> None:
    other = Neighbour("host.run.1", ["default"], SHOP)

    told = strangers(Declared(types, crons), queues, [other, other])

    assert len(told) == count


def test_the_application_of_a_daemon_is_read_of_one_of_its_workers(broker: Broker, connection: redis.Redis) -> None:
    for row in range(3):
        register(broker, row, SHOP.encoded(), supervisor="boot-1-5")
    broker.register("other.run.0", ["default"], {"queues": "default", "application": "", "supervisor": "boot-1-6"})
    connection.config_resetstat()

    found = neighbours(connection)

    assert [each.declared for each in found] == [SHOP, SHOP, SHOP, None]
    assert connection.info("commandstats")["cmdstat_hget"]["calls"] == 2

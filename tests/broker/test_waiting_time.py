"""From when a task could run: what its claim says, for the metrics."""

import pytest
import redis

from boilerd.broker import keys
from boilerd.broker.broker import Broker
from builders import claim, complete, store

LONG_AGO = "2020-01-01T00:00:00.000000Z"


def test_a_task_could_run_when_it_was_enqueued(broker: Broker, connection: redis.Redis) -> None:
    store(broker, "a")
    connection.hset(keys.job("a"), "enqueued_at", LONG_AGO)

    held = claim(broker)

    assert held.waited_s > 3600


def test_a_scheduled_task_could_run_when_it_was_due_however_late_it_was_forwarded(
    broker: Broker, connection: redis.Redis
) -> None:
    store(broker, "a", process_in=3600)
    connection.zincrby(keys.registry("scheduled", "default"), -3700, "a")
    broker.forward()

    held = claim(broker)

    assert 100 <= held.waited_s < 160


def test_a_task_with_a_concurrency_key_could_run_when_it_got_its_share(broker: Broker, connection: redis.Redis) -> None:
    for task_id in ("a", "b"):
        store(broker, task_id, concurrency_key="one")
        connection.hset(keys.job(task_id), "enqueued_at", LONG_AGO)
    first = claim(broker)
    assert broker.advance("host.run.1", ["default"]).claims == []

    complete(broker, first)
    second = claim(broker)

    assert second.task_id == "b"
    assert 0 <= second.waited_s < 60


@pytest.mark.parametrize("ready_at", ["nan", "inf", "-inf", "1e300", "-1", "", "x"])
def test_a_foreign_value_in_its_place_does_not_count(broker: Broker, connection: redis.Redis, ready_at: str) -> None:
    store(broker, "a")
    connection.hset(keys.job("a"), "ready_at", ready_at)

    held = claim(broker)

    assert 0 <= held.waited_s < 60


@pytest.mark.parametrize(("payload", "size_bytes"), [(None, 4), ({"to": "ä"}, 11), ("x" * 10_000, 10_002)])
def test_a_claim_knows_the_size_of_its_payload(broker: Broker, payload: object, size_bytes: int) -> None:
    store(broker, "a", payload)

    held = claim(broker)

    assert held.payload_bytes == size_bytes

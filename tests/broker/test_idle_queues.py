"""Queues that hold nothing cost nothing: schedulers forget them."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import redis

from boilerd import Client
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.constants import CHUNK
from builders import complete_next
from support import StartDaemon, wait_until


def test_a_queue_that_holds_nothing_is_forgotten_until_its_next_task(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    client.enqueue("test:echo", queue="once")
    complete_next(broker, "once")

    broker.forget_idle_queues("0")
    forgotten = connection.smembers(keys.SERVED)
    client.enqueue("test:echo", queue="once")

    assert (forgotten, connection.smembers(keys.SERVED)) == (set(), {b"once"})


HOLDERS: dict[str, Callable[[redis.Redis], object]] = {
    keys.queue("q"): lambda connection: connection.rpush(keys.queue("q"), "x"),
    f"{keys.WORKERS}:q": lambda connection: connection.sadd(f"{keys.WORKERS}:q", "x"),
    **{
        key: lambda connection, key=key: connection.zadd(key, {"x": 1})  # type: ignore[misc]
        for key in (
            keys.wip("q"), keys.archived("q"), f"{keys.OWN}:aside:q",
            *(keys.registry(kind, "q") for kind in ("scheduled", "finished", "failed")),
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("key", HOLDERS)
def test_a_queue_that_holds_anything_or_has_workers_is_not_forgotten(
    broker: Broker, connection: redis.Redis, key: str
) -> None:
    connection.sadd(keys.SERVED, "q", "empty")
    HOLDERS[key](connection)

    broker.forget_idle_queues("0")

    assert connection.smembers(keys.SERVED) == {b"q"}


def test_very_many_queues_are_forgotten_in_slices(broker: Broker, connection: redis.Redis) -> None:
    connection.sadd(keys.SERVED, *(f"q{n}" for n in range(5 * CHUNK)))

    cursors = [broker.forget_idle_queues("0")]
    left = [connection.scard(keys.SERVED)]
    while cursors[-1] != "0":
        cursors.append(broker.forget_idle_queues(cursors[-1]))
        left.append(connection.scard(keys.SERVED))

    assert left[-1] == 0
    assert max(before - after for before, after in pairwise([5 * CHUNK, *left])) < 2 * CHUNK


def test_schedulers_do_nothing_for_queues_that_held_tasks_once(
    connection: redis.Redis, start_daemon: StartDaemon
) -> None:
    connection.sadd(keys.SERVED, *(f"q{n}" for n in range(200)))

    start_daemon("--concurrency", "1", "--queues", "default").ready()

    wait_until(lambda: connection.smembers(keys.SERVED) == {b"default"}, "the others are forgotten")

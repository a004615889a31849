"""What an inspector does grows with what it shows, not with all that Redis holds; the commands are counted."""

import json
import math
from collections.abc import Callable

import pytest
import redis

from boilerd import Client, Inspector, QueueNotFoundError, TaskState
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.constants import MOST_READS
from boilerd.inspector.tasks import LOOKS
from builders import in_state
from support import Valkey, boilerd

Count = Callable[..., dict[str, int]]


@pytest.fixture
def inspector(connection: redis.Redis) -> Inspector:
    """One whose scripts Redis knows already."""
    inspector = Inspector(connection)
    inspector.queue_details(["default"])
    connection.sadd(keys.QUEUES, keys.queue("default"))
    inspector.tasks("default", TaskState.RETRY)
    list(inspector.bulk("archive", "default", TaskState.RETRY))
    return inspector


@pytest.fixture
def count(connection: redis.Redis) -> Count:
    """How often each command was called while something was done; those of scripts count as well."""

    def counted(do: Callable[[], object]) -> dict[str, int]:
        connection.config_resetstat()
        do()
        stats = connection.info("commandstats")
        return {name.removeprefix("cmdstat_"): int(stat["calls"]) for name, stat in stats.items()}

    return counted


def schedule(connection: redis.Redis, number: int) -> None:
    """Put that many scheduled tasks into the registry, all due before any other."""
    connection.eval(
        """for i = 1, tonumber(ARGV[3]) do
          redis.call('ZADD', ARGV[1], i, 'task-' .. i)
          redis.call('HSET', ARGV[2] .. 'task-' .. i, 'status', 'scheduled', 'origin', 'default')
        end""",
        0, keys.registry("scheduled", "default"), keys.job(""), number,
    )  # fmt: skip


def test_retries_are_found_among_many_scheduled_tasks_without_reading_these(
    inspector: Inspector, client: Client, broker: Broker, connection: redis.Redis, count: Count
) -> None:
    retried = [in_state(client, broker, TaskState.RETRY) for _ in range(3)]
    schedule(connection, 3 * LOOKS)
    found: list[str] = []

    calls = count(lambda: found.extend(task.id for task in inspector.tasks("default", TaskState.RETRY)))

    assert found == retried
    assert calls["evalsha_ro"] == 4
    assert calls["hgetall"] == 3


def test_task_ls_says_when_it_has_not_looked_at_all_scheduled_tasks(
    client: Client, broker: Broker, connection: redis.Redis, valkey: Valkey
) -> None:
    retried = in_state(client, broker, TaskState.RETRY)
    schedule(connection, 2 * LOOKS)
    connection.zadd(keys.registry("scheduled", "default"), {retried: 1e12})
    words = ("task", "ls", "-s", "retry", "--json", "--redis-url", valkey.url)

    some = boilerd(*words, "--looks", str(LOOKS))
    every = boilerd(*words)

    assert some.stdout == ""
    assert some.stderr == "only the next 1,000 of 2,001 scheduled and retried tasks were looked at; see --looks\n"
    assert (json.loads(every.stdout)["id"], every.stderr) == (retried, "")


@pytest.mark.parametrize("state", [TaskState.SCHEDULED, TaskState.RETRY])
def test_a_page_is_looked_for_no_further_than_to_its_end(  # noqa: PLR0917 - fixtures
    inspector: Inspector, client: Client, broker: Broker, connection: redis.Redis, count: Count, state: TaskState
) -> None:
    found = [in_state(client, broker, state) for _ in range(6)]
    connection.zadd(keys.registry("scheduled", "default"), {task_id: n for n, task_id in enumerate(found)})
    connection.zadd(keys.registry("scheduled", "default"), {f"gone-{n}": 1e12 for n in range(3 * LOOKS)})
    shown: list[str] = []

    calls = count(lambda: shown.extend(task.id for task in inspector.tasks("default", state, page=2, size=3)))

    assert shown == found[3:]
    assert (calls["evalsha_ro"], calls["hexists"], calls["hgetall"]) == (1, 6, 3)


def test_a_bulk_operation_on_retries_does_not_read_the_scheduled_tasks_beside_them(
    inspector: Inspector, client: Client, broker: Broker, connection: redis.Redis, count: Count
) -> None:
    in_state(client, broker, TaskState.RETRY)
    schedule(connection, 300)

    calls = count(lambda: list(inspector.bulk("archive", "default", TaskState.RETRY)))

    assert inspector.queue("default").counts.archived == 1
    assert "hgetall" not in calls


@pytest.mark.parametrize("number", [50, 1000])
def test_all_queues_are_counted_with_a_round_trip_for_many_of_them(
    inspector: Inspector, connection: redis.Redis, count: Count, number: int
) -> None:
    connection.sadd(keys.QUEUES, *(keys.queue(f"q{n:05}") for n in range(number)))
    connection.rpush(keys.queue("q00007"), "x")

    calls = count(inspector.queues)

    assert calls["evalsha_ro"] == math.ceil((number + 1) / (MOST_READS // 6))  # a queue has six keys
    assert calls["llen"] == number + 1
    assert [queue.name for queue in inspector.queues() if not queue.is_idle] == ["q00007"]


def test_queues_that_hold_much_are_looked_at_in_slices_of_a_bounded_number_of_reads(
    inspector: Inspector, client: Client, connection: redis.Redis, count: Count
) -> None:
    names = [f"q{n:03}" for n in range(400)]
    for name in names:
        connection.sadd(keys.QUEUES, keys.queue(name))
        for registry in ("scheduled", "finished", "failed"):
            connection.zadd(keys.registry(registry, name), {f"{name}-{n}": n for n in range(5)})
    shown: list[str] = []

    calls = count(lambda: shown.extend(found.counts.name for found in inspector.queue_details()))

    reads = sum(calls[name] for name in ("llen", "zcard", "zrange", "smismember", "hmget", "memory|usage"))
    assert shown == ["default", *names]
    of_all = 2  # whether queues are paused, and their limits
    assert reads <= calls["evalsha_ro"] * (MOST_READS + of_all)
    of_one = 11 + 5 * (1 + 2)  # five of its keys have one command more, and two samples
    assert calls["evalsha_ro"] == math.ceil(len(shown) / (MOST_READS // of_one))


def test_the_memory_of_a_queue_is_measured_on_few_tasks_however_many_it_holds(
    inspector: Inspector, client: Client, connection: redis.Redis, count: Count
) -> None:
    client.enqueue_many([("test:echo", "x" * 100) for _ in range(1000)])

    calls = count(lambda: inspector.queue("default"))

    assert calls["memory|usage"] == 20
    assert 200_000 < inspector.queue("default").memory_bytes < 2_000_000


def test_an_error_names_some_of_many_queues_and_first_those_that_hold_something(
    inspector: Inspector, client: Client, connection: redis.Redis
) -> None:
    connection.sadd(keys.QUEUES, *(keys.queue(f"empty-{n}") for n in range(1000)))
    client.enqueue("test:echo", queue="mail")

    with pytest.raises(QueueNotFoundError, match=r"there are: mail, default, empty-0, .* and 982 more"):
        inspector.queue("maill")

"""The clock of Redis's host jumps by days: no living task is taken for it, and no dead one is left for days."""

import time
from collections.abc import Callable, Iterator

import pytest
import redis

from boilerd import Client
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.connection import connect
from boilerd.broker.constants import LEASE_OFFSET_S, LEASE_S
from builders import WORKER, claim, store, worker_name
from support import QUICK_RETRY, ServerClock, StartDaemon, StartValkey, Valkey, private_directory, wait_until

DAY_S = 86_400


@pytest.fixture
def clock() -> Iterator[ServerClock]:
    with private_directory() as directory:
        yield ServerClock(directory)


@pytest.fixture
def server(start_valkey: StartValkey, clock: ServerClock) -> Valkey:
    """A Valkey of the test's own, that has this clock."""
    return start_valkey(env=clock.env)


@pytest.fixture
def connection(server: Valkey) -> Iterator[redis.Redis]:
    with connect(server.url) as made:
        yield made


@pytest.fixture
def put_clock(clock: ServerClock, broker: Broker) -> Callable[[float], None]:
    """Has it run so many seconds ahead; the server keeps the time of its last look for the first command after that."""

    def put(ahead_s: float) -> None:
        clock.put(ahead_s)
        wait_until(lambda: abs(broker.now() - time.time() - ahead_s) < 2, "the server looked at its clock")

    return put


def lease_left_s(connection: redis.Redis, broker: Broker, pair: str) -> float:
    """How long the claim's lease lasts by Redis's clock."""
    score = connection.zscore(keys.wip("default"), pair)
    assert isinstance(score, float)
    return score - LEASE_OFFSET_S - broker.now()


@pytest.mark.fault(41)
@pytest.mark.long(20)
def test_a_task_that_runs_is_not_taken_when_redis_clock_is_put_forward_by_days(
    start_daemon: StartDaemon, server: Valkey, broker: Broker, put_clock: Callable[[float], None]
) -> None:
    env = QUICK_RETRY | {"BOILERD_SHUTDOWN_TIMEOUT": "1"}
    hosts = [start_daemon("--concurrency", "1", redis_url=server.url, env=env).ready() for _ in range(2)]
    with Client.from_url(server.url) as client:
        for task_id in ("long", "short"):
            client.enqueue("test:sleep", 60 if task_id == "long" else 20, task_id=task_id, timeout=600)
        for host in hosts:
            host.wait_for("task started")
        store(broker, "orphan")
        broker.advance("gone.run.0", ("default",))

        put_clock(2 * DAY_S)

        short = next(host for host in hosts if host.lines("task started", task_id="short"))
        short.wait_for("task completed", task_id="short", attempt=1)
        short.wait_for("task completed", task_id="orphan", attempt=2)
        assert client.connection.hget(keys.job("long"), "status") == b"started"
        assert not [line for host in hosts for line in host.lines(task_id="long") if line["level"] != "info"]


@pytest.mark.fault(41)
def test_a_clock_put_forward_by_days_ends_no_claim_of_a_live_worker(
    connection: redis.Redis, broker: Broker, put_clock: Callable[[float], None]
) -> None:
    store(broker, "a", concurrency_key="k")
    pair = f"a:{claim(broker).execution_id}"
    store(broker, "b")
    broker.advance(worker_name(1), ("default",))
    put_clock(2 * DAY_S)

    adopted = broker.adopt([WORKER], ["default"])
    renewed = broker.extend([WORKER])

    assert (adopted, renewed) == (1, ([], []))
    assert connection.smembers(keys.worker_executions(WORKER)) == {pair.encode()}
    assert lease_left_s(connection, broker, pair) > LEASE_S - 5
    assert connection.zscore(f"{keys.OWN}:running:k", "a")
    assert [held.task_id for _, held in broker.expired()] == ["b"]


@pytest.mark.fault(41)
def test_a_lease_from_before_redis_clock_was_put_back_lasts_no_longer_than_any_other(
    connection: redis.Redis, broker: Broker, put_clock: Callable[[float], None]
) -> None:
    store(broker, "a")
    pair = f"a:{claim(broker).execution_id}"
    put_clock(-2 * DAY_S)

    assert broker.expired() == []
    assert LEASE_S - 5 < lease_left_s(connection, broker, pair) <= LEASE_S

    put_clock(-2 * DAY_S + LEASE_S + 1)
    assert [held.task_id for _, held in broker.expired()] == ["a"]


@pytest.mark.fault(41)
def test_a_timeout_counts_anew_when_redis_clock_was_put_back(
    connection: redis.Redis, broker: Broker, put_clock: Callable[[float], None]
) -> None:
    store(broker, "a", timeout=10)
    pair = f"a:{claim(broker).execution_id}"
    put_clock(-2 * DAY_S)

    assert broker.extend([WORKER]) == ([], [])

    started = connection.hget(keys.execution(pair), "created_at")
    assert isinstance(started, bytes)
    assert broker.now() - 5 < float(started) <= broker.now()
    put_clock(-2 * DAY_S + 12)
    ((overdue,), _) = broker.extend([WORKER])
    assert 1 < overdue.late_s < 30

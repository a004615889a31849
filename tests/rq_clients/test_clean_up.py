"""RQ's own tools clean its registries up by their hosts' clocks: no claim of boilerd's workers ends through them."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
import rq.utils
from rq import Worker
from rq.registry import StartedJobRegistry, clean_registries
from rq.serializers import JSONSerializer

from boilerd import Client
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.connection import text
from builders import WORKER, claim, complete, rq_job, rq_queue, store
from support import StartDaemon, StartValkey, clean_environment, expire_leases, wait_until

#: An operator's host with RQ's tools, whose clock is a minute ahead: they look once a second.
TOOLS = """
import datetime, sys, time
import rq.utils
was = rq.utils.now
rq.utils.now = lambda: was() + datetime.timedelta(seconds=60)
from redis import Redis
from rq import Queue, Worker
from rq.cli.cli import main
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer
url = sys.argv[1]
with Redis.from_url(url) as connection:
    queue = Queue("default", connection=connection, serializer=JSONSerializer)
    while True:
        Worker([queue], connection=connection, serializer=JSONSerializer).clean_registries()
        StartedJobRegistry(queue=queue).cleanup()
        main(["info", "--url", url], standalone_mode=False)
        print("looked", flush=True)
        time.sleep(1)
"""


def started(connection: redis.Redis) -> StartedJobRegistry:
    return StartedJobRegistry("default", connection=connection, serializer=JSONSerializer)


LOOKS: dict[str, Callable[[redis.Redis], object]] = {
    "a registry's clean-up": lambda connection: started(connection).cleanup(),
    "a count, as on a page of django-rq": lambda connection: started(connection).count,
    "rq info": lambda connection: clean_registries(rq_queue(connection)),
    "the start of an rq worker": lambda connection: Worker(
        [rq_queue(connection)], connection=connection, serializer=JSONSerializer
    ).clean_registries(),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_rq_takes_no_claim_although_its_lease_has_ended(
    broker: Broker, connection: redis.Redis, look: Callable[[redis.Redis], object]
) -> None:
    store(broker, "a")
    held = claim(broker)
    expire_leases(connection, broker.expired)

    look(connection)

    assert rq_job(connection, "a").get_status() == "started"
    assert [found.task_id for _, found in broker.expired()] == ["a"]
    complete(broker, held)


def test_rq_on_a_host_whose_clock_is_a_minute_ahead_takes_no_claim(
    broker: Broker, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(broker, "a")
    held = claim(broker)
    monkeypatch.setattr("rq.registry.current_timestamp", lambda: rq.utils.current_timestamp() + 60)

    started(connection).cleanup()

    assert rq_job(connection, "a").get_status() == "started"
    complete(broker, held)


def test_a_claim_of_a_plain_rq_worker_is_found_by_its_score_as_before(broker: Broker, connection: redis.Redis) -> None:
    for task_id in ("lapsed", "live"):
        store(broker, task_id)
        pair = f"{task_id}:{claim(broker).execution_id}"
        ends_s = broker.now() + (60 if task_id == "live" else -1)
        connection.zadd(keys.wip("default"), {pair: ends_s})
        connection.delete(keys.worker_executions(WORKER))

    assert [found.task_id for _, found in broker.expired()] == ["lapsed"]


def test_a_claim_stays_its_worker_s_when_rq_lists_workers_after_an_outage(
    broker: Broker, connection: redis.Redis
) -> None:
    broker.register(WORKER, ["default"], {"state": "busy"})
    store(broker, "a")
    held = claim(broker)
    outage_s = 120
    for key in connection.scan_iter("*"):
        if (left_s := connection.ttl(key)) > 0:
            connection.expire(key, max(left_s - outage_s, 0))

    (worker,) = Worker.all(connection=connection, serializer=JSONSerializer)
    worker.get_current_executions()

    pair = f"a:{held.execution_id}"
    assert [text(found) for found in connection.smembers(keys.worker_executions(WORKER))] == [pair]
    assert broker.extend([WORKER]) == ([], [])


@contextmanager
def tools_of_rq(url: str, output: Path) -> Iterator[None]:
    with output.open("w") as stdout:
        process = subprocess.Popen([sys.executable, "-c", TOOLS, url], env=clean_environment(), stdout=stdout)
        try:
            yield
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()


@pytest.mark.fault(42)
@pytest.mark.long(55)
@pytest.mark.timeout(150)
def test_beside_rq_s_tools_no_running_task_is_taken_and_none_runs_twice(
    start_daemon: StartDaemon, start_valkey: StartValkey, directory: Path
) -> None:
    server = start_valkey()
    hosts = [start_daemon("--concurrency", "1", redis_url=server.url).ready() for _ in range(2)]
    looks = directory / "looks"
    with Client.from_url(server.url) as client, tools_of_rq(server.url, looks):
        running = [client.enqueue("test:sleep", 50, timeout=300).id for _ in hosts]
        for host in hosts:
            host.wait_for("task started")
        wait_until(lambda: looks.read_text().count("looked") > 2, "RQ's tools have looked")

        assert server.process
        server.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(AssertionError, match="in vain"):
                wait_until(lambda: False, "the broker is away for longer than a lease", deadline_s=36)
        finally:
            server.process.send_signal(signal.SIGCONT)

        wait_until(lambda: all(host.lines("task completed") for host in hosts), "both are completed", deadline_s=40)
        ends = [line for host in hosts for line in host.lines("task completed")]
        begins = [line["task_id"] for host in hosts for line in host.lines("task started")]
        assert sorted(begins) == sorted(running)
        assert [line["attempt"] for line in ends] == [1, 1]
        assert client.connection.zcard(keys.registry("failed", "default")) == 0

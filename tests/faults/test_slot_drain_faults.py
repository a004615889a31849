"""Workers with slots that end: killed or stopped at any step, in a drain, in a reload, and while the broker hangs."""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import redis

from boilerd import Client
from boilerd.broker import keys
from boilerd.broker.connection import text
from boilerd.broker.constants import LEASE_OFFSET_S
from builders import pending
from support import QUICK_RETRY, Failpoints, RunningDaemon, StartDaemon, StartValkey, is_running, wait_until

EMPTY: Mapping[str, Any] = MappingProxyType({})


def start(
    start_daemon: StartDaemon, slots: int = 20, *, timeout_s: float = 2, pool: Mapping[str, Any] = EMPTY, **options: Any
) -> RunningDaemon:
    """A daemon of `slot_app` with one worker of so many slots."""
    pools = {"default": {"queues": {"default": 1}, "slots": slots, **pool}}
    env = {"BOILERD_APP": "slot_app:mux", "BOILERD_POOLS": json.dumps(pools), "BOILERD_CONCURRENCY": "1"}
    more = {"BOILERD_SHUTDOWN_TIMEOUT": f"{timeout_s}s", **QUICK_RETRY, **options.pop("env", {})}
    return start_daemon(env=env | more, **options).ready()


def noted(directory: Path, file: str = "runs") -> Counter[str]:
    """How often each task has noted something there."""
    path = directory / file
    return Counter(path.read_text().split() if path.exists() else [])


def hold(daemon: RunningDaemon, client: Client, count: int, task_type: str = "slot:hold") -> list[str]:
    """Have so many tasks run that go on until `open` is there; their IDs, in their order."""
    before = noted(daemon.directory).total()
    tasks = [info.id for info in client.enqueue_many([(task_type, None)] * count) if not isinstance(info, Exception)]
    wait_until(lambda: noted(daemon.directory).total() >= before + count, f"{count} run", deadline_s=60)
    return tasks


def wait_for_end(connection: redis.Redis, count: int) -> None:
    """Wait until so many tasks are completed, and nothing is left."""
    wait_until(lambda: connection.llen(keys.completed("default")) == count, f"{count} completed", deadline_s=60)
    wait_until(lambda: not connection.exists(keys.wip("default"), keys.queue("default")), "nothing is left")


def counted(connection: redis.Redis, task_ids: list[str]) -> set[Any]:
    """What stands in their records of attempts that failed."""
    return {connection.hget(keys.job(task_id), "number_of_retries") for task_id in task_ids}


@pytest.mark.fault(52)
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_with_slots_that_ends_at_any_step_loses_no_task_and_counts_none(
    start_daemon: StartDaemon, client: Client, failpoints: Failpoints, signum: signal.Signals
) -> None:
    daemon = start(start_daemon, env=failpoints.env)
    finished, tasks = keys.registry("finished", "default"), []

    for point in ("after-serve", "before-handler", "after-handler", "before-serve"):
        failpoints.arm(point, signum)
        tasks.append(client.enqueue("slot:good", retention=600).id)
        failpoints.struck(point)
        wait_until(lambda: client.connection.zcard(finished) == len(tasks), f"completed after {point}")

    wait_until(lambda: not client.connection.exists(keys.wip("default"), keys.queue("default")), "nothing is left")
    assert counted(client.connection, tasks) == {None}
    assert not daemon.lines("task failed")
    if signum == signal.SIGTERM:
        assert sorted(line["task_id"] for line in daemon.lines("task completed")) == sorted(tasks)


@pytest.mark.fault(53)
@pytest.mark.parametrize("blocks", ["slot:block", "slot:keep-the-lock"])
def test_a_daemon_whose_loop_is_blocked_stops_in_time_and_gives_all_back_uncounted(
    start_daemon: StartDaemon, client: Client, blocks: str
) -> None:
    daemon = start(start_daemon, timeout_s=1)
    os.mkfifo(daemon.directory / "fifo")
    tasks = hold(daemon, client, 5)
    tasks += hold(daemon, client, 5, "slot:plain")
    tasks += hold(daemon, client, 1, blocks)
    daemon.wait_for("event loop blocked")

    assert daemon.stop() == 0

    assert pending(client.connection) == tasks
    assert counted(client.connection, tasks) == {None}
    assert not client.connection.exists(keys.wip("default"))


@pytest.mark.fault(54)
def test_leases_are_renewed_and_cancels_obeyed_while_workers_with_slots_drain(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = start(start_daemon, 200, timeout_s=60)
    tasks = hold(daemon, client, 200, "slot:cancelled")
    daemon.signal(signal.SIGTERM)
    wait_until(lambda: daemon.info()["state"] == "draining", "it drains")
    connection = client.connection
    pairs: list[Any] = connection.zrange(keys.wip("default"), 0, -1)
    soon_s = LEASE_OFFSET_S + time.time() + 24
    connection.zadd(keys.wip("default"), dict.fromkeys(pairs, soon_s), xx=True)

    client.cancel(tasks[7])

    wait_until(lambda: connection.zcount(keys.wip("default"), soon_s + 1, "+inf") == 199, "all others are renewed")
    wait_until(lambda: noted(daemon.directory, "cancelled"), "the one is cancelled")
    assert noted(daemon.directory, "cancelled") == {tasks[7]: 1}
    (daemon.directory / "open").touch()
    assert daemon.wait() == 0
    wait_for_end(connection, 199)


@pytest.mark.fault(55)
def test_a_drain_of_slots_ends_in_time_although_the_broker_hangs_and_the_next_daemon_runs_the_tasks(
    start_daemon: StartDaemon, start_valkey: StartValkey
) -> None:
    valkey = start_valkey()
    daemon = start(start_daemon, timeout_s=1, redis_url=valkey.url)
    assert valkey.process
    with Client.from_url(valkey.url) as client:
        tasks = hold(daemon, client, 20)

        valkey.process.send_signal(signal.SIGSTOP)
        began_s = time.monotonic()
        daemon.stop()
        took_s = time.monotonic() - began_s
        valkey.process.send_signal(signal.SIGCONT)
        (daemon.directory / "open").touch()
        start(start_daemon, redis_url=valkey.url, directory=daemon.directory)

        wait_for_end(client.connection, 20)
        assert took_s < 30
        assert noted(daemon.directory) == dict.fromkeys(tasks, 2)
        assert not daemon.lines("task failed")


@pytest.mark.fault(56)
def test_a_reload_gives_back_a_thousand_tasks_that_do_not_end_and_each_runs_once_more(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = start(start_daemon, 1000, timeout_s=1)
    tasks = hold(daemon, client, 1000)

    daemon.signal(signal.SIGHUP)
    wait_until(lambda: noted(daemon.directory).total() == 2000, "they run again", deadline_s=60)
    (daemon.directory / "open").touch()

    wait_for_end(client.connection, 1000)
    assert noted(daemon.directory) == dict.fromkeys(tasks, 2)
    assert not daemon.lines("task failed")


@pytest.mark.long(16)
@pytest.mark.fault(57)
@pytest.mark.long(9)
def test_what_does_not_end_is_told_replaced_and_counted_when_its_worker_retires(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = start(start_daemon, pool={"max_stuck": 1})
    others = hold(daemon, client, 3)
    types = ("slot:deaf", "slot:never-ends")
    bad = {client.enqueue(task_type, timeout=1, retention=600).id: task_type for task_type in types}

    told = [daemon.wait_for("task does not end", task_id=task_id) for task_id in bad]
    daemon.wait_for("worker retires, some of its tasks do not end")
    failed = [daemon.wait_for("task failed", task_id=task_id) for task_id in bad]
    (daemon.directory / "open").touch()

    wait_for_end(client.connection, 5)
    assert [line["task_type"] for line in told] == list(bad.values())
    assert all(line["stack"] for line in told)
    assert all(line["error"].startswith("TaskTimeoutError") for line in failed)
    assert counted(client.connection, list(bad)) == {b"1"}
    assert {line["task_id"] for line in daemon.lines("task failed")} == set(bad)
    assert noted(daemon.directory) == dict.fromkeys([*others, *bad], 2)


@pytest.mark.fault(20)
def test_slots_drain_when_their_supervisor_is_killed_and_the_next_daemon_takes_over_at_once(
    start_daemon: StartDaemon, client: Client
) -> None:
    first = start(start_daemon, timeout_s=60)
    tasks = hold(first, client, 20)
    worker = first.pid_of("worker:0")

    os.kill(first.pid, signal.SIGKILL)
    first.process.wait()
    second = start(start_daemon, directory=first.directory)
    other = client.enqueue("slot:good").id
    second.wait_for("task completed", task_id=other)
    (first.directory / "open").touch()

    wait_for_end(client.connection, 21)
    wait_until(lambda: not is_running(worker), "the orphan has ended")
    assert noted(first.directory) == dict.fromkeys(tasks, 1)
    assert {text(entry) for entry in counted(client.connection, tasks) if entry} == set()

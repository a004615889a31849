"""Workers with slots that are killed, held up, or lose their claims: what becomes of all that they ran at once."""

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import redis
from rq.command import send_stop_job_command
from rq.serializers import JSONSerializer

from boilerd import Client
from boilerd.broker import keys
from boilerd.broker.connection import text
from boilerd.broker.constants import LEASE_OFFSET_S
from support import QUICK_RETRY, RunningDaemon, StartDaemon, wait_until


def start_slotted(start_daemon: StartDaemon, slots: int, processes: int = 1) -> RunningDaemon:
    """A daemon of `slot_app` that works in so many processes with so many slots each."""
    pools = {"default": {"queues": {"default": 1}, "slots": slots, "processes": processes}}
    env = {"BOILERD_APP": "slot_app:mux", "BOILERD_POOLS": json.dumps(pools), **QUICK_RETRY}
    return start_daemon(env=env).ready()


def lines(directory: Path, file: str) -> list[str]:
    """What tasks have noted there."""
    path = directory / file
    return path.read_text().split() if path.exists() else []


def enqueue_many(client: Client, task_type: str, count: int, **options: object) -> list[str]:
    return [client.enqueue(task_type, task_id=f"{task_type[5:]}-{n}", **options).id for n in range(count)]  # type: ignore[arg-type]


def wait_for_runs(directory: Path, count: int) -> None:
    wait_until(lambda: len(lines(directory, "runs")) >= count, f"{count} attempts have begun", deadline_s=60)


def blocks_told(daemon: RunningDaemon) -> int:
    """How often the log tells of the loop that the task keeps; a busy machine may hold others up as well."""
    return sum(
        "keep_the_lock" in line.get("stack", "") for line in daemon.lines("event loop blocked", child="worker:0")
    )


def completed(connection: redis.Redis) -> int:
    return connection.llen(keys.completed("default"))


def marks(connection: redis.Redis, task_ids: list[str]) -> list[tuple[int, int]]:
    """Of each task, how many attempts counted and in how many deaths it was."""
    found = (connection.hmget(keys.job(task_id), "number_of_retries", "alone") for task_id in task_ids)
    return [(int(retried or 0), int(deaths or 0)) for retried, deaths in found]


@pytest.mark.fault(45)
def test_each_task_of_a_killed_worker_runs_exactly_once_more_and_none_counts(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = start_slotted(start_daemon, 100)
    tasks = enqueue_many(client, "slot:hold", 100)
    wait_for_runs(daemon.directory, 100)

    daemon.kill("worker:0")
    # One in eight slots may have a suspect at a time.
    wait_until(lambda: len(lines(daemon.directory, "runs")) >= 112, "those that may have begun again", deadline_s=60)
    assert marks(client.connection, tasks) == [(0, 1)] * 100
    (daemon.directory / "open").touch()

    wait_until(lambda: completed(client.connection) == 100, "all are completed", deadline_s=60)
    assert Counter(lines(daemon.directory, "runs")) == dict.fromkeys(tasks, 2)
    assert not daemon.lines("task failed")


@pytest.mark.fault(46)
@pytest.mark.timeout(240)
@pytest.mark.parametrize("pills", [1, 2])
def test_tasks_that_kill_their_workers_are_archived_and_a_thousand_good_ones_are_done(
    start_daemon: StartDaemon, client: Client, pills: int
) -> None:
    daemon = start_slotted(start_daemon, 100, processes=2)
    client.enqueue_many([("slot:good", None)] * 500)
    bad = enqueue_many(client, "slot:die", pills, max_retries=2)
    client.enqueue_many([("slot:good", None)] * 500)

    archived = keys.registry("failed", "default")
    wait_until(lambda: client.connection.zcard(archived) == pills, "the pills are archived", deadline_s=120)
    wait_until(lambda: completed(client.connection) == 1000, "all good ones are done", deadline_s=60)

    found: list[Any] = client.connection.zrange(archived, 0, -1)
    assert {text(task_id) for task_id in found} == set(bad)
    deaths = Counter(lines(daemon.directory, "deaths"))
    assert max(deaths.values()) <= 3 + 2 + (pills - 1) * 3
    assert all("signal 9" in line["error"] for line in daemon.lines("task failed"))


@pytest.mark.fault(47)
@pytest.mark.long(8)
def test_a_worker_whose_task_holds_the_interpreter_s_lock_past_its_limit_is_killed_for_that_task(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = start_slotted(start_daemon, 20)
    os.mkfifo(daemon.directory / "fifo")
    others = enqueue_many(client, "slot:hold", 10)
    bad = client.enqueue("slot:keep-the-lock", timeout=2, max_retries=0).id

    killed = daemon.wait_for("worker killed, its task ignores the timeout", child="worker:0")
    daemon.wait_for("task archived", task_id=bad)
    wait_until(lambda: Counter(lines(daemon.directory, "runs"))[others[0]] == 2, "the others run again")
    (daemon.directory / "open").touch()
    wait_until(lambda: completed(client.connection) == 10, "the others are completed", deadline_s=60)

    assert killed["running"] == 11
    assert 5.0 <= killed["late_s"] < 20.0
    (failed,) = daemon.lines("task failed")
    assert failed["task_id"] == bad
    assert failed["error"].startswith("TaskTimeoutError: the task took longer than its timeout, and its worker had to")
    assert blocks_told(daemon) == 1
    assert Counter(lines(daemon.directory, "runs")) == dict.fromkeys(others, 2) | {bad: 1}


@pytest.mark.fault(48)
def test_a_worker_that_is_blocked_as_a_whole_by_a_task_within_its_limit_is_told_of_and_left_alone(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = start_slotted(start_daemon, 20)
    pid = daemon.pid_of("worker:0")
    os.mkfifo(daemon.directory / "fifo")

    client.enqueue("slot:keep-the-lock")

    wait_until(lambda: blocks_told(daemon), "it is told of")
    (daemon.directory / "fifo").write_text(".")
    wait_until(lambda: completed(client.connection), "it is completed")
    assert blocks_told(daemon) == 1
    assert daemon.pid_of("worker:0") == pid


@pytest.mark.fault(49)
def test_exactly_those_of_a_thousand_tasks_are_cancelled_whose_leases_are_lost(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = start_slotted(start_daemon, 1000)
    tasks = [f"t{number}" for number in range(1000)]
    for task_id in tasks:
        client.enqueue("slot:cancelled", task_id=task_id)
    wait_for_runs(daemon.directory, 1000)

    lost = tasks[::100]
    found: list[Any] = client.connection.zrange(keys.wip("default"), 0, -1)
    held = {text(pair).partition(":")[0]: pair for pair in found}
    client.connection.zrem(keys.wip("default"), *(held[task_id] for task_id in lost))

    wait_until(lambda: len(lines(daemon.directory, "cancelled")) >= len(lost), "they are cancelled")
    (daemon.directory / "open").touch()
    wait_until(lambda: completed(client.connection) == 990, "all others are completed", deadline_s=60)
    assert sorted(lines(daemon.directory, "cancelled")) == sorted(lost)
    assert completed(client.connection) == 990


@pytest.mark.fault(50)
def test_no_lease_ends_when_the_scheduler_is_killed_while_thousands_of_claims_are_held(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = start_slotted(start_daemon, 1000, processes=2)
    client.enqueue_many([("slot:hold", None)] * 2000)
    wait_for_runs(daemon.directory, 2000)

    pairs: list[Any] = client.connection.zrange(keys.wip("default"), 0, -1)
    ends_s = LEASE_OFFSET_S + time.time() + 24
    daemon.kill("scheduler")
    client.connection.zadd(keys.wip("default"), dict.fromkeys(pairs, ends_s), xx=True)

    def renewed() -> int:
        return client.connection.zcount(keys.wip("default"), ends_s + 1, "+inf")

    wait_until(lambda: renewed() == 2000, "all leases are renewed", deadline_s=24)
    assert len(lines(daemon.directory, "runs")) == 2000


def test_the_stop_of_rq_s_tools_ends_the_one_of_fifty_tasks_that_is_meant(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = start_slotted(start_daemon, 50)
    tasks = enqueue_many(client, "slot:cancelled", 50)
    wait_for_runs(daemon.directory, 50)

    send_stop_job_command(client.connection, tasks[17], JSONSerializer)

    archived = keys.registry("failed", "default")
    wait_until(lambda: client.connection.zcard(archived), "it is archived")
    (daemon.directory / "open").touch()
    wait_until(lambda: completed(client.connection) == 49, "all others are completed")
    assert lines(daemon.directory, "cancelled") == [tasks[17]]

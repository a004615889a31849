"""Retries, schedules, cancellation and periodic tasks with whole daemons."""

import os
import signal
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from boilerd import Client
from boilerd.broker import keys
from support import StartDaemon, boilerd, wait_until


def starts(lines: list[dict[str, Any]]) -> list[float]:
    """Seconds between the first start and each."""
    times = [datetime.fromisoformat(line["time"]).timestamp() for line in lines]
    return [moment - times[0] for moment in times]


@pytest.mark.long(7)
def test_a_task_that_fails_three_times_starts_after_1_2_and_4_seconds(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = start_daemon("--concurrency", "2").ready()

    task_id = client.enqueue("test:flaky", 3).id

    daemon.wait_for("task completed", task_id=task_id)
    lines = daemon.lines("task started", task_id=task_id)
    assert [line["attempt"] for line in lines] == [1, 2, 3, 4]
    assert [line["delay_s"] for line in daemon.lines("task will be retried", task_id=task_id)] == [1.0, 2.0, 4.0]
    for measured, expected in zip(starts(lines), [0, 1, 3, 7], strict=True):
        assert measured >= expected - 0.005  # none early; how late depends on what else this machine does
    assert len(daemon.lines("error handler", task_id=task_id, noted="OSError")) == 3


def test_retries_go_on_after_the_daemon_was_stopped_and_started(start_daemon: StartDaemon, client: Client) -> None:
    first = start_daemon("--concurrency", "1").ready()
    task_id = client.enqueue("test:flaky", 2).id
    first.wait_for("task will be retried", task_id=task_id, delay_s=2.0)
    due_s = client.connection.zscore(keys.registry("scheduled", "default"), task_id)
    first.stop()

    second = start_daemon("--concurrency", "1")

    second.wait_for("task completed", task_id=task_id)
    (line,) = second.lines("task started", task_id=task_id)
    assert line["attempt"] == 3
    assert due_s
    assert datetime.fromisoformat(line["time"]).timestamp() >= due_s - 0.005  # log lines have milliseconds
    assert [line["attempt"] for line in first.lines("task started", task_id=task_id)] == [1, 2]


def test_two_daemons_run_each_attempt_once(start_daemon: StartDaemon, client: Client) -> None:
    daemons = [start_daemon("--concurrency", "2").ready() for _ in range(2)]

    ids = [client.enqueue("test:flaky", 1).id for _ in range(20)]

    def attempts(message: str) -> Counter[tuple[str, int]]:
        return Counter((line["task_id"], line["attempt"]) for d in daemons for line in d.lines(message))

    wait_until(lambda: len(attempts("task completed")) == 20, "all tasks completed")
    assert attempts("task started") == {(task_id, attempt): 1 for task_id in ids for attempt in (1, 2)}


def test_a_handlers_own_policy_wins_over_the_settings(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "1", env={"BOILERD_RETRY": '{"max_retries": 0}'}).ready()

    own = client.enqueue("test:quick").id
    other = client.enqueue("test:fail").id

    daemon.wait_for("task archived", task_id=own)
    daemon.wait_for("task archived", task_id=other)
    assert len(daemon.lines("task started", task_id=own)) == 3
    assert len(daemon.lines("task started", task_id=other)) == 1


def test_a_cpu_bound_handler_is_interrupted_and_retried(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "1", env={"BOILERD_RETRY": '{"base": 0.1}'}).ready()

    task_id = client.enqueue("test:spin", timeout=1, max_retries=1).id

    daemon.wait_for("task archived", task_id=task_id)
    failed = daemon.lines("task failed", task_id=task_id)
    assert [line["error"].split(":")[0] for line in failed] == ["TaskTimeoutError"] * 2
    assert not daemon.lines("process died")


def test_a_worker_killed_for_its_timeout_costs_the_task_one_attempt(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "1", env={"BOILERD_RETRY": '{"base": 0.1}'}).ready()

    task_id = client.enqueue("test:stubborn", timeout=1).id

    daemon.wait_for("worker killed, its task ignores the timeout", task_id=task_id)
    daemon.wait_for("task will be retried", task_id=task_id)
    assert daemon.wait_for("task started", count=2, task_id=task_id)["attempt"] == 2


def test_a_task_that_kills_its_worker_each_time_ends_in_the_archive_and_nothing_else_suffers(
    start_daemon: StartDaemon, client: Client
) -> None:
    env = {"BOILERD_RETRY": '{"base": 0.02, "factor": 1}'}
    daemon = start_daemon("--concurrency", "2", env=env).ready()

    deadly = [client.enqueue("test:die", max_retries=3).id for _ in range(4)]
    good = [client.enqueue("test:echo", number).id for number in range(50)]

    for task_id in deadly:
        daemon.wait_for("task archived", task_id=task_id)
    wait_until(lambda: len(daemon.lines("task completed")) == len(good), "the good ones are done")
    assert not daemon.lines("process crashed too often, trying again later")
    assert daemon.lines("task failed", task_id=deadly[0], error="WorkerDiedError: worker died: signal 9 (SIGKILL)")
    daemon.wait_for("task completed", task_id=client.enqueue("test:echo").id)


def test_a_handler_that_transforms_the_end_of_a_drain_is_put_back_all_the_same(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = start_daemon("--concurrency", "1", "--shutdown-timeout", "0.3").ready()
    task_id = client.enqueue("test:transform").id
    daemon.wait_for("task started", task_id=task_id)

    assert daemon.stop() == 0

    assert client.connection.lrange(keys.queue("default"), 0, -1) == [task_id.encode()]
    assert daemon.lines("worker shutdown timed out, forcing exit")
    assert not daemon.lines("task failed")


@pytest.mark.fault(36)
def test_periodic_tasks_run_once_per_tick_on_however_many_hosts(
    start_daemon: StartDaemon, client: Client, directory: Path
) -> None:
    text = '[[cron]]\nspec = "@every 1s"\ntype = "test:echo"\nname = "each-second"\n'
    (directory / "boilerd.toml").write_text(text)
    env = {"BOILERD_CONFIG": str(directory / "boilerd.toml")}

    daemons = [start_daemon("--concurrency", "1", env=env) for _ in range(4)]

    def runs() -> Counter[str]:
        return Counter(line["task_id"] for d in daemons for line in d.lines("task completed"))

    wait_until(lambda: len(runs()) >= 5, "five ticks")
    for daemon in daemons:
        assert daemon.stop() == 0
    found = runs()
    assert set(found.values()) == {1}
    ticks = sorted(datetime.fromisoformat(task_id.rpartition("-")[2]) for task_id in found)
    told = sum(line["missed"] for d in daemons for line in d.lines("periodic task missed its time"))
    missed = (ticks[-1] - ticks[0]) / timedelta(seconds=1) + 1 - len(ticks)
    assert 0 <= missed <= told  # a machine may be so busy that all four come late


@pytest.mark.long(10)
@pytest.mark.fault(25)
def test_a_host_that_is_gone_loses_its_task_to_another(start_daemon: StartDaemon, client: Client) -> None:
    first = start_daemon("--concurrency", "1").ready()
    task_id = client.enqueue("test:sleep", 3600).id
    first.wait_for("task started", task_id=task_id)
    for pid in first.pids():
        # The whole host at once, as when its power fails.
        os.kill(pid, signal.SIGKILL)
    (pair,) = (member for member, _ in client.connection.zscan_iter(keys.wip("default")))
    client.connection.zadd(keys.wip("default"), {pair: 1.0})
    for worker in client.connection.smembers(keys.WORKERS):
        # On another host nobody can tell that they are dead.
        client.connection.hset(worker, mapping={"birthmark": "elsewhere/pid/1/1", "supervisor": "elsewhere/pid/1/1"})

    second = start_daemon("--concurrency", "1")

    failed = second.wait_for("task failed", task_id=task_id)
    assert failed["error"].startswith("LeaseExpiredError: lease expired: worker ")
    assert second.wait_for("task started", task_id=task_id)["attempt"] == 2


@pytest.mark.fault(20)
def test_a_daemon_that_is_killed_keeps_the_outcomes_of_its_workers(start_daemon: StartDaemon, directory: Path) -> None:
    first = start_daemon("--concurrency", "1", "--shutdown-timeout", "20", redis_url=None, directory=directory).ready()
    task_id = first.enqueue("test:sleep", "0.7")
    first.wait_for("task started", task_id=task_id)

    first.signal(signal.SIGKILL)
    first.wait()
    wait_until(lambda: first.lines("task completed", task_id=task_id), "the worker finished its task")

    second = start_daemon("--concurrency", "1", redis_url=None, directory=directory).ready()
    second.wait_for("task completed", task_id=second.enqueue("test:echo", "1"))
    # What the second writes stands behind it in the same file.
    assert len(first.lines("task started", task_id=task_id)) == 1
    assert not first.lines("outcome dropped, the lease was lost")


def test_a_worker_that_redis_forgot_registers_again_and_keeps_its_lease(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = start_daemon("--concurrency", "1").ready()
    wait_until(lambda: client.connection.scard(keys.WORKERS) == 1, "the worker has registered")
    (name,) = client.connection.smembers(keys.WORKERS)

    client.connection.delete(name)

    daemon.wait_for("the broker had forgotten this worker, registering again")
    wait_until(lambda: client.connection.hget(name, "hostname"), "its record is there again")
    daemon.wait_for("task completed", task_id=client.enqueue("test:echo").id)


def test_config_check_refuses_a_wrong_cron_line(directory: Path) -> None:
    (directory / "boilerd.toml").write_text('[[cron]]\nspec = "61 * * * *"\ntype = "test:echo"\n')

    done = boilerd("config", "check", "--config", str(directory / "boilerd.toml"))

    assert done.returncode == 2
    assert "61" in done.stderr

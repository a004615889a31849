"""Retries, schedules, cancellation and periodic tasks with whole daemons."""

import itertools
import os
import signal
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from rq.command import send_stop_job_command
from rq.job import Job
from rq.serializers import JSONSerializer

from boilerd import Client, DuplicateTaskError, TaskFailedError, TaskProgress, TaskState
from boilerd.broker import keys
from builders import rq_job
from support import DEADLINE_S, StartDaemon, boilerd, wait_until


def job_of(connection: redis.Redis, task_id: str) -> Job:
    return rq_job(connection, task_id)


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
    for measured, expected in zip(starts(lines), [0, 1, 3, 7], strict=True):
        # None early; how late depends on what else this machine does.
        assert expected - 0.005 <= measured <= expected + 1.0
    assert len(daemon.lines("error handler", task_id=task_id, noted="OSError")) == 3


def test_after_its_last_retry_a_task_is_archived_with_all_its_errors(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "1").ready()

    task_id = client.enqueue("test:flaky", 99, max_retries=2).id

    daemon.wait_for("task archived", task_id=task_id)
    job = job_of(client.connection, task_id)
    assert [line["attempt"] for line in daemon.lines("task started", task_id=task_id)] == [1, 2, 3]
    assert client.connection.hget(keys.job(task_id), "last_error") == b"OSError: attempt 3 failed as told"
    told = [str(result.exc_string).strip().splitlines()[-1] for result in job.results()]
    assert told == [f"OSError: attempt {attempt} failed as told" for attempt in (3, 2, 1)]
    assert (job.retries_left, job.number_of_retries) == (0, 2)


def test_retries_go_on_after_the_daemon_was_stopped_and_started(start_daemon: StartDaemon, client: Client) -> None:
    first = start_daemon("--concurrency", "1").ready()
    task_id = client.enqueue("test:flaky", 2).id
    first.wait_for("task will be retried", task_id=task_id, delay_s=2.0)
    failed_s = time.time()
    first.stop()

    second = start_daemon("--concurrency", "1")

    second.wait_for("task completed", task_id=task_id)
    (line,) = second.lines("task started", task_id=task_id)
    assert line["attempt"] == 3
    assert datetime.fromisoformat(line["time"]).timestamp() >= failed_s + 1.9
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


def test_what_a_handler_asks_for_is_done(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "1").ready()

    skipped = client.enqueue("test:request", "skip").id
    revoked = client.enqueue("test:request", "revoke").id
    later = client.enqueue("test:request", "later").id

    daemon.wait_for("task archived", task_id=skipped)
    daemon.wait_for("task dropped", task_id=revoked)
    daemon.wait_for("task completed", task_id=later)
    assert not client.connection.exists(keys.job(revoked))
    assert [line["attempt"] for line in daemon.lines("task started", task_id=later)] == [1, 1]
    assert len(daemon.lines("task started", task_id=skipped)) == 1


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


def test_a_due_task_starts_at_once_on_an_idle_daemon(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "1").ready()

    seconds, micros = client.connection.time()
    before_s = seconds + micros / 1e6
    info = client.enqueue("test:echo", process_in=timedelta(seconds=0.7))

    assert info.state is TaskState.SCHEDULED
    started = datetime.fromisoformat(daemon.wait_for("task started", task_id=info.id)["time"]).timestamp()
    assert 0.699 <= started - before_s < 1.2  # log lines have milliseconds


def test_a_task_past_its_deadline_is_archived_and_never_runs(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "1").ready()

    late = client.enqueue("test:echo", deadline=datetime.now(UTC) - timedelta(seconds=1)).id
    tight = client.enqueue("test:sleep", 60, deadline=datetime.now(UTC) + timedelta(seconds=3)).id

    assert "DeadlineExceededError" in daemon.wait_for("task archived", task_id=late)["error"]
    assert "DeadlineExceededError" in daemon.wait_for("task archived", task_id=tight)["error"]
    assert not daemon.lines("task started", task_id=late)
    assert len(daemon.lines("task started", task_id=tight)) == 1


def test_a_payload_that_does_not_fit_is_archived_with_the_path(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "1").ready()

    good = client.enqueue("test:mail", {"to": ["a", "b"]}).id
    bad = client.enqueue("test:mail", {"to": ["a", 5]}).id

    daemon.wait_for("task completed", task_id=good)
    error = daemon.wait_for("task archived", task_id=bad)["error"]
    assert error == "InvalidPayloadError: payload: $.to[1]: Expected `str`, got `int`"


def test_async_handlers_run_and_are_cut_at_their_timeout(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "1").ready()

    quick = client.enqueue("test:async", 0.01, retention=60).id
    slow = client.enqueue("test:async", 60, timeout=1, max_retries=0).id
    again = client.enqueue("test:async", 0.01).id

    daemon.wait_for("task completed", task_id=quick)
    assert "TaskTimeoutError" in daemon.wait_for("task archived", task_id=slow)["error"]
    daemon.wait_for("task completed", task_id=again)
    assert job_of(client.connection, quick).return_value() == "slept"


def test_a_running_task_shows_a_result_and_knows_its_time_left(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "1").ready()

    task_id = client.enqueue("test:progress", 0.5, timeout=100).id

    line = daemon.wait_for("progress", task_id=task_id)
    assert line["kept"] is True
    assert 90 < line["left_s"] <= 100
    assert client.connection.hget(keys.job(task_id), "result") == b'{"done":1}'


def test_the_last_progress_of_very_much_is_seen_before_the_result(start_daemon: StartDaemon, client: Client) -> None:
    start_daemon("--concurrency", "1").ready()
    seen: list[TaskProgress] = []

    result = client.enqueue("test:steps", 5_000, retention=60).wait(DEADLINE_S, on_progress=seen.append)

    assert result == "all"
    assert seen[-1] == TaskProgress(5_000, 5_000)
    assert len(seen) < 500


def test_an_attempt_that_fails_has_told_how_far_it_came(start_daemon: StartDaemon, client: Client) -> None:
    start_daemon("--concurrency", "1").ready()
    seen: list[TaskProgress] = []

    with pytest.raises(TaskFailedError, match="RuntimeError: failed as told"):
        client.enqueue("test:steps:failing", 100, retention=60, max_retries=0).wait(DEADLINE_S, on_progress=seen.append)

    assert seen[-1] == TaskProgress(100, 100)


def test_who_waits_for_a_running_task_that_is_cancelled_hears_of_it(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "1").ready()
    info = client.enqueue("test:sleep", 60, retention=60)
    daemon.wait_for("task started", task_id=info.id)

    client.cancel(info.id)

    with pytest.raises(TaskFailedError, match="was cancelled: TaskCancelledError") as raised:
        info.wait(DEADLINE_S)
    assert raised.value.is_cancelled


@pytest.mark.parametrize("by", ["client", "rq"])
def test_a_cancelled_running_task_is_interrupted_and_archived(
    start_daemon: StartDaemon, client: Client, by: str
) -> None:
    daemon = start_daemon("--concurrency", "1").ready()
    task_id = client.enqueue("test:swallow").id
    daemon.wait_for("task started", task_id=task_id)
    wait_until(client.connection.pubsub_channels, "the scheduler listens")

    if by == "client":
        assert client.cancel(task_id) is True
    else:
        send_stop_job_command(client.connection, task_id, serializer=JSONSerializer)

    assert daemon.wait_for("task archived", task_id=task_id)["error"] == "TaskCancelledError: cancelled on request"
    assert len(daemon.lines("task started", task_id=task_id)) == 1
    assert client.cancel(task_id) is False
    daemon.wait_for("task completed", task_id=client.enqueue("test:echo").id)


@pytest.mark.parametrize("how", ["delete", "cancel"])
def test_a_running_task_that_rq_takes_away_makes_room_when_its_handler_has_ended(
    start_daemon: StartDaemon, client: Client, how: str
) -> None:
    daemon = start_daemon("--concurrency", "1").ready()
    task_id = client.enqueue("test:swallow").id
    daemon.wait_for("task started", task_id=task_id)

    getattr(job_of(client.connection, task_id), how)()

    daemon.wait_for("task completed", task_id=client.enqueue("test:echo").id)
    assert client.connection.zcard(keys.wip("default")) == 0


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


def test_a_duplicate_is_refused_with_the_first_tasks_id(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "1").ready()
    words = ("test:echo", "2", "--unique", "1m")
    assert daemon.cli("queue", "pause", "default").returncode == 0
    first = daemon.enqueue(*words)

    second = daemon.cli("enqueue", *words)

    assert second.returncode == 1
    assert first in second.stderr
    assert second.stdout == ""
    with pytest.raises(DuplicateTaskError) as raised:
        client.enqueue("test:echo", 2, unique=60)
    assert raised.value.task_id == first
    assert daemon.cli("queue", "resume", "default").returncode == 0
    daemon.wait_for("task completed", task_id=first)
    wait_until(lambda: not client.connection.exists(keys.job(first)), "it was acknowledged")
    assert daemon.enqueue(*words) != first


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
    assert {later - earlier for earlier, later in itertools.pairwise(ticks)} == {timedelta(seconds=1)}


@pytest.mark.long(10)
@pytest.mark.fault(25)
def test_a_host_that_is_gone_loses_its_task_to_another(start_daemon: StartDaemon, client: Client) -> None:
    first = start_daemon("--concurrency", "1").ready()
    task_id = client.enqueue("test:sleep", 3600).id
    first.wait_for("task started", task_id=task_id)
    pids = [process["pid"] for process in first.processes()]
    for pid in [first.pid, *pids]:
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
    # Both daemons write to the same file.
    assert len(second.lines("task started", task_id=task_id)) == 1
    assert not second.lines("outcome dropped, the lease was lost")


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

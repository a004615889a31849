"""Clients, schedulers, supervisors and whole daemons are killed, stopped and told to end at bad moments."""

import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from boilerd import Client
from boilerd.broker import keys
from support import (
    QUICK_RETRY,
    Failpoints,
    StartDaemon,
    Valkey,
    boilerd,
    clean_environment,
    completed,
    expire_leases,
    is_running,
    python_path,
    wait_until,
    wait_until_written,
)

#: Failed attempts are tried again at once.


def send_all(pids: list[int], signum: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, signum)


@pytest.mark.fault(1)
@pytest.mark.parametrize(("point", "stored"), [("before-enqueue", 0), ("after-enqueue", 1)])
def test_a_client_killed_around_its_enqueue_has_stored_the_whole_task_or_nothing(
    client: Client, valkey: Valkey, failpoints: Failpoints, point: str, stored: int
) -> None:
    failpoints.arm(point)

    done = boilerd(
        "enqueue", "test:echo", "--queue", "default",
        env=clean_environment(BOILERD_REDIS_URL=valkey.url, **failpoints.env),
    )  # fmt: skip

    assert done.returncode == -signal.SIGKILL
    assert client.connection.llen(keys.queue("default")) == stored
    assert len(list(client.connection.scan_iter(keys.job("*")))) == stored


@pytest.mark.fault(17)
@pytest.mark.parametrize("point", ["before-forward", "after-forward"])
def test_a_scheduler_killed_among_ten_thousand_due_tasks_forwards_each_once(
    start_daemon: StartDaemon, client: Client, failpoints: Failpoints, point: str
) -> None:
    daemon = start_daemon("--concurrency", "1", env=failpoints.env).ready()
    client.connection.sadd(f"{keys.OWN}:paused", "default")
    client.enqueue_many([("test:echo", None)] * 10_000, process_in=1)
    wait_until(lambda: client.connection.llen(keys.queue("default")), "the first was forwarded")

    failpoints.arm(point)

    killed = failpoints.struck(point)
    wait_until(lambda: daemon.pid_of("scheduler") not in {0, killed}, "there is a new scheduler")
    wait_until(lambda: client.connection.llen(keys.queue("default")) == 10_000, "all were forwarded")
    assert len(set(client.connection.lrange(keys.queue("default"), 0, -1))) == 10_000
    assert not client.connection.zcard(keys.registry("scheduled", "default"))


@pytest.mark.long(24)
@pytest.mark.fault(18)
def test_a_stopped_scheduler_costs_its_workers_one_extra_run_at_most(start_daemon: StartDaemon, client: Client) -> None:
    first = start_daemon("--concurrency", "1", env=QUICK_RETRY).ready()
    task_id = client.enqueue("test:brief", 24).id  # the second daemon starts meanwhile, and waits for 8 s then
    first.wait_for("task started", task_id=task_id)
    second = start_daemon("--concurrency", "1", env=QUICK_RETRY).ready()

    scheduler = first.kill("scheduler", signal.SIGSTOP)
    expire_leases(client.connection, lambda: second.lines("task failed", task_id=task_id))

    assert "lease expired" in second.wait_for("task failed", task_id=task_id)["error"]
    first.wait_for("outcome dropped, the lease was lost", task_id=task_id)
    wait_until(lambda: not client.connection.exists(keys.job(task_id)), "the task has ended")
    assert completed(client.connection, task_id) == 1
    os.kill(scheduler, signal.SIGCONT)
    client.enqueue("test:echo", process_in=0.1)
    wait_until(lambda: not client.connection.zcard(keys.registry("scheduled", "default")), "it serves again")


@pytest.mark.fault(19)
def test_a_host_whose_clock_is_ten_minutes_ahead_runs_no_task_early(
    start_daemon: StartDaemon, client: Client, directory: Path
) -> None:
    skewed = directory / "skewed"
    skewed.mkdir()
    ahead = "import time\nwas = time.time\ntime.time = lambda: was() + 600\n"
    (skewed / "sitecustomize.py").write_text(ahead)
    daemon = start_daemon("--concurrency", "1", env={"PYTHONPATH": python_path(skewed)})
    daemon.ready()

    task_id = client.enqueue("test:echo", process_in=2, retention=60).id

    daemon.wait_for("task completed", task_id=task_id)
    record = client.connection.hmget(keys.job(task_id), "created_at", "started_at")
    created, started = (str(value, "ascii") for value in record if isinstance(value, bytes))
    assert 2 <= _seconds_between(created, started) < 60


@pytest.mark.fault(20)
def test_a_daemon_started_after_its_supervisor_was_killed_takes_over_at_once(
    start_daemon: StartDaemon, client: Client
) -> None:
    first = start_daemon("--concurrency", "2").ready()
    task_id = client.enqueue("test:sleep", 1).id
    first.wait_for("task started", task_id=task_id)
    orphans = first.pids()[1:]

    os.kill(first.pid, signal.SIGKILL)
    first.process.wait()
    second = start_daemon("--concurrency", "2", directory=first.directory).ready()

    other = client.enqueue("test:echo").id
    second.wait_for("task completed", task_id=other)
    wait_until(lambda: first.lines("task completed", task_id=task_id, attempt=1), "the orphan has completed it")
    wait_until(lambda: not any(map(is_running, orphans)), "the orphans are gone")
    wait_until(lambda: completed(client.connection, task_id), "it was acknowledged")
    assert len(first.lines("task started", task_id=task_id)) == 1


@pytest.mark.fault(21)
def test_a_restarted_daemon_recovers_at_once_what_its_killed_predecessor_ran(
    start_daemon: StartDaemon, client: Client
) -> None:
    first = start_daemon("--concurrency", "2").ready()
    task_id = client.enqueue("test:brief", 30, max_retries=3).id
    first.wait_for("task started", task_id=task_id)
    names = client.connection.smembers(keys.WORKERS)
    send_all(first.pids(), signal.SIGKILL)
    first.process.wait()

    second = start_daemon("--concurrency", "2", env=QUICK_RETRY)

    died = "WorkerDiedError: worker died together with its daemon"
    second.wait_for("task failed", task_id=task_id, error=died)
    second.wait_for("task completed", task_id=task_id, attempt=2)
    wait_until(lambda: not names & client.connection.smembers(keys.WORKERS), "the dead are out of the registry")
    # The idle one may have had the time to leave by itself.
    left = [name for name in names if client.connection.exists(name)]
    assert all(client.connection.hexists(name, "death") for name in left)


@pytest.mark.fault(22)
def test_a_term_while_it_starts_ends_a_daemon_with_status_0_and_leaves_nothing(
    start_daemon: StartDaemon, directory: Path
) -> None:
    daemon = start_daemon(redis_url=None)
    socket = daemon.directory / "run" / "valkey.sock"
    wait_until(socket.exists, "the embedded broker was started")

    daemon.signal(signal.SIGTERM)

    assert daemon.wait() == 0
    assert not Valkey(daemon.directory / "run").answers()


@pytest.mark.fault(22)
def test_a_storm_of_hups_changes_nothing(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "1").ready()
    task_id = client.enqueue("test:sleep", 0.5).id
    daemon.wait_for("task started", task_id=task_id)

    for _ in range(200):
        daemon.signal(signal.SIGHUP)

    daemon.wait_for("task completed", task_id=task_id, attempt=1)
    assert daemon.stop() == 0


@pytest.mark.fault(22)
def test_a_daemon_told_to_stop_while_the_broker_is_down_ends_in_time(
    start_daemon: StartDaemon, directory: Path
) -> None:
    server = Valkey(directory, "--appendonly", "yes", "--appendfsync", "always").start()
    daemon = start_daemon("--concurrency", "2", redis_url=server.url).ready()
    with Client.from_url(server.url) as client:
        task_id = client.enqueue("test:sleep", 60).id
    daemon.wait_for("task started", task_id=task_id)
    server.stop(signal.SIGKILL)

    daemon.signal(signal.SIGTERM)

    assert daemon.wait() == 0
    server.start()
    with Client.from_url(server.url) as client:
        # What could not be given back is found by its lease, or by the next daemon of this machine.
        next_one = start_daemon("--concurrency", "1", redis_url=server.url, env=QUICK_RETRY)
        next_one.wait_for("task failed", task_id=task_id, error="WorkerDiedError: worker died together with its daemon")
    next_one.close()
    server.stop()


@pytest.mark.fault(22)
@pytest.mark.fault(20)
@pytest.mark.parametrize("point", ["supervisor-drains", "supervisor-forked"])
def test_a_supervisor_killed_between_its_steps_leaves_no_process_and_loses_no_task(
    start_daemon: StartDaemon, client: Client, failpoints: Failpoints, point: str
) -> None:
    daemon = start_daemon("--concurrency", "2", env=failpoints.env).ready()
    task_id = client.enqueue("test:sleep", 0.5).id
    started = daemon.wait_for("task started", task_id=task_id)
    pids = daemon.pids()
    failpoints.arm(point)

    if point == "supervisor-drains":
        daemon.signal(signal.SIGTERM)
    else:
        os.kill(next(pid for pid in pids[1:] if pid != started["pid"]), signal.SIGKILL)

    assert failpoints.struck(point) == daemon.pid
    daemon.process.wait()
    wait_until(lambda: not any(map(is_running, pids)), "all of its processes ended")
    wait_until(lambda: completed(client.connection, task_id) == 1, "the task was completed")
    assert not client.connection.zcard(keys.wip("default"))


@pytest.mark.fault(24)
def test_everything_killed_with_the_embedded_broker_comes_back_with_all_tasks(start_daemon: StartDaemon) -> None:
    first = start_daemon("--concurrency", "1", redis_url=None, env=QUICK_RETRY).ready()
    with Client.from_url(f"unix://{first.directory}/run/valkey.sock") as client:
        running = client.enqueue("test:brief", 30, max_retries=3).id
        first.wait_for("task started", task_id=running)
        waiting = [client.enqueue("test:echo").id for _ in range(50)]
        scheduled = client.enqueue("test:echo", process_in=1).id
        wait_until_written(client.connection)
    send_all(first.pids(), signal.SIGKILL)
    first.process.wait()

    second = start_daemon("--concurrency", "1", redis_url=None, directory=first.directory, env=QUICK_RETRY)

    for task_id in [running, *waiting, scheduled]:
        second.wait_for("task completed", task_id=task_id)


@pytest.mark.long(33)
@pytest.mark.fault(25)
def test_a_host_that_is_cut_off_loses_its_task_within_40_seconds_and_cannot_write_later(
    start_daemon: StartDaemon, client: Client
) -> None:
    first = start_daemon("--concurrency", "1", env=QUICK_RETRY).ready()
    task_id = client.enqueue("test:brief", 24).id  # the second daemon starts meanwhile
    first.wait_for("task started", task_id=task_id)
    second = start_daemon("--concurrency", "1", env=QUICK_RETRY).ready()
    frozen = first.pids()

    send_all(frozen, signal.SIGSTOP)  # to the other host it is the same as a cut network
    # Nothing pretends to be the end of the lease here: 30 s, and the next look of the recoverer.
    wait_until(lambda: second.lines("task completed", task_id=task_id), "the task was taken over", deadline_s=45)
    send_all(frozen, signal.SIGCONT)

    first.wait_for("outcome dropped, the lease was lost", task_id=task_id)
    assert completed(client.connection, task_id) == 1
    assert first.stop() == 0


@pytest.mark.fault(35)
def test_a_daemon_with_few_file_descriptors_lives(client: Client, valkey: Valkey, directory: Path) -> None:
    environment = clean_environment(BOILERD_REDIS_URL=valkey.url, BOILERD_STATE_DIR=str(directory))
    task_id = client.enqueue("worker:ping", {"message": "hi"}).id

    done = subprocess.run(
        ["/bin/sh", "-c", f"ulimit -n 64; exec {sys.executable} -m boilerd run --burst --concurrency 2"],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert completed(client.connection, task_id) == 1


def _seconds_between(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()

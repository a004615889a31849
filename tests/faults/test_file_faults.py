"""Disks that are full, files that vanish, pipes that nobody reads: the daemon lives, or says what is wrong."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from boilerd import BrokerError, Client, Inspector
from boilerd.broker import keys
from support import (
    DEADLINE_S,
    StartDaemon,
    StartValkey,
    Valkey,
    boilerd,
    clean_environment,
    completed,
    python_path,
    wait_until,
)


@pytest.mark.fault(34)
def test_a_full_disk_under_the_log_stops_no_task(start_daemon: StartDaemon, client: Client, directory: Path) -> None:
    full = directory / "full.log"
    full.symlink_to("/dev/full")
    daemon = start_daemon("--concurrency", "1", "--log-output", "both", "--log-file", str(full)).ready()

    task_id = client.enqueue("test:echo").id

    daemon.wait_for("task completed", task_id=task_id)
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.errors()


@pytest.mark.fault(34)
def test_a_log_directory_that_vanishes_stops_no_task(
    start_daemon: StartDaemon, client: Client, directory: Path
) -> None:
    (directory / "logs").mkdir()
    log = directory / "logs" / "boilerd.log"
    daemon = start_daemon("--concurrency", "1", "--log-output", "both", "--log-file", str(log)).ready()

    log.parent.rename(directory / "away")  # at once: a line makes the file again while one is removed after another
    first = client.enqueue("test:echo").id
    daemon.wait_for("task completed", task_id=first)
    log.parent.mkdir()
    second = client.enqueue("test:echo").id

    daemon.wait_for("task completed", task_id=second)
    wait_until(lambda: log.exists() and second in log.read_text(), "the file was made again")


@pytest.mark.fault(34)
def test_a_worker_that_is_replaced_while_the_log_directory_is_gone_runs_tasks(
    start_daemon: StartDaemon, client: Client, directory: Path
) -> None:
    (directory / "logs").mkdir()
    log = directory / "logs" / "boilerd.log"
    daemon = start_daemon("--concurrency", "1", "--log-output", "both", "--log-file", str(log)).ready()
    daemon.wait_for("task completed", task_id=client.enqueue("test:echo").id)

    log.parent.rename(directory / "away")  # at once: a line makes the file again while one is removed after another
    client.enqueue("test:die", max_retries=0)
    daemon.wait_for("process died")
    first = client.enqueue("test:echo").id
    daemon.wait_for("task completed", task_id=first)
    log.parent.mkdir()
    second = client.enqueue("test:echo").id

    daemon.wait_for("task completed", task_id=second)
    wait_until(lambda: log.exists() and second in log.read_text(), "the file was made again")


@pytest.mark.fault(34)
def test_a_daemon_without_its_control_socket_works_and_drains(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "1").ready()

    daemon.socket.unlink()

    task_id = client.enqueue("test:echo").id
    daemon.wait_for("task completed", task_id=task_id)
    assert daemon.cli("status").returncode == 1
    assert daemon.stop() == 0


@pytest.mark.fault(34)
def test_a_state_directory_that_cannot_be_made_is_told(directory: Path) -> None:
    (directory / "file").write_text("no directory")

    done = boilerd("run", env=clean_environment(BOILERD_STATE_DIR=str(directory / "file" / "state")))

    assert done.returncode == 3
    assert "file/state" in done.stderr
    assert "set" in done.stderr


@pytest.mark.fault(34)
def test_a_broker_that_cannot_write_its_file_takes_nothing_and_says_so(
    start_valkey: StartValkey, start_daemon: StartDaemon
) -> None:
    server = start_valkey("--save", "3600 1000000", "--enable-protected-configs", "yes")
    daemon = start_daemon("--concurrency", "1", redis_url=server.url).ready()
    with Client.from_url(server.url) as client:
        client.connection.config_set("dir", "/proc")
        client.connection.bgsave()
        wait_until(lambda: client.connection.info()["rdb_last_bgsave_status"] == "err", "the snapshot failed")

        with pytest.raises(BrokerError, match="cannot save to its disk"):
            client.enqueue("test:echo", task_id="late")
        assert Inspector(client.connection).server().info["rdb_last_bgsave_status"] == "err"

        client.connection.config_set("stop-writes-on-bgsave-error", "no")
        client.enqueue("test:echo", task_id="late")
        daemon.wait_for("task completed", task_id="late")


@pytest.mark.fault(35)
def test_a_daemon_whose_output_nobody_reads_any_more_works_on(client: Client, valkey: Valkey, directory: Path) -> None:
    environment = clean_environment(
        BOILERD_REDIS_URL=valkey.url, BOILERD_STATE_DIR=str(directory), BOILERD_APP="apps:mux",
        BOILERD_CONCURRENCY="1", PYTHONPATH=python_path(),
    )  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "boilerd", "run"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline()
        process.stdout.close()
        process.stderr.close()

        task_ids = [client.enqueue("test:echo").id for _ in range(3)]

        wait_until(lambda: all(completed(client.connection, task_id) for task_id in task_ids), "all are completed")
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0


@pytest.mark.fault(35)
def test_a_wall_clock_that_jumps_moves_no_lease_and_no_task(
    start_daemon: StartDaemon, client: Client, directory: Path
) -> None:
    (directory / "skewed").mkdir()
    # Irregular, so that no loop finds the same jump at the same place in each of its rounds.
    jumps = (
        "import random, time\nwas = time.time\njump = random.Random(35).choice\n"
        "time.time = lambda: was() + jump([0, -3600, 86400])\n"
    )
    (directory / "skewed" / "sitecustomize.py").write_text(jumps)
    daemon = start_daemon("--concurrency", "2", env={"PYTHONPATH": python_path(directory / "skewed")}).ready()

    running = client.enqueue("test:sleep", 2).id
    later = client.enqueue("test:echo", process_in=1).id

    daemon.wait_for("task completed", task_id=later, attempt=1)
    daemon.wait_for("task completed", task_id=running, attempt=1)
    wait_until(lambda: not client.connection.zcard(keys.wip("default")), "both were acknowledged")
    assert not daemon.lines("process died")
    assert not daemon.lines("worker killed, its task ignores the timeout")


@pytest.mark.fault(35)
def test_a_wall_clock_that_is_put_forward_in_a_drain_cuts_no_task(
    start_daemon: StartDaemon, client: Client, directory: Path
) -> None:
    (directory / "skewed").mkdir()
    moved = directory / "moved"
    clock = f"import os, time\nwas = time.time\ntime.time = lambda: was() + 86400 * os.path.exists({str(moved)!r})\n"
    (directory / "skewed" / "sitecustomize.py").write_text(clock)
    environment = {"PYTHONPATH": python_path(directory / "skewed"), "BOILERD_SHUTDOWN_TIMEOUT": "20"}
    daemon = start_daemon("--concurrency", "1", env=environment).ready()
    task_id = client.enqueue("test:sleep", 1).id
    daemon.wait_for("task started", task_id=task_id)

    daemon.signal(signal.SIGTERM)
    daemon.wait_for("worker stopped accepting new tasks")
    moved.touch()

    assert daemon.wait() == 0
    assert daemon.lines("task completed", task_id=task_id, attempt=1)

"""The whole daemon: real processes, real signals, a real broker."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from boilerd import Client, Inspector
from boilerd.broker import keys
from boilerd.broker.connection import connect
from boilerd.supervision.asking import ask
from boilerd.supervision.children import FIRST_PAUSE_S
from builders import rq_job
from support import (
    Failpoints,
    RunningDaemon,
    StartDaemon,
    Valkey,
    boilerd,
    clean_environment,
    completed,
    free_ports,
    is_running,
    wait_until,
    wait_until_written,
)


def children_of(daemon: RunningDaemon) -> dict[str, int]:
    return {process["name"]: process["pid"] for process in daemon.processes()}


def supervisorctl(daemon: RunningDaemon, *words: str) -> subprocess.CompletedProcess[str]:
    socket = daemon.socket
    tool = [str(Path(sys.executable).parent / "supervisorctl"), "-s", f"unix://{socket}"]
    return subprocess.run([*tool, *words], capture_output=True, text=True, timeout=60, check=False)


def titles(daemon: RunningDaemon) -> list[str]:
    pids = ",".join(str(pid) for pid in (daemon.pid, *children_of(daemon).values()))
    shown = subprocess.run(["ps", "-o", "args=", "-p", pids], capture_output=True, text=True, check=True)
    return [line.strip() for line in shown.stdout.splitlines()]


def test_a_task_runs_without_any_configuration(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(redis_url=None, env={"BOILERD_APP": ""})
    daemon.wait_for("daemon started")

    task_id = daemon.enqueue("worker:ping", '{"message": "hi", "request_id": "r-7"}')

    started = daemon.wait_for("task started", task_id=task_id)
    completed = daemon.wait_for("task completed", task_id=task_id)
    for line in (started, completed):
        assert (line["task_type"], line["queue"], line["attempt"]) == ("worker:ping", "default", 1)
        assert line["request_id"] == "r-7"
        assert re.fullmatch(r"worker:\d", line["worker"])
    assert completed["duration_ms"] >= 0
    assert daemon.lines("task processed successfully", ping_message="hi", task_id=task_id)
    assert daemon.stop() == 0
    assert daemon.lines("worker shutdown completed gracefully")
    assert daemon.errors() == ""
    assert not daemon.lines(logger="boilerd.valkey", level="warning")


def test_the_originals_variables_name_the_redis_to_use(start_daemon: StartDaemon, directory: Path) -> None:
    (port,) = free_ports()
    server = Valkey(directory, "--port", str(port), "--bind", "127.0.0.1", "--requirepass", "s3cret").start()
    try:
        env = {"REDIS_ADDR": f"127.0.0.1:{port}", "REDIS_PASSWORD": "s3cret", "REDIS_DB": "3"}
        daemon = start_daemon("--concurrency", "1", redis_url=None, env=env).ready()

        task_id = daemon.enqueue("test:echo", "1")

        daemon.wait_for("task completed", task_id=task_id)
        with connect(server.url, password="s3cret", db=3) as connection:
            assert connection.scard(keys.WORKERS) == 1
        assert not any("s3cret" in title for title in titles(daemon))
        assert daemon.stop() == 0
        assert "s3cret" not in (daemon.directory / "stdout").read_text() + daemon.errors()
    finally:
        server.stop()


def test_strict_priority_empties_the_heavier_queue_first(start_daemon: StartDaemon, client: Client) -> None:
    for queue in ("low", "critical", "default"):
        client.enqueue_many([("test:echo", number) for number in range(10)], queue=queue)

    daemon = start_daemon("--concurrency", "1")

    daemon.wait_for("task completed", count=30)
    assert [line["queue"] for line in daemon.lines("task started")] == ["critical"] * 10 + ["default"] * 10 + [
        "low"
    ] * 10


def test_weighted_priority_shares_the_claims_by_weight(start_daemon: StartDaemon, client: Client) -> None:
    for queue in ("low", "critical", "default"):
        client.enqueue_many([("test:echo", number) for number in range(1000)], queue=queue)

    # Claimed in batches, the shares hold in the long run only.
    daemon = start_daemon("--concurrency", "2", "--strict-priority", "false", "--prefetch", "false")

    daemon.wait_for("task completed", count=500)
    first = Counter(line["queue"] for line in daemon.lines("task completed")[:500])
    # Three and a half standard deviations of a binomial distribution, and the workers' interleaving.
    for queue, share in (("critical", 0.6), ("default", 0.3), ("low", 0.1)):
        assert abs(first[queue] / 500 - share) < 3.5 * (share * (1 - share) / 500) ** 0.5 + 0.004, first


def test_ps_tells_what_each_process_is(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "2", redis_url=None).ready()
    task_id = daemon.enqueue("test:sleep", "30")
    daemon.wait_for("task started", task_id=task_id)

    wait_until(lambda: any(title.endswith(" waiting") for title in titles(daemon)), "the other one waits")

    shown = titles(daemon)

    assert shown[0] == "boilerd: supervisor"
    assert "boilerd: scheduler" in shown
    assert any(title.startswith("boilerd: valkey ") for title in shown)
    assert sum(title.endswith(f"running test:sleep {task_id}") for title in shown) == 1
    assert sum(title.endswith(" waiting") for title in shown) == 1


def test_supervisors_own_tool_works_on_the_control_socket(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--concurrency", "3").ready()
    socket = daemon.socket

    shown = supervisorctl(daemon, "status").stdout

    assert [line.split()[0] for line in shown.splitlines()] == ["scheduler", "worker:0", "worker:1", "worker:2"]
    before = daemon.pid_of("worker:1")
    supervisorctl(daemon, "restart", "worker:1")
    assert daemon.pid_of("worker:1") not in {0, before}
    assert "boilerd has no supervisord.conf" in supervisorctl(daemon, "reread").stdout
    assert oct(socket.stat().st_mode & 0o777) == "0o700"
    assert oct(socket.parent.stat().st_mode & 0o777) == "0o700"


def test_what_supervisorctl_stops_stays_stopped_until_it_is_started(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--concurrency", "2", redis_url=None).ready()
    wait_until(lambda: all(p["state"] == "RUNNING" for p in daemon.processes()), "all processes run")

    stopped = supervisorctl(daemon, "stop", "worker:*")

    assert stopped.stdout.count("stopped") == 2
    assert {p["name"]: p["state"] for p in daemon.processes() if p["name"].startswith("worker")} == {
        "worker:0": "STOPPED",
        "worker:1": "STOPPED",
    }
    supervisorctl(daemon, "start", "worker:1")
    daemon.wait_for("task completed", task_id=daemon.enqueue("test:echo", "1"))
    assert daemon.stop() == 0


def test_the_broker_is_not_stopped_under_its_workers(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--concurrency", "1", redis_url=None).ready()
    broker = daemon.pid_of("valkey")

    refused = supervisorctl(daemon, "stop", "valkey")
    group = supervisorctl(daemon, "stop", "valkey:*")
    supervisorctl(daemon, "restart", "all")

    assert "workers need it" in refused.stdout + refused.stderr
    assert "workers need it" in group.stdout + group.stderr
    assert daemon.pid_of("valkey") == broker
    daemon.wait_for("task completed", task_id=daemon.enqueue("test:echo", "1"))


def test_no_part_of_the_daemon_is_removed(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--concurrency", "1").ready()

    supervisorctl(daemon, "stop", "scheduler")
    refused = supervisorctl(daemon, "remove", "scheduler")

    assert "scheduler is a part of the daemon" in refused.stdout + refused.stderr
    assert daemon.cli("health").stdout == "scheduler: stopped\n"
    assert "started" in supervisorctl(daemon, "start", "scheduler").stdout


def test_rqs_own_tool_lists_the_workers_and_the_queues(start_daemon: StartDaemon, valkey: Valkey) -> None:
    daemon = start_daemon("--concurrency", "2").ready()
    task_id = daemon.enqueue("test:echo", "1", "--queue", "low")
    daemon.wait_for("task completed", task_id=task_id)

    def shown() -> str:
        tool = [str(Path(sys.executable).parent / "rq"), "info", "--url", valkey.url]
        return subprocess.run(tool, capture_output=True, text=True, check=True).stdout

    listed = wait_until(lambda: text if "2 workers" in (text := shown()) else "", "rq info lists two workers")
    assert re.search(r"^low +\|", listed, re.MULTILINE)
    assert "jobs: 1 finished, 0 failed" in listed
    assert daemon.stop() == 0
    assert "0 workers" in shown()


def test_a_killed_worker_is_replaced_and_nothing_else_stops(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--concurrency", "3").ready()
    wait_until(lambda: all(p["state"] == "RUNNING" for p in daemon.processes()), "all processes run")
    before = children_of(daemon)

    daemon.kill("worker:1")
    killed_s = time.monotonic()
    wait_until(lambda: daemon.pid_of("worker:1") not in {0, before["worker:1"]}, "another worker:1 runs")

    assert time.monotonic() - killed_s < FIRST_PAUSE_S
    assert not daemon.lines("process crashed at start, trying again")
    assert {**children_of(daemon), "worker:1": 0} == {**before, "worker:1": 0}
    assert daemon.wait_for("process died")["exit"] == "signal 9 (SIGKILL)"
    task_id = daemon.enqueue("test:echo", "1")
    daemon.wait_for("task completed", task_id=task_id)


@pytest.mark.fault(16)
def test_a_worker_that_is_killed_at_once_backs_off_and_comes_back(
    start_daemon: StartDaemon, failpoints: Failpoints
) -> None:
    failpoints.arm("before-birth")

    daemon = start_daemon("--concurrency", "1", env=failpoints.env)

    failpoints.struck("before-birth")
    daemon.wait_for("process crashed at start, trying again")
    task_id = daemon.enqueue("test:echo", "1")
    daemon.wait_for("task completed", task_id=task_id)


def test_a_task_that_kills_its_worker_is_archived_with_the_cause(
    start_daemon: StartDaemon, connection: redis.Redis
) -> None:
    daemon = start_daemon("--concurrency", "1").ready()

    task_id = daemon.enqueue("test:die", "--max-retries", "0")

    failed = daemon.wait_for("task failed", task_id=task_id)
    assert failed["error"] == "WorkerDiedError: worker died: signal 9 (SIGKILL)"
    daemon.wait_for("task archived", task_id=task_id)
    assert rq_job(connection, task_id).is_failed
    other = daemon.enqueue("test:echo", "1")
    daemon.wait_for("task completed", task_id=other)


def test_a_killed_scheduler_is_replaced_and_leases_go_on(start_daemon: StartDaemon, connection: redis.Redis) -> None:
    daemon = start_daemon("--concurrency", "1").ready()
    wait_until(lambda: all(p["state"] == "RUNNING" for p in daemon.processes()), "all processes run")
    daemon.wait_for("task started", task_id=daemon.enqueue("test:sleep", "30"))
    (pair,) = (member for member, _ in connection.zscan_iter(keys.wip("default")))
    connection.zadd(keys.wip("default"), {pair: 5.0})

    before = daemon.kill("scheduler")

    wait_until(lambda: daemon.pid_of("scheduler") not in {0, before}, "another scheduler runs")
    wait_until(lambda: (connection.zscore(keys.wip("default"), pair) or 0) > 5, "the lease was extended")


def test_a_drain_finishes_the_running_task_and_claims_nothing_new(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "2", "--shutdown-timeout", "15").ready()
    running = [client.enqueue("test:sleep", 1.0).id for _ in range(2)]
    daemon.wait_for("task started", count=2)
    waiting = client.enqueue("test:echo").id

    status = daemon.stop()

    assert status == 0
    assert {line["task_id"] for line in daemon.lines("task completed")} == set(running)
    assert not daemon.lines(task_id=waiting)
    assert client.connection.lrange(keys.queue("default"), 0, -1) == [waiting.encode()]
    assert daemon.lines("worker stopped accepting new tasks")
    assert daemon.lines("worker shutdown completed gracefully")


@pytest.mark.fault(23)
@pytest.mark.parametrize("task_type", ["test:sleep", "test:swallow", "test:stubborn"])
def test_a_drain_ends_in_time_and_puts_the_task_back_uncounted(
    start_daemon: StartDaemon, client: Client, task_type: str
) -> None:
    daemon = start_daemon("--concurrency", "1", "--shutdown-timeout", "1").ready()
    task_id = client.enqueue(task_type, 60).id
    daemon.wait_for("task started", task_id=task_id)
    if task_type == "test:stubborn":
        daemon.wait_for("stubborn now")
    behind = client.enqueue("test:echo").id

    told_s = time.monotonic()
    status = daemon.stop()
    took_s = time.monotonic() - told_s

    assert status == 0
    assert 1 <= took_s < 20  # the handlers would go on for a minute
    assert client.connection.lrange(keys.queue("default"), 0, -1) == [task_id.encode(), behind.encode()]
    job = rq_job(client.connection, task_id)
    assert (job.get_status(), job.retries_left, job.number_of_retries) == ("queued", 25, None)
    assert daemon.lines("worker shutdown timed out, forcing exit")
    assert daemon.lines("task released, it will run again", task_id=task_id)
    assert not daemon.lines("task failed")
    assert client.connection.zcard(keys.wip("default")) == 0


@pytest.mark.fault(22)
def test_a_second_term_stops_at_once_and_puts_the_task_back(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "1", "--shutdown-timeout", "60").ready()
    task_id = client.enqueue("test:sleep", 60).id
    daemon.wait_for("task started", task_id=task_id)
    daemon.signal(signal.SIGTERM)
    daemon.wait_for("worker stopped accepting new tasks")
    first_s = time.monotonic()

    wait_until(lambda: time.monotonic() - first_s > 1.1, "more than a second has passed")
    daemon.signal(signal.SIGTERM)

    assert daemon.wait() == 0
    assert time.monotonic() - first_s < 30
    assert client.connection.lrange(keys.queue("default"), 0, -1) == [task_id.encode()]


def test_a_term_and_an_interrupt_that_come_together_are_one_request(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "1", "--shutdown-timeout", "20").ready()
    task_id = client.enqueue("test:sleep", 0.5).id
    daemon.wait_for("task started", task_id=task_id)

    # As of Ctrl-C, where a service manager or a shell passes it on as well.
    daemon.signal(signal.SIGTERM)
    daemon.signal(signal.SIGINT)

    assert daemon.wait() == 0
    assert daemon.lines("task completed", task_id=task_id)
    (told,) = daemon.lines("draining already, a second signal so soon is none")
    assert told["hint"] == "one more, a second after the first, stops at once"


@pytest.mark.fault(22)
@pytest.mark.parametrize("is_stopping", [False, True], ids=["workers drain", "broker stops"])
def test_a_second_term_does_not_wait_for_a_broker_that_hangs(start_daemon: StartDaemon, *, is_stopping: bool) -> None:
    daemon = start_daemon("--concurrency", "1", "--shutdown-timeout", "60", redis_url=None).ready()
    socket = daemon.socket
    if is_stopping:
        ask(socket, "supervisor.stopProcessGroup", "worker")
        ask(socket, "supervisor.stopProcessGroup", "scheduler")
    else:
        daemon.wait_for("task started", task_id=daemon.enqueue("test:sleep", "60"))
    broker = daemon.kill("valkey", signal.SIGSTOP)
    daemon.signal(signal.SIGTERM)
    daemon.wait_for("worker stopped accepting new tasks")
    first_s = time.monotonic()

    wait_until(lambda: time.monotonic() - first_s > 1.1, "more than a second has passed")
    daemon.signal(signal.SIGTERM)

    assert daemon.wait() == 0  # within less than the 30 s that a broker has otherwise
    assert not is_running(broker)


def test_a_retry_after_a_release_runs_the_task_to_its_end(start_daemon: StartDaemon, client: Client) -> None:
    first = start_daemon("--concurrency", "1", "--shutdown-timeout", "0.2").ready()
    task_id = client.enqueue("test:sleep", 1.0).id
    first.wait_for("task started", task_id=task_id)
    first.stop()

    second = start_daemon("--concurrency", "1")

    assert second.wait_for("task completed", task_id=task_id)["attempt"] == 1


def test_an_idle_daemon_stops_at_once(start_daemon: StartDaemon, connection: redis.Redis) -> None:
    daemon = start_daemon("--shutdown-timeout", "60", redis_url=None).ready()

    told_s = time.monotonic()
    status = daemon.stop()

    assert status == 0
    assert time.monotonic() - told_s < 30
    assert not daemon.socket.exists()


def test_a_handler_that_never_returns_to_python_is_killed_after_its_timeout(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = start_daemon("--concurrency", "1").ready()

    task_id = client.enqueue("test:stubborn", timeout=1).id

    killed = daemon.wait_for("worker killed, its task ignores the timeout", task_id=task_id)
    assert 5 <= killed["late_s"] < 30
    failed = daemon.wait_for("task failed", task_id=task_id)
    cause = "because its task ignored its limit of 1 s, from timeout or deadline"
    assert failed["error"] == f"WorkerDiedError: worker died: signal 9 (SIGKILL), {cause}"


def test_a_worker_is_replaced_after_max_tasks(start_daemon: StartDaemon, client: Client) -> None:
    client.enqueue_many([("test:whoami", None)] * 6)

    daemon = start_daemon("--concurrency", "1", "--max-tasks", "2")

    daemon.wait_for("i am", count=6)
    pids = [line["handler_pid"] for line in daemon.lines("i am")]
    assert len(set(pids)) == 3
    assert pids == sorted(pids, key=pids.index)
    assert not daemon.lines("process died")
    assert not daemon.lines("process crashed at start, trying again")


def test_a_worker_is_replaced_when_it_has_grown_above_max_memory(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "1", "--max-memory", "200M").ready()
    before = daemon.pid_of("worker:0")

    client.enqueue("test:echo")
    client.enqueue("test:grow", 300 * 1024 * 1024)

    recycled = daemon.wait_for("worker recycled")
    assert recycled["reason"] == "max_memory"
    assert recycled["resident_bytes"] > 300 * 1024 * 1024
    wait_until(lambda: daemon.pid_of("worker:0") not in {0, before}, "another worker runs")
    assert len(daemon.lines("task completed")) == 2


@pytest.mark.parametrize("workers", ["1", "3"])
def test_a_burst_empties_the_queues_and_exits(start_daemon: StartDaemon, client: Client, workers: str) -> None:
    client.enqueue_many([("test:echo", number) for number in range(50)])
    client.enqueue("test:echo", queue="low")

    daemon = start_daemon("--concurrency", workers, "--burst", "--max-tasks", "7")

    assert daemon.wait() == 0
    assert len(daemon.lines("task completed")) == 51
    assert client.connection.llen(keys.queue("default")) == 0


def test_a_task_that_was_stored_under_the_former_name_of_the_entry_point_runs(
    start_daemon: StartDaemon, client: Client, connection: redis.Redis
) -> None:
    task = client.enqueue("test:echo", {"n": 1}, retention=60)
    data = b'["boilerd.execution.run",null,["test:echo",{"n":1}],{}]'
    connection.hset(keys.job(task.id), "data", data)
    stored = Inspector(connection).task(task.id)

    daemon = start_daemon("--concurrency", "1").ready()

    daemon.wait_for("task completed", task_id=task.id, task_type="test:echo")
    assert (stored.type, stored.payload) == ("test:echo", {"n": 1})


def test_a_second_daemon_on_the_same_directory_is_refused(start_daemon: StartDaemon) -> None:
    first = start_daemon("--concurrency", "1", redis_url=None).ready()

    second = first.cli("run", "--concurrency", "1")

    assert second.returncode == 3
    assert re.fullmatch(
        rf"boilerd: error: runtime_dir \S+: in use by another daemon \(pid {first.pid}\); .*\n", second.stderr
    )
    task_id = first.enqueue("test:echo", "1")
    first.wait_for("task completed", task_id=task_id)


def test_a_second_daemon_is_refused_although_the_locks_of_the_first_were_deleted(start_daemon: StartDaemon) -> None:
    first = start_daemon("--concurrency", "1", redis_url=None).ready()
    broker = first.pid_of("valkey")
    for lock in [*first.directory.rglob("boilerd.lock")]:
        lock.unlink()

    second = first.cli("run", "--concurrency", "1")

    assert second.returncode == 3
    assert re.fullmatch(
        r"boilerd: error: \S+/control\.sock: another daemon listens there, .*; stop it first\n", second.stderr
    )
    assert first.pid_of("valkey") == broker
    first.wait_for("task completed", task_id=first.enqueue("test:echo", "1"))


@pytest.mark.fault(24)
def test_accepted_tasks_outlive_the_daemon_and_its_embedded_broker(start_daemon: StartDaemon, directory: Path) -> None:
    first = start_daemon("--concurrency", "1", "--queues", "other", redis_url=None, directory=directory).ready()
    with Client.from_url(f"unix://{directory}/run/valkey.sock") as client:
        task_id = client.enqueue("test:echo", "kept").id
    assert first.stop() == 0

    second = start_daemon("--concurrency", "1", redis_url=None, directory=directory)

    second.wait_for("task completed", task_id=task_id)


@pytest.mark.fault(20)
def test_nothing_outlives_a_supervisor_that_was_killed(start_daemon: StartDaemon, directory: Path) -> None:
    flags = ("--concurrency", "2", "--shutdown-timeout", "1")
    first = start_daemon(*flags, redis_url=None, directory=directory).ready()
    task_id = first.enqueue("test:sleep", "0.5")
    first.wait_for("task started", task_id=task_id)
    pids = children_of(first)

    first.signal(signal.SIGKILL)
    first.wait()

    for name, pid in pids.items():
        wait_until(lambda pid=pid: not is_running(pid), f"{name} ended")  # type: ignore[misc]
    second = start_daemon("--concurrency", "1", redis_url=None, directory=directory).ready()
    second.wait_for("task completed", task_id=second.enqueue("test:echo", "1"))
    with connect(f"unix://{directory}/run/valkey.sock") as connection:
        assert completed(connection, task_id) == 1  # the broker had waited for it


def test_nothing_outlives_a_supervisor_that_was_killed_while_threads_of_it_lived(
    start_daemon: StartDaemon, directory: Path
) -> None:
    # The kernel tells the children as soon as the first thread has gone, and may give them to the others for a moment.
    (directory / "threads.py").write_text(
        "import threading, time\nfrom apps import mux\nfor _ in range(50):\n"
        "    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    )
    env = {"BOILERD_APP": "threads:mux"}
    daemon = start_daemon("--concurrency", "1", redis_url=None, directory=directory, env=env).ready()
    pids = children_of(daemon)

    daemon.signal(signal.SIGKILL)
    daemon.wait()

    for name, pid in pids.items():
        wait_until(lambda pid=pid: not is_running(pid), f"{name} ended")  # type: ignore[misc]


def test_a_term_to_all_processes_drains_in_order(start_daemon: StartDaemon, directory: Path) -> None:
    flags = ("--concurrency", "2", "--shutdown-timeout", "20")
    daemon = start_daemon(*flags, redis_url=None, directory=directory).ready()
    task_id = daemon.enqueue("test:sleep", "1.5")
    daemon.wait_for("task started", task_id=task_id)

    supervisor, *children = daemon.pids()
    for pid in (*children, supervisor):
        os.kill(pid, signal.SIGTERM)

    assert daemon.wait() == 0
    assert daemon.lines("worker shutdown completed gracefully")
    assert not [line for line in daemon.lines("process died") if line["child"] in {"valkey", "scheduler"}]
    assert not daemon.lines("stopped while the broker is unavailable")
    second = start_daemon("--concurrency", "1", redis_url=None, directory=directory).ready()
    with connect(f"unix://{directory}/run/valkey.sock") as connection:
        assert completed(connection, task_id) == 1
    assert second.stop() == 0


@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGTSTP], ids=["reload", "quiet"])
def test_signals_of_the_supervisor_do_nothing_to_its_children(
    start_daemon: StartDaemon, signum: signal.Signals
) -> None:
    daemon = start_daemon("--concurrency", "1", redis_url=None).ready()
    task_id = daemon.enqueue("test:sleep", "1")
    daemon.wait_for("task started", task_id=task_id)
    before = children_of(daemon)

    for pid in daemon.pids()[1:]:
        os.kill(pid, signum)

    assert daemon.wait_for("task completed", task_id=task_id)["attempt"] == 1
    assert daemon.wait_for("task completed", task_id=daemon.enqueue("test:echo", "1"))
    assert children_of(daemon) == before


def test_children_have_no_socket_and_no_pipe_of_their_supervisor(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--concurrency", "1", redis_url=None).ready()
    name = f"{daemon.directory}/run/control.sock"
    table = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    own = {f"socket:[{row[6]}]" for row in table if row[3] == "00010000" and row[-1].startswith(name)}  # it listens
    own.add(str(Path(f"/proc/{daemon.pid_of('valkey')}/fd/1").readlink()))

    def held(pid: int) -> set[str]:
        found = set()
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed since it was listed
                found.add(str(entry.readlink()))
        return found

    assert len(own) == 2
    assert own <= held(daemon.pid)
    # Who connected to a socket that an orphan holds would wait for an answer for ever.
    for child in ("scheduler", "worker:0"):
        assert not own & held(daemon.pid_of(child))


@pytest.mark.fault(26)
def test_a_killed_embedded_broker_comes_back_with_its_tasks(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--concurrency", "1", redis_url=None).ready()
    wait_until(lambda: all(p["state"] == "RUNNING" for p in daemon.processes()), "all processes run")
    task_id = daemon.enqueue("test:sleep", "1")
    daemon.wait_for("task started", task_id=task_id)
    behind = daemon.enqueue("test:echo", "1")
    with Client.from_url(f"unix://{daemon.directory}/run/valkey.sock") as client:
        wait_until_written(client.connection)

    daemon.kill("valkey")

    daemon.wait_for("task completed", task_id=task_id)
    daemon.wait_for("task completed", task_id=behind)
    assert not daemon.lines("outcome dropped, the lease was lost")
    assert daemon.stop() == 0


def test_an_outage_of_the_broker_is_told_once_and_waited_for(start_daemon: StartDaemon, directory: Path) -> None:
    server = Valkey(directory, "--appendonly", "yes", "--appendfsync", "always").start()
    try:
        daemon = start_daemon("--concurrency", "1", redis_url=server.url).ready()
        task_id = daemon.enqueue("test:sleep", "0.5")
        daemon.wait_for("task started", task_id=task_id)
        server.stop()
        daemon.wait_for("task completed", task_id=task_id)
        daemon.wait_for("broker unavailable, waiting", worker="worker:0")

        server.start()

        daemon.wait_for("broker available again", worker="worker:0")
        wait_until(lambda: not _exists(server, task_id), "its outcome was written")
        daemon.wait_for("task completed", task_id=daemon.enqueue("test:echo", "1"))
        assert len(daemon.lines("broker unavailable, waiting", worker="worker:0")) == 1
        assert daemon.stop() == 0
    finally:
        server.stop()


def test_a_failure_is_judged_once_and_written_after_the_outage(start_daemon: StartDaemon, directory: Path) -> None:
    server = Valkey(directory, "--appendonly", "yes", "--appendfsync", "always").start()
    try:
        daemon = start_daemon("--concurrency", "1", redis_url=server.url).ready()
        task_id = daemon.enqueue("test:late", "0.5", "--max-retries", "0")
        daemon.wait_for("task started", task_id=task_id)
        server.stop()
        daemon.wait_for("broker unavailable, waiting", worker="worker:0")

        server.start()

        assert "too late" in daemon.wait_for("task archived", task_id=task_id)["error"]
        assert len(daemon.lines("error handler", task_id=task_id)) == 1
        assert daemon.stop() == 0
    finally:
        server.stop()


@pytest.mark.fault(26)
def test_a_drain_during_an_outage_writes_what_has_ended(start_daemon: StartDaemon, directory: Path) -> None:
    server = Valkey(directory, "--appendonly", "yes", "--appendfsync", "always").start()
    try:
        daemon = start_daemon("--concurrency", "1", "--shutdown-timeout", "15", redis_url=server.url).ready()
        task_id = daemon.enqueue("test:late", "0.5", "--max-retries", "0")
        daemon.wait_for("task started", task_id=task_id)
        server.stop()
        daemon.wait_for("broker unavailable, waiting", worker="worker:0")
        daemon.signal(signal.SIGTERM)
        daemon.wait_for("worker stopped accepting new tasks")

        server.start()

        daemon.wait_for("task archived", task_id=task_id)
        assert daemon.wait() == 0
    finally:
        server.stop()


@pytest.mark.fault(22)
def test_a_daemon_stops_in_time_while_its_broker_is_away(start_daemon: StartDaemon, directory: Path) -> None:
    server = Valkey(directory).start()
    daemon = start_daemon("--concurrency", "2", "--shutdown-timeout", "60", redis_url=server.url).ready()
    server.stop()
    daemon.wait_for("broker unavailable, waiting")

    told_s = time.monotonic()

    assert daemon.stop() == 0
    assert time.monotonic() - told_s < 30


def _exists(server: Valkey, task_id: str) -> bool:
    with connect(server.url) as connection:
        return bool(connection.exists(keys.job(task_id)))


def test_threads_of_the_application_keep_no_process_from_its_end(start_daemon: StartDaemon, directory: Path) -> None:
    (directory / "threaded.py").write_text(
        "import atexit, threading\nfrom apps import mux\nthreading.Thread(target=threading.Event().wait).start()\n"
        "atexit.register(open, 'ended', 'w')\n"
    )
    daemon = start_daemon("--concurrency", "1", directory=directory, env={"BOILERD_APP": "threaded:mux"}).ready()

    assert daemon.cli("config", "check", cwd=directory).returncode == 0
    assert daemon.cli("config", "check", "--queues", "=", cwd=directory).returncode == 2
    assert daemon.cli("reload", cwd=directory).returncode == 0
    (directory / "ended").unlink()
    assert daemon.stop() == 0
    assert daemon.lines("threads of the application are left behind")
    assert (directory / "ended").exists()


def test_threads_that_are_about_to_end_are_not_told_as_left_behind(directory: Path) -> None:
    (directory / "ending.py").write_text(
        "import threading, time\nfrom boilerd import ServeMux\nmux = ServeMux()\n"
        "threading.Thread(target=time.sleep, args=(0.2,)).start()\n"
    )

    done = boilerd("config", "check", cwd=directory, env=clean_environment(BOILERD_APP="ending:mux"))

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "setup",
    ["logging.config.dictConfig({'version': 1, 'root': {'level': 'ERROR'}})", "logging.basicConfig(force=True)"],
    ids=["dictConfig", "basicConfig"],
)
def test_an_application_that_sets_up_logging_does_not_silence_the_daemon(
    start_daemon: StartDaemon, client: Client, directory: Path, setup: str
) -> None:
    app = f"import logging.config\nfrom boilerd.tasks.builtin import mux\n{setup}\n"
    (directory / "logs.py").write_text(app)
    daemon = start_daemon("--concurrency", "1", directory=directory, env={"BOILERD_APP": "logs:mux"}).ready()

    task_id = client.enqueue("worker:ping").id

    assert daemon.wait_for("task completed", task_id=task_id)["worker"] == "worker:0"


def test_each_of_two_daemons_keeps_the_limits_of_its_own_queues_also_when_redis_loses_them(
    start_daemon: StartDaemon, connection: redis.Redis
) -> None:
    for queue in ("mail", "video"):
        limits = json.dumps({queue: {"max_active": 2}})
        daemon = start_daemon("--concurrency", "1", "--queues", queue, env={"BOILERD_LIMITS": limits})
        daemon.wait_for("daemon started")
    both = {b"mail:max_active": b"2", b"video:max_active": b"2"}
    assert connection.hgetall(keys.LIMITS) == both

    connection.delete(keys.LIMITS)

    wait_until(lambda: connection.hgetall(keys.LIMITS) == both, "the limits are set again")

"""Quiet, resume, restart, scale, stack dumps and log files: by signals and by commands."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from boilerd import Client
from boilerd.broker import keys
from boilerd.cli.rpc_client import read_status
from boilerd.errors import RefusedError
from boilerd.supervision.asking import ask
from proxy import Proxy
from support import (
    RunningDaemon,
    StartDaemon,
    Valkey,
    as_nobody,
    boilerd,
    clean_environment,
    is_running,
    wait_until,
)


def workers(daemon: RunningDaemon) -> dict[str, int]:
    return {p["name"]: p["pid"] for p in daemon.processes() if p["name"].startswith("worker:")}


def ask_by_signal(daemon: RunningDaemon, what: str) -> None:
    daemon.signal({"quiet": signal.SIGTSTP, "resume": signal.SIGCONT}[what])


def ask_by_command(daemon: RunningDaemon, what: str) -> None:
    assert daemon.cli(what).returncode == 0


@pytest.mark.parametrize("ask", [ask_by_signal, ask_by_command])
def test_a_quiet_daemon_ends_its_task_and_claims_none_until_it_resumes(
    start_daemon: StartDaemon, client: Client, connection: redis.Redis, ask: Callable[[RunningDaemon, str], None]
) -> None:
    daemon = start_daemon("--concurrency", "2").ready()
    running = client.enqueue("test:sleep", 1.0).id
    daemon.wait_for("task started", task_id=running)

    ask(daemon, "quiet")
    daemon.wait_for("worker stopped accepting new tasks")
    daemon.wait_for("task completed", task_id=running)
    wait_until(lambda: daemon.info()["status"] == "quiet, 2 workers, 0 busy, 0 pending", "the status tells")
    waiting = client.enqueue("test:echo").id
    wait_until(lambda: daemon.info()["pending"] == 1, "the task was seen")
    assert connection.lrange(keys.queue("default"), 0, -1) == [waiting.encode()]
    wait_until(lambda: not connection.zcard(keys.wip("default")), "nothing is claimed")

    ask(daemon, "resume")
    daemon.wait_for("task completed", task_id=waiting)
    assert daemon.info()["is_quiet"] is False


def test_an_answer_that_is_cut_off_is_none(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--concurrency", "1").ready()

    with Proxy(daemon.directory, daemon.socket) as proxy:
        proxy.cut_probability, proxy.halves = 1.0, True
        seen = read_status(daemon.directory / "proxy.sock")

    assert proxy.cuts
    assert seen.problems() == [f"daemon: not running (nobody answers at {daemon.directory / 'proxy.sock'})"]


def test_a_worker_that_is_replaced_while_quiet_is_quiet(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "1").ready()
    daemon.cli("quiet")

    old = workers(daemon)["worker:0"]
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: workers(daemon)["worker:0"] not in {0, old}, "it was replaced")
    task_id = client.enqueue("test:echo").id
    wait_until(lambda: daemon.info()["pending"] == 1, "the task waits")

    assert not daemon.lines("task started", task_id=task_id)
    daemon.cli("resume")
    daemon.wait_for("task completed", task_id=task_id)


def test_a_quiet_daemon_drains(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "2").ready()
    task_id = client.enqueue("test:sleep", 0.5).id
    daemon.wait_for("task started", task_id=task_id)

    daemon.cli("quiet")

    assert daemon.stop() == 0
    assert daemon.lines("task completed", task_id=task_id)


def test_signals_add_and_remove_a_worker(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--concurrency", "2").ready()

    daemon.signal(signal.SIGTTIN)
    wait_until(lambda: set(workers(daemon)) == {"worker:0", "worker:1", "worker:2"}, "one more")
    daemon.signal(signal.SIGTTOU)
    wait_until(lambda: set(workers(daemon)) == {"worker:0", "worker:1"}, "one less")
    daemon.signal(signal.SIGTTOU)
    wait_until(lambda: set(workers(daemon)) == {"worker:0"}, "two less")

    daemon.signal(signal.SIGTTOU)
    daemon.wait_for("scaling refused")
    assert list(workers(daemon)) == ["worker:0"]


def test_a_worker_that_has_to_go_ends_its_task(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "2", "--shutdown-timeout", "20").ready()
    for _ in range(2):
        client.enqueue("test:sleep", 1.0)
    daemon.wait_for("task started", count=2)

    assert daemon.cli("scale", "1").returncode == 0
    assert daemon.cli("scale", "2").returncode == 0

    daemon.wait_for("task completed", count=2)
    wait_until(lambda: len(workers(daemon)) == 2 and all(workers(daemon).values()), "the second was forked anew")
    assert not daemon.lines("task released, it will run again")


def test_workers_that_were_added_keep_their_leases_and_hear_cancellations(
    start_daemon: StartDaemon, client: Client, connection: redis.Redis
) -> None:
    daemon = start_daemon("--concurrency", "1").ready()
    ids = [client.enqueue("test:sleep", 300).id]
    daemon.wait_for("task started")

    assert daemon.cli("scale", "4").returncode == 0
    wait_until(lambda: len(workers(daemon)) == 4 and all(workers(daemon).values()), "four workers")

    ids += [client.enqueue("test:sleep", 300).id for _ in range(3)]
    daemon.wait_for("task started", count=4)
    leases = dict(connection.zscan_iter(keys.wip("default")))

    wait_until(
        lambda: all(end > leases[pair] for pair, end in connection.zscan_iter(keys.wip("default"))),
        "all leases were extended",
    )
    for task_id in ids:
        client.cancel(task_id)
        daemon.wait_for("task archived", task_id=task_id)
    # The scheduler, which ended to be forked anew, gives back what dead workers held.
    assert not daemon.lines("task released, it will run again")


def test_a_scheduler_that_is_replaced_when_a_drain_begins_comes_back_to_renew_the_leases(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = start_daemon("--concurrency", "1", "--shutdown-timeout", "60").ready()
    task_id = client.enqueue("test:sleep", 60).id
    daemon.wait_for("task started", task_id=task_id)
    before = daemon.kill("scheduler", signal.SIGSTOP)  # so that it takes its time to end

    ask(daemon.socket, "boilerd.scale", 2)
    daemon.signal(signal.SIGTERM)
    daemon.wait_for("worker stopped accepting new tasks")

    wait_until(lambda: daemon.pid_of("scheduler") not in {0, before}, "there is another")
    client.cancel(task_id)
    assert daemon.wait() == 0
    daemon.wait_for("task archived", task_id=task_id)


@pytest.mark.parametrize(
    ("size", "told"),
    [("0", "0"), ("1001", "1001"), ("-3", "-3"), ("9" * 12, "9" * 12), ("-" + "9" * 12, "-" + "9" * 12)],
)
def test_a_number_of_workers_that_cannot_be_is_refused(start_daemon: StartDaemon, size: str, told: str) -> None:
    daemon = start_daemon("--concurrency", "1").ready()

    done = daemon.cli("scale", "--", size)

    assert done.returncode == 2
    assert f"{told} workers: give a number from 1 to 1000" in done.stderr
    with pytest.raises(RefusedError, match="workers: give a number from 1 to 1000"):
        ask(daemon.socket, "boilerd.scale", max(min(int(size), 2**31 - 1), -(2**31)))


def test_a_number_for_a_pool_without_a_name_is_none_for_the_default_pool() -> None:
    done = boilerd("scale", "=3")

    assert done.returncode == 2
    assert "'=3' names no pool; write POOL=N, or N for the pool default" in done.stderr


def test_half_a_worker_is_refused(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--concurrency", "1").ready()

    with pytest.raises(RefusedError, match=r"^1\.5 workers: give a whole number"):
        ask(daemon.socket, "boilerd.scale", 1.5)

    assert daemon.info()["workers"] == 1
    assert daemon.stop() == 0


def test_restarted_workers_end_their_tasks_and_are_new(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "3", "--shutdown-timeout", "20").ready()
    before = workers(daemon)
    task_id = client.enqueue("test:sleep", 1).id
    daemon.wait_for("task started", task_id=task_id)

    assert daemon.cli("restart").returncode == 0

    daemon.wait_for("task completed", task_id=task_id)
    wait_until(lambda: all(pid and pid != before[name] for name, pid in workers(daemon).items()), "all are new")
    assert not daemon.lines("process died")


def test_one_worker_can_be_restarted(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--concurrency", "2").ready()
    before = workers(daemon)

    assert daemon.cli("restart", "worker:1").returncode == 0

    wait_until(lambda: workers(daemon)["worker:1"] not in {0, before["worker:1"]}, "it is new")
    assert workers(daemon)["worker:0"] == before["worker:0"]
    refused = daemon.cli("restart", "worker:7")
    assert (refused.returncode, refused.stderr) == (
        1,
        "boilerd: error: no worker 'worker:7'; there are worker:0 to worker:1\n",
    )


def test_a_restart_starts_what_was_given_up(start_daemon: StartDaemon, directory: Path) -> None:
    (directory / "impatient.py").write_text(
        "from apps import mux\nfrom boilerd.supervision import children\nchildren.START_RETRIES = 0\n"
    )
    env = {"BOILERD_APP": "impatient:mux"}
    daemon = start_daemon("--concurrency", "1", redis_url=None, directory=directory, env=env).ready()
    (directory / "valkey").rename(directory / "elsewhere")
    (directory / "valkey").touch()
    daemon.kill("valkey")
    hint = daemon.wait_for("process crashed too often, trying again later", child="valkey")["hint"]
    (directory / "valkey").unlink()
    (directory / "elsewhere").rename(directory / "valkey")

    assert hint == "boilerd restart starts it again when the cause is gone"
    assert daemon.cli("restart").returncode == 0

    wait_until(lambda: daemon.cli("enqueue", "test:echo").returncode == 0, "the broker takes tasks")
    daemon.wait_for("task completed")


def test_a_worker_that_does_not_answer_is_killed_by_a_restart(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "1").ready()
    pid = workers(daemon)["worker:0"]
    os.kill(pid, signal.SIGSTOP)

    assert daemon.cli("restart").returncode == 0

    wait_until(lambda: workers(daemon)["worker:0"] not in {0, pid}, "it was replaced")
    daemon.wait_for("task completed", task_id=client.enqueue("test:echo").id)
    assert daemon.stop() == 0
    assert daemon.lines("worker shutdown completed gracefully")  # what was cut short before is no part of it


@pytest.mark.parametrize("words", [("restart", "worker:1"), ("scale", "1")])
def test_a_task_whose_worker_is_killed_by_a_restart_or_for_a_smaller_pool_goes_back_uncounted(
    start_daemon: StartDaemon, client: Client, words: tuple[str, ...]
) -> None:
    daemon = start_daemon("--concurrency", "2", "--shutdown-timeout", "1").ready()
    ids = [client.enqueue("test:stubborn", 60, max_retries=0).id for _ in range(2)]
    daemon.wait_for("stubborn now", 2)

    assert daemon.cli(*words).returncode == 0

    released = daemon.wait_for("task released, it will run again")["task_id"]
    assert released in ids
    if words[0] == "restart":
        daemon.wait_for("task started", 2, task_id=released, attempt=1)
    else:
        wait_until(lambda: client.connection.lrange(keys.queue("default"), 0, -1) == [released.encode()], "it waits")
    assert not daemon.lines("task failed")


def test_every_process_logs_where_it_is(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "2").ready()
    task_id = client.enqueue("test:sleep", 30).id
    daemon.wait_for("task started", task_id=task_id)

    daemon.signal(signal.SIGUSR1)

    line = daemon.wait_for("stack dump", task_id=task_id)
    assert "in sleep\n" in line["stacks"]
    daemon.wait_for("stack dump", count=4)
    assert {line.get("worker") for line in daemon.lines("stack dump")} == {None, "scheduler", "worker:0", "worker:1"}
    assert not daemon.lines("process died")


def test_signals_that_are_passed_on_leave_the_embedded_broker_alone(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--concurrency", "1", redis_url=None).ready()
    broker = daemon.pid_of("valkey")

    daemon.signal(signal.SIGUSR1)
    daemon.signal(signal.SIGUSR2)

    daemon.wait_for("stack dump", count=3)
    daemon.wait_for("task completed", task_id=daemon.enqueue("test:echo", "1"))
    assert daemon.pid_of("valkey") == broker
    assert is_running(broker)


def test_log_files_that_were_moved_are_let_go_of(start_daemon: StartDaemon, client: Client, directory: Path) -> None:
    log = directory / "boilerd.log"
    daemon = start_daemon("--concurrency", "2", "--log-output", "both", "--log-file", str(log)).ready()
    client.enqueue("test:echo")
    wait_until(lambda: "task completed" in log.read_text(), "the file is written, which is after the standard output")
    log.rename(directory / "boilerd.log.1")

    def holders() -> list[int]:
        moved = str(directory / "boilerd.log.1")
        pids = [daemon.pid, *(p["pid"] for p in daemon.processes())]
        return [pid for pid in pids if any(_target(fd) == moved for fd in Path(f"/proc/{pid}/fd").iterdir())]

    assert holders()
    daemon.signal(signal.SIGUSR2)

    wait_until(lambda: not holders(), "no process holds the old file")
    daemon.wait_for("task completed", task_id=client.enqueue("test:echo").id)
    wait_until(lambda: "task completed" in log.read_text(), "the new file is written")


def _target(fd: Path) -> str:
    try:
        return str(fd.readlink())
    except FileNotFoundError:
        return ""


def test_a_drain_is_told_by_status_and_health(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "1", "--shutdown-timeout", "60").ready()
    task_id = client.enqueue("test:sleep", 60).id
    daemon.wait_for("task started", task_id=task_id)
    daemon.signal(signal.SIGTERM)
    daemon.wait_for("worker stopped accepting new tasks")

    shown = daemon.cli("status")
    health = daemon.cli("health")
    as_json = json.loads(daemon.cli("status", "--json").stdout)

    drain = "draining, 1 worker, 1 busy, 0 pending"
    verdict, command, line = shown.stdout.splitlines()[:3]
    assert (shown.returncode, line, shown.stderr) == (1, f"daemon      {drain}", "")
    assert verdict == "not ready: the daemon drains, and then ends: 1 worker, 1 busy, 0 pending"
    assert command == "  see boilerd logs -f"
    assert (health.returncode, health.stdout, health.stderr) == (1, f"daemon: {drain}\n", "")
    assert (as_json["daemon"]["state"], as_json["troubles"]) == ("draining", [f"daemon: {drain}"])
    client.cancel(task_id)
    assert daemon.wait() == 0


def test_a_worker_that_serves_is_shown_as_running_at_once(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--concurrency", "1").ready()
    socket = daemon.socket

    def is_shown_early() -> bool:
        told = {process["name"]: process for process in daemon.processes()}["worker:0"]
        supervisors = ask(socket, "supervisor.getProcessInfo", "worker:0")["statename"]
        if supervisors == "RUNNING":  # a second has passed: once more with a new one
            daemon.kill("worker:0")
        return bool(told["state"] == "RUNNING" and supervisors == "STARTING")

    wait_until(is_shown_early, "it is called RUNNING before Supervisor would")


def test_a_daemon_that_waits_for_its_broker_says_that_it_starts(start_daemon: StartDaemon, loading: Valkey) -> None:
    daemon = start_daemon("--concurrency", "1", redis_url=loading.url)
    daemon.wait_for("broker is loading, waiting")

    health = daemon.cli("health")
    refused = daemon.cli("scale", "3")

    loading.hurry()

    assert health.returncode == 1
    assert "daemon: starting, broker unavailable" in health.stdout.splitlines()
    assert refused.stderr == "boilerd: error: the daemon is starting; try again when it has started\n"
    daemon.wait_for("daemon started")


def test_a_shutdown_asked_for_on_the_socket_ends_a_daemon_that_waits_for_its_broker(
    start_daemon: StartDaemon, loading: Valkey
) -> None:
    daemon = start_daemon("--concurrency", "1", redis_url=loading.url)
    daemon.wait_for("broker is loading, waiting")

    ask(daemon.socket, "supervisor.shutdown")

    assert daemon.wait() == 0
    assert daemon.lines("stopped while starting")


def test_a_supervisor_that_hangs_is_told_from_one_that_is_not_there(
    start_daemon: StartDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boilerd.supervision.asking.TIMEOUT_S", 0.2)
    daemon = start_daemon("--concurrency", "1").ready()
    socket = daemon.socket
    hangs = f"pid {daemon.pid} (from boilerd.lock) does not answer; it may still do what was asked"
    daemon.signal(signal.SIGSTOP)

    try:
        seen = read_status(socket)
        with pytest.raises(TimeoutError) as raised:
            ask(socket, "boilerd.scale", 2)
        told = daemon.cli("scale", "3")
    finally:
        daemon.signal(signal.SIGCONT)

    assert (seen.summary, seen.problems(), str(raised.value)) == (hangs, [f"daemon: {hangs}"], hangs)
    assert (told.returncode, told.stderr) == (1, f"boilerd: error: {hangs}\n")
    wait_until(lambda: daemon.info().get("workers") == 3, "it did what was asked when it went on")
    daemon.lines()  # each is JSON, although those who asked had gone when it answered


def test_a_daemon_of_somebody_else_is_told_from_one_that_is_not_there(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--concurrency", "1").ready()
    path = daemon.socket
    path.chmod(0)

    with as_nobody():
        seen = read_status(path)

    assert seen.summary == f"not to be seen by this user ({path}: Permission denied)"


@pytest.mark.parametrize("words", [("quiet",), ("resume",), ("reload",), ("restart",), ("scale", "2")])
def test_without_a_daemon_each_command_says_so(directory: Path, words: tuple[str, ...]) -> None:
    done = boilerd(*words, env=clean_environment(BOILERD_STATE_DIR=str(directory)))

    assert done.returncode == 1
    assert f"no daemon answers at {directory}/run/control.sock" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_storm_of_signals_leaves_a_daemon_that_works(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "2").ready()

    for _ in range(50):
        for signum in (signal.SIGTSTP, signal.SIGCONT, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1, signal.SIGUSR2):
            daemon.signal(signum)
    daemon.signal(signal.SIGCONT)
    assert daemon.cli("resume").returncode == 0
    assert daemon.cli("scale", "2").returncode == 0

    daemon.wait_for("task completed", task_id=client.enqueue("test:echo").id)
    wait_until(lambda: set(workers(daemon)) == {"worker:0", "worker:1"}, "two workers")
    assert is_running(daemon.pid)
    assert daemon.stop() == 0

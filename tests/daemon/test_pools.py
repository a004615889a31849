"""Pools of workers in a daemon: queues of their own, limits of their own, one drain."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from boilerd import Client
from boilerd.broker import keys
from boilerd.cli.rpc_client import read_status
from boilerd.supervision.asking import ask
from boilerd.supervision.drain import SECOND_SIGNAL_S
from support import RunningDaemon, StartDaemon, boilerd, wait_until

APP = """
import asyncio, os, time
from boilerd import ServeMux
mux = ServeMux()

@mux.handle("app:until")
def until(task):
    while not os.path.exists(task.payload):
        time.sleep(0.01)

@mux.handle("app:sleep")
async def sleep(task):
    await asyncio.sleep(task.payload)

@mux.handle("app:pass-on")
def pass_on(task):
    from boilerd import Client
    with Client.from_settings() as client:
        if task.payload:
            client.enqueue("app:pass-on", task.payload - 1, queue="slow" if task.queue == "default" else "default")

@mux.handle("app:echo")
def echo(task):
    pass
"""

StartPools = Callable[..., RunningDaemon]


@pytest.fixture
def start(start_daemon: StartDaemon, directory: Path) -> StartPools:
    """Start a daemon with one worker in `default`, and these tables."""

    def start_it(pools: dict[str, Any], *flags: str, **environ: str) -> RunningDaemon:
        (directory / "poolapp.py").write_text(APP)
        env = {"BOILERD_APP": "poolapp:mux", "BOILERD_POOLS": json.dumps(pools), **environ}
        return start_daemon("--concurrency", "1", *flags, directory=directory, env=env)

    return start_it


def slow_pool(**keys_of_it: Any) -> dict[str, Any]:
    return {"slow": {"queues": {"slow": 1}, **keys_of_it}}


def names(daemon: RunningDaemon) -> list[str]:
    return sorted(p["name"] for p in daemon.processes() if p["name"] not in {"scheduler", "valkey"})


def test_no_slow_queue_starves_a_fast_one(start: StartPools, client: Client, directory: Path) -> None:
    daemon = start(slow_pool(processes=2)).ready()
    slow = [client.enqueue("app:until", str(directory / "go"), queue="slow").id for _ in range(10)]
    daemon.wait_for("task started", 2, queue="slow")

    fast = [client.enqueue("app:echo").id for _ in range(20)]

    for task_id in fast:
        daemon.wait_for("task completed", task_id=task_id)
    assert len(daemon.lines("task started", queue="slow")) == 2
    assert {line["worker"] for line in daemon.lines("task started", queue="slow")} == {"slow:1", "slow:2"}
    assert {line["worker"] for line in daemon.lines("task started", queue="default")} == {"worker:0"}
    (directory / "go").touch()
    for task_id in slow:
        daemon.wait_for("task completed", task_id=task_id)


def test_a_configuration_without_pools_has_the_names_that_it_always_had(
    start_daemon: StartDaemon, connection: Any
) -> None:
    daemon = start_daemon("--concurrency", "2").ready()

    workers = [member.decode().removeprefix(keys.worker("")) for member in connection.smembers(keys.WORKERS)]
    fields = {name.decode() for name in connection.hkeys(keys.worker(workers[0]))}

    assert names(daemon) == ["worker:0", "worker:1"]
    assert sorted(name.rpartition(".")[2] for name in workers) == ["0", "1"]
    assert not fields & {"pool", "slots"}
    assert "pools" not in daemon.lines("daemon started")[0]
    table = daemon.cli("status").stdout.splitlines()
    assert not any(line.startswith("pool") for line in table)
    assert daemon.cli("worker", "ls").stdout.splitlines()[0].split()[:2] == ["WORKER", "PID"]


def test_the_workers_of_a_pool_are_seen_by_its_name_everywhere(
    start: StartPools, client: Client, connection: redis.Redis, directory: Path
) -> None:
    daemon = start(slow_pool(processes=2, slots=3)).ready()
    for _ in range(4):
        client.enqueue("app:until", str(directory / "go"), queue="slow")
    wait_until(lambda: daemon.info()["busy"] == 4, "four run")

    listed = [json.loads(line) for line in daemon.cli("worker", "ls", "--json").stdout.splitlines()]
    status = daemon.cli("status").stdout.splitlines()
    pools = json.loads(daemon.cli("status", "--json").stdout)["daemon"]["pools"]
    (directory / "go").touch()

    assert names(daemon) == ["slow:1", "slow:2", "worker:0"]
    assert sorted((one["pool"], one["slots"], one["name"].rpartition(".")[2]) for one in listed) == [
        ("default", 1, "0"), ("slow", 3, "1"), ("slow", 3, "2"),
    ]  # fmt: skip
    assert sum(one["running"] for one in listed) == 4
    assert ["slow", "2", "6", "4", "0"] in [line.split() for line in status]
    assert ["default", "1", "1", "0", "0"] in [line.split() for line in status]
    assert [(pool["name"], pool["group"], pool["workers"]) for pool in pools] == [
        ("default", "worker", 1), ("slow", "slow", 2),
    ]  # fmt: skip


def test_due_tasks_and_waiting_ones_of_all_pools_are_the_schedulers_concern(start: StartPools, client: Client) -> None:
    daemon = start(slow_pool()).ready()

    due = client.enqueue("app:echo", queue="slow", process_in=0.1).id
    daemon.wait_for("task completed", task_id=due)
    daemon.cli("quiet")
    client.enqueue("app:echo", queue="slow")
    client.enqueue("app:echo")

    wait_until(lambda: daemon.info()["pending"] == 2, "both are counted")


def test_all_pools_drain_at_once_and_each_within_its_own_time(
    start: StartPools, client: Client, directory: Path, connection: redis.Redis
) -> None:
    daemon = start(slow_pool(shutdown_timeout="20s"), BOILERD_SHUTDOWN_TIMEOUT="0.1").ready()
    ids = {queue: client.enqueue("app:until", str(directory / "go"), queue=queue).id for queue in ("default", "slow")}
    for task_id in ids.values():
        daemon.wait_for("task started", task_id=task_id)

    daemon.signal(signal.SIGTERM)
    # The pool that stops last, were they to take turns; the other one's task goes on all the while.
    daemon.wait_for("task released, it will run again", task_id=ids["default"])
    since_s = time.monotonic()
    wait_until(lambda: time.monotonic() > since_s + 1, "a worker of default's would have been killed")
    (directory / "go").touch()

    assert daemon.wait() == 0
    assert daemon.lines("task completed", task_id=ids["slow"])
    assert connection.lrange(keys.queue("default"), 0, -1) == [ids["default"].encode()]
    assert daemon.lines("worker shutdown timed out, forcing exit", children=["worker:0"])


def test_a_second_term_ends_the_workers_of_all_pools_at_once(
    start: StartPools, client: Client, directory: Path, connection: redis.Redis
) -> None:
    daemon = start(slow_pool(shutdown_timeout="1h")).ready()
    task_id = client.enqueue("app:until", str(directory / "never"), queue="slow").id
    daemon.wait_for("task started", task_id=task_id)
    daemon.signal(signal.SIGTERM)
    daemon.wait_for("worker stopped accepting new tasks")
    first_s = time.monotonic()

    wait_until(lambda: time.monotonic() > first_s + SECOND_SIGNAL_S, "a second signal counts")
    daemon.signal(signal.SIGTERM)

    daemon.wait()
    assert connection.lrange(keys.queue("slow"), 0, -1) == [task_id.encode()]


def test_quiet_and_resume_of_one_pool_leave_the_others_alone_also_through_a_reload(
    start: StartPools, client: Client
) -> None:
    daemon = start(slow_pool()).ready()
    assert daemon.cli("quiet", "slow").returncode == 0

    waits = client.enqueue("app:echo", queue="slow").id
    daemon.wait_for("task completed", task_id=client.enqueue("app:echo").id)
    why = daemon.cli("task", "why", waits).stdout
    daemon.cli("reload")
    daemon.wait_for("task completed", task_id=client.enqueue("app:echo").id)

    assert not daemon.lines("task started", task_id=waits)
    assert "quiet" in why
    wait_until(lambda: daemon.info()["status"].startswith("pool slow quiet, 2 workers, 0 busy, 1"), "it is told")
    assert daemon.cli("resume", "slow").returncode == 0
    daemon.wait_for("task completed", task_id=waits)


def test_a_pool_is_scaled_and_restarted_by_its_name(start: StartPools) -> None:
    daemon = start(slow_pool()).ready()

    assert daemon.cli("scale", "slow=3").returncode == 0
    wait_until(lambda: names(daemon) == ["slow:1", "slow:2", "slow:3", "worker:0"], "three")
    daemon.signal(signal.SIGTTIN)
    wait_until(lambda: names(daemon)[-2:] == ["worker:0", "worker:4"], "one more in default")
    before = {name: daemon.pid_of(name) for name in names(daemon)}
    assert daemon.cli("restart", "slow").returncode == 0
    renewed = ["slow:1", "slow:2", "slow:3"]
    wait_until(lambda: all(daemon.pid_of(name) not in {0, before[name]} for name in renewed), "they were replaced")

    assert [daemon.pid_of(name) for name in ("worker:0", "worker:4")] == [before["worker:0"], before["worker:4"]]
    unknown = daemon.cli("scale", "slwo=3")
    assert (unknown.returncode, unknown.stderr) == (1, "boilerd: error: no pool 'slwo'; there are default, slow\n")
    assert "'x' is not a valid integer" in daemon.cli("scale", "slow=x").stderr


@pytest.mark.parametrize("slots", [1, 50])
def test_a_reload_with_other_pools_in_the_new_settings_finishes_what_runs_and_has_them(
    start_daemon: StartDaemon, client: Client, directory: Path, slots: int
) -> None:
    (directory / "poolapp.py").write_text(APP)
    file = directory / "boilerd.toml"
    old = f"concurrency = 1\n[pools.old]\nqueues = {{ old = 1 }}\nslots = {slots}\n"
    file.write_text(old)
    env = {"BOILERD_APP": "poolapp:mux", "BOILERD_CONFIG": str(file), "BOILERD_SHUTDOWN_TIMEOUT": "20"}
    daemon = start_daemon(directory=directory, env=env).ready()
    running = [client.enqueue("app:until", str(directory / "go"), queue="old").id for _ in range(slots)]
    daemon.wait_for("task started", slots, queue="old")

    file.write_text("concurrency = 2\n[pools.new]\nqueues = { old = 1, new = 1 }\nslots = 3\nprocesses = 2\n")
    assert daemon.cli("reload", "--no-wait").returncode == 0
    daemon.wait_for("reloading, draining the workers")
    (directory / "go").touch()
    daemon.wait_for("daemon reloaded")
    daemon.serving()

    assert names(daemon) == ["new:2", "new:3", "worker:0", "worker:1"]
    assert all(len(daemon.lines("task completed", task_id=task_id)) == 1 for task_id in running)
    assert not daemon.lines("task released, it will run again")
    daemon.wait_for("task completed", task_id=client.enqueue("app:echo", queue="new").id)
    daemon.wait_for("task completed", task_id=client.enqueue("app:echo", queue="old").id)


def test_a_burst_goes_on_until_no_pool_has_a_task_that_another_enqueued(start: StartPools, client: Client) -> None:
    client.enqueue("app:pass-on", 3)

    daemon = start(slow_pool(), "--burst", BOILERD_REDIS_URL=client_url(client))

    assert daemon.wait() == 0
    assert len(daemon.lines("task completed")) == 4


def client_url(client: Client) -> str:
    return f"unix://{client.connection.connection_pool.connection_kwargs['path']}"


def test_queues_that_no_pool_serves_and_those_that_several_serve_are_told_at_the_start(start: StartPools) -> None:
    limits = json.dumps({"later": {"max_active": 2}, "slow": {"max_active": 2}, "mail": {"max_active": 2}})
    pools = slow_pool(slots=5) | {"mail": {"queues": {"mail": 1, "slow": 1}}}

    daemon = start(pools, "--queues", "fast=1", BOILERD_LIMITS=limits).ready()

    assert daemon.lines("queues without a pool")[0]["queues"] == ["default", "later"]
    assert daemon.lines("queues without a pool")[0]["level"] == "warning"
    assert daemon.lines("several pools serve the same queues")[0]["queues"] == {"slow": ["slow", "mail"]}
    (told,) = daemon.lines("a limit keeps slots empty")
    assert (told["queue"], told["slots"], told["max_active"]) == ("slow", 6, 2)


def test_health_names_the_missing_workers_of_all_pools(start: StartPools) -> None:
    daemon = start(slow_pool()).ready()

    daemon.kill("slow:1", signal.SIGSTOP)

    wait_until(lambda: "slow:1: " in "".join(read_status(daemon.socket).problems()), "health tells")
    daemon.kill("slow:1", signal.SIGCONT)


def test_a_pool_with_a_loop_that_is_not_installed_is_refused_at_the_start(
    start_daemon: StartDaemon, directory: Path
) -> None:
    (directory / "sitecustomize.py").write_text("import sys\nsys.modules['uvloop'] = None\n")
    (directory / "boilerd.toml").write_text("[pools.x]\nqueues = { x = 1 }\nslots = 2\nloop = 'uvloop'\n")
    env = {"PYTHONPATH": str(directory), "BOILERD_APP": ""}

    daemon = start_daemon(directory=directory, env=env)
    checked = boilerd("config", "check", env=daemon.env, cwd=directory, anew=True)

    message = "pools.x: loop = uvloop is not installed; install boilerd[uvloop], or set loop = auto"
    assert daemon.wait() == 3
    assert message in daemon.errors()
    assert (checked.returncode, checked.stderr) == (2, f"boilerd: error: {message}\n")


def test_a_worker_with_slots_that_is_recycled_is_accompanied_by_another_while_its_tasks_go_on(
    start: StartPools, client: Client, directory: Path
) -> None:
    daemon = start(slow_pool(slots=10, max_tasks=10)).ready()
    long = client.enqueue("app:until", str(directory / "go"), queue="slow").id
    daemon.wait_for("task started", task_id=long)
    for _ in range(15):
        client.enqueue("app:echo", queue="slow")

    wait_until(lambda: names(daemon) == ["slow:1", "slow:2", "worker:0"], "there are two")
    daemon.wait_for("task completed", 15)
    daemon.wait_for("task completed", task_id=client.enqueue("app:echo", queue="slow").id, worker="slow:2")
    (directory / "go").touch()
    wait_until(lambda: names(daemon) == ["slow:2", "worker:0"], "the first has gone")

    assert daemon.lines("task completed", task_id=long, worker="slow:1")


def test_scale_takes_a_pool_on_the_control_socket(start: StartPools) -> None:
    daemon = start(slow_pool()).ready()

    ask(daemon.socket, "boilerd.scale", 2, "slow")

    wait_until(lambda: names(daemon) == ["slow:1", "slow:2", "worker:0"], "two")

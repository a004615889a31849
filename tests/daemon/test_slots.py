"""Daemons whose workers have slots: what reaches one of the tasks that run at once, and what all of them survive."""

import json
import signal
from collections import Counter
from pathlib import Path

import redis
from rq.command import send_stop_job_command

from boilerd import Client, Inspector, TaskState
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from builders import pending
from support import RunningDaemon, StartDaemon, wait_until


def start_slotted(start_daemon: StartDaemon, *, env: dict[str, str] | None = None, **pool: object) -> RunningDaemon:
    """A daemon of `slot_app`."""
    pools = {"default": {"queues": {"default": 1}, "processes": 1, **pool}}
    return start_daemon(env={"BOILERD_APP": "slot_app:mux", "BOILERD_POOLS": json.dumps(pools), **(env or {})}).ready()


def lines(directory: Path, file: str) -> list[str]:
    path = directory / file
    return path.read_text().split() if path.exists() else []


def hold(client: Client, daemon: RunningDaemon, count: int, task_type: str = "slot:hold") -> list[str]:
    """Enqueue so many tasks, and wait until all of them run."""
    ids = [client.enqueue(task_type, task_id=f"task-{n:04}", timeout=300).id for n in range(count)]
    wait_until(lambda: len(set(lines(daemon.directory, "runs"))) == count, "all run", deadline_s=60)
    return ids


def let_go(daemon: RunningDaemon) -> None:
    (daemon.directory / "open").touch()


def test_each_way_of_cancelling_ends_the_right_one_of_many_tasks(
    start_daemon: StartDaemon, client: Client, connection: redis.Redis, broker: Broker
) -> None:
    daemon = start_slotted(start_daemon, slots=100)
    hold(client, daemon, 100, "slot:cancelled")

    assert daemon.cli("task", "cancel", "task-0007").returncode == 0
    send_stop_job_command(connection, "task-0021")
    broker.mark_cancelled("task-0042")  # as where nobody heard it

    wait_until(lambda: len(lines(daemon.directory, "cancelled")) == 3, "three are cancelled")
    assert set(lines(daemon.directory, "cancelled")) == {"task-0007", "task-0021", "task-0042"}
    wait_until(lambda: connection.zcard(keys.registry("failed", "default")) == 3, "they are archived")
    let_go(daemon)
    wait_until(lambda: connection.llen(keys.completed("default")) == 97, "the others complete")


def test_a_stopped_daemon_gives_back_what_its_slots_ran_in_order(
    start_daemon: StartDaemon, client: Client, connection: redis.Redis
) -> None:
    daemon = start_slotted(start_daemon, slots=300, shutdown_timeout=1)
    ids = hold(client, daemon, 300)

    assert daemon.stop() == 0

    assert pending(connection) == ids
    assert {Inspector(connection).task(task_id).retried for task_id in ids[:10]} == {0}
    assert not connection.exists(keys.wip("default"))


def test_a_reload_lets_what_runs_in_slots_end(
    start_daemon: StartDaemon, client: Client, connection: redis.Redis
) -> None:
    daemon = start_slotted(start_daemon, slots=300, env={"BOILERD_SHUTDOWN_TIMEOUT": "60"})
    ids = hold(client, daemon, 300)

    daemon.signal(signal.SIGHUP)
    daemon.wait_for("reloading, draining the workers")
    let_go(daemon)

    wait_until(lambda: connection.llen(keys.completed("default")) == 300, "all complete")
    daemon.wait_for("daemon reloaded")
    assert Counter(lines(daemon.directory, "runs")) == dict.fromkeys(ids, 1)


def test_a_worker_that_has_run_its_number_of_tasks_leaves_its_place_to_another_while_one_is_slow(
    start_daemon: StartDaemon, client: Client, connection: redis.Redis
) -> None:
    daemon = start_slotted(start_daemon, slots=10, max_tasks=50)
    client.enqueue("slot:hold", task_id="slow", timeout=300)
    wait_until(lambda: lines(daemon.directory, "runs") == ["slow"], "the slow one runs")

    client.enqueue_many([("slot:good", None)] * 300)

    wait_until(lambda: connection.llen(keys.completed("default")) == 300, "the others complete")
    assert Inspector(connection).task("slow").state is TaskState.ACTIVE
    let_go(daemon)
    wait_until(lambda: connection.llen(keys.completed("default")) == 301, "the slow one, too")
    assert lines(daemon.directory, "runs") == ["slow"]


def test_a_worker_with_slots_whose_supervisor_is_killed_ends_with_its_tasks_written(
    start_daemon: StartDaemon, client: Client, connection: redis.Redis
) -> None:
    daemon = start_slotted(start_daemon, slots=50, env={"BOILERD_SHUTDOWN_TIMEOUT": "20"})
    hold(client, daemon, 50)
    worker = daemon.pid_of("worker:0")

    daemon.signal(signal.SIGKILL)
    let_go(daemon)

    wait_until(lambda: connection.llen(keys.completed("default")) == 50, "all complete")
    wait_until(lambda: not Path(f"/proc/{worker}").exists(), "the worker has ended")

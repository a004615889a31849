"""The verdict of `health --explain`, `status` and the dash, on real servers and daemons."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from rich.console import Console

from boilerd import Client, Inspector
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.connection import mark_of
from boilerd.broker.overview import read_overview
from boilerd.cli.dash.state import State
from boilerd.cli.dash.views import draw
from boilerd.cli.facts import read_facts
from boilerd.cli.rpc_client import read_status
from boilerd.settings.definitions import Settings
from boilerd.supervision.asking import ask
from boilerd.tasks.metric_record import OUTCOME_KEYS, encode, pack_pair
from boilerd.verdict.table import judge
from builders import claim_batch, tell_cron
from support import RunningDaemon, StartDaemon, Valkey, boilerd, clean_environment, wait_until


def explained(daemon: RunningDaemon, *words: str) -> dict[str, str]:
    """Kind → sentence of each finding."""
    found = json.loads(daemon.cli("health", "--explain", "--json", *words).stdout)
    return {finding["kind"]: finding["says"] for finding in found["findings"]}


@contextmanager
def watched(url: str, directory: Path) -> Iterator[set[str]]:
    """The kinds of what is found meanwhile, again and again."""
    settings = Settings(redis_url=url, state_dir=str(directory))
    kinds: set[str] = set()
    is_over = threading.Event()

    def look() -> None:
        while not is_over.is_set():
            daemon = read_status(settings.control_socket())
            kinds.update(finding.kind for finding in judge(read_facts(settings, daemon)).findings)
            is_over.wait(0.02)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield kinds
    finally:
        is_over.set()
        thread.join()


def test_a_type_that_fails_suddenly_is_told_to_whom_may_read_metrics(
    connection: redis.Redis, valkey: Valkey, directory: Path
) -> None:
    minute = int(connection.time()[0]) // 60
    for period, number, outcome in (("hour", minute // 60 - 12, "completed"), ("minute", minute - 2, "archived")):
        record = encode({OUTCOME_KEYS[outcome]: 200})
        connection.hset(keys.metrics(period, number), pack_pair("default", "mail:send"), record)
    connection.acl_setuser("narrow", enabled=True, passwords=["+p"], keys=["*"], commands=["+@all", "-hscan"])

    def seen(url: str) -> tuple[list[str], str]:
        settings = Settings(redis_url=url, state_dir=str(directory))
        found = read_facts(settings, read_status(settings.control_socket()))
        return [failing.type for failing in found.failing], found.broker_error

    try:
        of_all, of_narrow = seen(valkey.url), seen(valkey.url.replace("unix://", "unix://narrow:p@"))
    finally:
        connection.acl_deluser("narrow")

    assert of_all == (["mail:send"], "")
    assert of_narrow == ([], "")


def test_a_start_work_with_recycling_and_a_drain_are_no_fault(
    start_daemon: StartDaemon, client: Client, valkey: Valkey, directory: Path
) -> None:
    with watched(valkey.url, directory) as start:
        daemon = start_daemon("--concurrency", "2", directory=directory, env={"BOILERD_MAX_TASKS": "5"}).ready()
    client.enqueue_many([("test:echo", None)] * 60)
    with watched(valkey.url, directory) as work:
        days = Inspector(client.connection).history
        # Of two days: it may go on beyond midnight.
        wait_until(lambda: sum(day.processed for day in days("default", 2)) >= 60, "all have run")
    with watched(valkey.url, directory) as drain:
        daemon.signal(signal.SIGTERM)
        daemon.wait_for("worker stopped accepting new tasks")

    assert start <= {"absent", "starting"}
    assert len(daemon.lines("worker recycled")) >= 5
    assert work == set()
    assert drain <= {"absent", "draining"}
    assert daemon.wait() == 0


def test_what_holds_tasks_back_is_explained_and_changes_no_exit_status(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = start_daemon("--concurrency", "1").ready()
    before = daemon.cli("health", "--explain")
    client.enqueue("test:echo", queue="maill")
    Inspector(client.connection).pause("low")
    daemon.cli("quiet")

    after = daemon.cli("health", "--explain")
    status = daemon.cli("status").stdout.splitlines()
    kinds = explained(daemon)

    assert (before.returncode, before.stdout) == (0, "healthy\n")
    lines = after.stdout.splitlines()
    assert (after.returncode, lines) == (0, status[: len(lines)])
    assert lines[0] == (
        "worth a look: no worker works on queue maill (1 task), of whatever host, so that these tasks wait for ever"
    )
    assert [*kinds] == ["unserved", "quiet", "paused"]


def test_a_worker_that_is_stopped_by_hand_is_a_fault(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--concurrency", "2").ready()
    ask(daemon.socket, "supervisor.stopProcess", "worker:1")

    found = wait_until(lambda: explained(daemon), "it is told")

    assert found == {"stopped": "worker:1 was stopped by hand"}
    assert daemon.cli("health", "--explain").returncode == 1


def test_without_a_daemon_the_verdict_says_so_and_judges_what_redis_shows(
    valkey: Valkey, client: Client, broker: Broker, directory: Path
) -> None:
    client.enqueue("test:echo", queue="mail", process_in=3600)
    broker.ticks_since({"nightly": "UTC 0 3 * * *"})
    env = clean_environment(BOILERD_REDIS_URL=valkey.url, BOILERD_STATE_DIR=str(directory))

    done = boilerd("health", "--explain", env=env)

    assert done.returncode == 1
    assert done.stdout.splitlines()[0].startswith(
        "unhealthy: the daemon of this host is not running (nobody answers at "
    )
    assert done.stdout.splitlines()[0].endswith("; only Redis was asked, by which no worker lives, of whatever host")
    assert (
        "warning: no worker lives, of whatever host, and tasks wait in queue mail (1 task)"
        " and nobody enqueues the periodic task that daemons had" in done.stdout
    )


def test_redis_is_asked_in_three_round_trips_whatever_it_holds(
    client: Client, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        client.enqueue("test:echo", queue=f"queue-{number}", concurrency_key="one", concurrency_limit=1)
    connection.hset(keys.worker("one"), "queues", "mail")
    connection.sadd(keys.WORKERS, keys.worker("one"))
    read_overview(connection)  # it knows the script now
    sent: list[int] = []
    take = connection.connection_pool.get_connection

    def counting(*words: Any, **more: Any) -> Any:
        sent.append(1)
        return take(*words, **more)

    monkeypatch.setattr(connection.connection_pool, "get_connection", counting)
    connection.config_resetstat()

    found = read_overview(connection)

    pipelines = len(sent) - 1  # the other one asked for resetting
    assert (pipelines, connection.info("commandstats")["cmdstat_evalsha_ro"]["calls"]) == (1, 2)
    assert len(found.queues) == 5


def test_with_an_overview_from_before_all_is_read_but_what_was_known_of_workers_and_memory(
    client: Client, connection: redis.Redis
) -> None:
    def work(name: str, state: str) -> None:
        connection.hset(keys.worker(name), mapping={"queues": "mail", "state": state})
        connection.sadd(keys.WORKERS, keys.worker(name))

    client.enqueue("test:echo", queue="mail")
    work("one", "idle")
    before = read_overview(connection)
    client.enqueue("test:echo", queue="mail")
    client.enqueue("test:echo", queue="more")
    work("one", "busy")
    work("two", "busy")

    found, whole = read_overview(connection, before=before), read_overview(connection)

    sizes = [[queue.detail.memory_bytes for queue in each.queues] for each in (before, found, whole)]
    states = [sorted(worker.state for worker in each.living) for each in (before, found, whole)]
    assert [queue.detail.counts.pending for queue in found.queues] == [2, 1]
    assert sizes[1] == [*sizes[0], sizes[2][1]]
    assert all(sizes[2])
    assert states == [["idle"], ["busy", "idle"], ["busy", "busy"]]


def test_periodic_tasks_are_lost_where_no_worker_lives_and_no_daemon_has_them_and_nobody_paused_them(
    connection: redis.Redis, broker: Broker
) -> None:
    broker.ticks_since({"nightly": "UTC 0 3 * * *", "paused": "UTC 0 4 * * *"})
    Inspector(connection).pause_cron("paused")
    found = [read_overview(connection).crons]
    tell_cron(broker, "nightly")
    found.append(read_overview(connection).crons)
    connection.delete(keys.DAEMONS)
    found.append(read_overview(connection).crons)
    connection.hset(keys.worker("one"), "queues", "mail")
    connection.sadd(keys.WORKERS, keys.worker("one"))
    found.append(read_overview(connection).crons)

    assert found == [1, 0, 1, 0]


def test_tasks_that_wait_for_their_concurrency_key_are_told_with_the_first(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    for name in ("a", "b", "c"):
        client.enqueue("test:echo", task_id=name, concurrency_key="one", concurrency_limit=1)
    for row in (0, 1):  # the second finds the key in use, and sets the other tasks aside
        claim_batch(broker, "default", row=row, limit=5)

    (queue,) = read_overview(connection).queues

    assert (queue.aside, queue.first_aside, queue.aside_s < 60) == (2, "b", True)


def test_a_worker_without_a_sign_of_life_serves_nothing(client: Client, connection: redis.Redis) -> None:
    record: dict[Any, Any] = {"queues": "mail", "birthmark": "x", "last_heartbeat": "2020-01-01T00:00:00.000000Z"}
    connection.hset(keys.worker("gone"), mapping=record)
    connection.hset(keys.worker("other"), mapping={"queues": "other", "hostname": "rq"})
    connection.sadd(keys.WORKERS, keys.worker("gone"), keys.worker("other"))
    client.enqueue("test:echo", queue="mail")
    client.enqueue("test:echo", queue="other")

    found = read_overview(connection)

    assert (found.workers, [queue.name for queue in found.unserved]) == (1, ["mail"])


def test_the_dash_shows_the_sentence_in_its_second_line(client: Client) -> None:
    state = State(Inspector(client.connection), client.cancel, lambda: "unhealthy: the scheduler is gone")
    console = Console(width=80, height=24, record=True)

    state.refresh()
    with console.capture() as screen:
        console.print(draw(state, "unix://", 80, 24))

    assert screen.get().splitlines()[1].strip() == "unhealthy: the scheduler is gone"


@pytest.mark.parametrize(("ahead_s", "told"), [(0.0, 0.0), (3600.0, 3600.0), (-3600.0, -3600.0)])
def test_a_clock_that_differs_is_measured(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch, ahead_s: float, told: float
) -> None:
    true = time.time
    monkeypatch.setattr(time, "time", lambda: true() + ahead_s)

    assert read_overview(connection).clock_ahead_s == pytest.approx(told, abs=5)


def test_outcomes_that_nobody_writes_are_told_after_a_minute(valkey: Valkey, directory: Path) -> None:
    settings = Settings(redis_url=valkey.url, state_dir=str(directory))
    file = directory / "outcomes" / f"{mark_of(settings)}-host.0.jsonl"
    file.parent.mkdir()
    file.touch()
    (file.parent / "another-host.0.jsonl").touch()
    os.utime(file.parent / "another-host.0.jsonl", (0, 0))
    status = read_status(settings.control_socket())

    young = read_facts(settings, status).kept
    os.utime(file, (0, 0))
    old = read_facts(settings, status).kept

    assert (young, old) == (0, 1)

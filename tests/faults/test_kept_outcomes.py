"""A broker that goes down before the daemon does, as when a machine is shut down: no outcome is lost."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from boilerd import Client, Inspector, TaskState
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.claims import Completion
from boilerd.tasks.retry import Verdict
from boilerd.worker.kept_outcomes import KeptOutcomes
from builders import WORKER, claim, failure, pending, store, task_in, worker_name
from support import RunningDaemon, StartDaemon, StartValkey, Valkey, python_path, wait_until

#: Handlers that end when a file is there, so that a test says when.
APP = """
import select
from pathlib import Path
from boilerd import ServeMux, retry
mux = ServeMux()
go = Path("go")

def wait():
    while not go.exists():
        select.select([], [], [], 0.01)

@mux.handle("kept:good")
def good(task):
    wait()
    return {"answer": task.payload}

@mux.handle("kept:bad")
@retry(base=3600)
def bad(task):
    wait()
    raise ValueError("bad input")

@mux.handle("kept:slow")
def slow(task):
    select.select([], [], [], task.payload)
"""


@pytest.fixture
def server(start_valkey: StartValkey) -> Valkey:
    """A broker that keeps everything, whatever happens to it."""
    return start_valkey("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture
def client(server: Valkey) -> Iterator[Client]:
    with Client.from_url(server.url) as made:
        yield made


@pytest.fixture
def start(start_daemon: StartDaemon, server: Valkey, directory: Path) -> Callable[[], RunningDaemon]:
    """Starts daemons of one state directory, one after the other."""
    (directory / "kept_app.py").write_text(APP)
    env = {"BOILERD_APP": "kept_app:mux", "PYTHONPATH": python_path(directory)}

    def started() -> RunningDaemon:
        return start_daemon("--concurrency", "3", redis_url=server.url, directory=directory, env=env)

    return started


@pytest.fixture
def kept(directory: Path) -> KeptOutcomes:
    return KeptOutcomes(directory / "outcomes", "broker")


@pytest.mark.fault(44)
def test_outcomes_of_a_drain_without_a_broker_are_written_at_the_next_start(
    start: Callable[[], RunningDaemon], server: Valkey, client: Client, directory: Path
) -> None:
    daemon = start().ready()
    good = client.enqueue("kept:good", 42, retention=3600).id
    bad = client.enqueue("kept:bad").id
    cut = client.enqueue("kept:slow", 60).id
    for task_id in (good, bad, cut):
        daemon.wait_for("task started", task_id=task_id)

    server.stop()
    daemon.signal(signal.SIGTERM)
    daemon.wait_for("worker stopped accepting new tasks")
    (directory / "go").touch()
    assert daemon.wait() == 0
    files = {file.read_text(): file.stat().st_mode & 0o777 for file in (directory / "outcomes").iterdir()}
    server.start()
    again = start().serving()

    again.wait_for("task started", task_id=cut, attempt=1)  # the daemon, not the task, ended the first one
    inspector = Inspector(client.connection)
    wait_until(lambda: inspector.task(good).state is TaskState.COMPLETED, "its completion is written")
    wait_until(lambda: inspector.task(bad).state is TaskState.RETRY, "its failure is written")
    assert inspector.task(good).attempts[-1].result == {"answer": 42}
    assert (inspector.task(bad).retried, inspector.task(bad).last_error) == (1, "ValueError: bad input")
    assert [len(again.lines("task started", task_id=task_id)) for task_id in (good, bad, cut)] == [0, 0, 1]
    assert not again.lines("task failed", error="WorkerDiedError: worker died together with its daemon")
    assert (min(map(len, files)), set(files.values())) == (0, {0o600})  # the cut one has no outcome
    wait_until(lambda: not list((directory / "outcomes").iterdir()), "nothing is kept any more")


@pytest.mark.fault(44)
def test_kept_outcomes_count_only_while_nobody_else_has_taken_the_task(
    broker: Broker, connection: redis.Redis, kept: KeptOutcomes
) -> None:
    for task_id in ("mine", "taken", "failed", "not begun"):
        store(broker, task_id, retention=60)
    mine, taken, failed, _ = (claim(broker, row=row) for row in range(4))
    kept.keep(worker_name(0), [Completion(mine, b"1")])
    kept.keep(worker_name(1), [Completion(taken, b"2")])
    kept.keep(worker_name(2), [], [(failed, failure(Verdict.ARCHIVE))])
    kept.keep(worker_name(3), [])
    broker.release(worker_name(1), only=[taken.execution_id])
    assert claim(broker, row=4).task_id == "taken"

    for name in kept.workers():
        kept.write(broker, name)

    statuses = {name: connection.hget(keys.job(name), "status") for name in ("mine", "taken", "failed")}
    assert statuses == {"mine": b"finished", "taken": b"started", "failed": b"failed"}
    assert pending(connection) == ["not begun"]
    assert kept.workers() == []


def test_an_outcome_that_was_kept_is_told_as_kept(
    broker: Broker, kept: KeptOutcomes, caplog: pytest.LogCaptureFixture, directory: Path
) -> None:
    store(broker, "a", retention=60)

    kept.keep(WORKER, [Completion(claim(broker), b"1")])

    (file,) = (directory / "outcomes").iterdir()
    (line,) = caplog.records
    assert (line.message, vars(line)["outcomes"]) == ("outcomes kept until the next start", 1)
    assert vars(line)["file"] == str(file)


def test_the_lines_of_kept_outcomes_have_the_fields_of_their_tasks(
    broker: Broker, kept: KeptOutcomes, caplog: pytest.LogCaptureFixture
) -> None:
    for task_id in ("lost", "failed", "not begun"):
        store(broker, task_id, {"request_id": f"of {task_id}"}, queue="critical")
    lost, failed, _ = claims = [claim(broker, "critical", row=row) for row in range(3)]
    kept.keep(worker_name(0), [Completion(lost)])
    kept.keep(worker_name(1), [], [(failed, failure(Verdict.RETRY))])
    kept.keep(worker_name(2), [])
    broker.release(worker_name(0), only=[lost.execution_id])

    with caplog.at_level("INFO", "boilerd"):
        for row in range(3):
            kept.write(broker, worker_name(row))

    told = {record.message: vars(record) for record in caplog.records}
    messages = "outcome dropped, the lease was lost", "task will be retried", "task released, it will run again"
    fields = [task_in(held).log_fields for held in claims]
    assert {held["request_id"] for held in fields} == {"of lost", "of failed", "of not begun"}
    assert [{name: told[message][name] for name in fields[0]} for message in messages] == fields


def test_a_file_that_is_damaged_costs_no_more_than_its_line(
    broker: Broker, connection: redis.Redis, kept: KeptOutcomes, directory: Path
) -> None:
    store(broker, "a", retention=60)
    kept.keep(WORKER, [Completion(claim(broker), b"1")])
    (file,) = (directory / "outcomes").iterdir()
    file.write_bytes(b'{"task_id": \n' + file.read_bytes())

    kept.write(broker, WORKER)

    assert connection.hget(keys.job("a"), "status") == b"finished"
    assert kept.workers() == []


def test_outcomes_for_another_broker_are_left_alone(broker: Broker, directory: Path, kept: KeptOutcomes) -> None:
    KeptOutcomes(directory / "outcomes", "other").keep(WORKER, [])

    assert kept.workers() == []
    kept.write(broker, WORKER)
    assert len(list((directory / "outcomes").iterdir())) == 1


def test_no_more_is_kept_than_the_limit(
    broker: Broker, kept: KeptOutcomes, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boilerd.worker.kept_outcomes.MOST_BYTES", 1000)
    store(broker, "a", retention=60)

    kept.keep(WORKER, [Completion(claim(broker), b'"' + b"x" * 100 + b'"')] * 20)

    (file,) = (directory / "outcomes").iterdir()
    assert 0 < file.stat().st_size <= 1000

"""Handlers crash, leak, hang and kill: the task gets the right cause, the daemon lives, others go on."""

from typing import Any

import pytest

from boilerd import Client
from boilerd.broker import keys
from support import QUICK_RETRY, StartDaemon, wait_until


def archived_because(client: Client, task_id: str) -> str:
    """The last error of a task that was archived."""
    wait_until(lambda: client.connection.zscore(keys.registry("failed", "default"), task_id), "it was archived")
    return str(client.connection.hget(keys.job(task_id), "last_error"), "utf-8")  # type: ignore[arg-type]


def result_of(client: Client, task_id: str) -> Any:
    """The result of a task that completed."""
    results: Any = client.connection.xrange(f"{keys.RQ}:results:{task_id}")
    return results[0][1][b"return_value"]


@pytest.mark.fault(13)
@pytest.mark.parametrize(
    ("task_type", "payload", "cause"),
    [
        ("test:segfault", None, "WorkerDiedError: worker died: signal 11 (SIGSEGV)"),
        ("test:die", None, "WorkerDiedError: worker died: signal 9 (SIGKILL)"),
        ("test:_exit", 0, "WorkerDiedError: worker died: exit status 0"),
        ("test:_exit", 75, "WorkerDiedError: worker died: exit status 75"),
        ("test:exit", 0, "SystemExit: 0"),
        ("test:hog", None, "MemoryError"),
        ("test:recurse", None, "RecursionError"),
    ],
    ids=["segfault", "kill", "_exit 0", "_exit as recycled", "sys.exit", "memory", "recursion"],
)
def test_a_handler_that_crashes_is_tried_again_and_archived_with_the_cause(
    start_daemon: StartDaemon, client: Client, task_type: str, payload: object, cause: str
) -> None:
    daemon = start_daemon("--concurrency", "1", env=QUICK_RETRY).ready()

    task_id = client.enqueue(task_type, payload, max_retries=1).id

    assert archived_because(client, task_id).startswith(cause)
    assert client.connection.hget(keys.job(task_id), "number_of_retries") == b"1"
    assert client.connection.xlen(f"{keys.RQ}:results:{task_id}") == 2
    good = client.enqueue("test:echo").id
    daemon.wait_for("task completed", task_id=good, attempt=1)
    assert daemon.stop() == 0


@pytest.mark.fault(13)
def test_a_handler_that_leaks_all_file_descriptors_fails_and_leaves_a_daemon_that_works(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = start_daemon("--concurrency", "1", env=QUICK_RETRY).ready()

    task_id = client.enqueue("test:files", max_retries=1).id

    assert "Too many open files" in archived_because(client, task_id)
    good = client.enqueue("test:echo").id
    daemon.wait_for("task completed", task_id=good)
    assert daemon.stop() == 0


@pytest.mark.fault(14)
def test_a_task_that_kills_every_worker_is_archived_and_a_thousand_good_ones_are_done(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = start_daemon("--concurrency", "2", env=QUICK_RETRY).ready()
    bad = client.enqueue("test:die", max_retries=10).id

    client.enqueue_many([("test:echo", None)] * 1000)

    assert "signal 9" in archived_because(client, bad)
    wait_until(lambda: client.connection.llen(f"{keys.OWN}:completed:default") == 1000, "all good ones are done")
    assert len(daemon.lines("process died")) == 11
    assert {process["state"] for process in daemon.processes()} <= {"STARTING", "RUNNING"}


@pytest.mark.fault(15)
@pytest.mark.parametrize("task_type", ["test:swallow", "test:spin"])
def test_a_handler_that_ignores_its_timeout_in_python_is_interrupted(
    start_daemon: StartDaemon, client: Client, task_type: str
) -> None:
    daemon = start_daemon("--concurrency", "1", env=QUICK_RETRY).ready()

    task_id = client.enqueue(task_type, timeout=1, max_retries=1).id

    assert "TaskTimeoutError" in archived_because(client, task_id)
    assert not daemon.lines("process died")
    assert len(daemon.lines("task started", task_id=task_id)) == 2


@pytest.mark.fault(15)
def test_a_handler_that_never_returns_to_python_is_killed_five_seconds_after_its_timeout(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = start_daemon("--concurrency", "1", env=QUICK_RETRY).ready()

    task_id = client.enqueue("test:stubborn", timeout=1, max_retries=0).id

    assert "signal 9" in archived_because(client, task_id)
    assert "ignored its limit of 1 s, from timeout or deadline" in archived_because(client, task_id)
    killed = daemon.wait_for("worker killed, its task ignores the timeout", task_id=task_id)
    assert 5 <= killed["late_s"] < 30


@pytest.mark.fault(13)
@pytest.mark.fault(23)
def test_a_handler_that_blocks_the_signals_of_a_drain_is_killed_and_its_task_goes_back(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = start_daemon("--concurrency", "1", env={"BOILERD_SHUTDOWN_TIMEOUT": "1s"}).ready()
    task_id = client.enqueue("test:stubborn").id
    daemon.wait_for("stubborn now", task_id=task_id)
    failing = client.enqueue("test:echo").id

    assert daemon.stop() == 0

    assert client.connection.lrange(keys.queue("default"), 0, -1) == [task_id.encode(), failing.encode()]
    assert not client.connection.hexists(keys.job(task_id), "number_of_retries")


@pytest.mark.fault(13)
@pytest.mark.parametrize("fails", [False, True])
def test_a_task_finds_its_worker_as_the_first_one_did(
    start_daemon: StartDaemon, client: Client, *, fails: bool
) -> None:
    daemon = start_daemon("--concurrency", "1", env={"BOILERD_PREFETCH": "false"}).ready()
    client.enqueue("test:state", task_id="before", retention=60)
    client.enqueue("test:mess", fails, task_id="mess", max_retries=0)
    client.enqueue("test:state", task_id="after", retention=60)

    done = daemon.wait_for("task completed", task_id="after")

    assert done["pid"] == daemon.lines("task started", task_id="mess")[0]["pid"]
    wait_until(lambda: client.connection.zscore(keys.registry("finished", "default"), "after"), "it is acknowledged")
    before, after = (result_of(client, task_id) for task_id in ("before", "after"))
    assert before == after
    assert [line["level"] for line in daemon.lines("still open")] == ["warning"] * 2

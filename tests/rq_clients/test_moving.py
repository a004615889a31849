"""An application moves from RQ to boilerd: its jobs as RQ's clients enqueue them, in a whole daemon."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
from rq import Queue, Repeat, Webhook
from rq.job import Dependency, Job

from boilerd.broker import keys
from support import StartDaemon, wait_until

FUNCTIONS = ("--concurrency", "2", "--rq-functions", "rq_jobs.*")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Where a webhook would go."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        server.setblocking(False)
        yield server


def dependents(queue: Queue, parent: Job) -> tuple[Job, Job]:
    """One that allows its parent to fail, and one that does not."""
    lenient = queue.enqueue("rq_jobs.add", 1, depends_on=Dependency([parent], allow_failure=True))
    strict = queue.enqueue("rq_jobs.add", 2, depends_on=parent)
    return lenient, strict


def await_status(job: Job, status: str) -> None:
    wait_until(lambda: job.get_status() == status, f"{job.func_name} is {status}")


def assert_only_the_lenient_one_ran(lenient: Job, strict: Job) -> None:
    await_status(lenient, "finished")
    assert lenient.return_value(refresh=True) == 1
    assert strict.get_status() == "deferred"


def test_a_chain_of_functions_runs_in_its_order(start_daemon: StartDaemon, queue: Queue) -> None:
    first = queue.enqueue("rq_jobs.add", 1, result_ttl=0)
    second = queue.enqueue("rq_jobs.add", 2, depends_on=first, result_ttl=0)
    third = queue.enqueue("rq_jobs.add", 3, depends_on=[first, second])

    daemon = start_daemon(*FUNCTIONS)

    await_status(third, "finished")
    assert third.return_value(refresh=True) == 3
    assert [line["task_id"] for line in daemon.lines("task completed")] == [first.id, second.id, third.id]


def test_a_function_that_kills_its_worker_releases_those_that_allow_it(start_daemon: StartDaemon, queue: Queue) -> None:
    parent = queue.enqueue("rq_jobs.die")
    lenient, strict = dependents(queue, parent)

    start_daemon(*FUNCTIONS)

    assert_only_the_lenient_one_ran(lenient, strict)
    assert parent.get_status() == "failed"


def test_a_job_that_died_with_its_daemon_releases_those_that_allow_it(start_daemon: StartDaemon, queue: Queue) -> None:
    parent = queue.enqueue("rq_jobs.hang")
    lenient, strict = dependents(queue, parent)
    first = start_daemon(*FUNCTIONS).ready()
    first.wait_for("task started", task_id=parent.id)
    for pid in first.pids():
        os.kill(pid, signal.SIGKILL)
    first.process.wait()

    start_daemon(*FUNCTIONS, directory=first.directory)

    assert_only_the_lenient_one_ran(lenient, strict)
    assert parent.get_status() == "failed"


def test_a_job_that_is_refused_releases_those_that_allow_it(start_daemon: StartDaemon, queue: Queue) -> None:
    lenient, strict = dependents(queue, queue.enqueue("os.getcwd"))

    daemon = start_daemon(*FUNCTIONS)

    assert_only_the_lenient_one_ran(lenient, strict)
    assert "it was not imported" in daemon.wait_for("task refused")["error"]


def test_a_function_is_repeated(start_daemon: StartDaemon, queue: Queue) -> None:
    job = queue.enqueue("rq_jobs.add", 1, repeat=Repeat(times=2, interval=[0, 1]))

    start_daemon(*FUNCTIONS)

    await_status(job, "finished")
    assert [found.return_value for found in job.results()] == [1, 1, 1]


def test_an_async_function_finds_its_own_job(start_daemon: StartDaemon, queue: Queue) -> None:
    jobs = [queue.enqueue("rq_jobs.find_own_job") for _ in range(3)]

    start_daemon(*FUNCTIONS)

    for job in jobs:
        await_status(job, "finished")
        assert job.return_value(refresh=True) == job.id


def test_the_middleware_sees_the_function_and_its_arguments(
    start_daemon: StartDaemon, queue: Queue, directory: Path
) -> None:
    app = """
from boilerd import ServeMux
mux = ServeMux()
@mux.use
def seen(next):
    return lambda task: [task.type, task.payload, task.max_retries, next(task)]
"""
    (directory / "moving.py").write_text(app)
    job = queue.enqueue("rq_jobs.add", 1, second=2)

    start_daemon(*FUNCTIONS, directory=directory, env={"BOILERD_APP": "moving:mux"})

    await_status(job, "finished")
    payload = {"args": [1], "kwargs": {"second": 2}}
    assert job.return_value(refresh=True) == ["rq_jobs.add", payload, 0, 3]


def test_a_function_that_takes_too_long_is_cut_and_not_tried_again(start_daemon: StartDaemon, queue: Queue) -> None:
    job = queue.enqueue("rq_jobs.hang", job_timeout=1)

    daemon = start_daemon(*FUNCTIONS)

    await_status(job, "failed")
    assert "TaskTimeoutError" in daemon.wait_for("task archived", task_id=job.id)["error"]
    assert len(daemon.lines("task started", task_id=job.id)) == 1


@pytest.mark.fault(33)
def test_the_webhooks_of_a_function_that_is_called_are_not(
    start_daemon: StartDaemon, queue: Queue, listener: socket.socket
) -> None:
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    hooks = [Webhook(url, "finished", timeout=1), Webhook(url, "failed", timeout=1)]
    good = queue.enqueue("rq_jobs.add", 1, webhooks=hooks)
    bad = queue.enqueue("rq_jobs.fail", webhooks=hooks)
    assert queue.connection.hexists(good.key, "webhooks")

    daemon = start_daemon(*FUNCTIONS)

    await_status(good, "finished")
    await_status(bad, "failed")
    assert daemon.stop() == 0  # a call that was under way has begun by now
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_nothing_of_jobs_that_were_moved_is_left_behind(
    start_daemon: StartDaemon, queue: Queue, connection: redis.Redis
) -> None:
    parent = queue.enqueue("rq_jobs.add", 1, result_ttl=0, repeat=Repeat(1))
    child = queue.enqueue("rq_jobs.add", 2, result_ttl=0, depends_on=parent)

    daemon = start_daemon(*FUNCTIONS)

    daemon.wait_for("task completed", count=2, task_id=parent.id)
    daemon.wait_for("task completed", task_id=child.id)
    assert daemon.stop() == 0
    assert list(connection.scan_iter("rq:job:*")) == []
    assert list(connection.scan_iter("rq:results:*")) == []
    assert not connection.exists(keys.wip("default"), keys.registry("deferred", "default"))

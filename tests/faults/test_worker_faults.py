"""A worker is killed between any two steps: its task is run again, or not, as the step demands."""

import os
import signal

import pytest

from boilerd import Client
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.claims import Failure
from boilerd.errors import LeaseExpiredError
from boilerd.tasks.retry import Decision, Verdict
from support import (
    QUICK_RETRY,
    Failpoints,
    RunningDaemon,
    StartDaemon,
    completed,
    expire_leases,
    is_running,
    wait_until,
)


@pytest.fixture
def daemon(start_daemon: StartDaemon, failpoints: Failpoints) -> RunningDaemon:
    return start_daemon("--concurrency", "1", env=failpoints.env | QUICK_RETRY).ready()


def assert_nothing_is_left(client: Client, task_id: str) -> None:
    """Completed tasks are gone, and so is every trace of their claims."""
    found = client.connection
    wait_until(lambda: not found.exists(keys.job(task_id)), "the task has ended")
    wait_until(lambda: not found.zcard(keys.wip("default")), "nothing is claimed")
    assert not found.llen(keys.queue("default"))
    assert not list(found.scan_iter(f"{keys.RQ}:execution*:*"))
    assert not list(found.scan_iter(f"{keys.RQ}:worker:*:executions"))


@pytest.mark.fault(5)
def test_a_worker_killed_before_it_claims_leaves_the_task_in_its_queue(
    daemon: RunningDaemon, client: Client, failpoints: Failpoints
) -> None:
    failpoints.arm("before-advance")

    task_id = client.enqueue("test:echo").id

    failpoints.struck("before-advance")
    assert daemon.wait_for("task completed", task_id=task_id)["attempt"] == 1
    assert_nothing_is_left(client, task_id)


@pytest.mark.fault(6)
def test_a_worker_killed_with_the_answer_to_its_claim_runs_the_task_once_more(
    daemon: RunningDaemon, client: Client, failpoints: Failpoints
) -> None:
    failpoints.arm("after-advance")
    # The first to come by is the idle worker, or the one that claims: whoever it is, nothing is lost.
    task_ids = [client.enqueue("test:echo").id for _ in range(20)]

    failpoints.struck("after-advance")
    for task_id in task_ids:
        assert daemon.wait_for("task completed", task_id=task_id)["attempt"] in {1, 2}
    # The line comes before the acknowledgement, which may be that of a whole batch.
    assert_nothing_is_left(client, task_ids[-1])
    assert [completed(client.connection, task_id) for task_id in task_ids] == [1] * len(task_ids)


@pytest.mark.fault(7)
@pytest.mark.fault(8)
def test_a_worker_killed_before_the_handler_starts_costs_an_attempt_and_two_seconds_at_most(
    daemon: RunningDaemon, client: Client, failpoints: Failpoints
) -> None:
    failpoints.arm("before-handler")

    task_id = client.enqueue("test:echo").id

    failpoints.struck("before-handler")
    assert "signal 9 (SIGKILL)" in daemon.wait_for("task failed", task_id=task_id)["error"]
    assert daemon.wait_for("task completed", task_id=task_id)["attempt"] == 2
    assert_nothing_is_left(client, task_id)


@pytest.mark.fault(9)
def test_a_worker_killed_between_handler_and_acknowledgement_runs_the_task_again(
    daemon: RunningDaemon, client: Client, failpoints: Failpoints
) -> None:
    failpoints.arm("after-handler")

    task_id = client.enqueue("test:echo").id

    daemon.wait_for("task completed", 2, task_id=task_id)
    attempts = [line["attempt"] for line in daemon.lines("task completed", task_id=task_id)]
    assert attempts == [1, 2]
    assert_nothing_is_left(client, task_id)
    assert completed(client.connection, task_id) == 1


@pytest.mark.fault(10)
def test_a_worker_killed_after_the_acknowledgement_does_not_run_the_task_again(
    daemon: RunningDaemon, client: Client, failpoints: Failpoints
) -> None:
    task_id = client.enqueue("test:sleep", 0.5).id
    daemon.wait_for("task started", task_id=task_id)
    # Nobody else in this daemon calls it while the only worker is busy.
    failpoints.arm("after-advance")

    failpoints.struck("after-advance")
    other = client.enqueue("test:echo").id
    daemon.wait_for("task completed", task_id=other)

    assert len(daemon.lines("task started", task_id=task_id)) == 1
    assert completed(client.connection, task_id) == 1
    assert_nothing_is_left(client, task_id)


@pytest.mark.parametrize("point", ["before-fail", "after-fail"])
def test_a_worker_killed_while_it_writes_a_failure_loses_nothing(
    daemon: RunningDaemon, client: Client, failpoints: Failpoints, point: str
) -> None:
    failpoints.arm(point)

    task_id = client.enqueue("test:flaky", 1).id

    failpoints.struck(point)
    daemon.wait_for("task completed", task_id=task_id)
    assert_nothing_is_left(client, task_id)


@pytest.mark.parametrize("point", ["before-release", "after-release"])
@pytest.mark.fault(23)
def test_a_worker_killed_while_it_gives_its_task_back_leaves_it_at_the_head_uncounted(
    daemon: RunningDaemon, client: Client, failpoints: Failpoints, point: str
) -> None:
    task_id = client.enqueue("test:sleep", 60).id
    daemon.wait_for("task started", task_id=task_id)
    client.enqueue("test:echo", task_id="behind")
    failpoints.arm(point)

    assert daemon.stop() == 0

    assert failpoints.struck(point)
    assert client.connection.lrange(keys.queue("default"), 0, -1) == [task_id.encode(), b"behind"]
    assert not client.connection.hexists(keys.job(task_id), "number_of_retries")
    assert not client.connection.zcard(keys.wip("default"))


@pytest.mark.long(8)
@pytest.mark.fault(12)
def test_a_task_whose_worker_was_stopped_is_taken_over_and_the_late_outcome_refused(
    daemon: RunningDaemon, client: Client
) -> None:
    task_id = client.enqueue("test:brief", 7, task_id="slow").id
    pid = daemon.wait_for("task started", task_id=task_id)["pid"]
    os.kill(pid, signal.SIGSTOP)
    # What 30 s do: a stopped worker's lease is not extended.
    expire_leases(client.connection, lambda: daemon.lines("task failed", task_id=task_id))

    assert "lease expired" in daemon.wait_for("task failed", task_id=task_id)["error"]
    daemon.wait_for("task will be retried", task_id=task_id)
    os.kill(pid, signal.SIGCONT)

    daemon.wait_for("outcome dropped, the lease was lost", task_id=task_id)
    daemon.wait_for("task completed", task_id=task_id, attempt=2)
    wait_until(lambda: completed(client.connection, task_id), "it was acknowledged")
    assert completed(client.connection, task_id) == 1
    assert_nothing_is_left(client, task_id)


@pytest.mark.long(11)
@pytest.mark.fault(12)
def test_a_stopped_worker_gets_no_new_leases(daemon: RunningDaemon, client: Client) -> None:
    task_id = client.enqueue("test:sleep", 60).id
    pid = daemon.wait_for("task started", task_id=task_id)["pid"]
    before = lease(client)
    wait_until(lambda: lease(client) > before, "the heartbeat extended the lease")

    os.kill(pid, signal.SIGSTOP)
    stopped = lease(client)
    # Another heartbeat of the same scheduler: the alarm of a task that is due wakes it.
    other = client.enqueue("test:echo", process_in=6).id
    wait_until(lambda: client.connection.llen(keys.queue("default")), "six seconds, and a heartbeat, have passed")

    assert lease(client) == stopped
    assert client.connection.lrange(keys.queue("default"), 0, -1) == [other.encode()]
    os.kill(pid, signal.SIGCONT)


@pytest.mark.fault(12)
def test_a_handler_hears_that_its_task_was_taken_over(daemon: RunningDaemon, client: Client) -> None:
    task_id = client.enqueue("test:sleep", 60).id
    daemon.wait_for("task started", task_id=task_id)
    taken_over(client)

    failed = daemon.wait_for("task failed", task_id=task_id, attempt=1)

    assert "lease" in failed["error"]
    daemon.wait_for("outcome dropped, the lease was lost", task_id=task_id)


@pytest.mark.fault(13)
def test_a_program_that_a_task_started_ends_with_its_killed_worker(daemon: RunningDaemon, client: Client) -> None:
    client.enqueue("test:parent", max_retries=0)

    pid = daemon.wait_for("i am a parent")["child_pid"]

    wait_until(lambda: not is_running(pid), "the child was ended")


def lease(client: Client) -> float:
    """When the only lease ends."""
    (pair,) = client.connection.zrange(keys.wip("default"), 0, -1)
    return client.connection.zscore(keys.wip("default"), str(pair, "ascii")) or 0.0  # type: ignore[arg-type]


def taken_over(client: Client) -> None:
    """Have another host's recoverer take the running task."""
    broker = Broker(client.connection)

    def is_taken() -> bool:
        for worker, claim in broker.expired():
            lost = LeaseExpiredError("lease expired")
            broker.fail(worker, claim, Failure(str(lost), str(lost), Decision(Verdict.ARCHIVE), 0), is_taken=True)
        return not client.connection.zcard(keys.wip("default"))

    expire_leases(client.connection, is_taken)

"""What becomes of a task in a daemon, whatever its handler does; the tests share one, of one worker."""

import json
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rq.command import send_stop_job_command
from rq.serializers import JSONSerializer

from boilerd import Client, DuplicateTaskError, Inspector, TaskFailedError, TaskProgress, TaskState
from boilerd.broker import keys
from boilerd.broker.constants import FORWARD_EVERY_S
from boilerd.entry_point import ENTRY_POINT
from builders import rq_job, rq_queue
from support import DEADLINE_S, RunningDaemon, own_daemon, wait_until


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with own_daemon("--concurrency", "1", "--shutdown-timeout", "0.1") as made:
        yield made


@pytest.fixture
def client(daemon: RunningDaemon) -> Iterator[Client]:
    with Client.from_url(daemon.redis_url) as made:
        yield made


def test_a_handler_past_its_timeout_is_interrupted_although_it_catches_exceptions(
    daemon: RunningDaemon, client: Client
) -> None:
    task_id = client.enqueue("test:swallow", timeout=1, max_retries=0).id

    failed = daemon.wait_for("task failed", task_id=task_id)
    assert failed["error"].startswith("TaskTimeoutError")
    assert 990 <= failed["duration_ms"] < 30_000
    assert not daemon.lines("swallowed")
    assert len(daemon.lines("process died")) == 0


def test_a_type_that_nobody_handles_is_a_failed_attempt(daemon: RunningDaemon, client: Client) -> None:
    task_id = client.enqueue("nobody:home").id

    failed = daemon.wait_for("task failed", task_id=task_id)
    assert failed["error"] == "HandlerNotFoundError: handler not found for task 'nobody:home'"
    assert failed["level"] == "error"
    other = client.enqueue("test:echo").id
    daemon.wait_for("task completed", task_id=other)
    assert not daemon.lines("process died")


def test_thousands_of_types_that_nobody_handles_do_not_flood_the_log(daemon: RunningDaemon, client: Client) -> None:
    messages = ("task started", "task failed", "task archived")
    for number in range(100):
        client.enqueue("nobody:storm", number, max_retries=0)

    def written_and_folded(message: str) -> tuple[int, int]:
        more = [line["folded"] for line in daemon.lines() if line["message"].startswith(f"{message}: and")]
        return len(daemon.lines(message, task_type="nobody:storm")), sum(more)

    wait_until(lambda: all(sum(written_and_folded(each)) >= 100 for each in messages), "all were told of")
    assert all(written_and_folded(message)[0] < 100 for message in messages)


def test_a_failed_task_keeps_its_traceback_in_redis_and_off_the_log(daemon: RunningDaemon, client: Client) -> None:
    task_id = client.enqueue("test:fail", "s3cret").id
    daemon.wait_for("task failed", task_id=task_id)

    def latest() -> Any:
        return rq_job(client.connection, task_id).latest_result()

    result = wait_until(latest, "the failure was recorded")
    assert "RuntimeError: failed as told: s3cret" in result.exc_string
    assert "apps.py" in result.exc_string


def test_sys_exit_in_a_handler_fails_the_task_and_not_the_worker(daemon: RunningDaemon, client: Client) -> None:
    task_id = client.enqueue("test:exit", 3).id

    assert daemon.wait_for("task failed", task_id=task_id)["error"] == "SystemExit: 3"
    daemon.wait_for("task completed", task_id=client.enqueue("test:echo").id)
    assert not daemon.lines("process died")


def test_a_strangers_job_is_archived_and_never_run(daemon: RunningDaemon, client: Client, directory: Path) -> None:
    proof = directory / "pwned"
    data = json.dumps(["os.system", None, [f"touch {proof}"], {}])
    client.connection.hset(keys.job("evil"), mapping={"data": data, "origin": "default", "status": "queued"})

    client.connection.rpush(keys.queue("default"), "evil")

    refused = daemon.wait_for("task refused", task_id="evil")
    assert "'os.system' is not a registered task" in refused["error"]
    wait_until(lambda: client.connection.zscore(keys.registry("failed", "default"), "evil"), "it was archived")
    assert not proof.exists()


def test_handlers_run_in_the_worker_that_imported_the_application_once(daemon: RunningDaemon, client: Client) -> None:
    for _ in range(3):
        client.enqueue("test:whoami")

    daemon.wait_for("i am", count=3)
    pids = {line["handler_pid"] for line in daemon.lines("i am")}
    assert pids == {daemon.pid_of("worker:0")}


def test_a_plain_rq_client_reaches_an_idle_daemon(daemon: RunningDaemon, client: Client) -> None:
    queue = rq_queue(client.connection)
    job = queue.enqueue(ENTRY_POINT, "test:echo", {"from": "rq"})

    daemon.wait_for("task completed", task_id=job.id)


def test_a_program_that_a_task_starts_obeys_the_signals_that_a_worker_ignores(
    daemon: RunningDaemon, client: Client
) -> None:
    task_id = client.enqueue("test:ignored_signals", retention=60).id

    daemon.wait_for("task completed", task_id=task_id)
    ignored = int(str(Inspector(client.connection).task(task_id).attempts[0].result), 16)
    assert not ignored & (1 << signal.SIGHUP - 1 | 1 << signal.SIGTSTP - 1)


def test_after_its_last_retry_a_task_is_archived_with_all_its_errors(daemon: RunningDaemon, client: Client) -> None:
    task_id = client.enqueue("test:flaky", 99, max_retries=2).id

    daemon.wait_for("task archived", task_id=task_id)
    job = rq_job(client.connection, task_id)
    assert [line["attempt"] for line in daemon.lines("task started", task_id=task_id)] == [1, 2, 3]
    assert client.connection.hget(keys.job(task_id), "last_error") == b"OSError: attempt 3 failed as told"
    told = [str(result.exc_string).strip().splitlines()[-1] for result in job.results()]
    assert told == [f"OSError: attempt {attempt} failed as told" for attempt in (3, 2, 1)]
    assert (job.retries_left, job.number_of_retries) == (0, 2)


def test_what_a_handler_asks_for_is_done(daemon: RunningDaemon, client: Client) -> None:
    skipped = client.enqueue("test:request", "skip").id
    revoked = client.enqueue("test:request", "revoke").id
    later = client.enqueue("test:request", "later").id

    daemon.wait_for("task archived", task_id=skipped)
    daemon.wait_for("task dropped", task_id=revoked)
    daemon.wait_for("task completed", task_id=later)
    wait_until(lambda: not client.connection.exists(keys.job(revoked)), "nothing is left of the one")
    assert [line["attempt"] for line in daemon.lines("task started", task_id=later)] == [1, 1]
    assert len(daemon.lines("task started", task_id=skipped)) == 1


def test_a_due_task_starts_at_once_on_an_idle_daemon(daemon: RunningDaemon, client: Client) -> None:
    seconds, micros = client.connection.time()
    before_s = seconds + micros / 1e6
    info = client.enqueue("test:echo", process_in=timedelta(seconds=0.7))

    assert info.state is TaskState.SCHEDULED
    started = datetime.fromisoformat(daemon.wait_for("task started", task_id=info.id)["time"]).timestamp()
    # Log lines have milliseconds; a scheduler that nobody wakes looks every few seconds.
    assert 0.699 <= started - before_s < FORWARD_EVERY_S


def test_a_task_past_its_deadline_is_archived_and_never_runs(daemon: RunningDaemon, client: Client) -> None:
    late = client.enqueue("test:echo", deadline=datetime.now(UTC) - timedelta(seconds=1)).id
    tight = client.enqueue("test:sleep", 60, deadline=datetime.now(UTC) + timedelta(seconds=3)).id

    assert "DeadlineExceededError" in daemon.wait_for("task archived", task_id=late)["error"]
    assert "DeadlineExceededError" in daemon.wait_for("task archived", task_id=tight)["error"]
    assert not daemon.lines("task started", task_id=late)
    assert len(daemon.lines("task started", task_id=tight)) == 1


def test_a_payload_that_does_not_fit_is_archived_with_the_path(daemon: RunningDaemon, client: Client) -> None:
    good = client.enqueue("test:mail", {"to": ["a", "b"]}).id
    bad = client.enqueue("test:mail", {"to": ["a", 5]}).id

    daemon.wait_for("task completed", task_id=good)
    error = daemon.wait_for("task archived", task_id=bad)["error"]
    assert error == "InvalidPayloadError: payload: $.to[1]: Expected `str`, got `int`"


def test_async_handlers_run_and_are_cut_at_their_timeout(daemon: RunningDaemon, client: Client) -> None:
    quick = client.enqueue("test:async", 0.01, retention=60).id
    slow = client.enqueue("test:async", 60, timeout=1, max_retries=0).id
    again = client.enqueue("test:async", 0.01).id

    daemon.wait_for("task completed", task_id=quick)
    assert "TaskTimeoutError" in daemon.wait_for("task archived", task_id=slow)["error"]
    daemon.wait_for("task completed", task_id=again)
    assert rq_job(client.connection, quick).return_value() == "slept"


def test_a_running_task_shows_a_result_and_knows_its_time_left(daemon: RunningDaemon, client: Client) -> None:
    task_id = client.enqueue("test:progress", 60, timeout=100).id

    line = daemon.wait_for("progress", task_id=task_id)
    assert line["kept"] is True
    assert 90 < line["left_s"] <= 100
    assert client.connection.hget(keys.job(task_id), "result") == b'{"done":1}'
    client.cancel(task_id)


def test_the_last_progress_of_very_much_is_seen_before_the_result(daemon: RunningDaemon, client: Client) -> None:
    seen: list[TaskProgress] = []

    result = client.enqueue("test:steps", 5_000, retention=60).wait(DEADLINE_S, on_progress=seen.append)

    assert result == "all"
    assert seen[-1] == TaskProgress(5_000, 5_000)
    assert len(seen) < 500


def test_an_attempt_that_fails_has_told_how_far_it_came(daemon: RunningDaemon, client: Client) -> None:
    seen: list[TaskProgress] = []

    with pytest.raises(TaskFailedError, match="RuntimeError: failed as told"):
        client.enqueue("test:steps:failing", 100, retention=60, max_retries=0).wait(DEADLINE_S, on_progress=seen.append)

    assert seen[-1] == TaskProgress(100, 100)


def test_who_waits_for_a_running_task_that_is_cancelled_hears_of_it(daemon: RunningDaemon, client: Client) -> None:
    info = client.enqueue("test:sleep", 60, retention=60)
    daemon.wait_for("task started", task_id=info.id)

    client.cancel(info.id)

    with pytest.raises(TaskFailedError, match="was cancelled: TaskCancelledError") as raised:
        info.wait(DEADLINE_S)
    assert raised.value.is_cancelled


@pytest.mark.parametrize("by", ["client", "rq"])
def test_a_cancelled_running_task_is_interrupted_and_archived(daemon: RunningDaemon, client: Client, by: str) -> None:
    task_id = client.enqueue("test:swallow").id
    daemon.wait_for("task started", task_id=task_id)
    wait_until(client.connection.pubsub_channels, "the scheduler listens")

    if by == "client":
        assert client.cancel(task_id) is True
    else:
        send_stop_job_command(client.connection, task_id, serializer=JSONSerializer)

    assert daemon.wait_for("task archived", task_id=task_id)["error"] == "TaskCancelledError: cancelled on request"
    assert len(daemon.lines("task started", task_id=task_id)) == 1
    assert client.cancel(task_id) is False
    daemon.wait_for("task completed", task_id=client.enqueue("test:echo").id)


@pytest.mark.parametrize("how", ["delete", "cancel"])
def test_a_running_task_that_rq_takes_away_makes_room_when_its_handler_has_ended(
    daemon: RunningDaemon, client: Client, how: str
) -> None:
    task_id = client.enqueue("test:swallow").id
    daemon.wait_for("task started", task_id=task_id)

    getattr(rq_job(client.connection, task_id), how)()

    daemon.wait_for("task completed", task_id=client.enqueue("test:echo").id)
    wait_until(lambda: not client.connection.zcard(keys.wip("default")), "it was acknowledged")


def test_a_duplicate_is_refused_with_the_first_tasks_id(daemon: RunningDaemon, client: Client) -> None:
    words = ("test:echo", "2", "--unique", "1m")
    assert daemon.cli("queue", "pause", "default").returncode == 0
    first = daemon.enqueue(*words)

    second = daemon.cli("enqueue", *words)

    assert second.returncode == 1
    assert first in second.stderr
    assert second.stdout == ""
    with pytest.raises(DuplicateTaskError) as raised:
        client.enqueue("test:echo", 2, unique=60)
    assert raised.value.task_id == first
    assert daemon.cli("queue", "resume", "default").returncode == 0
    daemon.wait_for("task completed", task_id=first)
    wait_until(lambda: not client.connection.exists(keys.job(first)), "it was acknowledged")
    assert daemon.enqueue(*words) != first

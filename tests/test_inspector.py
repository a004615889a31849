"""Looking at queues and tasks, and intervening."""

import inspect
import re
import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import redis
from rq import Retry

from boilerd import Client, Inspector, QueueNotFoundError, TaskNotFoundError, TaskState, TaskStateError
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.bulk_actions import CHUNK
from boilerd.broker.claims import Completion, Failure
from boilerd.broker.connection import raw
from boilerd.broker.states import ALLOWED, Action
from boilerd.errors import InvalidTaskError
from boilerd.settings.definitions import Settings
from boilerd.tasks.retry import Decision, Verdict
from builders import WORKER, claim, complete, complete_next, fail, fail_next, in_state, rq_queue, task_in
from support import DEADLINE_S, StartDaemon, StartValkey, rings, wait_until


@pytest.fixture
def inspector(connection: redis.Redis) -> Inspector:
    return Inspector(connection)


@pytest.mark.parametrize("state", [*TaskState])
def test_a_task_is_shown_in_its_state_alone_and_in_the_list(
    inspector: Inspector, client: Client, broker: Broker, state: TaskState
) -> None:
    task_id = in_state(client, broker, state)

    shown = inspector.task(task_id)

    assert (shown.id, shown.type, shown.queue, shown.state, shown.payload) == (
        task_id,
        "test:echo",
        "default",
        state,
        1,
    )
    assert [task.id for task in inspector.tasks("default", state)] == [task_id]
    for other in TaskState:
        if other is not state:
            assert inspector.tasks("default", other) == []


@pytest.mark.parametrize("state", [*TaskState])
@pytest.mark.parametrize("action", ["run", "archive", "delete"])
def test_what_can_be_done_with_a_task_depends_on_its_state(
    client: Client, broker: Broker, connection: redis.Redis, action: Action, state: TaskState
) -> None:
    inspector = Inspector(connection)
    task_id = in_state(client, broker, state)
    before = connection.hgetall(keys.job(task_id))

    if state in ALLOWED[action]:
        getattr(inspector, action)(task_id)
        counts = inspector.queues()[0]
        places = counts.pending + counts.active + counts.scheduled + counts.completed + counts.archived
        if action == "delete":
            assert places == 0
            assert not connection.exists(keys.job(task_id), keys.results(task_id))
        else:
            now = TaskState.PENDING if action == "run" else TaskState.ARCHIVED
            assert (places, inspector.task(task_id).state) == (1, now)
            assert connection.ttl(keys.job(task_id)) == (-1 if action == "run" else pytest.approx(90 * 86400, abs=5))
    else:
        with pytest.raises(TaskStateError, match=f"state is {state}, and must be "):
            getattr(inspector, action)(task_id)
        assert connection.hgetall(keys.job(task_id)) == before
        assert inspector.task(task_id).state is state


def test_a_task_that_is_run_now_is_claimed_by_a_waiting_worker_at_once(
    inspector: Inspector, client: Client, start_daemon: StartDaemon
) -> None:
    daemon = start_daemon("--concurrency", "1").ready()
    task_id = client.enqueue("test:echo", process_in=3600).id

    inspector.run(task_id)

    daemon.wait_for("task completed", task_id=task_id)


def test_what_becomes_ready_rings_for_a_worker(inspector: Inspector, client: Client, connection: redis.Redis) -> None:
    task_id = client.enqueue("test:echo", process_in=3600).id
    assert not connection.exists(keys.bell("default"))

    inspector.run(task_id)
    assert connection.llen(keys.bell("default")) == 1
    inspector.resume("low")
    assert connection.llen(keys.bell("low")) >= 1


def test_a_bulk_operation_tells_retries_from_scheduled_tasks(
    inspector: Inspector, client: Client, broker: Broker
) -> None:
    retried = in_state(client, broker, TaskState.RETRY)
    scheduled = in_state(client, broker, TaskState.SCHEDULED)

    *_, last = inspector.bulk("archive", "default", TaskState.RETRY)

    assert (last.done, last.total) == (1, 2)
    assert inspector.task(retried).state is TaskState.ARCHIVED
    assert inspector.task(scheduled).state is TaskState.SCHEDULED


def test_an_archived_task_that_is_run_again_keeps_its_history(
    inspector: Inspector, client: Client, broker: Broker
) -> None:
    task_id = in_state(client, broker, TaskState.ARCHIVED)
    inspector.run(task_id)
    complete_next(broker, result=b'{"a":1}')

    shown = inspector.task(task_id)

    assert shown.state is TaskState.COMPLETED
    assert [(attempt.is_success, attempt.error, attempt.result) for attempt in shown.attempts] == [
        (False, "Traceback …\nValueError: bad", None),
        (True, "", {"a": 1}),
    ]


def test_a_task_shows_its_options_and_moments(inspector: Inspector, client: Client) -> None:
    deadline = datetime(2030, 1, 1, tzinfo=UTC)
    task_id = client.enqueue(
        "mail:send", {"to": "x"}, queue="low", process_in=600, max_retries=3, timeout=77, retention=60,
        deadline=deadline, unique=1000, concurrency_key="k",
    ).id  # fmt: skip

    shown = inspector.task(task_id)

    assert (shown.max_retries, shown.timeout_s, shown.retention_s, shown.deadline) == (3, 77, 60, deadline)
    assert shown.next_run_at is not None
    assert abs(shown.next_run_at - datetime.now(UTC) - timedelta(seconds=600)) < timedelta(seconds=30)
    assert shown.unique_key
    assert shown.concurrency_key == "k"


def test_a_running_task_shows_what_it_wrote_until_its_result_takes_the_place(
    inspector: Inspector, client: Client, broker: Broker, connection: redis.Redis
) -> None:
    task_id = client.enqueue("test:echo", retention=60).id
    held = claim(broker)

    broker.write_result(held, b'{"done":1}')
    meanwhile = inspector.task(task_id)
    (listed,) = inspector.tasks("default", TaskState.ACTIVE)
    complete(broker, held, b'"all"')

    assert (meanwhile.result, listed.result) == ({"done": 1}, {"done": 1})
    assert "done" not in repr(meanwhile)
    assert inspector.task(task_id).result == "all"
    assert not connection.hexists(keys.job(task_id), "result")


def test_a_completed_task_shows_no_result_that_an_older_worker_left(
    inspector: Inspector, client: Client, broker: Broker, connection: redis.Redis
) -> None:
    task_id = client.enqueue("test:echo", retention=60).id
    complete_next(broker)

    connection.hset(keys.job(task_id), "result", b'"half"')

    assert inspector.task(task_id).result is None
    assert inspector.tasks("default", TaskState.COMPLETED)[0].result is None


def test_a_task_that_failed_shows_how_far_it_came(inspector: Inspector, client: Client, broker: Broker) -> None:
    task_id = client.enqueue("test:echo").id
    held = claim(broker)

    broker.write_result(held, b"[1,2]")
    fail(broker, held, Verdict.ARCHIVE)

    assert inspector.task(task_id).result == [1, 2]


def test_how_many_retries_a_handler_gives_is_not_told_before_it_is_known(
    inspector: Inspector, client: Client, broker: Broker
) -> None:
    task_id = client.enqueue("test:echo").id
    own_id = client.enqueue("test:echo", max_retries=7).id

    before = inspector.task(task_id).max_retries
    broker.fail(WORKER, claim(broker), Failure("no", "no", Decision(Verdict.RETRY), 5))

    assert (before, inspector.task(task_id).max_retries) == (None, 5)
    assert inspector.task(own_id).max_retries == 7


def test_no_such_task_or_queue_is_told(inspector: Inspector, client: Client) -> None:
    client.enqueue("test:echo", queue="low")

    for ask in (inspector.task, inspector.run, inspector.archive, inspector.delete):
        with pytest.raises(TaskNotFoundError, match="'nope' does not exist"):
            ask("nope")
    with pytest.raises(QueueNotFoundError, match="'lwo' was never used; there are: low"):
        inspector.queue("lwo")
    with pytest.raises(QueueNotFoundError):
        inspector.tasks("lwo", TaskState.PENDING)
    with pytest.raises(InvalidTaskError):
        inspector.task("")


@pytest.mark.usefixtures("on_one_day")
def test_a_queue_tells_its_latency_memory_limits_and_today(
    inspector: Inspector, client: Client, broker: Broker
) -> None:
    first = client.enqueue("test:echo", "x" * 10_000).id
    client.connection.hset(keys.job(first), "enqueued_at", (datetime.now(UTC) - timedelta(seconds=90)).isoformat())
    for _ in range(9):
        client.enqueue("test:echo", "x" * 10_000)
    broker.set_limits({"default:max_active": 2, "default:max_length": 50})

    shown = inspector.queue("default")
    complete_next(broker, result=b'{"a":1}')
    fail_next(broker, Verdict.ARCHIVE)
    today = inspector.queue("default").today

    assert 89 < shown.latency_s < 120
    assert 100_000 < shown.memory_bytes < 300_000
    assert (shown.max_active, shown.max_length) == (2, 50)
    assert (today.processed, today.failed) == (2, 1)


@pytest.mark.usefixtures("on_one_day")
def test_the_history_has_a_row_for_each_day(inspector: Inspector, connection: redis.Redis) -> None:
    today = datetime.now(UTC).date()
    yesterday = (today - date(1970, 1, 1)).days - 1
    connection.hset(keys.stats("default", yesterday), mapping={"processed": 7, "failed": 2})

    shown = inspector.history("default", 3)

    assert [(day.day, day.processed, day.failed) for day in shown] == [
        (today, 0, 0), (today - timedelta(days=1), 7, 2), (today - timedelta(days=2), 0, 0),
    ]  # fmt: skip


def test_a_paused_queue_is_not_claimed_from_until_it_resumes(
    inspector: Inspector, client: Client, start_daemon: StartDaemon
) -> None:
    daemon = start_daemon("--concurrency", "1").ready()

    assert (inspector.pause("low"), inspector.pause("low")) == (True, False)
    task_id = client.enqueue("test:echo", queue="low").id
    other = client.enqueue("test:echo").id
    daemon.wait_for("task completed", task_id=other)
    assert inspector.task(task_id).state is TaskState.PENDING
    assert inspector.queues(["low"])[1].is_paused

    assert (inspector.resume("low"), inspector.resume("low")) == (True, False)
    daemon.wait_for("task completed", task_id=task_id)


def test_a_queue_that_resumes_wakes_all_workers_that_sleep_beside_its_tasks(
    inspector: Inspector, client: Client
) -> None:
    inspector.pause("default")
    client.enqueue_many([("test:echo", number) for number in range(200)])
    while rings(client.connection, "default", timeout_s=0.01):
        pass  # each woke a worker in vain

    inspector.resume("default")

    assert all(rings(client.connection, "default", timeout_s=0.01) for _ in range(100))
    assert client.connection.llen(keys.bell("default")) <= 28


def test_the_tasks_that_completed_last_are_told_also_those_that_were_not_kept(
    inspector: Inspector, client: Client, broker: Broker
) -> None:
    for task_id in ("a", "b", "c"):
        client.enqueue("test:echo", task_id=task_id)
        (claim,) = broker.advance("host.run.0", ["default"]).claims
        broker.advance("host.run.0", (), [Completion(claim)])
    client.connection.lpush(keys.completed("default"), "of somebody else")

    found = inspector.recent("default", 3)

    assert [(task.id, task.type, task.worker) for task in found] == [
        ("c", "test:echo", "host.run.0"), ("b", "test:echo", "host.run.0"),
    ]  # fmt: skip
    assert timedelta(0) <= found[0].ended_at - found[0].started_at < timedelta(seconds=DEADLINE_S)
    with pytest.raises(QueueNotFoundError):
        inspector.recent("never")


@pytest.mark.parametrize(("page", "size"), [(0, 3), (-1, 3), (1, 0)])
def test_a_page_that_cannot_be_is_refused(inspector: Inspector, client: Client, page: int, size: int) -> None:
    client.enqueue("test:echo")

    with pytest.raises(ValueError, match=f"page {page} of size {size}: both begin at 1"):
        inspector.tasks("default", TaskState.PENDING, page=page, size=size)


@pytest.mark.parametrize("state", [TaskState.PENDING, TaskState.RETRY, TaskState.ARCHIVED])
def test_a_page_beyond_all_that_there_could_be_is_empty(inspector: Inspector, client: Client, state: TaskState) -> None:
    client.enqueue("test:echo")

    assert inspector.tasks("default", state, page=10**30, size=30) == []


def test_a_state_may_be_given_by_its_word(inspector: Inspector, client: Client) -> None:
    task_id = client.enqueue("test:echo").id
    word: Any = "pending"
    unknown: Any = "waiting"

    assert [task.id for task in inspector.tasks("default", word)] == [task_id]
    with pytest.raises(ValueError, match="'waiting' is not a valid TaskState"):
        inspector.tasks("default", unknown)


@pytest.mark.parametrize("state", [TaskState.PENDING, TaskState.SCHEDULED, TaskState.RETRY, TaskState.ARCHIVED])
def test_pages_follow_each_other(inspector: Inspector, client: Client, broker: Broker, state: TaskState) -> None:
    ids = [in_state(client, broker, state) for _ in range(7)]

    pages = [[task.id for task in inspector.tasks("default", state, page=page, size=3)] for page in (1, 2, 3, 4)]

    assert [len(page) for page in pages] == [3, 3, 1, 0]
    found = [task_id for page in pages for task_id in page]
    assert sorted(found) == sorted(ids)
    if state is TaskState.PENDING:
        assert found == ids


@pytest.mark.parametrize(
    ("action", "state"), [(action, state) for action, states in ALLOWED.items() for state in states]
)
def test_a_bulk_operation_takes_all_of_a_state_and_type_and_nothing_else(
    inspector: Inspector, client: Client, broker: Broker, action: Action, state: TaskState
) -> None:
    others = {in_state(client, broker, other) for other in TaskState if other not in {state, TaskState.ACTIVE}}
    if state is not TaskState.PENDING:  # what is enqueued first would be claimed first
        inspector.delete(others.intersection(_ids(inspector, TaskState.PENDING)).pop())
        others = {task_id for other in TaskState for task_id in _ids(inspector, other)}
    mine = {in_state(client, broker, state, "mail:send") for _ in range(205)}
    kept = in_state(client, broker, state, "mail:other")

    steps = list(inspector.bulk(action, "default", state, "mail:send"))

    assert (steps[-1].done, steps[-1].seen, len(steps)) == (205, steps[-1].total, -(-steps[-1].total // 100))
    everything = {task_id: other for other in TaskState for task_id in _ids(inspector, other)}
    assert everything[kept] is state
    assert others <= everything.keys()
    if action == "delete":
        assert not mine & everything.keys()
    else:
        now = TaskState.PENDING if action == "run" else TaskState.ARCHIVED
        assert {everything[task_id] for task_id in mine} == {now}


def test_a_bulk_operation_deep_in_a_long_queue_walks_it_once_and_keeps_the_order_of_the_others(
    inspector: Inspector, client: Client, connection: redis.Redis
) -> None:
    client.enqueue_many([("mail:send" if n > 1500 and n % 2 else "mail:other", n) for n in range(2000)])
    before = rq_queue(connection).job_ids
    connection.config_resetstat()

    *_, last = inspector.bulk("archive", "default", TaskState.PENDING, "mail:send")

    assert last.done == 250
    assert connection.info("commandstats")["cmdstat_lrem"]["calls"] == 1
    kept = [task_id for n, task_id in enumerate(before) if n <= 1500 or not n % 2]
    assert rq_queue(connection).job_ids == kept


def test_workers_pass_over_what_an_unfinished_bulk_operation_left_on_the_queue(
    inspector: Inspector, client: Client, connection: redis.Redis, broker: Broker
) -> None:
    client.enqueue_many([("mail:send" if n > 1500 else "mail:other", n) for n in range(1610)])
    chunks = inspector.bulk("delete", "default", TaskState.PENDING, "mail:send")
    while next(chunks).done == 0:
        pass
    connection.ltrim(keys.queue("default"), 1501, -1)
    assert connection.lindex(keys.queue("default"), 0) == b""

    held = claim(broker)

    assert task_in(held).type == "mail:send"
    assert inspector.queues()[0].pending == 9


def _ids(inspector: Inspector, state: TaskState) -> set[str]:
    return {task.id for task in inspector.tasks("default", state, size=1000)}


def test_a_bulk_operation_in_a_state_that_forbids_it_is_refused(inspector: Inspector, client: Client) -> None:
    client.enqueue("test:echo")

    with pytest.raises(TaskStateError, match=r"cannot run active tasks: .* cancel it instead"):
        next(inspector.bulk("run", "default", TaskState.ACTIVE))


@pytest.mark.fault(38)
def test_bulk_operations_at_the_same_time_as_workers_and_each_other_lose_nothing(
    client: Client, connection: redis.Redis, start_daemon: StartDaemon, valkey: object
) -> None:
    daemon = start_daemon("--concurrency", "2").ready()
    client.enqueue_many([("test:echo", n) for n in range(3000)])

    def archive() -> int:
        own = Inspector(connection)
        return sum(1 for _ in own.bulk("archive", "default", TaskState.PENDING))

    def run() -> None:
        own = Inspector(connection)
        while sum(counts := [own.queues()[0].archived, own.queues()[0].pending]):
            if counts[0]:
                list(own.bulk("run", "default", TaskState.ARCHIVED))

    with ThreadPoolExecutor(3) as pool:
        ended: list[Future[Any]] = [pool.submit(archive), pool.submit(archive), pool.submit(run)]
        for one in ended:
            one.result(60)

    wait_until(lambda: Inspector(connection).queues()[0].active == 0, "all have ended")
    processed = Inspector(connection).history("default", 1)[0].processed
    assert processed == 3000
    assert not list(connection.scan_iter(keys.job("*")))
    assert daemon.stop() == 0


@pytest.mark.fault(38)
def test_a_bulk_operation_that_is_broken_off_can_be_begun_again(
    inspector: Inspector, client: Client, broker: Broker
) -> None:
    client.enqueue_many([("test:echo", n) for n in range(250)])
    next(inspector.bulk("archive", "default", TaskState.PENDING))

    *_, last = inspector.bulk("archive", "default", TaskState.PENDING)

    assert last.done == 150
    assert inspector.queues()[0].archived == 250


def test_tasks_that_come_while_a_bulk_operation_runs_are_left_alone(inspector: Inspector, client: Client) -> None:
    client.enqueue_many([("test:echo", n) for n in range(150)])
    steps = inspector.bulk("delete", "default", TaskState.PENDING)
    next(steps)

    late = client.enqueue("test:echo").id

    assert next(steps).done == 150
    assert list(steps) == []
    assert _ids(inspector, TaskState.PENDING) == {late}


def test_a_bulk_operation_takes_each_retry_that_was_there_though_those_that_it_ran_fail_again_before_them(
    inspector: Inspector, client: Client, broker: Broker
) -> None:
    retries = [in_state(client, broker, TaskState.RETRY) for _ in range(CHUNK + 20)]
    steps = inspector.bulk("run", "default", TaskState.RETRY)
    next(steps)

    again = {fail_next(broker, Verdict.RETRY, delay_s=60.0) for _ in range(50)}
    *_, last = steps

    assert last.done == last.seen == len(retries)
    assert _ids(inspector, TaskState.RETRY) == again
    assert _ids(inspector, TaskState.PENDING) == {*retries} - again


def test_an_id_without_a_record_stops_no_bulk_operation(
    inspector: Inspector, client: Client, connection: redis.Redis
) -> None:
    connection.sadd(keys.QUEUES, keys.queue("default"))
    for n in range(150):
        connection.rpush(keys.queue("default"), f"ghost-{n}")
    client.enqueue_many([("test:echo", n) for n in range(50)])

    *_, last = inspector.bulk("archive", "default", TaskState.PENDING)

    assert (last.done, last.seen) == (50, 200)


def put_aside(client: Client, broker: Broker, *task_ids: str) -> None:
    """Have tasks wait for a concurrency key, which a task of another queue has."""
    client.enqueue("test:echo", queue="other", concurrency_key="k")
    claim(broker, "other")
    for task_id in task_ids:
        client.enqueue("test:echo", task_id=task_id, concurrency_key="k")
    assert broker.advance("host.run.1", ["default"]).claims == []


def test_tasks_that_wait_for_a_concurrency_key_are_pending_and_tell_what_they_wait_for(
    inspector: Inspector, client: Client, broker: Broker
) -> None:
    put_aside(client, broker, *"ab")
    client.enqueue("test:echo", task_id="free")

    listed = inspector.tasks("default", TaskState.PENDING)

    assert [(task.id, task.waits_for) for task in listed] == [("free", ""), ("a", "k"), ("b", "k")]
    assert inspector.queue("default").counts.pending == 3
    assert broker.count_pending(["default"]) == 3
    shown = inspector.task("a")
    assert (shown.state, shown.waits_for, shown.expires_at) == (TaskState.PENDING, "k", None)


@pytest.mark.parametrize("page", [1, 2, 3])
def test_pages_go_on_from_a_queue_to_the_tasks_that_wait_for_a_concurrency_key(
    inspector: Inspector, client: Client, broker: Broker, page: int
) -> None:
    put_aside(client, broker, *"abc")
    for task_id in "xyz":
        client.enqueue("test:echo", task_id=task_id)

    listed = inspector.tasks("default", TaskState.PENDING, page=page, size=2)

    assert "".join(task.id for task in listed) == ("xy", "za", "bc")[page - 1]


def test_the_oldest_task_may_be_one_that_waits_for_a_concurrency_key(
    inspector: Inspector, client: Client, broker: Broker, connection: redis.Redis
) -> None:
    put_aside(client, broker, "a")
    connection.hset(keys.job("a"), "enqueued_at", "2020-01-01T00:00:00Z")
    alone = inspector.queue("default").latency_s
    client.enqueue("test:echo")

    assert min(alone, inspector.queue("default").latency_s) > 365 * 86400


@pytest.mark.parametrize("action", ["delete", "archive"])
def test_a_bulk_operation_takes_the_tasks_that_wait_for_a_concurrency_key(
    inspector: Inspector, client: Client, broker: Broker, action: Action
) -> None:
    put_aside(client, broker, *(f"t{number:03}" for number in range(CHUNK + 5)))
    client.enqueue("test:echo", task_id="free")

    *_, progress = inspector.bulk(action, "default", TaskState.PENDING)

    assert (progress.done, progress.total) == (CHUNK + 6, CHUNK + 6)
    assert inspector.queue("default").counts.pending == 0
    broker.release("host.run.0")
    assert broker.advance("host.run.1", ["default"]).claims == []


def test_a_task_that_waits_for_its_concurrency_key_can_be_deleted(
    inspector: Inspector, client: Client, broker: Broker, connection: redis.Redis
) -> None:
    first = client.enqueue("test:echo", concurrency_key="k").id
    second = client.enqueue("test:echo", concurrency_key="k").id
    assert claim(broker).task_id == first
    assert broker.advance("v", ["default"], []).claims == []

    inspector.delete(second)

    assert not connection.exists(keys.job(second), f"{keys.OWN}:waiting:k", f"{keys.OWN}:keys")


def test_the_workers_tell_what_they_run(inspector: Inspector, client: Client, start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--concurrency", "2").ready()
    task_id = client.enqueue("test:sleep", 30).id
    daemon.wait_for("task started", task_id=task_id)
    wait_until(lambda: len(inspector.workers()) == 2, "both are registered")

    busy, idle = sorted(inspector.workers(), key=lambda worker: not worker.task_id)

    assert (busy.task_id, busy.task_type, busy.state) == (task_id, "test:sleep", "busy")
    assert busy.task_started_at is not None
    assert abs(busy.task_started_at.timestamp() - time.time()) < 30
    assert (idle.task_id, idle.task_started_at) == ("", None)
    assert {busy.pid, idle.pid} == {p["pid"] for p in daemon.processes() if p["name"].startswith("worker:")}
    assert list(busy.queues) == ["critical", "default", "low"]


def test_a_worker_whose_attempt_cannot_be_read_is_shown_without_it(
    inspector: Inspector, connection: redis.Redis
) -> None:
    connection.sadd(keys.WORKERS, keys.worker("w"))
    connection.hset(keys.worker("w"), "pid", "5")
    connection.sadd(keys.worker_executions("w"), "t:e")
    for key in (keys.execution("t:e"), keys.job("t")):
        connection.set(key, "a key of another kind")

    (shown,) = inspector.workers()

    assert (shown.name, shown.pid, shown.task_id, shown.task_type) == ("w", 5, "", "")


def test_jobs_of_plain_rq_are_shown_and_handled_like_tasks(inspector: Inspector, connection: redis.Redis) -> None:
    job = rq_queue(connection).enqueue("shop.bill", 7, why="x")

    shown = inspector.task(job.id)
    inspector.archive(job.id)

    assert (shown.type, shown.payload) == ("shop.bill", {"args": [7], "kwargs": {"why": "x"}})
    assert inspector.task(job.id).state is TaskState.ARCHIVED


def test_a_queue_of_plain_rq_may_have_a_name_that_ours_may_not(inspector: Inspector, connection: redis.Redis) -> None:
    job = rq_queue(connection, "mail: EU").enqueue("shop.bill", 7)

    assert inspector.queue("mail: EU").counts.pending == 1
    assert [task.id for task in inspector.tasks("mail: EU", TaskState.PENDING)] == [job.id]


@pytest.mark.parametrize("job_id", ["report.2024 (1)", "user:7", "größer", "\udcff"])
def test_a_job_may_have_an_id_that_ours_may_not(
    inspector: Inspector, client: Client, connection: redis.Redis, job_id: str
) -> None:
    """Versions of RQ before 2 took any text."""
    job = rq_queue(connection).enqueue("shop.bill", 7)
    for key, place in ((keys.job(job_id), keys.job(job.id)), (keys.job(job_id + "x"), keys.job(job.id))):
        connection.copy(place, raw(key))  # type: ignore[arg-type]  # typed as text
    connection.rpush(keys.queue("default"), raw(job_id), raw(job_id + "x"))

    shown = inspector.task(job_id)
    inspector.archive(job_id)
    inspector.delete(job_id)

    assert (shown.type, shown.state) == ("shop.bill", TaskState.PENDING)
    assert client.cancel(job_id + "x") is True
    assert connection.lrange(keys.queue("default"), 0, -1) == [job.id.encode()]


def test_jobs_in_a_state_of_rqs_own_keep_no_bulk_operation_from_the_others(
    inspector: Inspector, client: Client, broker: Broker, connection: redis.Redis
) -> None:
    stopped = [f"stopped-{n}" for n in range(CHUNK + 1)]
    for job_id in stopped:
        connection.hset(keys.job(job_id), mapping={"status": "stopped", "origin": "default"})
    connection.zadd(keys.registry("failed", "default"), dict.fromkeys(stopped, 1e9))
    task_id = in_state(client, broker, TaskState.ARCHIVED)

    *_, progress = inspector.bulk("run", "default", TaskState.ARCHIVED)

    assert (progress.done, progress.seen) == (1, CHUNK + 2)
    assert inspector.task(task_id).state is TaskState.PENDING


def test_a_task_that_is_archived_at_once_shows_the_retries_that_its_handler_gives_it(
    inspector: Inspector, client: Client, broker: Broker
) -> None:
    task_id = client.enqueue("test:echo").id

    broker.fail("w", broker.advance("w", ["default"]).claims[0], Failure("no", "no", Decision(Verdict.ARCHIVE), 5))

    assert (inspector.task(task_id).retried, inspector.task(task_id).max_retries) == (0, 5)


def test_a_job_of_plain_rq_that_is_refused_keeps_its_retries(
    inspector: Inspector, connection: redis.Redis, broker: Broker
) -> None:
    queue = rq_queue(connection)
    job = queue.enqueue("shop.bill", 7, retry=Retry(max=3))

    broker.fail("w", broker.advance("w", ["default"]).claims[0], Failure("no", "no", Decision(Verdict.ARCHIVE), 0))

    assert inspector.task(job.id).max_retries == 3


def test_what_cannot_be_read_is_shown_as_missing(inspector: Inspector, client: Client, connection: redis.Redis) -> None:
    task_id = client.enqueue("test:echo", 1).id
    junk: dict[Any, Any] = {
        b"data": b"\x80\x04",
        b"timeout": b"soon",
        b"enqueued_at": b"\xff",
        b"number_of_retries": b"x",
        b"deadline": b"nan",
    }
    connection.hset(keys.job(task_id), mapping=junk)
    connection.rpush(keys.queue("default"), b"\xff\xfe", "no-record")
    connection.set(keys.job("text"), "no hash")
    connection.rpush(keys.queue("default"), "text")

    shown = inspector.tasks("default", TaskState.PENDING)

    assert [task.state for task in shown] == [TaskState.PENDING, None, None, None]
    assert (shown[0].payload, shown[0].timeout_s, shown[0].deadline, shown[0].retried) == (None, None, None, 0)
    assert inspector.queue("default").latency_s == 0


def test_the_broker_tells_what_it_is(inspector: Inspector) -> None:
    shown = inspector.broker()

    assert shown["server"].startswith("Valkey ")
    assert shown["clients"] >= 1
    assert shown["peak_memory_bytes"] >= shown["memory_bytes"] > 0


def test_a_task_is_cancelled_as_by_a_client(inspector: Inspector, client: Client, broker: Broker) -> None:
    waiting, ended = client.enqueue("test:echo").id, client.enqueue("test:echo", queue="low", retention=60).id
    complete_next(broker, "low")

    assert inspector.cancel(waiting) is True
    assert inspector.cancel(ended) is False
    with pytest.raises(TaskNotFoundError):
        inspector.cancel(waiting)


def test_an_inspector_closes_its_connections_at_the_end_of_a_block(start_valkey: StartValkey) -> None:
    server = start_valkey()  # of its own: other tests of this process may have left connections to theirs
    with Inspector.from_settings(Settings(redis_url=server.url)) as inspector:
        assert inspector.queues() == []
        assert inspector.broker()["clients"] == 1

    with Inspector.from_url(server.url) as inspector:
        wait_until(lambda: inspector.broker()["clients"] == 1, "the connection of the first one is closed")


def test_the_periodic_tasks_of_all_hosts_are_told_with_their_ticks(
    inspector: Inspector, broker: Broker, connection: redis.Redis
) -> None:
    started_s = broker.now()
    assert inspector.crons() == []

    broker.ticks_since({"report": "Europe/Berlin 0 8 * * *", "sweep": "UTC @every 30s"})
    broker.tick("sweep", started_s // 30 * 30, None)
    connection.hset(keys.SCHEDULES, "foreign", b"\xff nonsense")
    foreign, report, sweep = inspector.crons()

    assert (report.name, report.spec, report.timezone) == ("report", "0 8 * * *", "Europe/Berlin")
    assert report.next is not None
    assert report.next.astimezone(ZoneInfo("Europe/Berlin")).hour == 8
    assert report.since is not None
    assert abs(report.since.timestamp() - started_s) < DEADLINE_S
    assert report.previous is None
    assert sweep.previous == datetime.fromtimestamp(started_s // 30 * 30, UTC)
    assert (foreign.since, foreign.previous, foreign.next) == (None, None, None)


def test_the_documents_name_every_method_of_an_inspector() -> None:
    page = (Path(__file__).parents[1] / "docs" / "writing-tasks.md").read_text()
    named = set(re.findall(r"`(\w+)\(", page.partition("## Look and intervene from Python")[2]))

    public = {name for name, value in inspect.getmembers(Inspector) if callable(value) and not name.startswith("_")}

    assert public | {"from_url", "from_settings"} == named

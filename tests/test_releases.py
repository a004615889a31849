"""Records of earlier releases, as their clients and workers left them: they are read, shown, moved and run.

Each file in ``records/`` is what a release left in Redis, with a host that lost its power; ``records/write.py`` writes
one.
"""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from boilerd import Client, DuplicateTaskError, Inspector, TaskFailedError, TaskIdConflictError, TaskState
from support import DEADLINE_S, StartDaemon, StartValkey, Valkey, shown_by

RECORDS = Path(__file__).parent / "records"
RELEASES = [path.stem for path in sorted(RECORDS.glob("*.json"))]
#: Scores above this are moments.
MOMENT_S = 1e9
#: The lease of a worker that died when the records were written is over.
AGE_S = 60.0

#: What had become of the tasks when the records were written.
STATES = {
    TaskState.COMPLETED: {"completed", "completed-empty"},
    TaskState.ARCHIVED: {"archived", "archived-misfit", "archived-unique"},
    TaskState.RETRY: {"retry", "retry-own-number"},
    TaskState.SCHEDULED: {"scheduled", "keyed-late"},
    TaskState.ACTIVE: {"active", "active-too"},
    TaskState.PENDING: {
        "pending", "pending-none", "pending-typed", "pending-unique", "pending-lasting", "rq-function", "rq-task",
    },
}  # fmt: skip
#: What the tasks return that a worker comes to.
RESULTS = {
    "pending": {"n": 1, "request_id": "request-1"}, "pending-typed": 1, "pending-unique": {"a": [1, None]},
    "pending-lasting": 3, "rq-function": 5, "rq-task": {"n": 7}, "keyed": 8, "active": None, "active-too": None,
}  # fmt: skip


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest, connection: redis.Redis) -> str:
    """A release whose records are in the broker, as if it had stopped a minute ago."""
    name: str = request.param
    written = json.loads((RECORDS / f"{name}.json").read_text("utf-8"))
    later_s = time.time() - AGE_S - written["written_at"]
    for key, (kind, value, ttl_s) in written["keys"].items():
        restore(connection, raw(key), kind, raw(value), later_s)
        if ttl_s is not None:
            connection.expire(raw(key), ttl_s)
    return name


def raw(value: Any) -> Any:
    """The value with bytes for texts."""
    if isinstance(value, str):
        return value.encode(errors="surrogateescape")
    return [raw(each) for each in value] if isinstance(value, list) else value


def restore(connection: redis.Redis, key: bytes, kind: str, value: Any, later_s: float) -> None:
    match kind:
        case "string":
            connection.set(key, value)
        case "hash":
            connection.hset(key, mapping=dict(value))
        case "list":
            connection.rpush(key, *value)
        case "set":
            connection.sadd(key, *value)
        case "zset":
            connection.zadd(key, {name: score + later_s * (score > MOMENT_S) for name, score in value})
        case "stream":
            for place, fields in value:
                connection.xadd(key, dict(fields), id=place)


@pytest.fixture
def inspector(release: str, connection: redis.Redis) -> Inspector:
    return Inspector(connection)


def tick_in(inspector: Inspector) -> str:
    """The task that a periodic task of the release has enqueued, in a queue that is paused."""
    (tick,) = inspector.tasks("low", TaskState.PENDING)
    return tick.id


def test_each_task_is_in_its_state_and_can_be_shown(
    inspector: Inspector, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOILERD_REDIS_URL", valkey.url)

    for state, task_ids in STATES.items():
        listed = shown_by("task", "ls", "-s", str(state))
        assert {task.id for task in inspector.tasks("default", state)} >= task_ids
        for task_id in task_ids:
            assert task_id in listed
            assert f"state         {state}" in shown_by("task", "show", task_id)
            assert f"is {state}" in shown_by("task", "why", task_id)


def test_all_else_is_known(inspector: Inspector) -> None:
    queues = inspector.queues()

    assert tick_in(inspector).startswith("cron-tick-")
    assert [queue.name for queue in queues if queue.is_paused] == ["low"]
    assert [*inspector.last_ticks()] == ["tick"]
    assert {task.id for task in inspector.recent("default")} == STATES[TaskState.COMPLETED]
    assert len(inspector.workers()) == 2
    assert inspector.problems() == []


def test_what_has_ended_can_be_waited_for(release: str, client: Client) -> None:
    with pytest.raises(TaskFailedError) as archived:
        client.wait("archived", DEADLINE_S)
    with pytest.raises(TaskFailedError) as misfit:
        client.wait("archived-misfit", DEADLINE_S)

    assert client.wait("completed", DEADLINE_S) == {"n": "completed"}
    assert client.wait("completed-empty", DEADLINE_S) is None
    assert (archived.value.error_type, archived.value.message) == ("SkipRetry", "not worth it")
    assert misfit.value.error_type == "InvalidPayloadError"
    assert "in request" in archived.value.traceback


def test_its_locks_and_ids_are_taken(release: str, client: Client) -> None:
    for payload, holder in (({"a": [1, None]}, "pending-unique"), (3, "pending-lasting")):
        with pytest.raises(DuplicateTaskError) as refused:
            client.enqueue("test:echo", payload, unique=60)
        assert refused.value.task_id == holder
    with pytest.raises(TaskIdConflictError):
        client.enqueue("test:echo", task_id="archived", once=60)


def test_its_tasks_run(inspector: Inspector, client: Client, start_daemon: StartDaemon) -> None:
    tick = tick_in(inspector)
    inspector.resume("low")
    waiting = {**RESULTS, tick: {"n": 9}, "scheduled": 4, "keyed-late": 6}
    for task_id in ("scheduled", "keyed-late", "retry", "archived"):
        inspector.run(task_id)

    daemon = start_daemon(
        "--concurrency", "1", "--queues", "default=2,low=1", env={"BOILERD_RQ_FUNCTIONS": "rq_jobs.*"}
    )

    assert {task_id: client.wait(task_id, DEADLINE_S) for task_id in waiting} == waiting
    daemon.wait_for("task completed", task_id="pending", request_id="request-1", attempt=1)
    daemon.wait_for("task completed", task_id="pending-none")
    daemon.wait_for("task will be retried", task_id="retry", attempt=2)
    daemon.wait_for("task archived", task_id="archived", attempt=1)
    assert inspector.task("active").retried == 1
    assert inspector.task("retry").retried >= 2  # it fails again and again, and a busy machine is slow to ask
    assert inspector.task("archived-unique").state is TaskState.ARCHIVED
    assert client.enqueue("test:echo", {"a": [1, None]}, unique=60).id
    with pytest.raises(DuplicateTaskError):
        client.enqueue("test:echo", 3, unique=60)


def test_its_tasks_can_be_archived_deleted_and_cancelled(inspector: Inspector, client: Client) -> None:
    for task_id in ("pending", "retry", "scheduled", "keyed"):
        inspector.archive(task_id)
    for task_id in (
        "pending",
        "pending-unique",
        "pending-lasting",
        "archived-misfit",
        "retry-own-number",
        "completed",
        "rq-function",
    ):
        inspector.delete(task_id)
    cancelled = [client.cancel(task_id) for task_id in ("rq-task", "pending-typed", "keyed-late", "active")]

    assert cancelled == [True] * 4
    assert {task.id for task in inspector.tasks("default", TaskState.ARCHIVED)} == {
        "retry", "scheduled", "keyed", "archived", "archived-unique",
    }  # fmt: skip
    assert {task.id for task in inspector.tasks("default", TaskState.PENDING)} == {"pending-none"}
    assert client.enqueue("test:echo", {"a": [1, None]}, unique=60).id


def test_its_waiting_tasks_can_be_moved_to_another_broker(
    inspector: Inspector, valkey: Valkey, start_valkey: StartValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = start_valkey()
    monkeypatch.setenv("BOILERD_REDIS_URL", valkey.url)
    before = every_waiting(inspector)

    shown_by("task", "move", "--to", target.url)

    with Inspector.from_url(target.url) as there:
        assert every_waiting(there) == before
    assert every_waiting(inspector) == {}


def every_waiting(inspector: Inspector) -> dict[str, tuple[Any, ...]]:
    """What is known of each task that waits."""
    states = (TaskState.PENDING, TaskState.SCHEDULED, TaskState.RETRY, TaskState.ARCHIVED)
    tasks = [task for name in ("default", "low") for state in states for task in inspector.tasks(name, state)]
    return {task.id: (task.type, task.state, task.retried, task.next_run_at, task.attempts) for task in tasks}

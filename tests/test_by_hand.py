"""Tasks that somebody reschedules, moves, enqueues or copies by hand, and what the audit has of it."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import redis

from boilerd import (
    Client,
    DuplicateTaskError,
    Inspector,
    InvalidTaskError,
    TaskNotFoundError,
    TaskState,
    TaskStateError,
)
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.errors import BrokerRefusedError
from builders import claim, complete, enqueue, in_state, pending

WAITING = [TaskState.PENDING, TaskState.SCHEDULED, TaskState.RETRY]


@pytest.fixture
def inspector(connection: redis.Redis) -> Inspector:
    return Inspector(connection)


def told(inspector: Inspector) -> list[tuple[Any, ...]]:
    return [(entry.what, dict(entry.on), entry.count, entry.outcome) for entry in inspector.audit()]


@pytest.mark.parametrize("state", WAITING)
def test_a_task_that_waits_runs_at_another_moment(
    state: TaskState, inspector: Inspector, client: Client, broker: Broker
) -> None:
    task_id = in_state(client, broker, state)
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=5)

    inspector.reschedule(task_id, at)

    found = inspector.task(task_id)
    assert (found.state, found.next_run_at) == (
        TaskState.RETRY if state is TaskState.RETRY else TaskState.SCHEDULED,
        at,
    )
    assert pending(broker.connection) == []
    assert told(inspector) == [("reschedule", {"task": task_id, "at": at.isoformat()}, 1, "done")]


def test_a_moment_that_is_past_means_now(inspector: Inspector, client: Client, broker: Broker) -> None:
    client.enqueue("test:echo", task_id="a", process_in=3600)

    inspector.reschedule("a", datetime(2000, 1, 1, tzinfo=UTC))
    broker.forward()

    assert pending(broker.connection) == ["a"]
    with pytest.raises(InvalidTaskError, match="at: it has no time zone"):
        inspector.reschedule("a", datetime(2000, 1, 1))  # noqa: DTZ001


@pytest.mark.parametrize(
    "at",
    [
        datetime(9999, 12, 31, 23, tzinfo=timezone(-timedelta(hours=12))),
        datetime.max.replace(tzinfo=UTC),
        timedelta.max,
    ],
    ids=["year 10000", "the last moment", "ages"],
)
def test_a_moment_that_nobody_can_read_again_is_refused(
    at: datetime | timedelta, inspector: Inspector, client: Client
) -> None:
    client.enqueue("test:echo", task_id="a")

    with pytest.raises(InvalidTaskError, match=r"at: .* is too far away to be kept"):
        inspector.reschedule("a", at)

    assert inspector.task("a").state is TaskState.PENDING


def test_a_unique_lock_waits_with_its_task(inspector: Inspector, client: Client) -> None:
    client.enqueue("test:echo", 1, task_id="a", unique=10)

    inspector.reschedule("a", datetime.now(UTC) + timedelta(hours=1))

    key = inspector.task("a").unique_key
    assert 3000 < client.connection.ttl(key) <= 3610
    with pytest.raises(DuplicateTaskError):
        client.enqueue("test:echo", 1, unique=10)


@pytest.mark.parametrize("state", WAITING)
def test_a_task_that_waits_moves_to_another_queue(
    state: TaskState, inspector: Inspector, client: Client, broker: Broker
) -> None:
    task_id = in_state(client, broker, state)
    before = inspector.task(task_id)

    inspector.move(task_id, "other")

    found = inspector.task(task_id)
    assert (found.queue, found.state, found.next_run_at) == ("other", before.state, before.next_run_at)
    assert [task.id for task in inspector.tasks("other", state)] == [task_id]
    assert inspector.tasks("default", state) == []
    assert told(inspector) == [("move", {"task": task_id, "to": "other"}, 1, "done")]
    if state is TaskState.PENDING:
        assert claim(broker, "other").task_id == task_id


def test_a_task_that_waits_for_a_key_leaves_its_place_to_the_next(
    inspector: Inspector, client: Client, broker: Broker
) -> None:
    for name in ("runs", "waits", "next"):
        client.enqueue("test:echo", task_id=name, concurrency_key="k")
    held = claim(broker)
    broker.advance("host.run.1", ["default"])
    inspector.move("waits", "other")
    complete(broker, held)

    assert claim(broker, "default").task_id == "next"
    assert inspector.task("waits").queue == "other"


@pytest.mark.parametrize("state", [TaskState.ACTIVE, TaskState.ARCHIVED, TaskState.COMPLETED])
def test_a_task_that_does_not_wait_stays(
    state: TaskState, inspector: Inspector, client: Client, broker: Broker
) -> None:
    task_id = in_state(client, broker, state)

    with pytest.raises(TaskStateError, match=f"cannot move task {task_id}: state is {state}"):
        inspector.move(task_id, "other")
    with pytest.raises(TaskStateError, match="cannot reschedule"):
        inspector.reschedule(task_id, datetime.now(UTC))

    assert inspector.task(task_id).state is state
    assert [(what, outcome) for what, _, _, outcome in told(inspector)] == [
        ("move", "refused"), ("reschedule", "refused"),
    ]  # fmt: skip
    with pytest.raises(TaskNotFoundError):
        inspector.move("unknown", "other")
    with pytest.raises(InvalidTaskError):
        inspector.move(task_id, "no queue")


def test_a_foreign_key_in_the_place_to_go_keeps_the_task_where_it_is(
    inspector: Inspector, client: Client, connection: redis.Redis
) -> None:
    enqueue(client, "a")
    connection.set(keys.queue("other"), "no list")

    with pytest.raises(BrokerRefusedError):
        inspector.move("a", "other")

    assert pending(connection) == ["a"]
    assert inspector.task("a").queue == "default"
    assert told(inspector)[0][3] == "failed"


def test_a_task_is_enqueued_by_hand(inspector: Inspector, broker: Broker) -> None:
    info = inspector.enqueue("test:echo", {"a": 1}, queue="low", max_retries=2)

    assert claim(broker, "low").task_id == info.id
    assert told(inspector) == [("enqueue", {"task": info.id, "type": "test:echo", "queue": "low"}, 1, "done")]


def test_a_copy_names_the_task_that_it_is_of_and_leaves_it(
    inspector: Inspector, client: Client, broker: Broker
) -> None:
    old = in_state(client, broker, TaskState.ARCHIVED)

    new = inspector.enqueue("test:echo", {"a": 2}, copied_from=old, headers={"tenant": "7"})

    found = inspector.task(new.id)
    assert (found.copied_from, found.payload, found.headers) == (old, {"a": 2}, {"tenant": "7"})
    assert inspector.task(old).state is TaskState.ARCHIVED
    on = {"task": new.id, "type": "test:echo", "queue": "default", "copied_from": old}
    assert told(inspector) == [("copy", on, 1, "done")]
    assert claim(broker).task_id == new.id


def test_what_is_refused_by_hand_is_noted(inspector: Inspector, client: Client) -> None:
    client.enqueue("test:echo", 1, task_id="a", unique=60)

    with pytest.raises(DuplicateTaskError):
        inspector.enqueue("test:echo", 1, unique=60)
    with pytest.raises(DuplicateTaskError):
        inspector.enqueue("test:echo", 1, unique=60, copied_from="a")

    assert [(what, outcome) for what, _, _, outcome in told(inspector)] == [
        ("enqueue", "refused"), ("copy", "refused"),
    ]  # fmt: skip


def test_the_holders_of_a_tasks_keys_are_named(inspector: Inspector, client: Client, broker: Broker) -> None:
    client.enqueue("test:echo", 1, task_id="a", unique=60, concurrency_key="k")
    claim(broker)
    client.enqueue("test:echo", 2, task_id="b", concurrency_key="k")

    lock = inspector.task("a").unique_key
    assert inspector.key_holders(lock, "k") == {"unique": ["a"], "concurrency": ["a"]}
    assert inspector.key_holders("", "") == {"unique": [], "concurrency": []}


def test_a_task_that_was_called_for_a_key_leaves_its_share_to_the_next(
    inspector: Inspector, client: Client, broker: Broker
) -> None:
    for name in ("runs", "called", "next"):
        client.enqueue("test:echo", task_id=name, concurrency_key="k")
    held = claim(broker)
    broker.advance("host.run.1", ["default"])
    complete(broker, held)

    inspector.reschedule("called", timedelta(hours=1))

    assert claim(broker, "default").task_id == "next"

"""Operations: bulk actions that Redis knows of, that anybody may stop, undo or continue, whatever is killed."""

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import redis

from boilerd import Actor, Client, Inspector, TaskState
from boilerd.broker import bulk_actions, keys
from boilerd.broker.anchor import Anchor
from boilerd.broker.broker import Broker
from boilerd.broker.constants import MOST_OPERATIONS
from boilerd.broker.operation_record import GONE_S, OPEN, Deed, Operation, OperationState, Order, Tally
from boilerd.broker.operation_run import OperationRun
from boilerd.broker.operation_store import Expected, OperationStore
from boilerd.errors import OperationNotFoundError, OperationStateError, TaskStateError
from boilerd.tasks.retry import Verdict
from builders import claim, enqueue, fail_as, fail_next, failure_kind, in_state, pending, rq_queue

PENDING = Order("delete", "default", TaskState.PENDING)


@pytest.fixture
def inspector(connection: redis.Redis) -> Inspector:
    return Inspector(connection, by=Actor("web", "anna", "front"))


def done_by(inspector: Inspector, order: Order, **options: Any) -> Operation:
    """The operation when it has run."""
    operations = inspector.operations
    operations.run(*operations.begin(order, **options))
    return operations.one(operations.latest()[0].id)


def after_chunk(monkeypatch: pytest.MonkeyPatch, number: int, do: Callable[[], None]) -> None:
    """Do something when so many chunks were done and not written down."""
    beat, counted = OperationRun._beat, []

    def spied(self: OperationRun, state: OperationState, changes: Any, at: str = "") -> tuple[bool, str]:
        if [*changes] == ["tally"]:
            counted.append(1)
            if len(counted) == number:
                do()
        return beat(self, state, changes, at)

    monkeypatch.setattr(OperationRun, "_beat", spied)


class Killed(BaseException):
    """What ends a run as a kill does."""


def die() -> None:
    raise Killed


def left_alone(connection: redis.Redis, operation_id: str) -> None:
    """Nobody gave a sign of life for long."""
    key = keys.operation(operation_id)
    connection.hset(key, "beat", str(float(connection.hget(key, "beat") or 0) - GONE_S - 1))


def told(inspector: Inspector) -> list[tuple[str, int, str, str]]:
    return [(entry.what, entry.count, entry.outcome, entry.why) for entry in inspector.audit()]


def test_an_operation_does_its_action_with_all_tasks_and_tells_of_it(
    inspector: Inspector, client: Client, connection: redis.Redis
) -> None:
    enqueue(client, *map(str, range(250)))

    found = done_by(inspector, PENDING)

    assert pending(connection) == []
    assert (found.state, found.total, found.tally.seen, found.tally.done) == ("done", 250, 250, 250)
    assert (found.user, found.host, found.via, found.order) == ("anna", "front", "web", PENDING)
    assert found.speed > 0
    assert 0 < connection.ttl(keys.operation(found.id)) <= 7 * 86400
    assert told(inspector) == [("delete", 250, "begun", ""), ("delete", 250, "done", "")]
    assert inspector.audit()[0].on == {"operation": found.id, "queue": "default", "state": "pending"}


def test_tasks_that_came_after_the_question_are_left_alone(
    inspector: Inspector, client: Client, connection: redis.Redis
) -> None:
    enqueue(client, "a", "b", "later")

    found = done_by(inspector, PENDING, most=2)

    assert pending(connection) == ["later"]
    assert found.total == 2


def test_a_filter_leaves_the_others_where_they_are(
    inspector: Inspector, broker: Broker, connection: redis.Redis
) -> None:
    for number in range(6):
        fail_as(broker, f"mine-{number}", failure_kind())
        fail_as(broker, f"other-{number}", failure_kind("b" * 12))

    asked = inspector.operations.preview(Order("run", "default", TaskState.ARCHIVED, fingerprint="a" * 12))
    found = done_by(inspector, Order("run", "default", TaskState.ARCHIVED, fingerprint="a" * 12))

    assert (asked.total, asked.looked, asked.found, asked.is_exact) == (12, 12, 6, True)
    assert [task.id for task in asked.sample] == [f"mine-{number}" for number in range(5)]
    assert pending(connection) == [f"mine-{number}" for number in range(6)]
    assert (found.tally.done, found.tally.seen) == (6, 12)


def test_a_failure_groups_tasks_of_all_queues_are_run(
    inspector: Inspector, broker: Broker, connection: redis.Redis
) -> None:
    fail_as(broker, "a", failure_kind())
    fail_as(broker, "b", failure_kind(), queue="low")

    found = done_by(inspector, Order("run", fingerprint="a" * 12))

    assert (pending(connection), pending(connection, "low")) == (["a"], ["b"])
    assert (found.tally.done, [part.queue for part in found.parts]) == (2, ["default", "low"])


# --- By a search


def test_a_search_goes_through_all_queues_and_states_that_allow_it(
    inspector: Inspector, client: Client, broker: Broker, connection: redis.Redis
) -> None:
    fail_as(broker, "fails", failure_kind(), queue="low")
    client.enqueue("test:echo", "x", task_id="due", process_in=60)
    client.enqueue("test:other", "x", task_id="other", process_in=60)
    enqueue(client, "waits")

    found = done_by(inspector, Order("run", search="type:test:echo", as_of=broker.now()))

    assert {(part.queue, part.state) for part in found.parts} == {("low", "archived"), ("default", "scheduled")}
    assert (found.tally.done, found.tally.seen) == (2, 3)
    assert (pending(connection), pending(connection, "low")) == (["waits", "due"], ["fails"])
    assert inspector.audit()[-1].on["search"] == "type:test:echo"


def test_an_order_of_before_for_a_type_goes_through_all_queues(
    inspector: Inspector, broker: Broker, connection: redis.Redis
) -> None:
    for task_id, queue, name in (("a", "low", "mail"), ("b", "high", "mail"), ("c", "low", "other")):
        fail_as(broker, task_id, failure_kind(), queue=queue, task_type=name)
    stored = """{"what": "run", "queue": "", "state": "archived", "task_type": "mail", "fingerprint": "",
        "task_ids": []}"""

    order = Order.from_json(stored)
    found = done_by(inspector, order) if order else None

    assert found
    assert (found.tally.done, found.tally.seen) == (2, 3)
    assert (pending(connection, "low"), pending(connection, "high")) == (["a"], ["b"])


def test_a_search_for_a_type_finds_jobs_of_rqs_of_that_function(
    inspector: Inspector, client: Client, connection: redis.Redis
) -> None:
    enqueue(client, "other")
    rq_queue(connection).enqueue("shop.bill", job_id="job")

    found = done_by(inspector, Order("archive", state=TaskState.PENDING, search="type:shop.bill", as_of=1e9))

    assert (found.tally.done, found.tally.seen) == (1, 2)
    assert pending(connection) == ["other"]


@pytest.mark.parametrize("state", [TaskState.RETRY, TaskState.SCHEDULED])
def test_a_search_tells_states_of_one_registry_apart(
    state: TaskState, inspector: Inspector, client: Client, broker: Broker
) -> None:
    ids = {each: in_state(client, broker, each) for each in (TaskState.RETRY, TaskState.SCHEDULED)}

    found = done_by(inspector, Order("delete", "", state, search="-nothing", as_of=broker.now()))

    assert found.tally.done == 1
    assert ids[state] not in {task.id for task in inspector.tasks_of(ids.values())}


def test_what_waits_for_a_share_of_a_key_is_found_behind_the_list(
    inspector: Inspector, client: Client, broker: Broker
) -> None:
    enqueue(client, "a", "b")
    for number in range(3):
        client.enqueue("test:echo", number, task_id=f"key-{number}", concurrency_key="k", concurrency_limit=1)
    client.enqueue("test:echo", "last", task_id="last")

    found = done_by(inspector, Order("archive", "default", TaskState.PENDING, search="key:k", as_of=broker.now()))

    assert found.tally.done == 3
    assert [task.id for task in inspector.tasks("default", TaskState.ARCHIVED)] == ["key-0", "key-1", "key-2"]


@pytest.mark.parametrize("chosen", ["0", "4", "1"])
def test_none_is_missed_while_others_take_tasks_from_the_head(  # the chosen ones stand at different places of a chunk
    chosen: str, inspector: Inspector, client: Client, monkeypatch: pytest.MonkeyPatch, connection: redis.Redis
) -> None:
    enqueue(client, *(f"t{number:03}x{number % 5}" for number in range(800)))
    meant = {f"t{number:03}x{chosen}" for number in range(800) if str(number % 5) == chosen}
    taken: list[str] = []

    def take() -> None:
        taken.extend(pending(connection)[:60])
        connection.ltrim(keys.queue("default"), 60, -1)

    for number in (1, 3):
        after_chunk(monkeypatch, number, take)
    order = Order("archive", "default", TaskState.PENDING, search=f"x{chosen}", as_of=1e9)
    done_by(inspector, order)

    archived = {task.id for task in inspector.tasks("default", TaskState.ARCHIVED, size=800)}
    assert archived == meant - {*taken}
    assert len(taken) == 120


def test_none_is_missed_where_others_take_tasks_between_two_looks_at_the_list(
    inspector: Inspector, client: Client, monkeypatch: pytest.MonkeyPatch, connection: redis.Redis
) -> None:
    enqueue(client, *(f"t{number:03}x{number % 5}" for number in range(800)))
    drift, taken = Anchor.drift, list[str]()

    def take_behind(anchor: Anchor) -> int:
        found = drift(anchor)
        taken.extend(pending(connection)[:32])
        connection.ltrim(keys.queue("default"), 32, -1)
        return found

    monkeypatch.setattr(Anchor, "drift", take_behind)
    done_by(inspector, Order("archive", "default", TaskState.PENDING, search="x4", as_of=1e9))

    assert not [task_id for task_id in pending(connection) if task_id.endswith("x4")]
    assert len(taken) < 600


def test_none_is_missed_where_others_take_tasks_before_many_that_are_done(
    inspector: Inspector, client: Client, monkeypatch: pytest.MonkeyPatch, connection: redis.Redis
) -> None:
    client.enqueue_many([("test:echo" if number < 1200 else "test:deep", number) for number in range(1600)])
    drift = Anchor.drift

    def take_behind(anchor: Anchor) -> int:
        found = drift(anchor)
        connection.lpop(keys.queue("default"), 8)
        return found

    monkeypatch.setattr(Anchor, "drift", take_behind)
    done_by(inspector, Order("delete", "default", TaskState.PENDING, task_type="test:deep"))

    assert {task.type for task in inspector.tasks("default", TaskState.PENDING, size=1600)} == {"test:echo"}


def test_one_that_comes_upon_its_own_blanks_again_knows_its_place_all_the_same(
    inspector: Inspector, client: Client, monkeypatch: pytest.MonkeyPatch, connection: redis.Redis
) -> None:
    client.enqueue_many([("test:echo" if number < 1200 else "test:deep", number) for number in range(2400)])
    drift, drifts = Anchor.drift, list[int]()

    def take_many_behind(anchor: Anchor) -> int:
        drifts.append(drift(anchor))
        if len(drifts) == 15:
            connection.lpop(keys.queue("default"), 100)
        return drifts[-1]

    monkeypatch.setattr(Anchor, "drift", take_many_behind)
    done = done_by(inspector, Order("delete", "default", TaskState.PENDING, task_type="test:deep"))

    assert done.tally.done == 1200


@pytest.mark.parametrize("state", [TaskState.PENDING, TaskState.ARCHIVED])
def test_none_is_missed_where_others_take_more_between_two_looks_than_are_read_twice(
    state: TaskState, inspector: Inspector, client: Client, monkeypatch: pytest.MonkeyPatch, connection: redis.Redis
) -> None:
    ids = [f"t{number:03}x{number % 5}" for number in range(800)]
    enqueue(client, *ids)
    if state is TaskState.ARCHIVED:
        done_by(inspector, Order("archive", "default", TaskState.PENDING))
    drift, drifts = Anchor.drift, list[int]()

    def take_many_behind(anchor: Anchor) -> int:
        drifts.append(drift(anchor))
        if len(drifts) == 5:
            connection.lpop(keys.queue("default"), 200)
            connection.zremrangebyrank(keys.registry("failed", "default"), 0, 199)
        return drifts[-1]

    monkeypatch.setattr(Anchor, "drift", take_many_behind)
    done_by(inspector, Order("delete", "default", state, search="x4", as_of=1e9))

    left = [task.id for task in inspector.tasks("default", state, size=800)]
    assert len(left) == 440
    assert not [task_id for task_id in left if task_id.endswith("x4")]


def test_none_is_missed_while_scheduled_tasks_become_due(
    inspector: Inspector, client: Client, broker: Broker, monkeypatch: pytest.MonkeyPatch, connection: redis.Redis
) -> None:
    for number in range(350):
        client.enqueue("test:echo", number, task_id=f"t{number:03}x{number % 2}", process_in=1000 + number)

    def forward() -> None:
        connection.zremrangebyrank(keys.registry("scheduled", "default"), 0, 29)

    after_chunk(monkeypatch, 1, forward)
    found = done_by(inspector, Order("archive", "default", None, search="x1", as_of=broker.now()))

    assert found.tally.done == 175
    assert found.tally.seen == 350


@pytest.mark.parametrize("in_s", [0, 150, 10_000])
def test_each_task_is_rescheduled_once_wherever_it_stands_then(
    in_s: int, inspector: Inspector, client: Client, broker: Broker
) -> None:
    now_s = broker.now()
    for number in range(330):
        client.enqueue("test:echo", number, task_id=f"t{number:03}x{number % 3}", process_in=60 + number)
    enqueue(client, "waits-x1")

    order = Order("reschedule", "default", None, search="x1", as_of=now_s, value=repr(now_s + 101 + in_s))
    found = done_by(inspector, order)

    due = inspector.tasks("default", TaskState.SCHEDULED, size=500)
    at = {
        task.id
        for task in due
        if "x1" in task.id and task.next_run_at and abs(task.next_run_at.timestamp() - float(order.value)) < 0.5
    }
    assert at == {task.id for task in due if "x1" in task.id}
    assert (found.tally.done, len(at)) == (111, 111)


def test_all_that_are_rescheduled_to_the_head_are_done_once(
    inspector: Inspector, client: Client, broker: Broker
) -> None:
    for number in range(330):
        client.enqueue("test:echo", number, process_in=3600 + number)
    due_s = broker.now() + 600

    found = done_by(inspector, Order("reschedule", "default", TaskState.SCHEDULED, value=repr(due_s)))

    assert (found.tally.done, found.tally.seen) == (330, 330)
    tasks = inspector.tasks("default", TaskState.SCHEDULED, size=330)
    assert max(task.next_run_at.timestamp() for task in tasks if task.next_run_at) < due_s + 1


def test_what_is_moved_is_found_once(
    inspector: Inspector, client: Client, broker: Broker, connection: redis.Redis
) -> None:
    enqueue(client, "a", "b", "c")
    client.enqueue("test:echo", 1, task_id="low-a", queue="low")

    found = done_by(inspector, Order("move", search="-nothing", as_of=broker.now(), value="low"))

    assert pending(connection, "low") == ["low-a", "a", "b", "c"]
    assert (found.tally.done, found.total) == (3, 3)


@pytest.mark.parametrize("deed", ["move", "reschedule"])
def test_many_tasks_deep_in_a_list_are_placed_anew_in_their_order(
    deed: Deed, inspector: Inspector, client: Client, broker: Broker, connection: redis.Redis
) -> None:
    client.enqueue_many([("test:echo" if number < 1200 else "test:deep", number) for number in range(1500)])
    ids = pending(connection)
    value = "low" if deed == "move" else repr(broker.now() + 60)

    done_by(inspector, Order(deed, "default", TaskState.PENDING, search="type:test:deep", as_of=1e9, value=value))

    placed = pending(connection, "low") or [
        task.id for task in inspector.tasks("default", TaskState.SCHEDULED, size=500)
    ]
    assert (pending(connection), placed) == (ids[:1200], ids[1200:])


def test_one_that_stopped_goes_on_with_what_its_search_has_meant(
    inspector: Inspector, client: Client, broker: Broker, monkeypatch: pytest.MonkeyPatch, connection: redis.Redis
) -> None:
    enqueue(client, *(f"t{number:03}x{number % 2}" for number in range(250)))
    operations = inspector.operations
    order = Order("delete", "default", TaskState.PENDING, search="x1", as_of=broker.now())
    found, runner = operations.begin(order)
    after_chunk(monkeypatch, 1, lambda: operations.stop(found.id))
    operations.run(found, runner)
    stopped = operations.one(found.id)

    operations.run(*operations.take(found.id))

    assert (stopped.state, stopped.tally.done) == ("stopped", 50)
    assert pending(connection) == [f"t{number:03}x0" for number in range(0, 250, 2)]


@pytest.mark.parametrize("is_killed", [False, True], ids=["stopped", "killed"])
def test_one_that_goes_on_misses_none_though_others_have_taken_tasks_meanwhile(
    inspector: Inspector, client: Client, monkeypatch: pytest.MonkeyPatch, connection: redis.Redis, is_killed: bool
) -> None:
    enqueue(client, *(f"t{number:03}x{number % 2}" for number in range(300)))
    operations = inspector.operations
    found, runner = operations.begin(Order("delete", "default", TaskState.PENDING, search="x1", as_of=1e9))
    after_chunk(monkeypatch, 2, die if is_killed else lambda: operations.stop(found.id))
    with suppress(Killed):
        operations.run(found, runner)
    if is_killed:
        left_alone(connection, found.id)

    connection.lpop(keys.queue("default"), 40)
    operations.run(*operations.take(found.id))

    assert pending(connection) == [f"t{number:03}x0" for number in range(80, 300, 2)]


def test_of_tasks_that_wait_for_their_time_none_is_missed_though_some_become_due_meanwhile(
    inspector: Inspector, client: Client, monkeypatch: pytest.MonkeyPatch, connection: redis.Redis
) -> None:
    waiting = keys.registry("scheduled", "default")
    for number in range(400):
        client.enqueue("test:echo" if number % 2 else "test:deep", task_id=f"t{number:03}", process_in=3600 + number)

    def run_90_of_them() -> None:
        connection.zremrangebyrank(waiting, 0, 89)

    after_chunk(monkeypatch, 2, run_90_of_them)
    done_by(inspector, Order("delete", "default", TaskState.SCHEDULED, task_type="test:deep"))

    left: Any = connection.zrange(waiting, 0, -1)
    assert left == [b"t%03d" % number for number in range(181, 400, 2)]


@pytest.mark.parametrize("is_stopped", [False, True], ids=["at once", "continued"])
def test_no_retry_is_missed_though_tasks_that_are_scheduled_meanwhile_stand_before_it(
    inspector: Inspector, client: Client, broker: Broker, monkeypatch: pytest.MonkeyPatch, is_stopped: bool
) -> None:
    for _ in range(220):
        in_state(client, broker, TaskState.RETRY)
    operations = inspector.operations
    found, runner = operations.begin(Order("archive", "default", TaskState.RETRY))

    def schedule_before_them() -> None:
        for _ in range(50):
            client.enqueue("test:echo", process_in=1)
        if is_stopped:
            operations.stop(found.id)

    after_chunk(monkeypatch, 1, schedule_before_them)
    operations.run(found, runner)
    if is_stopped:
        operations.run(*operations.take(found.id))

    assert inspector.tasks("default", TaskState.RETRY) == []
    assert operations.one(found.id).tally.done == 220
    assert inspector.queue("default").counts.scheduled == 50


def test_no_retry_is_missed_though_some_failed_again_before_the_operation_goes_on(
    inspector: Inspector, client: Client, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(220):
        in_state(client, broker, TaskState.RETRY)
    operations = inspector.operations
    found, runner = operations.begin(Order("run", "default", TaskState.RETRY))
    after_chunk(monkeypatch, 1, lambda: operations.stop(found.id))
    operations.run(found, runner)

    again = {fail_next(broker, Verdict.RETRY, delay_s=1.0) for _ in range(50)}
    operations.run(*operations.take(found.id))

    assert {task.id for task in inspector.tasks("default", TaskState.RETRY, size=220)} == again
    assert operations.one(found.id).tally.done == 220


def test_of_tasks_deep_in_a_list_none_is_missed_where_their_blanks_are_removed_in_between(
    inspector: Inspector, client: Client, monkeypatch: pytest.MonkeyPatch, connection: redis.Redis
) -> None:
    monkeypatch.setattr(bulk_actions, "MOST_BLANKS", 50)
    client.enqueue_many(
        [("test:echo" if number < 1000 or number % 74 < 37 else "test:deep", number) for number in range(1600)]
    )

    done_by(inspector, Order("delete", "default", TaskState.PENDING, task_type="test:deep"))

    assert {task.type for task in inspector.tasks("default", TaskState.PENDING, size=1600)} == {"test:echo"}


def test_a_dashboard_of_before_reads_an_order_without_a_search_and_leaves_all_others_alone() -> None:
    plain, searching = PENDING.to_json(), Order("run", search="x", as_of=1.5, value="low").to_json()

    assert [*json.loads(plain)] == ["what", "queue", "state", "task_type", "fingerprint", "task_ids"]
    assert {*json.loads(searching)} - {*json.loads(plain)} == {"search", "as_of", "value"}
    assert Order.from_json(searching) == Order("run", search="x", as_of=1.5, value="low")


@pytest.mark.parametrize(
    "more",
    [
        {"what": "burn"}, {"search": "after:never"}, {"search": 7}, {"search": []}, {"search": "x", "as_of": 1e300},
        {"what": "reschedule", "value": "soon"}, {"what": "reschedule", "value": "nan"}, {"other": 1},
        {"search": "payload.x:1", "sees_payloads": False},
    ],
    ids=str,
)  # fmt: skip
def test_an_order_that_says_nothing_is_none_of_ours(more: dict[str, Any]) -> None:
    plain = json.loads(PENDING.to_json())

    assert Order.from_json(json.dumps({**plain, **more})) is None
    assert Order.from_json(json.dumps(plain)) == PENDING


# --- By name


def test_tasks_that_are_named_are_done_alone_and_the_others_are_told_why(
    inspector: Inspector, client: Client, broker: Broker, connection: redis.Redis
) -> None:
    active = in_state(client, broker, TaskState.ACTIVE)
    enqueue(client, "a", "b")

    found = done_by(inspector, Order("delete", task_ids=("b", "gone", active, "\udcff")))

    assert (found.tally.done, found.tally.seen, found.total) == (1, 4, 4)
    assert found.tally.skipped == {"unknown": 2, "active": 1}
    assert found.order.task_ids == ("b", "gone", active, "\udcff")


@pytest.mark.parametrize("state", [TaskState.PENDING, TaskState.SCHEDULED, TaskState.RETRY, TaskState.ACTIVE])
def test_tasks_that_wait_or_run_are_cancelled(
    state: TaskState, inspector: Inspector, client: Client, broker: Broker, connection: redis.Redis
) -> None:
    task_id = in_state(client, broker, state)

    found = done_by(inspector, Order("cancel", "default", state))

    assert found.tally.done == 1
    if state is TaskState.ACTIVE:
        assert connection.hget(keys.job(task_id), "cancel_requested") == b"1"
    else:
        assert not connection.exists(keys.job(task_id))


@pytest.mark.parametrize(
    "order",
    [Order("run", "default", TaskState.PENDING), Order("cancel", "default", TaskState.ARCHIVED),
     Order("archive", "default", TaskState.COMPLETED)],
    ids=lambda order: f"{order.what} {order.state}",
)  # fmt: skip
def test_what_the_state_forbids_is_refused_before_anything_is_stored(
    order: Order, inspector: Inspector, connection: redis.Redis
) -> None:
    with pytest.raises(TaskStateError):
        inspector.operations.preview(order)
    with pytest.raises(TaskStateError):
        inspector.operations.begin(order)

    assert inspector.operations.latest() == []
    assert not connection.exists(keys.OPERATIONS)


def test_what_is_undone_in_time_does_nothing(inspector: Inspector, client: Client, connection: redis.Redis) -> None:
    enqueue(client, "stays")
    found, runner = inspector.operations.begin(PENDING, undo_s=60)

    inspector.operations.undo(found.id)
    inspector.operations.run(found, runner)

    after = inspector.operations.one(found.id)
    assert pending(connection) == ["stays"]
    assert (after.state, after.why) == ("undone", "undone by anna")
    assert told(inspector)[1] == ("delete", 0, "interrupted", "undone by anna")
    with pytest.raises(OperationStateError, match="it is undone by now"):
        inspector.operations.undo(found.id)


def test_the_time_in_which_it_can_be_undone_is_waited_for(
    inspector: Inspector, client: Client, connection: redis.Redis
) -> None:
    enqueue(client, "goes")
    found, runner = inspector.operations.begin(PENDING, undo_s=0.3)

    inspector.operations.run(found, runner)

    began_at = inspector.operations.one(found.id).began_at
    assert found.starts_at
    assert began_at
    assert began_at >= found.starts_at
    assert pending(connection) == []


def test_one_that_is_stopped_keeps_what_it_did_and_can_be_continued(
    inspector: Inspector, client: Client, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue(client, *map(str, range(350)))
    operations = inspector.operations
    after_chunk(monkeypatch, 2, lambda: operations.stop(operations.latest()[0].id))

    stopped = done_by(inspector, Order("archive", "default", TaskState.PENDING))
    operations.run(*operations.take(stopped.id))

    ended = operations.one(stopped.id)
    assert (stopped.state, stopped.tally.done, stopped.why) == ("stopped", 200, "stopped by anna")
    assert (ended.state, ended.tally.done, ended.tally.seen, ended.why) == ("done", 350, 350, "")
    assert told(inspector) == [
        ("archive", 350, "begun", ""), ("archive", 200, "interrupted", "stopped by anna"),
        ("archive", 150, "begun", ""), ("archive", 150, "done", ""),
    ]  # fmt: skip


def test_a_killed_process_leaves_what_it_did_and_another_continues(
    inspector: Inspector, client: Client, broker: Broker, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue(client, *(f"{kind}-{number}" for number in range(175) for kind in ("a", "b")))
    for number in range(175):
        connection.hset(keys.job(f"a-{number}"), "task_type", "other")
    operations = inspector.operations
    after_chunk(monkeypatch, 3, die)
    found, runner = operations.begin(Order("delete", "default", TaskState.PENDING, "other"))

    with pytest.raises(Killed):
        operations.run(found, runner)
    living = operations.one(found.id)
    with pytest.raises(OperationStateError, match="it is running by now"):
        operations.take(found.id)
    left_alone(connection, found.id)
    gone = operations.one(found.id)
    operations.run(*operations.take(found.id))

    ended = operations.one(found.id)
    assert (living.is_gone, gone.is_gone, gone.state, gone.tally.done) == (False, True, "running", 100)
    assert pending(connection) == [f"b-{number}" for number in range(175)]
    # A chunk of the killed one was done and not counted.
    assert (ended.state, ended.tally.done) == ("done", 125)
    assert told(inspector)[1] == ("delete", 100, "interrupted", "nobody worked on it any more")


def test_one_that_nobody_works_on_can_be_stopped(inspector: Inspector, client: Client, connection: redis.Redis) -> None:
    enqueue(client, "stays")
    found, runner = inspector.operations.begin(PENDING)
    connection.hset(keys.operation(found.id), "state", "running")
    left_alone(connection, found.id)

    inspector.operations.stop(found.id)
    inspector.operations.run(found, runner)

    assert inspector.operations.one(found.id).state == "stopped"
    assert pending(connection) == ["stays"]


def test_whoever_was_taken_for_gone_does_nothing_more(
    inspector: Inspector, client: Client, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue(client, *map(str, range(250)))
    operations = inspector.operations

    def take_over() -> None:
        operation_id = operations.latest()[0].id
        left_alone(connection, operation_id)
        operations.take(operation_id)
        connection.hset(keys.operation(operation_id), "state", "running")

    after_chunk(monkeypatch, 1, take_over)

    found = done_by(inspector, PENDING)

    assert (found.state, found.tally.done) == ("running", 0)
    assert len(pending(connection)) == 150


def test_tasks_that_are_named_go_on_where_they_were_stopped(
    inspector: Inspector, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = tuple(str(number) for number in range(130))
    enqueue(client, *names)
    operations = inspector.operations
    after_chunk(monkeypatch, 1, lambda: operations.stop(operations.latest()[0].id))

    stopped = done_by(inspector, Order("archive", task_ids=names))
    operations.run(*operations.take(stopped.id))

    ended = operations.one(stopped.id)
    assert (stopped.tally.seen, ended.tally.seen, ended.tally.done) == (100, 130, 130)


def test_of_two_who_take_it_for_gone_one_continues(inspector: Inspector, connection: redis.Redis) -> None:
    found, _ = inspector.operations.begin(PENDING)
    left_alone(connection, found.id)
    store, gone = OperationStore(connection), Expected(OPEN, silent_s=GONE_S)

    answers = [store.change(found.id, gone, {"runner": name}, is_alive=True)[0] for name in ("one", "other")]

    assert answers == [True, False]
    assert connection.hget(keys.operation(found.id), "runner") == b"one"


def test_a_process_that_ends_lets_its_operation_be_continued(inspector: Inspector, client: Client) -> None:
    enqueue(client, *map(str, range(250)))
    ending = threading.Event()
    ending.set()
    operations = inspector.operations
    found, runner = operations.begin(PENDING)

    operations.run(found, runner, ending)

    after = operations.one(found.id)
    assert (after.state, after.why, after.can_continue, after.tally.done) == ("stopped", "its process ended", True, 100)


def test_an_error_of_redis_ends_it_as_failed(
    inspector: Inspector, client: Client, broker: Broker, connection: redis.Redis
) -> None:
    enqueue(client, "a")
    connection.set(keys.registry("failed", "default"), "another program's")
    operations = inspector.operations
    found, runner = operations.begin(Order("archive", "default", TaskState.PENDING))

    with pytest.raises(Exception, match="rq:failed:default"):
        operations.run(found, runner)

    after = operations.one(found.id)
    assert (after.state, after.can_continue) == ("failed", True)
    assert "rq:failed:default" in after.why
    assert told(inspector)[-1][2] == "failed"


def test_records_of_others_are_passed_over(inspector: Inspector, connection: redis.Redis) -> None:
    for operation_id in ("a", "b", "c", "d"):
        connection.zadd(keys.OPERATIONS, {operation_id: 1})
    connection.set(keys.operation("a"), "x")
    connection.hset(keys.operation("b"), mapping={"order": "[]", "state": "running"})
    connection.hset(keys.operation("c"), mapping={"order": PENDING.to_json(), "state": "flying"})
    connection.hset(
        keys.operation("d"),
        mapping={"order": PENDING.to_json(), "state": "done", "tally": '{"done": "x"}', "parts": "{}", "beat": "1e99"},
    )

    (found,) = inspector.operations.latest()

    assert (found.id, found.tally, found.total) == ("d", Tally(), 0)
    with pytest.raises(OperationNotFoundError):
        inspector.operations.one("a")


def test_the_oldest_make_way(inspector: Inspector, client: Client, connection: redis.Redis) -> None:
    connection.zadd(keys.OPERATIONS, {f"old-{number}": number for number in range(5)})
    now_s = connection.time()[0]
    connection.zadd(keys.OPERATIONS, {f"new-{number}": now_s for number in range(MOST_OPERATIONS + 5)})

    found, _ = inspector.operations.begin(PENDING)

    assert connection.zcard(keys.OPERATIONS) == MOST_OPERATIONS
    assert connection.zscore(keys.OPERATIONS, "old-4") is None
    assert inspector.operations.latest()[0].id == found.id


def test_a_look_at_many_stops_at_its_limit_and_says_so(inspector: Inspector, client: Client) -> None:
    enqueue(client, *map(str, range(250)))

    whole = inspector.operations.preview(PENDING)
    found = inspector.operations.preview(Order("delete", "default", TaskState.PENDING, "test:echo"), looks=100)

    assert (whole.total, whole.found, whole.is_exact, len(whole.sample)) == (250, 250, True, 5)
    assert (found.total, found.looked, found.found, found.is_exact) == (250, 100, 100, False)


def test_one_that_runs_is_found_by_its_claim(inspector: Inspector, client: Client, broker: Broker) -> None:
    enqueue(client, "a")
    claim(broker)

    found = inspector.operations.preview(Order("cancel", "default", TaskState.ACTIVE))

    assert [task.id for task in found.sample] == ["a"]


def test_an_operation_with_endless_numbers_in_its_record_is_shown_without_them(
    inspector: Inspector, connection: redis.Redis
) -> None:
    found, _ = inspector.operations.begin(PENDING)
    endless: dict[Any, Any] = {
        "tally": '{"part_places": {"a": Infinity}}',
        "parts": '[["a", "pending", Infinity]]',
        "begun_at": "inf",
    }
    connection.hset(keys.operation(found.id), mapping=endless)

    shown = inspector.operations.one(found.id)

    assert (shown.tally, shown.parts, shown.speed) == (Tally(), [], 0.0)

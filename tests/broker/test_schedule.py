"""Tasks that are due later, and locks against doing the same twice."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import redis
from rq.job import JobStatus
from rq.registry import ScheduledJobRegistry
from rq.serializers import JSONSerializer

from boilerd import (
    Client,
    DuplicateTaskError,
    Inspector,
    InvalidTaskError,
    RetryLater,
    TaskIdConflictError,
    TaskInfo,
    TaskState,
    UniqueUntil,
)
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.claims import Completion
from boilerd.broker.connection import connect, text
from boilerd.broker.constants import CHUNK
from boilerd.broker.job_hash import NewTask
from boilerd.entry_point import ENTRY_POINT
from boilerd.tasks.options import task_options
from boilerd.tasks.payload import encode_payload
from boilerd.tasks.retry import Verdict
from boilerd.tasks.task import DEFAULT_ARCHIVE_LIMIT
from builders import WORKER, claim, complete, fail, pending, rq_job, rq_queue
from support import DEADLINE_S, Valkey, rings, wait_until

SCHEDULED = keys.registry("scheduled", "default")
#: Far enough that nothing comes due while a test runs.
LATER_S = 3600
#: The lock of `test:echo` with the payload `{"to":"x"}` on the queue `default`.
PAYLOAD = {"to": "x"}


def score(connection: redis.Redis, task_id: str, queue: str = "default") -> float:
    found = connection.zscore(keys.registry("scheduled", queue), task_id)
    assert found is not None
    return float(found)


def let_pass(connection: redis.Redis, seconds: float, queue: str = "default") -> None:
    """As if so much time had passed for what is scheduled."""
    registry = keys.registry("scheduled", queue)
    for member in {text(member) for member, _ in connection.zscan_iter(registry)}:
        connection.zincrby(registry, -seconds, member)


# When a task is due.


def test_a_task_for_later_is_scheduled_and_not_pending(client: Client, connection: redis.Redis) -> None:
    info = client.enqueue("test:echo", process_in=LATER_S)

    assert info.state is TaskState.SCHEDULED
    assert pending(connection) == []
    assert connection.hget(keys.job(info.id), "status") == b"scheduled"


@pytest.mark.parametrize("process_in", [90.25, timedelta(seconds=90, milliseconds=250)])
def test_fractions_of_a_second_are_kept(
    client: Client, broker: Broker, connection: redis.Redis, process_in: float | timedelta
) -> None:
    before_s = broker.now()
    info = client.enqueue("test:echo", process_in=process_in)
    after_s = broker.now()

    assert before_s + 90.25 <= score(connection, info.id) + 1e-6
    assert score(connection, info.id) - 1e-6 <= after_s + 90.25


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=5, minutes=30))])
def test_the_moment_of_process_at_is_kept_to_the_microsecond(
    client: Client, connection: redis.Redis, zone: timezone
) -> None:
    moment = datetime(2099, 12, 31, 23, 59, 59, 123456, zone)

    info = client.enqueue("test:echo", process_at=moment)

    assert score(connection, info.id) == pytest.approx(moment.timestamp(), abs=1e-6, rel=0)


def test_a_moment_that_has_passed_means_now(client: Client, connection: redis.Redis) -> None:
    info = client.enqueue("test:echo", process_at=datetime(2001, 1, 1, tzinfo=UTC))
    other = client.enqueue("test:echo", process_in=0)

    assert (info.state, other.state) == (TaskState.PENDING, TaskState.PENDING)
    assert pending(connection) == [info.id, other.id]


@pytest.mark.parametrize("option", ["process_at", "deadline"])
def test_a_moment_without_a_time_zone_is_refused(client: Client, connection: redis.Redis, option: str) -> None:
    options: Any = {option: datetime(2099, 1, 1)}  # noqa: DTZ001

    with pytest.raises(InvalidTaskError, match=f"{option}: .* has no time zone"):
        client.enqueue("test:echo", **options)

    assert connection.dbsize() == 0


@pytest.mark.parametrize("option", ["process_at", "deadline"])
@pytest.mark.parametrize(
    "moment",
    [
        datetime.max.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=12))),
    ],
)
def test_a_moment_that_could_not_be_read_again_is_refused(
    client: Client, connection: redis.Redis, option: str, moment: datetime
) -> None:
    options: Any = {option: moment}

    with pytest.raises(InvalidTaskError, match=f"{option}: .* too far away to be kept; leave it out for no {option}"):
        client.enqueue("test:echo", **options)

    assert connection.dbsize() == 0


def test_the_last_deadline_that_can_be_kept_reaches_the_handler(client: Client, broker: Broker) -> None:
    moment = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    client.enqueue("test:echo", deadline=moment)

    (claim,) = broker.advance(WORKER, ("default",)).claims

    assert claim.task is not None
    assert claim.task.deadline == moment


@pytest.mark.parametrize(
    "options",
    [
        {"process_in": 1, "process_at": datetime(2099, 1, 1, tzinfo=UTC)},
        {"process_in": -1},
        {"process_in": float("nan")},
        {"process_in": "10"},
        {"process_at": 4102444800.0},
        {"unique": 0.5},
        {"unique_until": "forever"},
    ],
)
def test_what_names_no_moment_is_refused(client: Client, connection: redis.Redis, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidTaskError, match=next(iter(options))):
        client.enqueue("test:echo", **options)

    assert connection.dbsize() == 0


def test_a_deadline_reaches_the_handler_and_replaces_the_default_timeout(client: Client, broker: Broker) -> None:
    moment = datetime(2099, 12, 31, 23, 59, 59, 500000, UTC)
    client.enqueue("test:echo", deadline=moment)
    client.enqueue("test:echo", deadline=moment, timeout=30)

    first = claim(broker).task
    second = broker.advance("host.run.1", ("default",)).claims[0]

    assert first is not None
    assert second is not None
    assert second.task is not None
    assert (first.deadline, first.timeout_s) == (moment, None)
    assert (second.task.deadline, second.task.timeout_s) == (moment, 30.0)


def test_an_attempt_past_its_deadline_is_overdue(client: Client, broker: Broker, connection: redis.Redis) -> None:
    info = client.enqueue("test:echo", deadline=datetime(2099, 1, 1, tzinfo=UTC))
    claim(broker)
    on_time, _ = broker.extend([WORKER])
    connection.hset(keys.job(info.id), "deadline", repr(broker.now() - 7))

    (overdue,), _ = broker.extend([WORKER])

    assert on_time == []
    assert overdue.task_id == info.id
    assert 7 <= overdue.late_s < 12


# The forwarder.


def test_due_tasks_are_forwarded_in_the_order_of_their_times_and_no_others(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    for task_id, after_s in (("late", 30), ("early", 10), ("not_yet", 90), ("middle", 20.5)):
        client.enqueue("test:echo", task_id=task_id, process_in=after_s)
    let_pass(connection, 60)

    moved, _ = broker.forward()

    assert moved == 3
    assert pending(connection) == ["early", "middle", "late"]
    assert connection.zrange(SCHEDULED, 0, -1) == [b"not_yet"]


def test_a_forwarded_task_is_an_ordinary_pending_one(client: Client, broker: Broker, connection: redis.Redis) -> None:
    client.enqueue("test:echo", 7, task_id="a", process_in=30)
    let_pass(connection, 60)

    broker.forward()

    job = rq_job(connection, "a")
    assert job.get_status() == JobStatus.QUEUED
    assert rings(broker.connection, "default") is True
    task = claim(broker).task
    assert task is not None
    assert (task.payload, task.attempt) == (7, 1)


def test_forwarded_tasks_go_behind_those_that_were_pending_before(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    client.enqueue("test:echo", task_id="scheduled", process_in=30)
    client.enqueue("test:echo", task_id="pending")
    let_pass(connection, 60)

    broker.forward()

    assert pending(connection) == ["pending", "scheduled"]


def test_every_queue_has_its_due_tasks_forwarded(client: Client, broker: Broker, connection: redis.Redis) -> None:
    for queue in ("critical", "low"):
        client.enqueue("test:echo", task_id=queue, queue=queue, process_in=30)
        let_pass(connection, 60, queue)

    assert broker.forward() == (2, None)

    assert (pending(connection, "critical"), pending(connection, "low")) == (["critical"], ["low"])


def test_one_pass_forwards_no_more_than_a_batch(client: Client, broker: Broker, connection: redis.Redis) -> None:
    client.enqueue_many([("test:echo", number) for number in range(CHUNK + 10)], process_in=30)
    let_pass(connection, 60)

    passes = [broker.forward()[0] for _ in range(3)]

    assert passes == [CHUNK, 10, 0]
    assert len(pending(connection)) == CHUNK + 10


def test_the_forwarder_answers_when_the_next_task_is_due(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    nothing = broker.forward()
    client.enqueue("test:echo", process_in=100)
    client.enqueue("test:echo", queue="low", process_in=50)

    moved, left_s = broker.forward()

    assert nothing == (0, None)
    assert moved == 0
    assert left_s is not None
    assert 45 < left_s <= 50


def test_a_task_that_was_not_reached_in_a_batch_is_due_now(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    client.enqueue_many([("test:echo", number) for number in range(CHUNK + 1)], process_in=30)
    let_pass(connection, 60)

    assert broker.forward() == (CHUNK, 0.0)


def test_a_task_that_was_deleted_meanwhile_is_passed_over(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    for task_id in ("gone", "here"):
        client.enqueue("test:echo", task_id=task_id, process_in=30)
    connection.delete(keys.job("gone"))
    let_pass(connection, 60)

    broker.forward()

    assert pending(connection) == ["here"]
    assert not connection.exists(keys.job("gone"), SCHEDULED)


def test_a_task_of_a_few_hundredths_of_a_second_is_forwarded_when_they_are_over_and_not_before(
    client: Client, broker: Broker
) -> None:
    began_s = broker.now()
    client.enqueue("test:echo", process_in=0.05)

    wait_until(lambda: broker.forward()[0], "the task was forwarded")

    assert broker.now() - began_s >= 0.05


@pytest.mark.fault(17)
def test_ten_thousand_due_tasks_are_forwarded_once_and_in_order_by_two_hosts_at_once(
    valkey: Valkey, client: Client, connection: redis.Redis
) -> None:
    answers = client.enqueue_many([("test:echo", number) for number in range(10_000)], process_in=LATER_S)
    ids = [answer.id for answer in answers if isinstance(answer, TaskInfo)]
    connection.zadd(SCHEDULED, {task_id: 1000 + number / 1000 for number, task_id in enumerate(ids)})
    moved: dict[int, list[int]] = {0: [], 1: []}
    gate = threading.Barrier(2)

    def host(number: int) -> None:
        with connect(valkey.url) as own:
            broker = Broker(own)
            broker.now()  # connected before the race
            gate.wait(10)
            while batch := broker.forward()[0]:
                moved[number].append(batch)

    threads = [threading.Thread(target=host, args=(number,)) for number in moved]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert pending(connection) == ids
    assert sum(moved[0]) + sum(moved[1]) == 10_000
    assert not connection.exists(SCHEDULED)


def test_tasks_due_at_one_moment_run_in_the_order_in_which_they_were_enqueued(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    at = datetime.now(UTC) + timedelta(seconds=LATER_S)
    enqueued = [client.enqueue("test:echo", task_id=task_id, process_at=at).id for task_id in "gbxafe"]
    many = client.enqueue_many([("test:echo", number) for number in range(4)], process_at=at)
    enqueued += [answer.id for answer in many if isinstance(answer, TaskInfo)]
    let_pass(connection, LATER_S + 1)

    broker.forward()

    assert pending(connection) == enqueued


def test_many_more_tasks_of_one_moment_than_it_has_room_for_stay_in_order_and_before_later_ones(
    client: Client, connection: redis.Redis
) -> None:
    at = datetime.now(UTC) + timedelta(seconds=LATER_S)
    client.enqueue("test:echo", task_id="later", process_at=at + timedelta(milliseconds=50))
    many = client.enqueue_many([("test:echo", number) for number in range(2_500)], process_at=at)

    found: Any = connection.zrange(SCHEDULED, 0, -1)
    assert [text(task_id) for task_id in found] == [
        *(answer.id for answer in many if isinstance(answer, TaskInfo)), "later",
    ]  # fmt: skip


def test_people_see_the_moment_that_was_asked_for(client: Client, connection: redis.Redis) -> None:
    at = (datetime.now(UTC) + timedelta(seconds=LATER_S)).replace(microsecond=250_000)
    ids = [client.enqueue("test:echo", process_at=at).id for _ in range(3)]

    seen = [Inspector(connection).task(task_id).next_run_at for task_id in ids]

    assert seen == [at] * 3


# The alarm.


@pytest.mark.parametrize(("process_in", "rings"), [(1, True), (60, False), (0, False)])
def test_the_alarm_rings_only_for_what_is_due_before_the_scheduler_looks_by_itself(
    client: Client, broker: Broker, process_in: float, rings: bool
) -> None:
    client.enqueue("test:echo", process_in=process_in)

    assert broker.wait_for_alarm(0.02) is rings


def test_the_alarm_wakes_a_scheduler_that_sleeps(client: Client, valkey: Valkey, connection: redis.Redis) -> None:
    heard: list[bool] = []

    def sleep() -> None:
        with connect(valkey.url) as own:
            heard.append(Broker(own).wait_for_alarm(60))

    thread = threading.Thread(target=sleep)
    thread.start()
    wait_until(lambda: connection.info("clients")["blocked_clients"], "the scheduler sleeps")
    began_s = time.monotonic()
    client.enqueue("test:echo", process_in=0.5)
    thread.join(DEADLINE_S)

    assert heard == [True]
    assert time.monotonic() - began_s < 30


def test_a_retry_that_is_due_soon_rings_the_alarm(client: Client, broker: Broker) -> None:
    client.enqueue("test:echo")
    silent = broker.wait_for_alarm(0.01)

    fail(broker, claim(broker), Verdict.RETRY, delay_s=1.0)

    assert silent is False
    assert broker.wait_for_alarm(0.01) is True


def test_the_alarm_of_many_tasks_rings_once_and_is_silent_after_a_pass(client: Client, broker: Broker) -> None:
    client.enqueue_many([("test:echo", number) for number in range(20)], process_in=2)
    rings = [broker.wait_for_alarm(0.01) for _ in range(2)]
    client.enqueue("test:echo", process_in=2)

    broker.forward()

    assert rings == [True, False]
    assert broker.wait_for_alarm(0.01) is False


# RQ's view, and RQ's own.


def test_a_retry_is_in_rqs_scheduled_registry_at_its_time(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    client.enqueue("test:echo", task_id="a")
    before_s = broker.now()

    fail(broker, claim(broker), Verdict.RETRY, delay_s=600.0)

    registry = ScheduledJobRegistry("default", connection=connection, serializer=JSONSerializer)
    job = rq_job(connection, "a")
    assert registry.get_job_ids() == ["a"]
    assert abs(registry.get_scheduled_time("a").timestamp() - before_s - 600) < 5
    assert job.get_status() == JobStatus.SCHEDULED
    assert (job.number_of_retries, job.retries_left) == (1, 24)


def test_what_plain_rq_schedules_is_forwarded_as_a_task_of_ours(broker: Broker, connection: redis.Redis) -> None:
    queue = rq_queue(connection)
    job = queue.enqueue_in(timedelta(seconds=100), ENTRY_POINT, "test:echo", {"n": 1})
    other = queue.enqueue_at(datetime(2099, 1, 1, tzinfo=UTC), ENTRY_POINT, "test:echo", {"n": 2})
    too_early = broker.forward(["default"])[0]
    let_pass(connection, 200)

    moved, left_s = broker.forward(["default"])

    task = claim(broker).task
    assert (too_early, moved) == (0, 1)
    assert left_s is not None
    assert left_s > LATER_S
    assert task is not None
    assert (task.id, task.type, task.payload) == (job.id, "test:echo", {"n": 1})
    assert connection.zrange(SCHEDULED, 0, -1) == [other.id.encode()]


def test_a_job_that_plain_rq_wants_at_the_front_gets_there(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    client.enqueue("test:echo", task_id="pending")
    queue = rq_queue(connection)
    first = queue.enqueue_in(timedelta(seconds=10), ENTRY_POINT, "test:echo", 1, at_front=True)
    let_pass(connection, 60)

    broker.forward()

    assert pending(connection) == [first.id, "pending"]


# Unique locks.


@pytest.fixture
def lock(connection: redis.Redis) -> "Lock":
    return Lock(connection)


class Lock:
    """The lock of `test:echo` with PAYLOAD on the queue `default`."""

    def __init__(self, connection: redis.Redis) -> None:
        self._connection = connection
        task = NewTask("any", "test:echo", encode_payload(PAYLOAD), task_options())
        self.key = task.unique_key

    @property
    def holder(self) -> str | None:
        found = self._connection.get(self.key)
        return None if found is None else text(found).removeprefix("ttl:")

    @property
    def left_s(self) -> float:
        return self._connection.pttl(self.key) / 1000


def hold(client: Client, task_id: str = "first", until: str = UniqueUntil.SUCCESS, **options: Any) -> str:
    return client.enqueue("test:echo", PAYLOAD, task_id=task_id, unique=600, unique_until=until, **options).id


def test_a_second_task_of_the_same_kind_is_refused_with_the_first_ones_id(
    client: Client, connection: redis.Redis
) -> None:
    hold(client)

    with pytest.raises(DuplicateTaskError, match="first") as raised:
        hold(client, "second")

    assert raised.value.task_id == "first"
    assert pending(connection) == ["first"]
    assert not connection.exists(keys.job("second"))


def test_a_task_that_asks_for_no_lock_is_not_held_up_by_one(client: Client, connection: redis.Redis) -> None:
    hold(client)

    client.enqueue("test:echo", PAYLOAD, task_id="second")

    assert pending(connection) == ["first", "second"]


def test_of_many_equal_tasks_the_first_is_stored(client: Client) -> None:
    first, second, third = client.enqueue_many([("test:echo", 1), ("test:echo", 1), ("test:echo", 2)], unique=60)

    assert isinstance(first, TaskInfo)
    assert isinstance(second, DuplicateTaskError)
    assert second.task_id == first.id
    assert isinstance(third, TaskInfo)


def test_neither_the_order_of_keys_nor_spaces_make_another_task(broker: Broker) -> None:
    texts = (b'{"a":1,"b":{"c":2,"d":[1,2]}}', b'{ "b": {"d": [1, 2], "c": 2},\n "a": 1 }')
    options = task_options(unique=60)

    first, second = broker.enqueue([NewTask(f"t{n}", "test:echo", text, options) for n, text in enumerate(texts)])

    assert first is TaskState.PENDING
    assert isinstance(second, DuplicateTaskError)
    assert second.task_id == "t0"


@pytest.mark.parametrize(
    ("task_type", "payload", "queue"),
    [
        ("test:other", PAYLOAD, "default"),
        ("test:echo", {"to": "y"}, "default"),
        ("test:echo", None, "default"),
        ("test:echo", PAYLOAD, "low"),
    ],
)
def test_another_queue_type_or_payload_is_another_lock(
    client: Client, task_type: str, payload: Any, queue: str
) -> None:
    hold(client)

    other = client.enqueue(task_type, payload, queue=queue, unique=600)

    assert other.state is TaskState.PENDING


def test_the_order_of_a_list_makes_another_task(client: Client) -> None:
    first, second = client.enqueue_many([("test:echo", [1, 2]), ("test:echo", [2, 1])], unique=60)

    assert isinstance(first, TaskInfo)
    assert isinstance(second, TaskInfo)


def test_the_lock_lasts_for_its_time_from_when_the_task_is_due(client: Client, lock: Lock) -> None:
    hold(client, process_in=1000.5)

    assert 1590 < lock.left_s <= 1600.5


def test_the_lock_of_a_task_that_is_due_now_lasts_for_its_time(client: Client, lock: Lock) -> None:
    hold(client, process_at=datetime(2001, 1, 1, tzinfo=UTC))

    assert 590 < lock.left_s <= 600


def test_another_task_is_accepted_when_the_time_of_the_lock_is_over(
    client: Client, connection: redis.Redis, lock: Lock
) -> None:
    hold(client)
    connection.pexpire(lock.key, 1)
    wait_until(lambda: lock.holder is None, "the lock expired")

    hold(client, "second")

    assert lock.holder == "second"


@pytest.mark.fault(37)
@pytest.mark.parametrize("retention", [0, 60])
@pytest.mark.parametrize(("until", "is_free"), [("success", True), ("end", True), ("ttl", False)])
def test_success_releases_all_locks_but_those_until_their_ttl(
    client: Client, broker: Broker, lock: Lock, *, until: str, is_free: bool, retention: int
) -> None:
    hold(client, until=until, retention=retention)
    held = lock.holder

    broker.advance(WORKER, (), [Completion(claim(broker))])

    assert held == "first"
    assert lock.holder == (None if is_free else "first")


@pytest.mark.fault(37)
@pytest.mark.parametrize("until", UniqueUntil)
def test_a_retry_keeps_every_lock_and_does_not_extend_it(
    client: Client, broker: Broker, connection: redis.Redis, lock: Lock, until: str
) -> None:
    hold(client, until=until)
    connection.expire(lock.key, 100)

    fail(broker, claim(broker), Verdict.RETRY, delay_s=500.0)

    assert lock.holder == "first"
    assert lock.left_s <= 100


@pytest.mark.fault(37)
@pytest.mark.parametrize(("until", "is_free"), [("success", False), ("end", True), ("ttl", False)])
def test_the_archive_releases_only_locks_until_any_end(
    client: Client, broker: Broker, lock: Lock, until: str, is_free: bool
) -> None:
    hold(client, until=until)

    fail(broker, claim(broker), Verdict.ARCHIVE)

    assert lock.holder == (None if is_free else "first")


@pytest.mark.parametrize(("until", "is_free"), [("success", True), ("end", True), ("ttl", False)])
def test_a_dropped_task_releases_its_lock_unless_it_lasts_until_its_ttl(
    client: Client, broker: Broker, lock: Lock, until: str, is_free: bool
) -> None:
    hold(client, until=until)

    fail(broker, claim(broker), Verdict.DROP, counts=False)

    assert lock.holder == (None if is_free else "first")


@pytest.mark.fault(37)
@pytest.mark.parametrize("process_in", [None, LATER_S])
@pytest.mark.parametrize(("until", "is_free"), [("success", True), ("end", True), ("ttl", False)])
def test_a_cancelled_task_releases_its_lock_unless_it_lasts_until_its_ttl(
    client: Client, lock: Lock, until: str, is_free: bool, process_in: float | None
) -> None:
    hold(client, until=until, process_in=process_in)

    assert client.cancel("first") is True

    assert lock.holder == (None if is_free else "first")


@pytest.mark.parametrize(("until", "is_free"), [("success", True), ("end", True), ("ttl", False)])
def test_a_task_that_the_full_archive_forgets_releases_its_lock_unless_it_lasts_until_its_ttl(
    client: Client, broker: Broker, connection: redis.Redis, lock: Lock, *, until: str, is_free: bool
) -> None:
    hold(client, until=until)
    fail(broker, claim(broker), Verdict.ARCHIVE)
    for archive in (keys.registry("failed", "default"), keys.archived("default")):
        connection.zadd(
            archive, {"first": 1, **{f"newer{number}": number + 2 for number in range(DEFAULT_ARCHIVE_LIMIT - 1)}}
        )
    client.enqueue("test:echo", task_id="last")

    fail(broker, claim(broker), Verdict.ARCHIVE)

    assert not connection.exists(keys.job("first"))
    assert lock.holder == (None if is_free else "first")


@pytest.mark.parametrize(
    ("until", "status", "is_free"),
    [
        ("end", "failed", True), ("end", "stopped", True), ("end", "finished", True), ("end", "queued", False),
        ("success", "failed", False), ("success", "finished", True), ("ttl", "finished", False),
    ],
)  # fmt: skip
def test_a_task_that_rqs_tools_ended_keeps_its_lock_no_longer_than_it_asked_for(
    client: Client, connection: redis.Redis, until: str, *, status: str, is_free: bool
) -> None:
    hold(client, until=until)
    rq_job(connection, "first").set_status(JobStatus(status))

    if is_free:
        assert hold(client, "second") == "second"
    else:
        with pytest.raises(DuplicateTaskError, match="first"):
            hold(client, "second")


def test_an_archived_task_does_not_run_beside_the_one_that_has_its_lock(
    client: Client, broker: Broker, connection: redis.Redis, lock: Lock
) -> None:
    hold(client, until="end")
    fail(broker, claim(broker), Verdict.ARCHIVE)
    hold(client, "second", until="end")

    with pytest.raises(DuplicateTaskError, match="task second holds the unique lock"):
        Inspector(connection).run("first")

    assert connection.hget(keys.job("first"), "status") == b"failed"
    assert pending(connection) == ["second"]
    assert lock.holder == "second"


@pytest.mark.parametrize("until", ["end", "success"])
def test_an_archived_task_that_is_run_again_has_its_lock_again_until_it_ends(
    client: Client, broker: Broker, connection: redis.Redis, lock: Lock, until: str
) -> None:
    hold(client, until=until)
    fail(broker, claim(broker), Verdict.ARCHIVE)

    Inspector(connection).run("first")

    with pytest.raises(DuplicateTaskError, match="first"):
        hold(client, "second")
    assert lock.left_s <= 600
    complete(broker, claim(broker))
    assert lock.holder is None


def test_a_task_that_rq_cancelled_shows_that_and_goes_when_an_archived_one_would(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    for task_id in ("old", "young", "foreign"):
        client.enqueue("test:echo", task_id=task_id)
        rq_job(connection, task_id).cancel()
    connection.hdel(keys.job("foreign"), "task_type")
    then = time.time() - 91 * 86400
    connection.zadd(keys.registry("canceled", "default"), {"old": then, "foreign": then})

    removed = broker.clean()

    assert removed == 1
    assert connection.exists(keys.job("old"), keys.job("young"), keys.job("foreign")) == 2
    assert connection.zscore(keys.registry("canceled", "default"), "old") is None
    shown = Inspector(connection).task("young")
    assert (shown.state, shown.rq_status) == (None, "canceled")


def test_a_task_that_the_janitor_deletes_releases_its_lock(
    client: Client, broker: Broker, connection: redis.Redis, lock: Lock
) -> None:
    hold(client)
    fail(broker, claim(broker), Verdict.ARCHIVE)
    connection.zadd(keys.registry("failed", "default"), {"first": 1})

    assert broker.clean() == 1

    assert lock.holder is None


@pytest.fixture(params=["complete", "archive", "drop", "cancel"])
def end(request: pytest.FixtureRequest, client: Client, broker: Broker) -> Callable[[], object]:
    """Ends the task `first` in one of the ways that release a lock."""

    def complete() -> None:
        broker.advance(WORKER, (), [Completion(claim(broker))])

    ends: dict[str, Callable[[], object]] = {
        "complete": complete,
        "archive": lambda: fail(broker, claim(broker), Verdict.ARCHIVE),
        "drop": lambda: fail(broker, claim(broker), Verdict.DROP),
        "cancel": lambda: client.cancel("first"),
    }
    return ends[request.param]


@pytest.mark.fault(37)
def test_a_lock_that_expired_and_was_taken_by_another_is_left_alone(
    client: Client, connection: redis.Redis, lock: Lock, end: Callable[[], object]
) -> None:
    hold(client, until="end")
    connection.delete(lock.key)
    hold(client, "second", process_in=LATER_S)

    end()

    assert lock.holder == "second"


def rq_empties(connection: redis.Redis) -> None:
    rq_queue(connection).empty()


def rq_deletes(connection: redis.Redis) -> None:
    rq_job(connection, "first").delete()


def rq_cancels(connection: redis.Redis) -> None:
    rq_job(connection, "first").cancel()


@pytest.mark.parametrize("until", UniqueUntil)
@pytest.mark.parametrize("take_away", [rq_empties, rq_deletes, rq_cancels])
def test_the_lock_of_a_task_that_rq_took_away_is_free_unless_it_lasts_until_its_ttl(
    client: Client,
    connection: redis.Redis,
    lock: Lock,
    take_away: Callable[[redis.Redis], None],
    *,
    until: str,
) -> None:
    hold(client, until=until)
    take_away(connection)

    if until == UniqueUntil.TTL:
        with pytest.raises(DuplicateTaskError, match="first"):
            hold(client, "second")
    else:
        hold(client, "second")
    assert lock.holder == ("first" if until == UniqueUntil.TTL else "second")


def test_the_lock_of_a_task_whose_id_another_has_by_now_is_free(
    client: Client, connection: redis.Redis, lock: Lock
) -> None:
    hold(client)
    rq_deletes(connection)
    client.enqueue("test:echo", "something else", task_id="first")

    hold(client, "second")

    assert lock.holder == "second"


@pytest.mark.fault(37)
def test_a_released_task_keeps_its_lock(client: Client, broker: Broker, lock: Lock) -> None:
    hold(client, until="end")
    claim(broker)

    assert broker.release(WORKER) == ["first"]

    assert lock.holder == "first"


def test_a_conflict_of_ids_takes_no_lock(client: Client, lock: Lock) -> None:
    client.enqueue("test:other", task_id="first")

    with pytest.raises(TaskIdConflictError):
        hold(client)

    assert lock.holder is None


def test_a_task_of_the_same_id_is_a_conflict_and_no_duplicate(client: Client) -> None:
    hold(client)

    with pytest.raises(TaskIdConflictError, match="'first' is taken"):
        hold(client)


@pytest.mark.parametrize("ending", ["archive", "retain", "retry"])
def test_an_id_is_taken_in_whatever_state_its_task_is(client: Client, broker: Broker, ending: str) -> None:
    client.enqueue("test:echo", task_id="a", retention=60)
    held = claim(broker)
    if ending == "retain":
        broker.advance(WORKER, (), [Completion(held)])
    else:
        fail(broker, held, Verdict(ending), delay_s=600.0)

    with pytest.raises(TaskIdConflictError):
        client.enqueue("test:echo", task_id="a")


def test_an_uncounted_retry_keeps_the_moment_of_retry_later(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    client.enqueue("test:echo", task_id="a")
    before_s = broker.now()

    fail(broker, claim(broker), Verdict.RETRY, delay_s=RetryLater(100.25).delay_s, counts=False)

    assert 100.25 - 1e-6 <= score(connection, "a") - before_s < 105
    assert connection.hget(keys.job("a"), "number_of_retries") is None

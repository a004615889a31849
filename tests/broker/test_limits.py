"""How many tasks run at once, of a queue or of a key, and how many may wait."""

from pathlib import Path
from typing import Any

import pytest
import redis

from boilerd import Client, ConfigError, Inspector, InvalidTaskError, QueueFullError, TaskInfo, TaskState
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.claims import Claim, Completion
from boilerd.broker.connection import text
from boilerd.errors import LeaseExpiredError
from boilerd.scheduler.limits import LimitKeeper
from boilerd.settings.loading import load
from boilerd.tasks.mux import ServeMux
from boilerd.tasks.retry import RetryPolicy, Verdict
from boilerd.worker.settlement import Rules
from builders import WORKER, claim_batch, complete, fail, pending, rq_job
from support import rings

QUEUES = ("critical", "default", "low")
KEY = "customer:7"
RUNNING = f"{keys.OWN}:running:{KEY}"
WAITING = f"{keys.OWN}:waiting:{KEY}"
CALLED = f"{keys.OWN}:called:{KEY}"


def claim(broker: Broker, row: int = 0, *queues: str) -> Claim | None:
    return next(iter(claim_batch(broker, *(queues or QUEUES), row=row)), None)


def claimed(broker: Broker, row: int = 0, *queues: str) -> Claim:
    found = claim(broker, row, *queues)
    assert found is not None
    return found


def ids(claims: list[Claim | None]) -> list[str | None]:
    return [found.task_id if found else None for found in claims]


def enqueue_keyed(client: Client, *task_ids: str, **options: Any) -> None:
    for task_id in task_ids:
        client.enqueue("test:echo", task_id=task_id, concurrency_key=KEY, **options)


def waiting(connection: redis.Redis) -> list[str]:
    found: Any = connection.zrange(WAITING, 0, -1)
    return [text(task_id) for task_id in found]


# Of a queue.


def test_no_more_tasks_of_a_queue_are_active_than_it_allows_over_all_workers(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    broker.set_limits({"default:max_active": 2})
    for task_id in "abcd":
        client.enqueue("test:echo", task_id=task_id)

    claims = [claim(broker, row) for row in range(4)]

    assert ids(claims) == ["a", "b", None, None]
    assert pending(connection) == ["c", "d"]


def test_a_queue_at_its_limit_does_not_hold_up_the_others(client: Client, broker: Broker) -> None:
    broker.set_limits({"critical:max_active": 1})
    for task_id, queue in (("c1", "critical"), ("c2", "critical"), ("l1", "low")):
        client.enqueue("test:echo", task_id=task_id, queue=queue)

    assert ids([claim(broker, row) for row in range(3)]) == ["c1", "l1", None]


def test_a_task_that_ended_makes_room_for_the_next_in_the_same_call(client: Client, broker: Broker) -> None:
    broker.set_limits({"default:max_active": 1})
    for task_id in "ab":
        client.enqueue("test:echo", task_id=task_id)
    first = claimed(broker)
    blocked = claim(broker, 1)

    following = broker.advance("host.run.0", QUEUES, [Completion(first)]).claims[0]

    assert blocked is None
    assert ids([following]) == ["b"]


@pytest.mark.parametrize("verdict", Verdict)
def test_a_failed_task_makes_room_in_its_queue(client: Client, broker: Broker, verdict: Verdict) -> None:
    broker.set_limits({"default:max_active": 1})
    for task_id in "ab":
        client.enqueue("test:echo", task_id=task_id)

    fail(broker, claimed(broker), verdict, delay_s=600.0)

    assert ids([claim(broker, 1)]) == ["b"]


def test_a_released_task_makes_room_in_its_queue(client: Client, broker: Broker) -> None:
    broker.set_limits({"default:max_active": 1})
    client.enqueue("test:echo", task_id="a")
    claim(broker)
    blocked = claim(broker, 1)

    broker.release("host.run.0")

    assert blocked is None
    assert ids([claim(broker, 1)]) == ["a"]


def test_a_queue_without_a_limit_has_none(client: Client, broker: Broker) -> None:
    broker.set_limits({"low:max_active": 1})
    client.enqueue_many([("test:echo", number) for number in range(20)])

    assert all(claim(broker, row) for row in range(20))


# How many may wait.


def test_a_full_queue_takes_no_further_task(client: Client, broker: Broker, connection: redis.Redis) -> None:
    broker.set_limits({"default:max_length": 2})
    for task_id in "ab":
        client.enqueue("test:echo", task_id=task_id)

    with pytest.raises(QueueFullError, match="queue 'default' is full") as raised:
        client.enqueue("test:echo", task_id="c", unique=60)

    assert raised.value.queue == "default"
    assert pending(connection) == ["a", "b"]
    assert not connection.exists(keys.job("c"))
    assert connection.keys(f"{keys.OWN}:unique:*") == []


def test_many_tasks_fill_the_queue_and_the_rest_is_answered_one_by_one(client: Client, broker: Broker) -> None:
    broker.set_limits({"default:max_length": 3})
    client.enqueue("test:echo")

    answers = client.enqueue_many([("test:echo", number) for number in range(4)])

    assert [type(answer) for answer in answers] == [TaskInfo, TaskInfo, QueueFullError, QueueFullError]


def test_a_task_that_was_claimed_makes_room_for_another(client: Client, broker: Broker) -> None:
    broker.set_limits({"default:max_length": 1})
    client.enqueue("test:echo")
    claim(broker)

    assert client.enqueue("test:echo").state is TaskState.PENDING


def test_a_full_queue_takes_tasks_for_later_and_other_queues_take_any(client: Client, broker: Broker) -> None:
    broker.set_limits({"default:max_length": 1})
    client.enqueue("test:echo")

    assert client.enqueue("test:echo", process_in=60).state is TaskState.SCHEDULED
    assert client.enqueue("test:echo", queue="low").state is TaskState.PENDING


def test_a_retry_comes_back_even_to_a_full_queue(client: Client, broker: Broker, connection: redis.Redis) -> None:
    broker.set_limits({"default:max_length": 1})
    client.enqueue("test:echo", task_id="a")
    fail(broker, claimed(broker), Verdict.RETRY)
    client.enqueue("test:echo", task_id="b")

    broker.forward()

    assert pending(connection) == ["b", "a"]


def test_tasks_that_wait_for_a_concurrency_key_fill_their_queue(client: Client, broker: Broker) -> None:
    broker.set_limits({"default:max_length": 3})
    enqueue_keyed(client, *"abc")
    claim(broker)
    claim(broker, 1)  # b and c step aside

    enqueue_keyed(client, "d")

    with pytest.raises(QueueFullError):
        enqueue_keyed(client, "e")
    with pytest.raises(QueueFullError):
        client.enqueue("test:echo")


# Of a key.


def test_a_task_over_the_limit_of_its_key_waits_and_holds_no_worker(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    enqueue_keyed(client, "a", "b")
    client.enqueue("test:echo", task_id="free")

    claims = [claim(broker, row) for row in range(3)]

    assert ids(claims) == ["a", "free", None]
    assert waiting(connection) == ["b"]
    assert broker.held("host.run.2") == []
    assert pending(connection) == []


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_as_many_tasks_of_a_key_run_as_they_allow(client: Client, broker: Broker, limit: int) -> None:
    enqueue_keyed(client, "a", "b", "c", "d", concurrency_limit=limit)

    claims = [claim(broker, row) for row in range(4)]

    assert ids(claims) == [*"abc"[:limit], *[None] * (4 - limit)]


def test_another_key_has_its_own_limit(client: Client, broker: Broker) -> None:
    enqueue_keyed(client, "a")
    client.enqueue("test:echo", task_id="b", concurrency_key="customer:8")

    assert ids([claim(broker, 0), claim(broker, 1)]) == ["a", "b"]


def test_tasks_of_a_key_run_in_the_order_they_came(client: Client, broker: Broker) -> None:
    enqueue_keyed(client, *"abcde")
    held, order = claimed(broker), []
    for row in range(1, 3):
        claim(broker, row)

    while True:
        order.append(held.task_id)
        following = broker.advance("host.run.0", QUEUES, [Completion(held)]).claims
        if not following:
            break
        (held,) = following

    assert order == [*"abcde"]


def test_a_task_that_was_called_does_not_lose_its_place_to_one_that_came_later(client: Client, broker: Broker) -> None:
    enqueue_keyed(client, "a", "b", "c")
    held = claimed(broker)
    claim(broker, 1)  # b and c step aside
    complete(broker, held)
    enqueue_keyed(client, "later", queue="critical")

    order = []
    for _ in range(3):
        held = claimed(broker)
        claim(broker, 1)
        order.append(held.task_id)
        complete(broker, held)

    assert sorted(order) == ["b", "c", "later"]
    assert order.index("b") < order.index("c")


def test_tasks_that_were_called_are_not_called_again_while_they_are_on_their_way(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    enqueue_keyed(client, *"abcdef", concurrency_limit=2)
    held = claimed(broker, 0), claimed(broker, 1)
    claim(broker, 2)
    client.enqueue("test:echo", task_id="other")
    complete(broker, held[0], row=0)

    for _ in range(3):
        broker.expired()
    complete(broker, held[1], row=1)
    for _ in range(3):
        broker.expired()

    assert pending(connection) == ["c", "d", "other"]
    assert waiting(connection) == ["e", "f"]


def test_tasks_that_come_too_late_wait_again_in_their_old_order(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    enqueue_keyed(client, *"abcdef", concurrency_limit=2)
    held = claimed(broker, 0), claimed(broker, 1)
    claim(broker, 2)
    for row, one in enumerate(held):
        complete(broker, one, row=row)
    enqueue_keyed(client, "first", "second", concurrency_limit=2, queue="critical")
    assert ids([claim(broker, row) for row in range(3)]) == ["first", "second", None]

    assert waiting(connection) == [*"cdef"]


def test_tasks_of_a_queue_that_was_paused_meanwhile_run_in_their_order(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    enqueue_keyed(client, *"abcd")
    held = claimed(broker)
    claim(broker, 1)
    enqueue_keyed(client, "other", queue="low")
    claim(broker, 1)
    connection.sadd(keys.PAUSED, "default")
    complete(broker, held)
    held = claimed(broker)
    for _ in range(2):
        broker.expired()
    connection.srem(keys.PAUSED, "default")

    order = [held.task_id]
    complete(broker, held)
    while found := claim(broker):
        order.append(found.task_id)
        complete(broker, found)

    assert order == ["other", *"bcd"]


def test_a_task_that_was_called_and_then_deleted_counts_no_more(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    enqueue_keyed(client, *"abc")
    held = claimed(broker)
    claim(broker, 1)
    complete(broker, held)
    rq_job(connection, "b").delete()

    broker.expired()

    assert pending(connection) == ["c"]


def test_what_is_kept_of_a_key_ends_a_day_after_the_last_heartbeat(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    enqueue_keyed(client, "a", "b", "c", concurrency_limit=2)
    held = claimed(broker, 0), claimed(broker, 1)
    claim(broker, 2)
    connection.expire(RUNNING, 5)

    broker.extend(["host.run.0"])
    complete(broker, held[1], row=1)

    assert 86000 < connection.ttl(RUNNING) <= 86400
    assert 86000 < connection.ttl(CALLED) <= 86400


def test_a_damaged_queue_holds_up_no_task_of_the_key_in_another(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    enqueue_keyed(client, "a", "b", queue="critical")
    enqueue_keyed(client, "c")
    held = claimed(broker)
    claim(broker, 1)
    connection.set(keys.queue("critical"), "a stranger's")

    complete(broker, held)

    assert pending(connection) == ["c"]
    assert waiting(connection) == ["b"]
    assert connection.smembers(f"{keys.OWN}:keys") == {KEY.encode()}


def test_any_number_of_tasks_that_must_wait_hides_no_other(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    enqueue_keyed(client, "a")
    held = claimed(broker)
    enqueue_keyed(client, *(f"t{number:03}" for number in range(350)))
    client.enqueue("test:echo", task_id="free")

    free = claim(broker, 1)
    enqueue_keyed(client, *(f"u{number:03}" for number in range(150)))
    client.enqueue("test:echo", task_id="free-too")
    following = broker.advance("host.run.0", QUEUES, [Completion(held)])

    assert ids([free, *following.claims, claim(broker, 2)]) == ["free", "t000", "free-too"]
    assert waiting(connection) == [f"t{number:03}" for number in range(1, 350)] + [f"u{n:03}" for n in range(150)]


def test_a_key_counts_over_all_queues(client: Client, broker: Broker, connection: redis.Redis) -> None:
    enqueue_keyed(client, "a", queue="critical")
    enqueue_keyed(client, "b", queue="low")
    held = claimed(broker)
    blocked = claim(broker, 1)

    complete(broker, held)

    assert blocked is None
    assert pending(connection, "low") == ["b"]
    assert ids([claim(broker, 1)]) == ["b"]


@pytest.mark.parametrize("verdict", Verdict)
def test_a_failed_task_gives_its_share_to_the_one_that_waits(client: Client, broker: Broker, verdict: Verdict) -> None:
    enqueue_keyed(client, "a", "b")
    held = claimed(broker)
    blocked = claim(broker, 1)

    fail(broker, held, verdict, delay_s=600.0)

    assert blocked is None
    assert ids([claim(broker, 1)]) == ["b"]


def test_a_completed_task_that_is_kept_gives_its_share_back(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    enqueue_keyed(client, "a", "b", retention=60)
    held = claimed(broker)
    claim(broker, 1)

    complete(broker, held)

    assert ids([claim(broker, 1)]) == ["b"]


def test_a_released_task_gives_its_share_back_and_one_of_the_key_runs(client: Client, broker: Broker) -> None:
    enqueue_keyed(client, "a", "b")
    claim(broker)
    blocked = claim(broker, 1)

    broker.release("host.run.0")

    (running, stepped_aside) = ids([claim(broker, 1), claim(broker, 2)])
    assert blocked is None
    assert running in {"a", "b"}
    assert stepped_aside is None


def expire(connection: redis.Redis, *held: Claim) -> None:
    """As if nobody had extended the leases: their ends pass in Redis."""
    for one in held:
        connection.zadd(keys.wip(one.queue), {f"{one.task_id}:{one.execution_id}": 1})
        connection.zadd(RUNNING, {one.task_id: 1})


def recover(broker: Broker) -> None:
    """What a scheduler does with leases that ran out."""
    rules = Rules.of(ServeMux(), RetryPolicy(base=600.0), lambda handler: handler)
    for worker, lost in broker.expired():
        rules.record_lost_attempt(broker, worker, lost, LeaseExpiredError("lease expired"))


def test_a_lost_lease_gives_its_share_to_the_one_that_waits(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    enqueue_keyed(client, "a", "b")
    held = claimed(broker)
    claim(broker, 1)
    expire(connection, held)

    recover(broker)

    assert ids([claim(broker, 1)]) == ["b"]


def test_lost_leases_give_all_their_shares_back_when_they_are_recovered(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    enqueue_keyed(client, "a", "b", "c", "d", concurrency_limit=2)
    held = [claimed(broker, 0), claimed(broker, 1)]
    claim(broker, 2)
    expire(connection, *held)
    enqueue_keyed(client, "newcomer", concurrency_limit=2, queue="critical")
    assert claim(broker, 2) is None

    recover(broker)

    running = [found for row in range(3, 6) if (found := claim(broker, row)) is not None]
    assert len(running) == 2
    assert connection.zcard(RUNNING) == 2


def test_an_extended_lease_keeps_its_share(client: Client, broker: Broker, connection: redis.Redis) -> None:
    enqueue_keyed(client, "a", "b")
    held = claimed(broker)
    expire(connection, held)

    broker.extend(["host.run.0"])

    assert claim(broker, 1) is None
    assert waiting(connection) == ["b"]


def test_a_waiting_task_that_is_cancelled_is_gone_and_the_next_is_called(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    enqueue_keyed(client, "a", "b", "c")
    held = claimed(broker)
    claim(broker, 1)

    assert client.cancel("b") is True
    complete(broker, held)

    assert not connection.exists(keys.job("b"))
    assert ids([claim(broker, 1)]) == ["c"]


def test_a_waiting_task_that_rq_deleted_is_passed_over(client: Client, broker: Broker, connection: redis.Redis) -> None:
    enqueue_keyed(client, "a", "b", "c")
    held = claimed(broker)
    claim(broker, 1)
    rq_job(connection, "b").delete()

    complete(broker, held)

    assert ids([claim(broker, 1)]) == ["c"]


def test_a_task_that_is_cancelled_after_it_was_called_passes_its_call_on(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    enqueue_keyed(client, "a", "b", "c")
    held = claimed(broker)
    claim(broker, 1)
    complete(broker, held)

    assert pending(connection) == ["b"]
    client.cancel("b")

    assert ids([claim(broker, 1)]) == ["c"]


def test_a_running_task_whose_record_was_deleted_gives_its_share_back(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    enqueue_keyed(client, "a", "b")
    held = claimed(broker)
    claim(broker, 1)
    connection.delete(keys.job("a"))

    complete(broker, held)

    assert ids([claim(broker, 1)]) == ["b"]


def test_a_lost_lease_whose_record_was_deleted_gives_its_share_back(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    enqueue_keyed(client, "a", "b")
    held = claimed(broker)
    claim(broker, 1)
    connection.delete(keys.job("a"))
    expire(connection, held)

    recover(broker)

    assert ids([claim(broker, 1)]) == ["b"]


def test_tasks_that_rq_deleted_or_cancelled_while_they_waited_are_not_counted_for_long(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    enqueue_keyed(client, *"abcd")
    claim(broker)
    claim(broker, 1)
    rq_job(connection, "b").delete()
    rq_job(connection, "c").cancel()

    broker.expired()

    assert broker.count_pending(["default"]) == 1
    assert connection.zrange(keys.aside("default"), 0, -1) == [b"d"]


def test_tasks_that_a_worker_of_the_first_version_put_aside_are_counted_soon(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    enqueue_keyed(client, *"abc")
    claim(broker)
    claim(broker, 1)
    connection.delete(keys.aside("default"))

    broker.expired()

    assert broker.count_pending(["default"]) == 2


def test_a_task_waits_where_it_was_claimed_from_whatever_its_job_says(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    enqueue_keyed(client, *"ab")
    connection.hset(keys.job("b"), "origin", "elsewhere")
    held = claimed(broker)
    claim(broker, 1)

    complete(broker, held)

    assert pending(connection) == ["b"]


@pytest.mark.parametrize("limit", ["0", "-1", "-inf", "nan", "0.5"])
def test_a_job_that_its_own_limit_would_keep_waiting_for_ever_is_archived_with_the_reason(
    client: Client, broker: Broker, connection: redis.Redis, limit: str
) -> None:
    enqueue_keyed(client, "a")
    connection.hset(keys.job("a"), "concurrency_limit", limit)

    refused = claimed(broker)
    Rules.of(ServeMux(), RetryPolicy(), lambda handler: handler).archive_unrunnable(broker, WORKER, refused)

    detail = Inspector(connection).task("a")
    assert detail.state is TaskState.ARCHIVED
    assert f"its concurrency_limit is {limit}" in detail.last_error
    assert connection.keys(f"*{KEY}*") == []


def test_a_job_that_waits_with_a_limit_that_never_lets_it_run_is_called(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    enqueue_keyed(client, *"ab")
    claim(broker)
    claim(broker, 1)
    connection.hset(keys.job("b"), "concurrency_limit", 0)

    broker.expired()

    refused = claimed(broker, 1)
    assert refused.task_id == "b"
    assert "its concurrency_limit is 0" in str(refused.error)


def test_nothing_of_a_key_is_left_when_its_tasks_have_ended(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    enqueue_keyed(client, "a", "b")
    first = claimed(broker)
    claim(broker, 1)
    complete(broker, first)
    complete(broker, claimed(broker))

    assert connection.keys(f"*{KEY}*") == []


def test_a_call_rings_for_a_worker(client: Client, broker: Broker) -> None:
    enqueue_keyed(client, "a", "b")
    held = claimed(broker)
    claim(broker, 1)
    silent = rings(broker.connection, *QUEUES, timeout_s=0.02)

    complete(broker, held)

    assert silent is False
    assert rings(broker.connection, *QUEUES) is True


def test_a_task_that_is_tried_again_needs_a_share_as_before(client: Client, broker: Broker) -> None:
    enqueue_keyed(client, "a", "b")
    held = claimed(broker)
    claim(broker, 1)
    fail(broker, held, Verdict.RETRY)
    broker.forward()

    assert ids([claim(broker, 1), claim(broker, 2)]) == ["b", None]


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency_key": "a b"},
        {"concurrency_key": ""},
        {"concurrency_key": "k", "concurrency_limit": 0},
        {"concurrency_key": "k", "concurrency_limit": 1.5},
    ],
)
def test_a_key_or_limit_that_is_not_allowed_is_refused(client: Client, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidTaskError, match="concurrency_"):
        client.enqueue("test:echo", **options)


# In the settings.


def settings_file(directory: Path, content: str) -> Path:
    path = directory / "boilerd.toml"
    path.write_text(content)
    return path


def test_the_limits_of_the_settings_are_those_of_the_broker(
    directory: Path, client: Client, broker: Broker, connection: redis.Redis
) -> None:
    path = settings_file(
        directory, "[limits.low]\nmax_active = 1\nmax_length = 2\n\n[limits.default]\nmax_active = 3\n"
    )
    limits = load(file=path, environ={}).settings.queue_limits()

    broker.set_limits(limits)

    assert limits == {"low:max_active": 1, "low:max_length": 2, "default:max_active": 3}
    assert connection.hgetall(keys.LIMITS) == {
        b"low:max_active": b"1", b"low:max_length": b"2", b"default:max_active": b"3",
    }  # fmt: skip


def test_limits_that_the_settings_no_longer_have_are_gone(client: Client, broker: Broker) -> None:
    broker.set_limits({"default:max_length": 1})
    client.enqueue("test:echo")

    broker.set_limits({}, ["default"])

    assert client.enqueue("test:echo").state is TaskState.PENDING


def test_a_daemon_leaves_the_limits_of_queues_that_it_does_not_serve(broker: Broker, connection: redis.Redis) -> None:
    broker.set_limits({"mail:max_active": 2}, ["mail"])

    broker.set_limits({"video:max_active": 1}, ["video", "default"])

    assert connection.hgetall(keys.LIMITS) == {b"mail:max_active": b"2", b"video:max_active": b"1"}


def test_limits_that_are_gone_are_set_again_and_no_other_is_touched(broker: Broker, connection: redis.Redis) -> None:
    limits = {"mail:max_active": 2, "mail:max_length": 9}
    broker.set_limits(limits)
    connection.flushall()
    connection.hset(keys.LIMITS, "mail:max_length", "a stranger's")

    LimitKeeper(broker, limits).keep()

    assert connection.hgetall(keys.LIMITS) == {b"mail:max_active": b"2", b"mail:max_length": b"9"}


def test_a_foreign_key_in_the_place_of_the_limits_makes_way(broker: Broker, connection: redis.Redis) -> None:
    connection.set(keys.LIMITS, "a stranger's")

    LimitKeeper(broker, {"mail:max_active": 2}).keep()

    assert connection.hgetall(keys.LIMITS) == {b"mail:max_active": b"2"}


def test_limits_that_are_true_cost_one_command_and_no_write(broker: Broker, connection: redis.Redis) -> None:
    limits = {f"queue-{number}:max_active": 2 for number in range(20)}
    broker.set_limits(limits)
    connection.config_resetstat()

    LimitKeeper(broker, limits).keep()

    stats: dict[str, Any] = connection.info("commandstats")
    assert {name: stat["calls"] for name, stat in stats.items() if "config" not in name} == {"cmdstat_hmget": 1}


def test_daemons_that_disagree_are_told_once_and_the_one_that_started_last_decides(
    broker: Broker, connection: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    broker.set_limits({"mail:max_active": 2}, ["mail"])
    first = LimitKeeper(broker, {"mail:max_active": 2})
    first.keep()
    broker.set_limits({"mail:max_active": 5}, ["mail"])
    last = LimitKeeper(broker, {"mail:max_active": 5})

    for keeper in (first, last, first, last):
        keeper.keep()

    told = [record.__dict__ for record in caplog.records]
    shown = [(line["levelname"], line["queue"], line["limit"], line["here"], line["in_force"]) for line in told]
    assert shown == [("WARNING", "mail", "max_active", 2, 5)]
    assert connection.hget(keys.LIMITS, "mail:max_active") == b"5"


def test_a_limit_may_be_declared_for_a_queue_of_another_daemon(directory: Path) -> None:
    settings = load(file=settings_file(directory, "[limits.elsewhere]\nmax_length = 3\n"), environ={}).settings

    assert settings.queue_limits() == {"elsewhere:max_length": 3}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("[limits.'l w']\nmax_active = 1\n", "limits: queue 'l w': use letters"),
        ("[limits.low]\nmax_active = -1\n", "limits: .*max_active|limits: .*>= 0"),
        ("[limits.low]\nmax_activ = 1\n", "limits: .*max_activ"),
        ('[limits.low]\nmax_length = "many"\n', "limits: .*max_length"),
    ],
)
def test_limits_that_make_no_sense_are_refused(directory: Path, content: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        load(file=settings_file(directory, content), environ={})

"""Jobs of plain RQ that depend on others run when those have ended, however these end, by RQ's rules."""

from typing import Any

import pytest
import redis
from rq import Queue
from rq.job import Dependency, Job

from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.claims import Completion
from boilerd.entry_point import ENTRY_POINT
from boilerd.tasks.retry import Verdict
from builders import WORKER, claim, claim_batch, complete, complete_next, fail_next, pending, rq_queue

DEFERRED = keys.registry("deferred", "default")


def enqueue(queue: Queue, job_id: str, **options: Any) -> Job:
    options = {"result_ttl": 0, **options}
    return queue.enqueue(ENTRY_POINT, args=("test:echo", None), job_id=job_id, **options)


def left(connection: redis.Redis) -> list[Any]:
    """Keys that say who waits for whom."""
    return [key for pattern in ("*:dependents", "*:dependencies", "rq:deferred:*") for key in connection.keys(pattern)]


@pytest.mark.parametrize("result_ttl", [0, 500, -1])
def test_a_job_that_waits_for_a_task_is_pending_when_it_is_completed(
    broker: Broker, connection: redis.Redis, queue: Queue, result_ttl: int
) -> None:
    parent = enqueue(queue, "parent", result_ttl=result_ttl)
    child = enqueue(queue, "child", depends_on=parent)
    assert (pending(connection), child.get_status()) == (["parent"], "deferred")

    assert complete_next(broker) == "parent"

    assert (pending(connection), child.get_status()) == (["child"], "queued")
    assert left(connection) == []
    assert complete_next(broker) == "child"


def test_a_job_of_another_queue_becomes_pending_there_and_rings(
    broker: Broker, connection: redis.Redis, queue: Queue
) -> None:
    low = rq_queue(connection, "low")
    enqueue(low, "child", depends_on=enqueue(queue, "parent"))

    complete_next(broker)

    assert pending(connection, "low") == ["child"]
    assert connection.llen(keys.bell("low")) == 1


def test_a_job_waits_for_all_that_it_depends_on(broker: Broker, connection: redis.Redis, queue: Queue) -> None:
    parents = [enqueue(queue, f"parent{n}", result_ttl=ttl) for n, ttl in enumerate((0, 500, 0))]
    enqueue(queue, "child", depends_on=parents)

    for n in range(2):
        assert complete_next(broker) == f"parent{n}"
        assert "child" not in pending(connection)
        assert connection.exists(parents[n].key) == connection.exists(parents[n].dependents_key)
    assert complete_next(broker) == "parent2"

    assert pending(connection) == ["child"]


@pytest.mark.parametrize("result_ttl", [0, 500])
def test_parents_of_one_batch_release_their_child_once(
    broker: Broker, connection: redis.Redis, queue: Queue, result_ttl: int
) -> None:
    parents = [enqueue(queue, f"parent{n}", result_ttl=result_ttl) for n in range(40)]
    enqueue(queue, "child", depends_on=parents[:2])
    held = claim_batch(broker, limit=3)
    assert [one.task_id for one in held] == ["parent0", "parent1", "parent2"]

    broker.advance(WORKER, (), [Completion(one) for one in held])

    assert pending(connection).count("child") == 1
    assert pending(connection)[-1] == "child"


def test_a_job_that_asks_for_the_front_gets_it(broker: Broker, connection: redis.Redis, queue: Queue) -> None:
    parent = enqueue(queue, "parent")
    enqueue(queue, "other")
    enqueue(queue, "child", depends_on=Dependency([parent], enqueue_at_front=True))

    complete_next(broker)

    assert pending(connection) == ["child", "other"]


def test_a_failure_releases_only_those_that_allow_it(broker: Broker, connection: redis.Redis, queue: Queue) -> None:
    parent = enqueue(queue, "parent")
    strict = enqueue(queue, "strict", depends_on=parent)
    enqueue(queue, "lenient", depends_on=Dependency([parent], allow_failure=True))

    fail_next(broker, Verdict.ARCHIVE)

    assert (pending(connection), strict.get_status()) == (["lenient"], "deferred")
    assert 0 < int(connection.ttl(parent.dependents_key)) <= int(connection.ttl(parent.key))

    assert broker.act("run", ["parent"]) == ["done"]
    assert connection.ttl(parent.dependents_key) == -1
    assert [complete_next(broker), complete_next(broker)] == ["lenient", "parent"]
    assert pending(connection) == ["strict"]


def test_an_attempt_that_is_to_be_retried_releases_nobody(
    broker: Broker, connection: redis.Redis, queue: Queue
) -> None:
    enqueue(queue, "child", depends_on=Dependency([enqueue(queue, "parent")], allow_failure=True))

    fail_next(broker, Verdict.RETRY)
    assert pending(connection) == []

    broker.forward(["default"])
    assert complete_next(broker) == "parent"
    assert pending(connection) == ["child"]


def test_a_task_that_is_dropped_counts_as_done(broker: Broker, connection: redis.Redis, queue: Queue) -> None:
    enqueue(queue, "child", depends_on=enqueue(queue, "parent"))

    fail_next(broker, Verdict.DROP)

    assert pending(connection) == ["child"]
    assert left(connection) == []


def test_a_job_that_was_cancelled_or_deleted_while_it_waited_does_not_come(
    broker: Broker, connection: redis.Redis, queue: Queue
) -> None:
    parent = enqueue(queue, "parent")
    cancelled, deleted = (enqueue(queue, name, depends_on=parent) for name in ("cancelled", "deleted"))
    cancelled.cancel()
    connection.delete(deleted.key)

    complete_next(broker)

    assert pending(connection) == []
    assert not connection.exists(parent.dependents_key)


@pytest.mark.parametrize("result_ttl", [0, 500])
def test_a_job_that_was_cancelled_while_it_ran_releases_nobody(
    broker: Broker, connection: redis.Redis, queue: Queue, result_ttl: int
) -> None:
    parent = enqueue(queue, "parent", result_ttl=result_ttl)
    child = enqueue(queue, "child", depends_on=parent)
    held = claim(broker)
    parent.cancel()

    broker.advance(WORKER, (), [Completion(held)])

    assert (parent.get_status(), child.get_status()) == ("canceled", "deferred")
    assert not connection.exists(keys.wip("default"), keys.queue("default"))


@pytest.mark.parametrize(("ttl", "expected_s"), [("60", 60), ("-1", -1), ("soon", -1), ("1.5", -1)])
def test_the_ttl_of_a_job_counts_from_when_it_is_pending(
    broker: Broker, connection: redis.Redis, queue: Queue, ttl: str, expected_s: int
) -> None:
    child = enqueue(queue, "child", depends_on=enqueue(queue, "parent"), ttl=60)
    connection.hset(child.key, "ttl", ttl)
    if expected_s < 0:
        connection.persist(child.key)
    else:
        connection.expire(child.key, 20)

    complete_next(broker)

    assert pending(connection) == ["child"]
    assert expected_s - 10 <= int(connection.ttl(child.key)) <= expected_s


@pytest.mark.parametrize(
    "key", ["rq:job:parent:dependents", "rq:job::child:dependencies", "rq:deferred:default", "rq:job:child"]
)
def test_a_key_of_another_kind_keeps_no_task_from_its_end(
    broker: Broker, connection: redis.Redis, queue: Queue, key: str
) -> None:
    enqueue(queue, "child", depends_on=enqueue(queue, "parent"))
    connection.delete(key)
    connection.set(key, "a stranger's")

    assert complete_next(broker) == "parent"

    assert not connection.exists(keys.wip("default"), keys.job("parent"))
    assert pending(connection) == (["child"] if key in {"rq:job::child:dependencies", "rq:deferred:default"} else [])


def test_a_key_of_another_kind_in_the_place_of_its_queue_makes_way_for_a_job(
    broker: Broker, connection: redis.Redis, queue: Queue
) -> None:
    low = rq_queue(connection, "low")
    enqueue(low, "child", depends_on=enqueue(queue, "parent"))
    connection.set(keys.queue("low"), "a stranger's")

    held = claim(broker)
    complete(broker, held)

    assert pending(connection, "low") == ["child"]


def test_a_task_that_is_deleted_leaves_no_list_of_those_that_waited(
    broker: Broker, connection: redis.Redis, queue: Queue
) -> None:
    parent = enqueue(queue, "parent")
    enqueue(queue, "child", depends_on=parent)
    fail_next(broker, Verdict.ARCHIVE)
    assert connection.exists(parent.dependents_key)

    assert broker.act("delete", ["parent"]) == ["done"]

    assert not connection.exists(parent.dependents_key)

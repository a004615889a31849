"""Jobs of plain RQ that are to be repeated run again after each success, by RQ's rules."""

import sys
import time
from typing import Any

import pytest
import redis
from rq import Queue, Repeat
from rq.job import Job
from rq.serializers import JSONSerializer

from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.claims import Completion
from boilerd.entry_point import ENTRY_POINT
from builders import WORKER, claim, complete, complete_next, fail


def enqueue(queue: Queue, repeat: Repeat, **options: Any) -> Job:
    return queue.enqueue(ENTRY_POINT, args=("test:echo", None), job_id="a", repeat=repeat, **options)


def delay_s(connection: redis.Redis) -> float:
    """Seconds until the job is due."""
    due = connection.zscore(keys.registry("scheduled", "default"), "a")
    assert due is not None
    return due - time.time()


def test_a_job_runs_as_often_as_it_says_and_each_run_keeps_its_result(
    broker: Broker, connection: redis.Redis, queue: Queue
) -> None:
    job = enqueue(queue, Repeat(2))

    for n in range(3):
        assert connection.lrange(keys.queue("default"), 0, -1) == [b"a"]
        assert job.get_status() == "queued"
        complete_next(broker, result=b"%d" % n)
        assert not connection.exists(keys.wip("default"))

    assert job.get_status() == "finished"
    assert connection.lrange(keys.queue("default"), 0, -1) == []
    assert [found.return_value for found in job.results()] == [2, 1, 0]
    assert 0 < int(connection.ttl(job.key)) <= 500


def test_each_interval_comes_in_its_turn_and_the_last_goes_on(
    broker: Broker, connection: redis.Redis, queue: Queue
) -> None:
    job = enqueue(queue, Repeat(3, interval=[10, 20]))

    for expected_s in (10, 20, 20):
        complete_next(broker)
        assert job.get_status() == "scheduled"
        assert expected_s - 5 < delay_s(connection) <= expected_s
        connection.zadd(keys.registry("scheduled", "default"), {"a": 1})
        broker.forward(["default"])
    job.refresh()
    assert (job.repeats_left, job.repeat_intervals) == (0, [20])
    complete_next(broker)

    assert job.get_status() == "finished"


def test_a_job_without_retention_leaves_no_results_and_is_gone_in_the_end(
    broker: Broker, connection: redis.Redis, queue: Queue
) -> None:
    enqueue(queue, Repeat(1), result_ttl=0)

    complete_next(broker)
    assert connection.exists(keys.job("a"))
    assert not connection.exists(keys.results("a"))
    complete_next(broker)

    assert not connection.exists(keys.job("a"), keys.results("a"))


def test_jobs_that_wait_for_the_first_run_do_not_wait_for_the_others(
    broker: Broker, connection: redis.Redis, queue: Queue
) -> None:
    parent = enqueue(queue, Repeat(1, interval=60))
    queue.enqueue(ENTRY_POINT, args=("test:echo", None), job_id="child", depends_on=parent)

    complete_next(broker)

    assert connection.lrange(keys.queue("default"), 0, -1) == [b"child"]
    assert delay_s(connection) > 50


@pytest.mark.parametrize("result_ttl", [0, 500])
def test_a_job_that_was_cancelled_while_it_ran_is_not_repeated(
    broker: Broker, connection: redis.Redis, queue: Queue, result_ttl: int
) -> None:
    job = enqueue(queue, Repeat(3), result_ttl=result_ttl)
    held = claim(broker)
    broker.cancel("a")

    broker.advance(WORKER, (), [Completion(held)])

    assert connection.hget(job.key, "status") == (b"finished" if result_ttl else None)
    assert connection.lrange(keys.queue("default"), 0, -1) == []


def test_a_job_that_runs_again_at_once_is_enqueued_anew(broker: Broker, connection: redis.Redis, queue: Queue) -> None:
    job = enqueue(queue, Repeat(1))
    connection.hset(job.key, "enqueued_at", "2020-01-01T00:00:00.000000Z")

    complete_next(broker)

    enqueued = Job.fetch("a", connection, JSONSerializer).enqueued_at
    assert enqueued is not None
    assert time.time() - enqueued.timestamp() < 60


def test_a_failure_is_not_repeated(broker: Broker, connection: redis.Redis, queue: Queue) -> None:
    job = enqueue(queue, Repeat(3))
    held = claim(broker)

    fail(broker, held)

    assert job.get_status() == "failed"
    assert not connection.exists(keys.queue("default"), keys.registry("scheduled", "default"))


def test_an_outcome_that_is_sent_again_repeats_nothing(broker: Broker, connection: redis.Redis, queue: Queue) -> None:
    enqueue(queue, Repeat(3))
    held = claim(broker)
    broker.advance(WORKER, (), [Completion(held)])

    assert broker.advance(WORKER, (), [Completion(held)]).lost == ["a"]

    assert connection.lrange(keys.queue("default"), 0, -1) == [b"a"]
    assert connection.hget(keys.job("a"), "repeats_left") == b"2"


@pytest.mark.parametrize("number", ["many", "-1", "", "nan", "1e400", "1.5"])
def test_what_is_no_number_of_repeats_is_none(
    broker: Broker, connection: redis.Redis, queue: Queue, number: str
) -> None:
    job = enqueue(queue, Repeat(1))
    connection.hset(job.key, "repeats_left", number)

    complete_next(broker)

    assert connection.hget(job.key, "status") == b"finished"


@pytest.mark.parametrize("times", [sys.maxsize, 10**22])
def test_a_job_that_is_to_run_for_ever_does(broker: Broker, connection: redis.Redis, queue: Queue, times: int) -> None:
    job = enqueue(queue, Repeat(times))

    lefts = []
    for _ in range(3):
        complete_next(broker)
        lefts.append(int(connection.hget(job.key, "repeats_left") or 0))

    assert lefts == [2**53, 2**53 - 1, 2**53 - 2]


@pytest.mark.parametrize(
    "intervals",
    ["soon", "5", '{"a": 1}', '["soon"]', "", "[1e999]", "[NaN, NaN]", "[60, 1e999]", "[" * 1000 + "]" * 1000],
)
def test_intervals_that_make_no_sense_are_none(
    broker: Broker, connection: redis.Redis, queue: Queue, intervals: str
) -> None:
    job = enqueue(queue, Repeat(2))
    connection.hset(job.key, "repeat_intervals", intervals)

    complete_next(broker)

    assert connection.lrange(keys.queue("default"), 0, -1) == [b"a"]
    assert connection.hget(job.key, "repeats_left") == b"1"


@pytest.mark.parametrize(("key", "interval"), [("queue", 0), ("scheduled", 60)])
def test_a_key_of_another_kind_in_its_place_makes_way(
    broker: Broker, connection: redis.Redis, queue: Queue, key: str, interval: int
) -> None:
    enqueue(queue, Repeat(1, interval=interval))
    held = claim(broker)
    connection.set(f"{keys.RQ}:{key}:default", "a stranger's")

    complete(broker, held)

    assert not connection.exists(keys.wip("default"))
    assert connection.type(f"{keys.RQ}:{key}:default") in {b"list", b"zset"}

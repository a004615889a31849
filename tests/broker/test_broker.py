"""The scripts, as seen in Redis and through RQ's own classes."""

import json
import os
import re
import signal
import sys
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from rq import Queue, Worker
from rq.defaults import RQ_KEY_PREFIX
from rq.job import JobStatus
from rq.registry import FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.results import Result
from rq.serializers import JSONSerializer

import builders
from boilerd import Client
from boilerd.broker import broker as broker_module
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.claims import Claim, Completion, Failure
from boilerd.broker.connection import connect, raw, text
from boilerd.broker.constants import CHUNK, IN_LUA, LEASE_OFFSET_S, LEASE_S
from boilerd.broker.refusals import translate, translated
from boilerd.entry_point import ENTRY_POINT
from boilerd.errors import (
    BrokerError,
    BrokerRefusedError,
    BrokerUnableError,
    BrokerUnavailableError,
    ConfigError,
    ForbiddenJobError,
    TaskIdConflictError,
)
from boilerd.tasks.mux import ServeMux
from boilerd.tasks.retry import Decision, RetryPolicy, Verdict
from boilerd.tasks.task import DEFAULT_ARCHIVE_LIMIT, TaskState
from boilerd.worker.settlement import Rules
from builders import WORKER, fail, failure, new_task, rq_job, rq_queue, store, task_in
from support import Valkey, rings, run_python, wait_until


@pytest.fixture(autouse=True)
def registered(connection: redis.Redis) -> None:
    """A worker's record, as a worker writes it at its birth."""
    connection.hset(keys.worker(WORKER), "state", "idle")
    connection.expire(keys.worker(WORKER), 480)


def claim(broker: Broker, *queues: str) -> Claim:
    """Claim the next task; what the worker held before counts as another worker's from now on."""
    broker.connection.delete(keys.worker_executions(WORKER))
    return builders.claim(broker, *queues)


def leftovers(connection: redis.Redis) -> set[str]:
    """Keys that have no TTL and are not meant to stay."""
    lasting = {keys.QUEUES, keys.SERVED, keys.WORKERS}
    found = {key.decode() for key in connection.scan_iter() if connection.ttl(key) == -1}
    return {key for key in found - lasting if not key.startswith((f"{keys.OWN}:completed:", f"{keys.RQ}:failed:"))}


def test_the_prefix_is_the_one_that_rq_reads() -> None:
    assert keys.RQ == RQ_KEY_PREFIX


def test_an_enqueued_task_is_a_job_to_rq(broker: Broker, connection: redis.Redis) -> None:
    store(broker, "a", {"to": "x"}, timeout=30, retention=60, max_retries=3)

    job = rq_job(connection, "a")
    assert job.func_name == ENTRY_POINT
    assert job.args == ["test:echo", {"to": "x"}]
    assert job.description == "test:echo"
    assert (job.timeout, job.result_ttl, job.retries_left) == (30, 60, 3)
    assert job.get_status() == JobStatus.QUEUED
    assert Queue("default", connection=connection).job_ids == ["a"]
    assert [queue.name for queue in Queue.all(connection=connection)] == ["default"]


def test_times_are_redis_times_in_the_format_of_rq(broker: Broker, connection: redis.Redis) -> None:
    seconds, micros = connection.time()
    store(broker, "a")

    enqueued_at = rq_job(connection, "a").enqueued_at
    assert enqueued_at is not None
    assert 0 <= enqueued_at.timestamp() - (seconds + micros / 1e6) < 5


@pytest.mark.parametrize("when", [951782399.999999, 951868800.0, 1709164800.5, 4102444799.25, 0.000001])
def test_the_calendar_of_the_scripts_agrees_with_pythons(connection: redis.Redis, when: float) -> None:
    from boilerd.broker.scripts import script_source  # noqa: PLC0415

    common, _, _ = script_source("release").partition("-- End claims")
    shown = connection.eval(f"{common}\nreturn iso(tonumber(ARGV[3]))", 0, "rq", "boilerd", repr(when))

    assert shown == datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").encode()


def test_a_taken_task_id_is_refused_and_the_first_task_stays(broker: Broker, connection: redis.Redis) -> None:
    store(broker, "a", 1)

    again = broker.enqueue([new_task("a", 2), new_task("b", 3)])

    assert isinstance(again[0], TaskIdConflictError)
    assert again[1] is TaskState.PENDING
    assert rq_job(connection, "a").args == ["test:echo", 1]
    assert Queue("default", connection=connection).job_ids == ["a", "b"]


def test_more_tasks_than_a_batch_are_all_stored_in_order(broker: Broker, connection: redis.Redis) -> None:
    ids = [f"task-{number}" for number in range(CHUNK * 2 + 7)]

    stored = broker.enqueue(new_task(task_id) for task_id in ids)

    assert stored == [TaskState.PENDING] * len(ids)
    assert Queue("default", connection=connection).job_ids == ids


def test_a_claim_carries_the_task(broker: Broker) -> None:
    store(broker, "a", {"request_id": "r-1", "n": [1, 2]}, queue="low", timeout=7, max_retries=4)

    claimed = claim(broker, "critical", "low")

    assert claimed.task is not None
    assert (claimed.task.id, claimed.task.type, claimed.task.queue) == ("a", "test:echo", "low")
    assert claimed.task.payload == {"request_id": "r-1", "n": [1, 2]}
    assert (claimed.task.attempt, claimed.max_retries, claimed.task.timeout_s) == (1, 4, 7)
    assert claimed.task.request_id == "r-1"


def test_a_request_id_from_a_payload_is_short_enough_for_each_line_of_the_attempt(broker: Broker) -> None:
    store(broker, "a", {"request_id": "r" * 1_000_000})

    assert task_in(claim(broker)).request_id == "r" * 128


def test_a_claim_leaves_the_queue_and_takes_a_lease_in_one_step(broker: Broker, connection: redis.Redis) -> None:
    store(broker, "a")

    claimed = claim(broker)

    registry = StartedJobRegistry("default", connection=connection, serializer=JSONSerializer)
    assert Queue("default", connection=connection).job_ids == []
    assert registry.get_job_ids(cleanup=False) == ["a"]
    lease_s = connection.zscore(keys.wip("default"), f"a:{claimed.execution_id}")
    assert lease_s is not None
    assert LEASE_S - 5 < lease_s - LEASE_OFFSET_S - time.time() < LEASE_S + 5
    job = rq_job(connection, "a")
    assert job.get_status() == JobStatus.STARTED
    assert job.worker_name == WORKER
    broker.extend([WORKER])
    assert [execution.id for execution in job.get_executions()] == [claimed.execution_id]


def test_claims_follow_the_order_of_the_queues_and_of_the_tasks(broker: Broker) -> None:
    store(broker, "l1", queue="low")
    store(broker, "d1")
    store(broker, "d2")
    store(broker, "c1", queue="critical")

    order = [claim(broker, "critical", "default", "low").task_id for _ in range(4)]

    assert order == ["c1", "d1", "d2", "l1"]


def test_nothing_is_claimed_from_empty_queues(broker: Broker) -> None:
    assert broker.advance(WORKER, ("critical", "default")).claims == []


def test_nothing_is_claimed_from_a_paused_queue(broker: Broker, connection: redis.Redis) -> None:
    store(broker, "a")
    store(broker, "b", queue="low")
    connection.sadd(keys.PAUSED, "default")

    assert claim(broker, "default", "low").task_id == "b"
    assert broker.advance(WORKER, ("default", "low")).claims == []

    connection.srem(keys.PAUSED, "default")
    assert claim(broker, "default", "low").task_id == "a"


def test_nothing_is_claimed_while_rq_is_suspended(broker: Broker, connection: redis.Redis) -> None:
    store(broker, "a")
    connection.set(keys.SUSPENDED, 1)

    assert broker.advance(WORKER, ("default",)).claims == []

    connection.delete(keys.SUSPENDED)
    assert claim(broker).task_id == "a"


def test_an_acknowledged_task_without_retention_leaves_nothing_behind(broker: Broker, connection: redis.Redis) -> None:
    store(broker, "a")
    done = Completion(claim(broker), b'"result"')

    answer = broker.advance(WORKER, (), [done])

    assert (answer.lost, answer.claims) == ([], [])

    assert not connection.exists(keys.job("a"), keys.results("a"), f"{keys.RQ}:executions:a")
    assert connection.zcard(keys.wip("default")) == 0
    assert connection.scard(keys.worker_executions(WORKER)) == 0
    assert leftovers(connection) == set()


def test_an_acknowledged_task_with_retention_is_a_finished_job_to_rq(broker: Broker, connection: redis.Redis) -> None:
    store(broker, "a", retention=60)
    done = Completion(claim(broker), b'{"sum": 3}')

    broker.advance(WORKER, (), [done])

    job = rq_job(connection, "a")
    assert job.get_status() == JobStatus.FINISHED
    assert job.return_value() == {"sum": 3}
    latest = job.latest_result()
    assert latest is not None
    assert latest.type == Result.Type.SUCCESSFUL
    assert latest.execution_id == done.claim.execution_id
    assert FinishedJobRegistry("default", connection=connection).get_job_ids() == ["a"]
    assert 50 < connection.ttl(keys.job("a")) <= 60
    assert 50 < connection.ttl(keys.results("a")) <= 60


def test_one_call_acknowledges_and_claims_the_next(broker: Broker, connection: redis.Redis) -> None:
    store(broker, "a")
    store(broker, "b")
    first = claim(broker)
    before = connection.info("commandstats")["cmdstat_evalsha"]["calls"]

    answer = broker.advance(WORKER, ("default",), [Completion(first)])

    assert answer.lost == []
    assert answer.claims
    assert answer.claims[0].task_id == "b"
    assert connection.info("commandstats")["cmdstat_evalsha"]["calls"] == before + 1
    assert not connection.exists(keys.job("a"))


def test_an_outcome_is_refused_when_the_lease_is_gone(broker: Broker, connection: redis.Redis) -> None:
    store(broker, "a", retention=60)
    held = claim(broker)
    connection.zrem(keys.wip("default"), f"a:{held.execution_id}")

    answer = broker.advance(WORKER, (), [Completion(held, b"1")])

    assert answer.lost == ["a"]
    assert broker.fail(WORKER, held, failure()) is None
    assert rq_job(connection, "a").get_status() == JobStatus.STARTED
    assert connection.zcard(keys.registry("failed", "default")) == 0


@pytest.mark.usefixtures("on_one_day")
def test_the_recently_completed_are_remembered_and_counted(broker: Broker, connection: redis.Redis) -> None:
    for number in range(3):
        store(broker, f"t{number}")
        broker.advance(WORKER, (), [Completion(claim(broker))])

    recent = [json.loads(entry) for entry in connection.lrange(f"{keys.OWN}:completed:default", 0, -1)]
    day = int(connection.time()[0] // 86400)
    counters = connection.hgetall(f"{keys.OWN}:stats:default:{day}")
    assert [entry["id"] for entry in recent] == ["t2", "t1", "t0"]
    assert recent[0]["type"] == "test:echo"
    assert 0 <= recent[0]["ended_at"] - recent[0]["started_at"] < 5
    assert counters == {b"processed": b"3"}
    assert connection.ttl(f"{keys.OWN}:stats:default:{day}") > 89 * 86400


def test_a_failed_task_is_an_archived_job_with_its_error(broker: Broker, connection: redis.Redis) -> None:
    store(broker, "a")
    held = claim(broker)

    assert fail(broker, held) is Verdict.ARCHIVE

    job = rq_job(connection, "a")
    latest = job.latest_result()
    assert job.get_status() == JobStatus.FAILED
    assert latest is not None
    assert latest.type == Result.Type.FAILED
    assert latest.exc_string == "Traceback …\nValueError: bad"
    assert FailedJobRegistry("default", connection=connection).get_job_ids() == ["a"]
    assert connection.hget(keys.job("a"), "last_error") == b"ValueError: bad"
    assert connection.ttl(keys.job("a")) > 89 * 86400
    assert leftovers(connection) == set()


def test_a_long_error_is_cut_between_two_characters(broker: Broker, connection: redis.Redis) -> None:
    store(broker, "a")

    broker.fail(WORKER, claim(broker), Failure("x" + "ü" * 1500, "…", Decision(Verdict.ARCHIVE), 25))

    assert connection.hget(keys.job("a"), "last_error") == ("x" + "ü" * 999).encode()


def test_what_rqs_tools_deleted_from_the_archive_takes_no_room_when_it_would_have_expired(
    broker: Broker, connection: redis.Redis
) -> None:
    store(broker, "a")
    connection.zadd(keys.archived("default"), {"gone": 1, "later": 2e10})

    assert broker.clean() == 0

    assert connection.zscore(keys.archived("default"), "gone") is None
    assert connection.zscore(keys.archived("default"), "later") is not None


def fill_archive(connection: redis.Redis) -> None:
    """As many archived tasks as there may be; the first expires first."""
    for archive in (keys.registry("failed", "default"), keys.archived("default")):
        connection.zadd(archive, {f"old{number}": number + 1 for number in range(DEFAULT_ARCHIVE_LIMIT)})


def test_a_full_archive_forgets_the_oldest_and_its_records(broker: Broker, connection: redis.Redis) -> None:
    archive = keys.registry("failed", "default")
    fill_archive(connection)
    connection.hset(keys.job("old0"), "task_type", "x")
    connection.xadd(keys.results("old0"), {"type": "2"})
    store(broker, "a")

    fail(broker, claim(broker))

    assert connection.zcard(archive) == DEFAULT_ARCHIVE_LIMIT
    assert connection.zscore(archive, "a") is not None
    assert not connection.exists(keys.job("old0"), keys.results("old0"))
    assert connection.zscore(archive, "old1") is not None
    assert connection.zcard(keys.archived("default")) == DEFAULT_ARCHIVE_LIMIT


def test_failed_jobs_of_plain_rq_take_no_room_in_the_archive(broker: Broker, connection: redis.Redis) -> None:
    archive = keys.registry("failed", "default")
    connection.zadd(archive, {f"rq{number}": 2e10 + number for number in range(DEFAULT_ARCHIVE_LIMIT)})
    store(broker, "a")
    store(broker, "b")
    fail(broker, claim(broker))

    assert broker.act("archive", ["b"]) == ["done"]

    assert rq_job(connection, "a").get_status() == rq_job(connection, "b").get_status() == JobStatus.FAILED
    assert connection.zcard(archive) == DEFAULT_ARCHIVE_LIMIT + 2


def test_a_full_archive_keeps_what_was_archived_last_whenever_it_expires(
    broker: Broker, connection: redis.Redis
) -> None:
    fill_archive(connection)
    connection.zadd(keys.archived("default"), {f"old{number}": 2e10 for number in range(DEFAULT_ARCHIVE_LIMIT)})
    store(broker, "a")

    fail(broker, claim(broker))

    assert rq_job(connection, "a").get_status() == JobStatus.FAILED
    assert connection.zscore(keys.archived("default"), "a") is not None


def test_what_rqs_tools_took_out_of_a_full_archive_is_left_alone(broker: Broker, connection: redis.Redis) -> None:
    fill_archive(connection)
    connection.hset(keys.job("old0"), mapping={"task_type": "x", "status": "failed", "origin": "default"})
    connection.zrem(keys.registry("failed", "default"), "old0")
    store(broker, "a")

    fail(broker, claim(broker))

    assert connection.exists(keys.job("old0"))
    assert connection.zscore(keys.archived("default"), "old0") is None
    assert connection.zscore(keys.registry("failed", "default"), "old1") is not None


def test_what_rqs_tools_took_out_of_a_full_archive_costs_no_other_its_place(
    broker: Broker, connection: redis.Redis
) -> None:
    fill_archive(connection)
    connection.zrem(keys.registry("failed", "default"), *(f"old{number}" for number in range(5000, 7000)))
    store(broker, "a")

    fail(broker, claim(broker))

    assert connection.zcard(keys.registry("failed", "default")) == DEFAULT_ARCHIVE_LIMIT - 2000 + 1
    assert connection.zcard(keys.archived("default")) == DEFAULT_ARCHIVE_LIMIT - 2000 + 1


@pytest.mark.parametrize("leave", ["run", "delete", "clean"])
def test_a_task_that_leaves_the_archive_makes_room_in_it(broker: Broker, connection: redis.Redis, leave: str) -> None:
    store(broker, "a")
    fail(broker, claim(broker))
    assert connection.zscore(keys.archived("default"), "a") is not None
    assert connection.ttl(keys.archived("default")) > 89 * 86400

    if leave == "clean":
        connection.zadd(keys.registry("failed", "default"), {"a": 1})
        broker.clean()
    else:
        broker.act(leave, ["a"])

    assert not connection.exists(keys.archived("default"))


@pytest.mark.parametrize(("action", "place"), [("run", keys.queue("q")), ("archive", keys.registry("failed", "q"))])
def test_a_task_stays_where_it_is_when_the_place_where_it_is_to_go_is_damaged(
    broker: Broker, connection: redis.Redis, action: str, place: str
) -> None:
    store(broker, "a", queue="q", process_in=60)
    connection.set(place, "a stranger's")

    with pytest.raises(BrokerError):
        broker.act(action, ["a"])

    assert connection.zscore(keys.registry("scheduled", "q"), "a") is not None
    assert connection.hget(keys.job("a"), "status") == b"scheduled"


def test_the_janitor_leaves_failed_jobs_alone_that_rq_keeps_for_ever(broker: Broker, connection: redis.Redis) -> None:
    store(broker, "a")
    fail(broker, claim(broker))
    connection.zadd(keys.registry("failed", "default"), {"a": -1})

    assert broker.clean() == 0

    assert rq_job(connection, "a").get_status() == JobStatus.FAILED


def test_an_attempt_whose_lease_was_renewed_meanwhile_is_not_taken_from_its_worker(
    broker: Broker, connection: redis.Redis
) -> None:
    store(broker, "a", retention=60)
    held = claim(broker)
    pair = f"a:{held.execution_id}"
    connection.zadd(keys.wip("default"), {pair: 1})
    ((worker, lapsed),) = broker.expired()
    broker.extend([WORKER])

    failure = Failure("lease expired", "…", Decision(Verdict.RETRY), 25)
    assert broker.fail(worker, lapsed, failure, is_taken=True) is None

    assert connection.smembers(keys.worker_executions(WORKER)) == {pair.encode()}
    assert rq_job(connection, "a").get_status() == JobStatus.STARTED
    assert not connection.exists(keys.results("a"))
    assert broker.advance(WORKER, (), [Completion(held)]).lost == []


def test_released_tasks_are_back_at_the_head_in_their_order_uncounted(broker: Broker, connection: redis.Redis) -> None:
    for task_id in ("a", "b", "c"):
        store(broker, task_id)
    first, second = claim(broker), claim(broker)
    connection.sadd(keys.worker_executions(WORKER), f"a:{first.execution_id}", f"b:{second.execution_id}")

    released = broker.release(WORKER)

    assert sorted(released) == ["a", "b"]
    assert Queue("default", connection=connection).job_ids == ["a", "b", "c"]
    assert rq_job(connection, "a").get_status() == JobStatus.QUEUED
    again = claim(broker).task
    assert again is not None
    assert again.attempt == 1


def test_a_release_leaves_alone_what_another_took_over(broker: Broker, connection: redis.Redis) -> None:
    store(broker, "a")
    held = claim(broker)
    connection.zrem(keys.wip("default"), f"a:{held.execution_id}")

    assert broker.release(WORKER) == []

    assert Queue("default", connection=connection).job_ids == []
    assert broker.held(WORKER) == []


def test_what_a_worker_holds_is_known_by_its_name(broker: Broker, connection: redis.Redis) -> None:
    store(broker, "a")
    store(broker, "b", queue="low")
    first, second = claim(broker, "default", "low"), claim(broker, "default", "low")
    connection.sadd(keys.worker_executions(WORKER), f"a:{first.execution_id}")

    held = broker.held(WORKER)

    assert [(c.task_id, c.execution_id, c.queue) for c in held] == [
        ("a", first.execution_id, "default"),
        ("b", second.execution_id, "low"),
    ]


def test_an_extension_renews_the_leases_of_the_named_workers_only(broker: Broker, connection: redis.Redis) -> None:
    store(broker, "a")
    store(broker, "b")
    mine = claim(broker)
    other = broker.advance("host.run.1", ("default",)).claims[0]
    pairs = {f"a:{mine.execution_id}": 1.0, f"b:{other.execution_id}": 1.0}
    connection.zadd(keys.wip("default"), pairs)
    connection.expire(keys.worker(WORKER), 5)

    assert broker.extend([WORKER]) == ([], [])

    mine_s, other_s = (connection.zscore(keys.wip("default"), pair) for pair in pairs)
    assert mine_s is not None
    assert mine_s > time.time() + LEASE_S - 5
    assert other_s == 1.0
    assert connection.ttl(keys.worker(WORKER)) > 400


def test_a_heartbeat_after_a_long_outage_finds_what_it_renews(broker: Broker, connection: redis.Redis) -> None:
    store(broker, "a")
    held = claim(broker)
    ttls_s = [connection.ttl(keys.worker_executions(WORKER))]

    broker.extend([WORKER])
    ttls_s.append(connection.ttl(keys.worker_executions(WORKER)))
    broker.fail(WORKER, held, Failure("lost", "…", Decision(Verdict.RETRY, 60.0), 25))
    store(broker, "b")
    held = claim(broker)
    connection.zadd(keys.wip("default"), {f"b:{held.execution_id}": 1})
    broker.fail(WORKER, held, Failure("lost", "…", Decision(Verdict.RETRY, 60.0), 25), is_taken=True)
    ttls_s.append(connection.ttl(keys.worker_executions(WORKER)))

    assert [86000 < ttl_s <= 86400 for ttl_s in ttls_s] == [True, True, True]


def test_a_foreign_worker_whose_name_is_no_text_is_read_like_the_others(
    broker: Broker, connection: redis.Redis
) -> None:
    broker.register(WORKER, ["default"], {"birthmark": "ours"})
    connection.sadd(keys.WORKERS, b"rq:worker:\xff\xfe")
    connection.hset(b"rq:worker:\xff\xfe", "birthmark", b"\xff")

    found = broker.registered()

    assert found == {WORKER: ("ours", ""), "\udcff\udcfe": ("\udcff", "")}


def test_the_names_of_workers_whose_records_expired_are_forgotten(broker: Broker, connection: redis.Redis) -> None:
    for name in ("host.run.1", "host.run.2"):
        broker.register(name, ("default", "low"), {"state": "busy", "queues": "default,low"})
    store(broker, "a")
    broker.advance("host.run.2", ("default",))
    connection.delete(keys.worker("host.run.2"))

    broker.clean()

    key = keys.worker("host.run.1").encode()
    for workers in (keys.WORKERS, f"{keys.WORKERS}:default", f"{keys.WORKERS}:low"):
        assert connection.smembers(workers) == {key}
    assert connection.scard(keys.worker_executions("host.run.2")) == 1  # it may live, and register again


def test_an_extension_does_not_bring_back_a_lost_lease(broker: Broker, connection: redis.Redis) -> None:
    store(broker, "a")
    held = claim(broker)
    connection.zrem(keys.wip("default"), f"a:{held.execution_id}")

    broker.extend([WORKER])

    assert connection.zcard(keys.wip("default")) == 0


def test_an_extension_names_the_attempts_that_are_past_their_timeout(broker: Broker, connection: redis.Redis) -> None:
    store(broker, "a", timeout=10)
    store(broker, "b", timeout=10)
    late = claim(broker)
    started = connection.time()[0] - 13
    connection.hset(keys.execution(f"a:{late.execution_id}"), "created_at", str(started))

    (overdue,), _ = broker.extend([WORKER])

    assert (overdue.worker, overdue.task_id) == (WORKER, "a")
    assert 2 < overdue.late_s < 5


def test_an_enqueue_rings_for_a_waiting_worker(broker: Broker) -> None:
    assert rings(broker.connection, "default", "low", timeout_s=0.01) is False

    store(broker, "a", queue="low")

    assert rings(broker.connection, "default", "low") is True


def test_the_bell_is_silent_again_when_nothing_is_left_to_do(broker: Broker) -> None:
    for number in range(3):
        store(broker, f"t{number}")
        broker.advance(WORKER, ("default",), [Completion(claim(broker))])

    assert broker.advance(WORKER, ("default",)).claims == []

    assert rings(broker.connection, "default", timeout_s=0.01) is False


def test_the_bell_of_a_long_queue_stays_short(broker: Broker, connection: redis.Redis) -> None:
    broker.enqueue(new_task(f"t{number}") for number in range(1000))

    assert connection.llen(keys.bell("default")) == 128


def test_the_bell_of_a_short_queue_with_busy_workers_stays_short(broker: Broker, connection: redis.Redis) -> None:
    store(broker, "first")
    completions: list[Completion] = []
    for number in range(200):
        store(broker, f"t{number}")
        completions = [Completion(held) for held in broker.advance(WORKER, ("default",), completions).claims]

    assert connection.llen(keys.bell("default")) == 128


def job_of(connection: redis.Redis, data: bytes, **fields: str) -> Claim:
    """The claim of a job that a stranger wrote."""
    connection.hset(keys.job("x"), mapping={"data": data, "origin": "default", "status": "queued"})
    for name, value in fields.items():
        connection.hset(keys.job("x"), name, value)
    connection.rpush(keys.queue("default"), "x")
    return claim(Broker(connection))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'["os system", null, ["echo pwned"], {}]', "'os system' is not a registered task"),
        (b'["system", null, ["echo pwned"], {}]', "'system' is not a registered task"),
        (b'["os.system", "self", ["echo pwned"], {}]', "'os.system' is a method of an object"),
        (b"\x80\x04\x95\x10\x00\x00\x00\x00", "pickled jobs are never loaded"),
        (b"", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"x\x9cgarbage", "cannot be unpacked"),
        (b'["boilerd.entry_point.run", null, ["test:echo"], {}]', "not [task type, payload]"),
        (b'["boilerd.entry_point.run", null, [5, 5], {}]', "not [task type, payload]"),
        (b'["boilerd.entry_point.run", null, ' + b"[" * 100_000 + b"]" * 100_000 + b", {}]", "is nested too deep"),
        (b'{"a": 1}', "is not JSON of a call"),
    ],
)
def test_a_job_that_is_no_task_of_ours_is_refused_and_nothing_is_imported(
    connection: redis.Redis, data: bytes, why: str
) -> None:
    claimed = job_of(connection, data)

    assert claimed.task is None
    assert isinstance(claimed.error, ForbiddenJobError)
    assert why in str(claimed.error)


#: Reads a job of little data, whose values take gigabytes, in a process that may have little memory.
BOMB = """
import json, resource, zlib
from boilerd.broker.job_hash import to_claim
data = zlib.compress(b'["boilerd.entry_point.run",null,["test:echo",[' + b"[]," * 20_000_000 + b"0]],{}]")
resource.setrlimit(resource.RLIMIT_AS, (500 << 20,) * 2)
print(json.dumps(str(to_claim("1", "bomb", "default", "0", {b"data": data}).error)))
"""


def test_a_job_that_takes_more_memory_than_there_is_is_refused() -> None:
    assert run_python(BOMB) == "job 'bomb' takes more memory than its worker may have"


#: Reads such a job to settle its attempt, then its payload, as a hook asks for it.
LOST_BOMB = """
import json, resource
from pathlib import Path
from boilerd.broker.job_hash import read_payload, to_claim_of_hash
payload = b'{"request_id":"r","many":[' + b"[]," * 1_000_000 + b"0]}"
data = b'["boilerd.entry_point.run",null,["test:echo",%b],{}]' % payload
now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (30 << 20),) * 2)
claim = to_claim_of_hash(b"bomb", b"1", b"default", [b"data", data])
try:
    read_payload(claim)
    error = None
except MemoryError:
    error = "MemoryError"
print(json.dumps([claim.task.type, claim.task.request_id, claim.task.payload, error]))
"""


def test_a_lost_attempt_is_settled_without_the_memory_that_its_payload_takes() -> None:
    assert run_python(LOST_BOMB) == ["test:echo", "r", None, "MemoryError"]


@pytest.mark.parametrize("pack", [bytes, zlib.compress])
def test_a_job_of_another_function_is_known_by_it_and_the_rules_refuse_it(
    connection: redis.Redis, pack: Callable[[bytes], bytes]
) -> None:
    claimed = job_of(connection, pack(b'["os.system", null, ["echo pwned"], {}]'))

    assert claimed.function == "os.system"
    assert Rules.of(ServeMux(), RetryPolicy(), lambda handler: handler).task_of(claimed) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"timeout": "soon"},
        {"retries_left": "x"},
        {"enqueued_at": "yesterday"},
        {"deadline": "1e17"},
        {"deadline": "1e19"},
        {"deadline": "1e300"},
    ],
)
def test_a_damaged_field_refuses_the_job_and_names_it(connection: redis.Redis, fields: dict[str, str]) -> None:
    claimed = job_of(connection, b'["boilerd.entry_point.run",null,["test:echo",1],{}]', **fields)

    assert claimed.task is None
    assert "job 'x' is damaged" in str(claimed.error)


def test_what_a_plain_rq_client_wants_for_ever_is_cut_to_what_timers_and_expiries_can_take(
    broker: Broker, connection: redis.Redis
) -> None:
    forever = str(sys.maxsize)
    call = b'["boilerd.entry_point.run",null,["test:echo",1],{}]'
    held = job_of(connection, call, timeout=forever, result_ttl=forever)
    assert held.task is not None
    assert held.task.timeout_s is not None
    signal.setitimer(signal.ITIMER_REAL, held.task.timeout_s)
    signal.setitimer(signal.ITIMER_REAL, 0)

    assert broker.advance(WORKER, (), [Completion(held, b"1")]).lost == []

    assert rq_job(connection, "x").get_status() == JobStatus.FINISHED
    assert connection.ttl(keys.job("x")) > 60 * 365 * 86400


@pytest.mark.parametrize("times", [sys.maxsize, 10**22])
def test_a_job_that_plain_rq_wants_tried_for_ever_is_tried_again(
    broker: Broker, connection: redis.Redis, times: int
) -> None:
    call = b'["boilerd.entry_point.run",null,["test:echo",1],{}]'
    held = job_of(connection, call, retries_left=str(times))
    assert held.max_retries == times

    broker.fail(WORKER, held, Failure("ValueError: bad", "…", Decision(Verdict.RETRY), held.max_retries))
    broker.forward()

    assert connection.hget(keys.job("x"), "retries_left") == b"%d" % 2**53
    assert claim(broker).error is None


def test_an_id_without_a_record_is_dropped_from_the_queue(broker: Broker, connection: redis.Redis) -> None:
    connection.rpush(keys.queue("default"), "ghost")
    connection.set(keys.job("string"), "not a hash")
    connection.rpush(keys.queue("default"), "string")

    ghost, other = claim(broker), claim(broker)

    assert "has no record" in str(ghost.error)
    assert "has no record" in str(other.error)
    assert connection.zcard(keys.wip("default")) == 0


@pytest.mark.parametrize("limit", [1, 32])
def test_an_id_that_stands_in_a_queue_twice_is_claimed_once(
    broker: Broker, connection: redis.Redis, limit: int
) -> None:
    for number in range(100):
        store(broker, f"t{number}", retention=60)
    connection.lpush(keys.queue("default"), "t0", "t1", "t1")

    claims = [
        found for row in range(3) for found in broker.advance(f"host.run.{row}", ("default",), limit=limit).claims
    ]

    ids = [found.task_id for found in claims]
    assert ids[:2] == ["t1", "t0"]
    assert len(ids) == len(set(ids)) == connection.zcard(keys.wip("default"))


@pytest.mark.parametrize("decision", [Decision(Verdict.RETRY, 60.0), Decision(Verdict.ARCHIVE), None])
def test_an_id_that_is_left_in_a_queue_does_not_run_beside_what_became_of_its_task(
    broker: Broker, connection: redis.Redis, decision: Decision | None
) -> None:
    store(broker, "a", retention=60)
    held = claim(broker)
    connection.rpush(keys.queue("default"), "a")
    if decision:
        assert broker.fail(WORKER, held, Failure("ValueError: bad", "…", decision, 25))
    else:
        broker.advance(WORKER, (), [Completion(held)])

    assert broker.advance(WORKER, ("default",)).claims == []

    assert connection.hget(keys.job("a"), "status") != b"started"
    assert connection.llen(keys.queue("default")) == 0


def test_a_task_that_says_it_runs_but_nobody_has_is_claimed(broker: Broker, connection: redis.Redis) -> None:
    store(broker, "a")
    connection.hset(keys.job("a"), "status", "started")

    assert claim(broker).task_id == "a"


# Queues of plain RQ that are none of boilerd's.


def test_what_is_in_a_queue_that_boilerd_does_not_serve_is_left_alone(broker: Broker, connection: redis.Redis) -> None:
    Queue("foreign", connection=connection).enqueue("foreign.function", job_id="lost")
    Queue("foreign", connection=connection).enqueue_at(datetime(2020, 1, 1, tzinfo=UTC), "f.g", job_id="due")
    connection.zadd(keys.wip("foreign"), {"lost:execution": 1})
    connection.zadd(keys.registry("failed", "foreign"), {"old": 1})
    connection.sadd(keys.WORKERS, keys.worker("foreign.worker"))

    assert broker.expired(["default"]) == []
    assert broker.forward(["default"]) == (0, None)
    assert broker.clean(["default"]) == 0

    assert connection.zcard(keys.registry("scheduled", "foreign")) == 1
    assert connection.zcard(keys.registry("failed", "foreign")) == 1


def test_the_queues_of_a_registered_worker_and_those_that_are_named_are_served(
    broker: Broker, connection: redis.Redis
) -> None:
    for name in ("registered", "named"):
        Queue(name, connection=connection).enqueue_at(datetime(2020, 1, 1, tzinfo=UTC), "f.g")
    broker.register(WORKER, ["registered"], {"state": "idle"})

    assert broker.forward() == (1, None)
    assert broker.forward(["named", "registered"]) == (1, None)


@pytest.mark.parametrize("place", ["claimed", "scheduled"])
def test_a_task_of_a_queue_that_rq_deleted_runs_all_the_same(
    broker: Broker, connection: redis.Redis, place: str
) -> None:
    store(broker, "a", process_in=0.05 if place == "scheduled" else None)
    held = claim(broker) if place == "claimed" else None
    Queue("default", connection=connection).delete()

    if held:
        fail(broker, held, Verdict.RETRY, delay_s=0.0)
    wait_until(lambda: broker.forward()[0], "the task was due")

    assert claim(broker).task_id == "a"
    assert connection.sismember(keys.QUEUES, keys.queue("default"))


# What a stranger damaged.


@pytest.mark.parametrize("options", [{}, {"process_in": 60}])
def test_a_task_whose_place_is_damaged_is_not_stored_and_takes_no_lock(
    broker: Broker, connection: redis.Redis, options: dict[str, Any]
) -> None:
    place = keys.registry("scheduled", "default") if options else keys.queue("default")
    connection.set(place, "a stranger's")
    before = set(connection.keys())

    with pytest.raises(BrokerError):
        broker.enqueue([new_task("a", unique=60, **options)])

    assert set(connection.keys()) == before
    connection.delete(place)
    store(broker, "a", unique=60, **options)


@pytest.mark.parametrize("key", [keys.bell("default"), keys.ALARM, keys.QUEUES, keys.SERVED, keys.LIMITS])
def test_a_task_is_stored_whatever_stands_beside_its_place(broker: Broker, connection: redis.Redis, key: str) -> None:
    connection.set(key, "a stranger's")

    store(broker, "later", process_in=0.01)
    store(broker, "a")

    wait_until(lambda: broker.forward(["default"])[0], "the task was due")
    assert [claim(broker).task_id, claim(broker).task_id] == ["a", "later"]


@pytest.mark.parametrize(
    "key",
    [
        keys.bell("default"), keys.ALARM, f"{keys.RQ}:executions:a", keys.results("a"), keys.PAUSED, keys.LIMITS,
        f"{keys.OWN}:keys", f"{keys.OWN}:running:k", f"{keys.OWN}:waiting:k", f"{keys.OWN}:completed:default",
    ],
)  # fmt: skip
def test_a_key_of_another_kind_beside_a_task_keeps_it_from_nothing(
    broker: Broker, connection: redis.Redis, key: str
) -> None:
    def damage() -> None:
        if not key.endswith(":waiting:k") or not connection.exists(key):  # whose tasks the stranger would take along
            connection.set(key, "a stranger's")

    store(broker, "a", retention=60, concurrency_key="k")
    store(broker, "b", concurrency_key="k")
    damage()

    held = claim(broker)
    stepped_aside = broker.advance("host.run.1", ("default",)).claims
    damage()
    late = broker.extend([WORKER])
    damage()
    fail(broker, held, Verdict.RETRY, delay_s=0.0)
    damage()
    lapsed = broker.expired()
    broker.forward()
    ids = []
    for _ in range(2):
        held = claim(broker)
        ids.append(held.task_id)
        damage()
        assert broker.advance(WORKER, (), [Completion(held, b"1")]).lost == []
        broker.expired()

    assert (stepped_aside, late, lapsed) == ([], ([], []), [])
    assert sorted(ids) == ["a", "b"]


def test_a_command_that_is_forbidden_takes_no_key_away(broker: Broker, connection: redis.Redis, valkey: Valkey) -> None:
    store(broker, "a", process_in=60)
    store(broker, "b")
    held = claim(broker)
    connection.acl_setuser("limited", enabled=True, passwords=["+p"], keys=["*"], commands=["+@all", "-zcard"])

    try:
        limited = Broker(redis.Redis(unix_socket_path=str(valkey.socket), username="limited", password="p"))
        with pytest.raises(BrokerError):
            fail(limited, held, Verdict.RETRY, delay_s=60.0)
        limited.connection.close()
    finally:
        connection.acl_deluser("limited")

    assert connection.zscore(keys.registry("scheduled", "default"), "a") is not None


@pytest.mark.parametrize("place", ["finished", "failed", "scheduled", "queue"])
def test_an_outcome_is_written_whatever_stands_where_its_task_must_go(
    broker: Broker, connection: redis.Redis, place: str
) -> None:
    store(broker, "a", retention=60)
    held = claim(broker)
    connection.delete(keys.registry(place, "default"))
    connection.set(keys.registry(place, "default"), "a stranger's")

    match place:
        case "finished":
            assert broker.advance(WORKER, (), [Completion(held)]).lost == []
        case "failed":
            assert fail(broker, held) is Verdict.ARCHIVE
        case "scheduled":
            assert fail(broker, held, Verdict.RETRY, delay_s=60.0) is Verdict.RETRY
        case _:
            assert broker.release(WORKER) == ["a"]

    kind = "list" if place == "queue" else "zset"
    assert connection.type(keys.registry(place, "default")) == kind.encode()
    assert rq_job(connection, "a").get_status() == ("queued" if place == "queue" else place)
    assert connection.zcard(keys.wip("default")) == 0


@pytest.mark.parametrize("limit", ["many", "", "1e"])
def test_a_limit_of_a_key_that_is_no_number_means_one(broker: Broker, connection: redis.Redis, limit: str) -> None:
    for task_id in "abc":
        store(broker, task_id, concurrency_key="k")
        connection.hset(keys.job(task_id), "concurrency_limit", limit)
    held = claim(broker)
    others = [broker.advance("host.run.1", ("default",)).claims]

    assert broker.expired() == []
    assert broker.advance(WORKER, (), [Completion(held)]).lost == []
    others.append(broker.advance("host.run.1", ("default",)).claims)

    assert [[found.task_id for found in claims] for claims in others] == [[], ["b"]]


def test_a_record_of_another_kind_among_those_that_wait_for_a_key_is_passed_over(
    broker: Broker, connection: redis.Redis
) -> None:
    for task_id in "abc":
        store(broker, task_id, concurrency_key="k")
    held = claim(broker)
    broker.advance("host.run.1", ("default",))
    connection.delete(keys.job("b"))
    connection.set(keys.job("b"), "a stranger's")

    broker.advance(WORKER, (), [Completion(held)])

    assert claim(broker).task_id == "c"
    assert connection.get(keys.job("b")) == b"a stranger's"


def test_a_damaged_claim_costs_no_other_its_lease(broker: Broker, connection: redis.Redis) -> None:
    store(broker, "a")
    store(broker, "b")
    store(broker, "c", timeout=5)
    for number in range(3):
        broker.advance(f"host.run.{number}", ("default",))
    (a, _), (b, _), (c, _) = connection.zscan_iter(keys.wip("default"))
    connection.zadd(keys.wip("default"), {a: 1, b: 1, c: 1})
    connection.delete(keys.job("a"))
    connection.set(keys.job("a"), "a stranger's")
    connection.set(keys.worker_executions("elsewhere.run.0"), "a stranger's")
    connection.hset(raw(keys.execution(text(c))), "created_at", "soon")
    connection.sadd(keys.worker_executions("host.run.2"), "stranger")

    late, unwanted = broker.extend(["elsewhere.run.0", *(f"host.run.{number}" for number in range(3))])

    assert (late, unwanted) == ([], ["host.run.0"])
    assert connection.zscore(keys.wip("default"), a) == 1
    assert connection.zcount(keys.wip("default"), time.time(), "+inf") == 2  # b and c
    assert [lapsed.task_id for _, lapsed in broker.expired()] == []
    assert connection.zscore(keys.wip("default"), a) is None


@pytest.mark.parametrize(("found", "counted"), [("+1", 2), ("2", 3), ("1_0", 1), ("9" * 400, 2**31 - 1)])
def test_a_count_of_retries_that_a_stranger_wrote_is_counted_on_or_anew(
    broker: Broker, connection: redis.Redis, found: str, counted: int
) -> None:
    store(broker, "a")
    connection.hset(keys.job("a"), "number_of_retries", found)

    assert fail(broker, claim(broker), Verdict.RETRY, delay_s=60.0) is Verdict.RETRY

    assert connection.hget(keys.job("a"), "number_of_retries") == str(counted).encode()
    assert connection.zscore(keys.registry("scheduled", "default"), "a") is not None


def test_a_plain_rq_client_can_enqueue_our_tasks(broker: Broker, connection: redis.Redis) -> None:
    queue = rq_queue(connection)
    job = queue.enqueue(ENTRY_POINT, "test:echo", {"from": "rq"}, job_timeout=60)

    claimed = claim(broker)

    assert claimed.task is not None
    assert (claimed.task.id, claimed.task.type, claimed.task.payload) == (job.id, "test:echo", {"from": "rq"})


def test_rq_sees_the_workers_state_and_statistics(broker: Broker, connection: redis.Redis) -> None:
    connection.sadd(keys.WORKERS, keys.worker(WORKER))
    store(broker, "a")
    store(broker, "b")

    first = claim(broker)
    (busy,) = Worker.all(connection=connection)
    current = busy.get_current_job_id()
    second = broker.advance(WORKER, ("default",), [Completion(first)]).claims[0]
    fail(broker, second)
    broker.advance(WORKER, ("default",))
    (idle,) = Worker.all(connection=connection)

    assert (busy.get_state(), current) == ("busy", "a")
    assert (idle.get_state(), idle.successful_job_count, idle.failed_job_count) == ("idle", 1, 1)


@pytest.mark.parametrize("name", IN_LUA)
def test_a_file_of_lua_uses_every_constant_that_is_put_in_front_of_it(name: str) -> None:
    texts = {path.stem: path.read_text() for path in (Path(broker_module.__file__).parent / "lua").glob("*.lua")}
    # What stands in front of a shared file serves the scripts behind it as well.
    users = texts.values() if name in {"common", "claims", "store"} else [texts[name]]
    code = re.sub(r"--.*", "", "".join(users))

    assert [constant for constant in IN_LUA[name] if not re.search(rf"\b{constant}\b", code)] == []


def test_scripts_survive_a_flush_of_the_script_cache(broker: Broker, connection: redis.Redis) -> None:
    store(broker, "a")
    connection.script_flush()

    assert claim(broker).task_id == "a"


def test_a_dead_server_is_an_error_of_ours_at_once() -> None:
    broker = Broker(connect("unix:///nowhere/valkey.sock"))

    with pytest.raises(BrokerUnavailableError, match="did not answer"):
        broker.advance(WORKER, ("default",))


def test_what_redis_refuses_is_told_apart_from_an_outage(client: Client, connection: redis.Redis) -> None:
    connection.config_set("maxmemory", "1")
    try:
        with pytest.raises(BrokerError, match="out of memory") as raised:
            client.enqueue("test:echo")
    finally:
        connection.config_set("maxmemory", "0")

    assert not isinstance(raised.value, BrokerUnavailableError)


def test_a_refusal_of_one_of_many_commands_quotes_nothing_of_what_it_was_to_store(connection: redis.Redis) -> None:
    pipeline = connection.pipeline(transaction=False)
    pipeline.set("boilerd:any", "card (4711)\nof pipeline caused error: more")
    connection.config_set("maxmemory", "1")
    try:
        with pytest.raises(BrokerUnableError) as refused, translated():
            pipeline.execute()
    finally:
        connection.config_set("maxmemory", "0")

    assert str(refused.value).startswith("Redis is out of memory, raise its maxmemory: command not allowed")


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (redis.exceptions.ReadOnlyError("You can't write against a read only replica."), True),
        (redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), True),
        (redis.exceptions.MasterDownError("Link with MASTER is down"), True),
        (redis.exceptions.ClusterDownError("The cluster is down"), True),
        (redis.exceptions.TryAgainError("Multiple keys request during rehashing of slot"), True),
        (redis.ResponseError("MISCONF Errors writing to the AOF file: No space left on device"), True),
        (redis.ResponseError("NOREPLICAS Not enough good replicas to write."), True),
        (redis.ResponseError("BUSY Redis is busy running a script."), True),
        (redis.ResponseError("UNBLOCKED force unblock from blocking operation"), True),
        (redis.exceptions.MovedError("3999 127.0.0.1:6381"), True),
        (redis.ResponseError("Script attempted to execute a command while the cluster is down"), True),
        (redis.ResponseError("Attempted to access a non local key in a cluster node"), True),
        (redis.ResponseError("Script attempted to access keys that do not hash to the same slot"), False),
        (redis.exceptions.ClusterCrossSlotError("Keys in request don't hash to the same slot"), False),
        (redis.exceptions.NoPermissionError("this user has no permissions to run the 'evalsha' command"), False),
        (redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"), False),
    ],
)
def test_a_refusal_that_passes_is_told_apart_from_one_that_stays(error: redis.RedisError, passes: bool) -> None:
    assert type(translate(error)) is (BrokerUnableError if passes else BrokerRefusedError)


def test_sentinels_that_are_away_are_told_by_their_addresses() -> None:
    client = Client.from_url("redis+sentinel://127.0.0.1:1,127.0.0.1:2/mymaster/0")

    with pytest.raises(BrokerUnavailableError) as raised:
        client.enqueue("test:echo")

    assert "no Sentinel of 127.0.0.1:1, 127.0.0.1:2 knows a primary mymaster" in str(raised.value)
    assert "<redis." not in str(raised.value)
    assert not raised.value.was_sent


@pytest.mark.parametrize("url", ["redis+sentinel://", "redis+sentinel://h:1", "redis://h:port"])
def test_a_url_that_cannot_be_understood_is_a_setting_that_is_wrong(url: str) -> None:
    with pytest.raises(ConfigError, match="redis_url"):
        connect(url)


def test_the_password_and_number_that_were_set_win_over_those_in_the_url() -> None:
    made = connect("redis://user:old@host:1/3", password="new", db=5).connection_pool.connection_kwargs

    assert (made["username"], made["password"], made["db"]) == ("user", "new", 5)


# The pool.


def test_scripts_and_commands_of_a_process_share_one_connection(client: Client) -> None:
    first = client.connection.client_id()
    client.enqueue("test:echo")

    assert client.connection.client_id() == first


def test_threads_that_enqueue_at_once_have_answers_of_their_own(client: Client) -> None:
    names = [f"task-{n}" for n in range(200)]
    with ThreadPoolExecutor(8) as threads:
        infos = list(threads.map(lambda name: client.enqueue("test:echo", task_id=name), names))

    assert [info.id for info in infos] == names
    assert client.connection.llen(keys.queue("default")) == len(names)


def test_a_subscriber_waits_for_ever_on_a_connection_that_scripts_had(valkey: Valkey, connection: redis.Redis) -> None:
    with Client.from_url(valkey.url, timeout_s=0.5) as client:
        client.enqueue_many([("test:echo", None)] * (CHUNK + 1))  # the second script finds the connection open
        with client.connection.pubsub() as pubsub:  # type: ignore[no-untyped-call]
            pubsub.subscribe("news")
            messages = pubsub.listen()
            assert next(messages)["type"] == "subscribe"
            later = threading.Timer(1.0, connection.publish, ("news", "late"))
            later.start()

            assert next(messages)["data"] == b"late"
            later.join()


def test_scripts_and_commands_keep_their_timeouts_in_turns(valkey: Valkey) -> None:
    with Client.from_url(valkey.url, timeout_s=0.5) as client:
        for _ in range(2):
            client.enqueue_many([("test:echo", None)] * (CHUNK + 1))  # the second script finds the connection open
            with pytest.raises(redis.TimeoutError):
                client.connection.blpop(["nothing"], 0)


def test_a_forked_child_leaves_the_open_connection_to_its_parent(client: Client) -> None:
    own = client.connection.client_id()
    read_fd, write_fd = os.pipe()
    if not (pid := os.fork()):
        try:
            client.enqueue("test:echo", task_id="child")
            os.write(write_fd, str(client.connection.client_id()).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(write_fd)
    other = int(os.read(read_fd, 100))
    os.close(read_fd)

    assert other != own
    assert client.connection.client_id() == own
    assert client.connection.exists(keys.job("child"))


def test_a_connection_that_the_server_closed_is_opened_anew(client: Client, valkey: Valkey) -> None:
    client.enqueue("test:echo")
    with redis.Redis.from_url(valkey.url) as admin:
        admin.execute_command("CLIENT", "KILL", "ID", client.connection.client_id())

    assert client.enqueue("test:echo").state is TaskState.PENDING

"""Build tasks and jobs, and do with them what clients and workers do: enqueue, claim, complete, fail."""

import json
import time
from datetime import UTC, datetime
from typing import Any

import redis
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from boilerd import Client, Inspector, Task, TaskState
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.claims import Claim, Completion, Failure
from boilerd.broker.connection import text
from boilerd.broker.job_hash import NewTask
from boilerd.tasks.fingerprint import FailureKind
from boilerd.tasks.histogram import bucket_of, size_bucket_of
from boilerd.tasks.metric_record import (
    ENQUEUED,
    MOST_RUN_US,
    OUTCOME_KEYS,
    PAYLOAD_BUCKETS,
    PAYLOAD_BYTES,
    RUN_BUCKETS,
    RUN_US,
    WAIT_BUCKETS,
    WAIT_US,
    Record,
    encode,
    pack_pair,
)
from boilerd.tasks.options import task_options
from boilerd.tasks.payload import encode_payload
from boilerd.tasks.retry import Decision, Verdict


def worker_name(row: int = 0) -> str:
    return f"host.run.{row}"


#: The worker of a test that needs only one.
WORKER = worker_name()


class Clock:
    """A monotonic clock that the test can put forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


# Enqueue.


def new_task(task_id: str, payload: Any = None, *, task_type: str = "test:echo", **options: Any) -> NewTask:
    return NewTask(task_id, task_type, encode_payload(payload), task_options(**options))


def store(broker: Broker, task_id: str, payload: Any = None, **options: Any) -> str:
    """Enqueue a task without a client; its ID."""
    (answer,) = broker.enqueue([new_task(task_id, payload, **options)])
    assert isinstance(answer, TaskState), answer
    return task_id


def enqueue(client: Client, *task_ids: str, **options: Any) -> None:
    """Enqueue a task of each ID, with the same options."""
    for task_id in task_ids:
        client.enqueue("test:echo", task_id=task_id, **options)


def pending(connection: redis.Redis, queue: str = "default") -> list[str]:
    """The IDs of the tasks that wait in a queue."""
    return [text(task_id) for task_id in connection.lrange(keys.queue(queue), 0, -1)]


# Claim.


def claim_batch(broker: Broker, *queues: str, row: int = 0, limit: int = 1) -> list[Claim]:
    """Claim as many tasks as there are, up to `limit`."""
    return broker.advance(worker_name(row), queues or ("default",), limit=limit).claims


def claim(broker: Broker, *queues: str, row: int = 0) -> Claim:
    """Claim the next task; there must be one."""
    (held,) = claim_batch(broker, *queues, row=row)
    return held


def task_in(held: Claim) -> Task:
    assert held.task is not None
    return held.task


def task_ids(claims: list[Claim]) -> list[str]:
    return [held.task_id for held in claims]


def serve(broker: Broker, row: int, queues: list[str], **fields: str) -> None:
    """A worker that lives, as its record tells."""
    record: dict[Any, Any] = {
        "queues": ",".join(queues),
        "birthmark": "x",
        "last_heartbeat": datetime.now(UTC).isoformat(),
        **fields,
    }
    broker.register(worker_name(row), queues, record)
    broker.connection.hset(keys.worker(worker_name(row)), mapping=record)


# Complete and fail.

TRACEBACK = "Traceback …\nValueError: bad"


def complete(broker: Broker, held: Claim, result: bytes = b"", *, row: int = 0) -> None:
    assert broker.advance(worker_name(row), (), [Completion(held, result)]).lost == []


def complete_next(broker: Broker, *queues: str, result: bytes = b"") -> str:
    """Claim the next task and complete it; its ID."""
    held = claim(broker, *queues)
    complete(broker, held, result)
    return held.task_id


def failure(verdict: Verdict = Verdict.ARCHIVE, *, traceback: str = TRACEBACK, **decision: Any) -> Failure:
    return Failure("ValueError: bad", traceback, Decision(verdict, **decision), 25)


def fail(broker: Broker, held: Claim, verdict: Verdict = Verdict.ARCHIVE, *, row: int = 0, **options: Any) -> Verdict:
    """Record a failed attempt, which the broker must accept; the verdict that it recorded."""
    recorded = broker.fail(worker_name(row), held, failure(verdict, **options))
    assert recorded is not None
    return recorded


def fail_next(broker: Broker, verdict: Verdict, *queues: str, **decision: Any) -> str:
    """Claim the next task and let its attempt fail; its ID."""
    held = claim(broker, *queues)
    fail(broker, held, verdict, **decision)
    return held.task_id


def make_due(connection: redis.Redis) -> None:
    """Make all scheduled tasks and retries pending, as when their moments have come."""
    scheduled = keys.registry("scheduled", "default")
    connection.zunionstore(scheduled, {scheduled: 0})
    Broker(connection).forward()


def in_state(client: Client, broker: Broker, state: TaskState, task_type: str = "test:echo") -> str:
    """Bring a task into a state; its ID."""
    if state is TaskState.SCHEDULED:
        return client.enqueue(task_type, 1, process_in=3600).id
    task_id = client.enqueue(task_type, 1, retention=60).id
    if state is TaskState.ACTIVE:
        claim(broker)
    elif state is TaskState.RETRY:
        fail_next(broker, Verdict.RETRY, delay_s=3600.0)
    elif state is TaskState.ARCHIVED:
        fail_next(broker, Verdict.ARCHIVE)
    elif state is TaskState.COMPLETED:
        complete_next(broker, result=b'{"a":1}')
    return task_id


# RQ's own view.


def rq_queue(connection: redis.Redis, name: str = "default") -> Queue:
    """A queue as a plain RQ client has it, with boilerd's serializer."""
    return Queue(name, connection=connection, serializer=JSONSerializer)


def rq_job(connection: redis.Redis, task_id: str) -> Job:
    """A task's job as RQ reads it."""
    return Job.fetch(task_id, connection=connection, serializer=JSONSerializer)


# Values.


def endless_list() -> list[Any]:
    """A list that contains itself, which no encoder comes to the end of."""
    itself: list[Any] = []
    itself.append(itself)
    return itself


def failure_kind(fingerprint: str = "a" * 12, *, release: str = "") -> FailureKind:
    """One way to fail."""
    return FailureKind(fingerprint, "test:echo", "shop.OwnError", "card N", ("shop.charge", "shop.pay"), release)


def fail_as(
    broker: Broker,
    task_id: str,
    how: FailureKind | None,
    verdict: Verdict = Verdict.ARCHIVE,
    queue: str = "default",
    **options: Any,
) -> None:
    """Store a task and let its attempt fail in this way."""
    store(broker, task_id, queue=queue, **options)
    failure = Failure("OwnError: card 1", "…", Decision(verdict, delay_s=60.0), 25, kind=how)
    assert broker.fail(WORKER, claim(broker, queue), failure) is verdict


def tell_types(connection: redis.Redis, daemon: str, *patterns: str) -> None:
    """Have a daemon live that tells of these handlers."""
    connection.zadd(keys.DAEMONS, {daemon: time.time()})
    connection.set(keys.daemon(daemon), json.dumps({"types": patterns}))


def tell_cron(
    broker: Broker, name: str = "nightly", spec: str = "0 3 * * *", daemon: str = "web1.a1", queue: str = "low"
) -> str:
    """A daemon that lives and has this periodic task, as it tells of itself; the name of the task."""
    entry = {"name": name, "spec": spec, "timezone": "UTC", "type": "report:build", "queue": queue}
    facts = {"host": daemon.partition(".")[0], "pid": 1, "versions": {"boilerd": "1"}, "crons": [entry]}
    encoded = json.dumps(facts)
    assert broker.publish(daemon, len(encoded), encoded)
    broker.ticks_since({name: f"UTC {spec}"})
    return name


# Metrics.


def counted(completed: int, archived: int = 0, run_s: float = 0.2) -> Record:
    """A record of metrics of attempts which all waited 20 ms, and ran for so long."""
    number, run_us = completed + archived, round(run_s * 1e6)
    found = {
        OUTCOME_KEYS["completed"]: completed, OUTCOME_KEYS["archived"]: archived, ENQUEUED: number,
        RUN_US: number * run_us, MOST_RUN_US: run_us, RUN_BUCKETS + bucket_of(run_s): number,
        WAIT_US: number * 20_000, WAIT_BUCKETS + bucket_of(0.02): number,
        PAYLOAD_BYTES: number * 100, PAYLOAD_BUCKETS + size_bucket_of(100): number,
    }  # fmt: skip
    return {key: value for key, value in found.items() if value}


def count_in_minute(connection: redis.Redis, minute: int, queue: str, task_type: str, record: Record) -> None:
    """Have this counted of a queue and type in a minute, counted from 1970."""
    connection.hset(keys.metrics("minute", minute), pack_pair(queue, task_type), encode(record))


def count_in_total(connection: redis.Redis, queue: str, task_type: str, record: Record) -> None:
    """Have this counted of a queue and type in all time."""
    connection.hset(keys.METRICS_TOTAL, pack_pair(queue, task_type), encode(record))


def keep_page(connection: redis.Redis) -> str:
    """Keep a page of the dashboard that shows little; its ID."""
    about = {"path": "/operations?size=5", "title": "Operations", "user": "anna", "version": "1"}
    return Inspector(connection).kept_pages.keep('{"operations":[],"size":5}', shows_payloads=True, **about)

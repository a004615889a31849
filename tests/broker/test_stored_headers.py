"""Headers in the record of a task: they stay with it wherever it goes, and damaged ones stop no one."""

import json
from typing import Any

import pytest
import redis

from boilerd import Client, ForbiddenJobError, Inspector, InvalidTaskError, TaskState
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.connection import connect
from boilerd.broker.moving import Move
from boilerd.tasks.headers import MAX_HEADER_BYTES
from boilerd.tasks.retry import Verdict
from builders import claim, fail_next, pending, rq_job, store, task_in
from support import StartValkey, Valkey

HEADERS = {"tenant-id": "7", "traceparent": "00-ü"}
#: What damaged or foreign data has in the place of headers.
DAMAGED = [
    [], "text", 7, None, {"a": 1}, {"a": None}, {"a": ["b"]}, {"A": "b"}, {"": "b"}, {"a": "x" * MAX_HEADER_BYTES},
    {f"n{number}": "" for number in range(2_000)},
]  # fmt: skip


def stored(connection: redis.Redis, kwargs: Any, payload: str = '{"request_id":"r"}') -> str:
    """A pending job of ours with these keyword arguments; its ID."""
    data = f'["boilerd.entry_point.run",null,["test:echo",{payload}],{json.dumps(kwargs)}]'
    connection.hset(keys.job("x"), mapping={"data": data, "origin": "default", "status": "queued"})
    connection.rpush(keys.queue("default"), "x")
    return "x"


def test_a_task_without_headers_is_stored_as_before(broker: Broker, connection: redis.Redis) -> None:
    store(broker, "a", 1)

    assert connection.hget(keys.job("a"), "data") == b'["boilerd.entry_point.run",null,["test:echo",1],{}]'
    assert task_in(claim(broker)).headers == {}


def test_headers_stay_with_a_task_that_is_retried_archived_and_run_again(
    broker: Broker, connection: redis.Redis
) -> None:
    inspector = Inspector(connection)
    store(broker, "a", headers=HEADERS)
    seen = []

    for verdict in (Verdict.RETRY, Verdict.ARCHIVE):
        fail_next(broker, verdict, delay_s=3600.0)
        seen.append(inspector.task("a").headers)
        inspector.run("a")

    assert seen == [HEADERS, HEADERS]
    assert task_in(claim(broker)).headers == HEADERS


def test_headers_of_a_lost_attempt_are_known_to_who_settles_it(broker: Broker) -> None:
    store(broker, "a", {"request_id": "payload"}, headers={**HEADERS, "request_id": "header"})
    claim(broker)

    (held,) = broker.held("host.run.0")

    assert task_in(held).headers == {**HEADERS, "request_id": "header"}
    assert task_in(held).request_id == "header"


def test_rqs_tools_know_headers_as_keyword_arguments_and_keep_them(broker: Broker, connection: redis.Redis) -> None:
    store(broker, "a", 1, headers=HEADERS)
    job = rq_job(connection, "a")

    assert (job.args, job.kwargs) == (["test:echo", 1], {"headers": HEADERS})
    job.save()
    assert task_in(claim(broker)).headers == HEADERS


@pytest.mark.parametrize("state", [TaskState.PENDING, TaskState.SCHEDULED, TaskState.ARCHIVED])
def test_headers_move_with_their_task_to_another_broker(
    broker: Broker, client: Client, start_valkey: StartValkey, state: TaskState
) -> None:
    client.enqueue("test:echo", headers=HEADERS, task_id="a", process_in=3600 if state == TaskState.SCHEDULED else None)
    if state == TaskState.ARCHIVED:
        fail_next(broker, Verdict.ARCHIVE)

    with connect(start_valkey().url) as target:
        assert [step.moved for step in Move(client.connection, target).run("default") if step.moved] == [["a"]]
        found = Inspector(target).task("a")

    assert (found.state, found.headers) == (state, HEADERS)


def test_two_tasks_that_differ_in_their_headers_alone_have_one_unique_lock(broker: Broker) -> None:
    store(broker, "a", {"n": 1}, unique=60, headers={"tenant-id": "7"})

    with pytest.raises(AssertionError, match="unique lock"):
        store(broker, "b", {"n": 1}, unique=60, headers={"tenant-id": "8"})


@pytest.mark.parametrize(
    ("headers", "payload", "request_id"),
    [
        ({"request_id": "of the header"}, {"request_id": "of the payload"}, "of the header"),
        ({"tenant-id": "7"}, {"request_id": "of the payload"}, "of the payload"),
        ({"request_id": "of the header"}, [1], "of the header"),
        ({"request_id": "r" * 1000}, None, "r" * 128),
        ({}, {"request_id": 7}, None),
    ],
)
def test_the_request_id_of_the_header_wins_over_that_of_the_payload(
    broker: Broker, headers: dict[str, str], payload: Any, request_id: str | None
) -> None:
    store(broker, "a", payload, headers=headers)

    claimed = claim(broker)
    (held,) = broker.held("host.run.0")

    assert (task_in(claimed).request_id, task_in(held).request_id) == (request_id, request_id)
    assert task_in(claimed).log_fields["request_id"] == request_id


@pytest.mark.parametrize("headers", DAMAGED, ids=lambda value: repr(value)[:20])
def test_a_task_whose_headers_are_damaged_is_refused_and_shown_without_them(
    broker: Broker, connection: redis.Redis, headers: Any
) -> None:
    stored(connection, {"headers": headers})

    shown = Inspector(connection).task("x")
    claimed = claim(broker)
    (held,) = broker.held("host.run.0")

    assert (shown.type, shown.payload, shown.headers) == ("test:echo", {"request_id": "r"}, {})
    assert isinstance(claimed.error, ForbiddenJobError)
    assert str(claimed.error).startswith("header")
    assert isinstance(held.error, ForbiddenJobError)


@pytest.mark.parametrize("kwargs", [None, [], {}, {"other": 1}, {"other": {"headers": 1}}])
def test_keyword_arguments_that_are_no_headers_are_ignored_as_ever(
    broker: Broker, connection: redis.Redis, kwargs: Any
) -> None:
    stored(connection, kwargs)

    task = task_in(claim(broker))

    assert (task.headers, task.request_id, task.payload) == ({}, "r", {"request_id": "r"})


def test_headers_nested_very_deep_or_of_megabytes_are_not_read_for_a_lost_attempt(
    broker: Broker, connection: redis.Redis
) -> None:
    stored(connection, {"headers": {"a": "x" * 5_000_000}})
    claim(broker)
    (large,) = broker.held("host.run.0")
    deep = b'["boilerd.entry_point.run",null,["test:echo",1],{"headers":' + b"[" * 10_000 + b"]" * 10_000 + b"}]"
    connection.hset(keys.job("x"), "data", deep)
    (nested,) = broker.held("host.run.0")

    assert task_in(large).headers == {}
    assert isinstance(nested.error, ForbiddenJobError)


def test_nothing_is_sent_where_a_header_is_not_allowed(client: Client) -> None:
    with pytest.raises(InvalidTaskError, match="header 'Tenant'"):
        client.enqueue("test:echo", headers={"Tenant": "7"})
    with pytest.raises(InvalidTaskError, match="4097 bytes are more than 4096"):
        client.enqueue_many([("test:echo", 1)], headers={"a": "x" * MAX_HEADER_BYTES})

    assert pending(client.connection) == []


def test_each_task_of_many_has_the_headers_of_the_call(client: Client, valkey: Valkey) -> None:
    client.enqueue_many([("test:echo", 1), ("test:echo", 2)], headers=HEADERS)

    with Inspector.from_url(valkey.url) as inspector:
        assert [task.headers for task in inspector.tasks("default", TaskState.PENDING)] == [HEADERS, HEADERS]

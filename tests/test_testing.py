"""The tools with which applications test themselves."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from boilerd import (
    DuplicateTaskError,
    HandlerNotFoundError,
    InvalidPayloadError,
    InvalidTaskError,
    ServeMux,
    Task,
    TaskIdConflictError,
    TaskNotFoundError,
    TaskState,
)
from boilerd.testing import RecordingClient, run


@dataclass
class Mail:
    to: list[str]


@pytest.fixture
def mux() -> ServeMux:
    mux = ServeMux()

    @mux.use
    def loud(handler: Any) -> Any:
        return lambda task: f"{handler(task)}!"

    @mux.handle("email:deliver", payload=Mail)
    def deliver(task: Task) -> str:
        return f"to {task.payload.to} in attempt {task.attempt}"

    @mux.handle("async:echo")
    async def echo(task: Task) -> Any:
        return task.payload

    return mux


def test_a_task_is_run_in_its_middleware_with_the_payload_that_its_handler_declared(mux: ServeMux) -> None:
    assert run(mux, "email:deliver", {"to": ("a", "b")}, attempt=3) == "to ['a', 'b'] in attempt 3!"
    assert run(mux, "async:echo", {"a": (1, 2)}) == "{'a': [1, 2]}!"


def test_what_no_worker_would_take_is_refused(mux: ServeMux) -> None:
    with pytest.raises(InvalidPayloadError, match=r"\$.to"):
        run(mux, "email:deliver", {"to": 1})
    with pytest.raises(InvalidPayloadError):
        run(mux, "async:echo", object())
    with pytest.raises(InvalidTaskError):
        run(mux, "no type")
    with pytest.raises(HandlerNotFoundError):
        run(mux, "other:type")


def test_what_is_enqueued_is_recorded_with_its_options(mux: ServeMux) -> None:
    client = RecordingClient(mux=mux)

    now = client.enqueue("email:deliver", Mail(["a"]), queue="critical")
    later = client.enqueue_many([("async:echo", 1)], process_in=timedelta(hours=1))

    assert (now.state, now.queue) == (TaskState.PENDING, "critical")
    assert [info.state for info in later if not isinstance(info, Exception)] == [TaskState.SCHEDULED]
    assert [(task.type, task.payload) for task in client.tasks] == [("email:deliver", {"to": ["a"]}), ("async:echo", 1)]
    assert client.tasks[0].options.queue == "critical"
    assert client.tasks[1].options.process_in_s == 3600
    with pytest.raises(InvalidPayloadError):
        client.enqueue("email:deliver", {"to": 1})


def test_an_async_handler_inside_of_a_running_loop_says_what_would_do(mux: ServeMux) -> None:
    async def ask() -> Any:
        return run(mux, "async:echo", 1)

    async def ask_in_a_thread() -> Any:
        return await asyncio.to_thread(run, mux, "async:echo", 1)

    with pytest.raises(RuntimeError, match=r"a coroutine of an async def handler .* `await asyncio\.to_thread\(run, "):
        asyncio.run(ask())
    assert asyncio.run(ask_in_a_thread()) == "1!"


def test_ids_and_unique_locks_refuse_as_they_do_in_redis(mux: ServeMux) -> None:
    with RecordingClient() as client:
        first = client.enqueue("a:b", 1, unique=60, task_id="one")
        with pytest.raises(TaskIdConflictError):
            client.enqueue("a:b", 2, task_id="one")
        with pytest.raises(DuplicateTaskError) as refused:
            client.enqueue("a:b", 1, unique=60)
        assert refused.value.task_id == first.id

        assert client.cancel("one") is True
        assert client.enqueue("a:b", 1, unique=60).state == TaskState.PENDING
        with pytest.raises(TaskNotFoundError):
            client.cancel("one")


def test_all_that_was_enqueued_can_be_run_with_what_that_enqueues() -> None:
    client, mux = RecordingClient(), ServeMux()

    @mux.handle("count:down")
    def down(task: Task) -> int:
        if task.payload:
            client.enqueue("count:down", task.payload - 1, process_in=10)
        return int(task.payload)

    client.enqueue("count:down", 2)

    assert list(client.run_all(mux)) == [2, 1, 0]
    assert client.tasks == []

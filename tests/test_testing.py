"""The tools with which applications test themselves."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from boilerd import (
    ConfigError,
    DuplicateTaskError,
    HandlerNotFoundError,
    InvalidPayloadError,
    InvalidTaskError,
    ServeMux,
    Task,
    TaskIdConflictError,
    TaskNotFoundError,
    TaskState,
    retry,
    testing,
)
from boilerd.settings.definitions import Settings
from boilerd.testing import RecordingClient, run
from boilerd.units import Size


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


def test_what_runs_sees_the_options_of_its_task(mux: ServeMux) -> None:
    client = RecordingClient()
    seen: list[Task] = []
    mux.handle("look:at", seen.append)
    deadline = datetime(2099, 1, 1, tzinfo=UTC)

    client.enqueue("look:at", {"request_id": "r-1"}, queue="low", timeout=77, max_retries=3, deadline=deadline)
    client.enqueue("look:at", deadline=deadline)
    list(client.run_all(mux))

    first, second = seen
    assert (first.queue, first.timeout_s, first.max_retries, first.deadline) == ("low", 77, 3, deadline)
    assert first.request_id == "r-1"
    assert (second.timeout_s, second.max_retries) == (None, 25)


def test_a_task_that_says_nothing_has_the_retries_of_its_handler(mux: ServeMux) -> None:
    @mux.handle("look:at")
    @retry(max_retries=5)
    def look(task: Task) -> int:
        return task.max_retries

    client = RecordingClient(mux=mux)
    told = [client.enqueue("look:at").max_retries, client.enqueue("look:at", max_retries=2).max_retries]

    assert list(client.run_all(mux)) == ["5!", "2!"]
    assert told == [5, 2]
    assert run(mux, "look:at") == "5!"
    assert run(mux, "look:at", max_retries=0) == "0!"


def test_the_error_handler_is_told_of_an_error_before_it_is_raised(mux: ServeMux) -> None:
    told: list[tuple[str, BaseException]] = []
    mux.error_handler(lambda task, error: told.append((task.type, error)))

    @mux.handle("fail:always")
    def fail(task: Task) -> None:
        raise ValueError("bad")

    with pytest.raises(ValueError, match="bad") as raised:
        run(mux, "fail:always")
    with pytest.raises(HandlerNotFoundError):
        run(mux, "other:type")

    assert [task_type for task_type, _ in told] == ["fail:always", "other:type"]
    assert told[0][1] is raised.value


def test_a_recording_client_is_made_in_all_ways_in_which_a_client_is(mux: ServeMux) -> None:
    by_url = RecordingClient.from_url("redis://localhost:1/0", mux=mux, timeout_s=1)
    by_settings = RecordingClient.from_settings(Settings(max_payload=Size(10)))

    by_url.enqueue("async:echo", 1)

    assert [task.payload for task in by_url.tasks] == [1]
    with pytest.raises(InvalidPayloadError, match=r"\$\.to"):
        by_url.enqueue("email:deliver", {"to": 1})
    with pytest.raises(InvalidPayloadError, match="are more than 10"):
        by_settings.enqueue("async:echo", "x" * 100)
    with pytest.raises(ConfigError):
        RecordingClient.from_url("nonsense://")


def test_all_public_names_can_be_imported() -> None:
    found: dict[str, Any] = {}

    exec("from boilerd.testing import *", found)

    assert set(testing.__all__) <= found.keys()
    with pytest.raises(AttributeError, match=r"'boilerd\.testing' has no attribute 'Daemon'"):
        _ = testing.Daemon

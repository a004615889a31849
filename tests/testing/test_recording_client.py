"""A client that records what is enqueued, and runs it by a clock of its own."""

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pydantic
import pytest

from boilerd import (
    AsyncClient,
    BrokerUnavailableError,
    Client,
    ConfigError,
    DeadlineExceededError,
    Draft,
    DuplicateTaskError,
    Push,
    ServeMux,
    Task,
    TaskFailedError,
    TaskIdConflictError,
    TaskNotFoundError,
    TaskState,
    WorkerContext,
    retry,
)
from boilerd.settings.definitions import Retry, Settings
from boilerd.tasks.task import ARCHIVE_TTL_S
from boilerd.testing import RecordingClient, override, run
from boilerd.units import Duration

NOON = datetime(2026, 3, 28, 12, tzinfo=UTC)
SEEN: ContextVar[str] = ContextVar("seen", default="")


@dataclass
class Mail:
    to: str
    copies: int = 1


@pytest.fixture
def mux() -> ServeMux:
    mux = ServeMux()

    @mux.handle("flaky")
    @retry(max_retries=3, base=10)
    def flaky(task: Task) -> int:
        if task.attempt <= task.payload:
            raise ValueError(f"attempt {task.attempt}")
        return task.attempt

    @mux.handle("echo")
    def echo(task: Task) -> Any:
        return task.payload

    return mux


@pytest.fixture
def client(mux: ServeMux) -> RecordingClient:
    return RecordingClient(mux=mux, now=NOON)


# What was enqueued.


def test_an_enqueued_task_is_found_by_a_part_of_its_payload(client: RecordingClient) -> None:
    client.enqueue("echo", {"to": {"name": "ada", "at": "x"}, "tags": [{"a": 1, "b": 2}]}, queue="low")

    task = client.assert_enqueued("echo", payload={"to": {"name": "ada"}, "tags": [{"a": 1}]}, queue="low", count=1)

    assert (task.state, task.queue, client.of("echo")) == (TaskState.PENDING, "low", [task])
    with pytest.raises(AssertionError, match=r"payload\.tags\[0\]\.b is 2, expected none"):
        client.assert_enqueued("echo", payload={"to": {"name": "ada", "at": "x"}, "tags": [{"a": 1}]}, exact=True)


def test_a_payload_is_compared_as_json_has_it(client: RecordingClient) -> None:
    client.enqueue("echo", Mail("ada"))

    client.assert_enqueued("echo", payload=Mail("ada"), exact=True)
    client.refute_enqueued("echo", payload=Mail("bob"))
    client.refute_enqueued("echo", payload={"copies": True})
    client.refute_enqueued("echo", payload=None)


def test_a_failed_assertion_lists_what_there_was_the_nearest_first(client: RecordingClient) -> None:
    client.enqueue("flaky", {"to": "ada"}, queue="low")
    client.enqueue("echo", {"to": "bob"})
    client.enqueue("echo", {"to": "ada"}, process_in=60)
    lacking = "payload.cc is missing, expected 1"

    with pytest.raises(AssertionError) as failed:
        client.assert_enqueued("echo", payload={"to": "ada", "cc": 1}, queue="low")

    assert str(failed.value).splitlines() == [
        "there is no task 'echo' with payload {'cc': 1, 'to': 'ada'}, queue 'low'",
        f"  echo in default, scheduled: {lacking}; queue is 'default'",
        f"  echo in default, pending: payload.to is 'bob', expected 'ada'; {lacking}; queue is 'default'",
        f"  flaky in low, pending: type is 'flaky'; {lacking}",
    ]


def test_the_number_of_tasks_is_asserted(client: RecordingClient) -> None:
    client.enqueue_many([("echo", 1), ("echo", 2)])

    client.assert_enqueued("echo", count=2)
    with pytest.raises(AssertionError, match="there are 2, and not 1, of task 'echo'"):
        client.assert_enqueued("echo", count=1)
    with pytest.raises(AssertionError, match="there is a task 'echo'\n  echo in default, pending: payload is 1"):
        client.refute_enqueued("echo")
    with pytest.raises(AssertionError, match="no task waits here"):
        RecordingClient().assert_enqueued("echo")
    with pytest.raises(ValueError, match="refute_enqueued"):
        client.assert_enqueued("echo", count=0)


def test_when_a_task_is_due_is_asserted(client: RecordingClient) -> None:
    client.enqueue("echo", process_in=3600)

    client.assert_enqueued("echo", due_in=timedelta(hours=1))
    client.travel(600)
    client.assert_enqueued("echo", due_in=3000)
    with pytest.raises(AssertionError, match="due in 3000 s"):
        client.assert_enqueued("echo", due_in=0)


def test_only_what_is_enqueued_in_a_block_is_captured_also_if_it_ran_there(client: RecordingClient) -> None:
    client.enqueue("echo", "before")

    with client.capture() as seen:
        client.enqueue("echo", "inside")
        client.drain()
    client.enqueue("echo", "after")

    assert [task.payload for task in seen.tasks] == ["inside"]
    seen.assert_enqueued("echo", "inside", count=1)
    seen.refute_enqueued("echo", "before")


def test_headers_are_asserted_and_go_on_as_in_a_daemon(client: RecordingClient, mux: ServeMux) -> None:
    @mux.handle("first")
    @retry(base=1)
    def first(task: Task) -> None:
        if task.attempt == 1:
            raise ValueError("once more")
        client.enqueue("echo", headers={"own": "1"})

    client.enqueue("first", headers={"request_id": "r-1", "tenant": "7"})
    with client.capture() as seen:
        client.drain(until=1)

    seen.assert_enqueued("echo", headers={"request_id": "r-1", "own": "1"})
    seen.refute_enqueued("echo", headers={"tenant": "7"})
    with pytest.raises(AssertionError, match=r"headers\.own is '1', expected '2'"):
        seen.assert_enqueued("echo", headers={"own": "2"})


def test_client_middleware_goes_around_what_is_recorded(client: RecordingClient) -> None:
    @client.use
    def tagged(drafts: list[Draft], push: Push) -> Any:
        for draft in drafts:
            draft.headers["tag"] = str(len(drafts))
        return push(drafts)

    client.enqueue_many([("echo", 1), ("echo", 2)])

    client.assert_enqueued("echo", headers={"tag": "2"}, count=2)


def test_a_type_may_be_an_object_that_has_its_name(client: RecordingClient, mux: ServeMux) -> None:
    echo = SimpleNamespace(type="echo")
    client.enqueue("echo", 1)

    assert client.assert_enqueued(echo, 1) == client.of(echo)[0]
    assert run(mux, echo, 2) == 2


def test_a_unique_lock_counts_from_when_its_task_is_due_and_ends_by_the_clock(client: RecordingClient) -> None:
    first = client.enqueue("echo", unique=60, process_in=30)

    client.travel(89)
    with pytest.raises(DuplicateTaskError) as refused:
        client.enqueue("echo", unique=60)
    client.travel(1)

    assert refused.value.task_id == first.id
    assert client.enqueue("echo", unique=60).state == TaskState.PENDING


def test_a_lock_is_free_when_its_task_is_gone_and_another_has_its_id(client: RecordingClient) -> None:
    client.enqueue("echo", 1, task_id="a", unique=60)
    client.drain()
    client.enqueue("echo", 2, task_id="a")

    assert client.enqueue("echo", 1, unique=60).state == TaskState.PENDING


# Run it.


def test_a_retry_runs_when_it_is_due_and_the_clock_goes_there(client: RecordingClient) -> None:
    client.enqueue("flaky", 2, retention=60)

    first = client.drain()
    waiting = client.tasks
    rest = client.drain(until=timedelta(seconds=31))

    assert [(attempt.state, attempt.retry_in) for attempt in first] == [(TaskState.RETRY, timedelta(seconds=10))]
    assert [(task.state, task.retried, task.last_error) for task in waiting] == [("retry", 1, "ValueError: attempt 1")]
    assert [(attempt.started_at - NOON).seconds for attempt in rest] == [10, 30]
    assert [attempt.result for attempt in rest] == [None, 3]
    assert (client.now - NOON, client.tasks) == (timedelta(seconds=31), [])
    assert [task.result for task in client.completed] == [3]
    client.travel(timedelta(minutes=1))
    assert client.completed == []


def test_the_last_error_of_a_task_is_raised_and_no_earlier_one(client: RecordingClient) -> None:
    client.enqueue("flaky", 9)

    with pytest.raises(ValueError, match="attempt 4") as raised:
        client.drain(until="end")

    assert "attempt 4 of task" in raised.value.__notes__[0]
    assert [(task.type, task.last_error) for task in client.archived] == [("flaky", "ValueError: attempt 4")]


def test_a_drain_that_raises_nothing_returns_all_attempts(client: RecordingClient) -> None:
    client.enqueue("flaky", 9)
    client.enqueue("echo", 1, process_in=15)

    attempts = client.drain(until=client.now + timedelta(hours=1), raise_errors=False)

    assert [(attempt.type, str(attempt.state)) for attempt in attempts] == [
        ("flaky", "retry"), ("flaky", "retry"), ("echo", "completed"), ("flaky", "retry"), ("flaky", "archived"),
    ]  # fmt: skip
    assert [attempts[place].retry_in for place in (2, 4)] == [None, None]


def test_what_a_hook_raises_is_raised(client: RecordingClient, mux: ServeMux) -> None:
    @mux.error_handler
    def tell(task: Task, error: BaseException) -> None:
        raise KeyError("no such thing")

    client.enqueue("flaky", 1)

    with pytest.raises(KeyError, match="no such thing"):
        client.drain()


def test_heavier_queues_run_first_and_within_one_the_order_is_that_of_the_enqueue(client: RecordingClient) -> None:
    for number, queue in enumerate(["low", "default", "mine", "critical", "low"]):
        client.enqueue("echo", number, queue=queue)

    only = [attempt.result for attempt in client.drain(queues=["mine"])]
    rest = [attempt.result for attempt in client.drain()]

    assert (only, rest) == ([2], [3, 1, 0, 4])
    with pytest.raises(TypeError, match=r"give a list, as in queues=\['low'\]"):
        client.drain(queues="low")


def test_what_is_due_runs_in_the_order_in_which_it_came_due_and_says_when(client: RecordingClient) -> None:
    for seconds in (20, 10, 0):
        client.enqueue("echo", seconds, process_in=seconds)

    client.travel(30)
    attempts = client.drain(until=NOON)

    assert [attempt.result for attempt in attempts] == [0, 10, 20]
    assert [attempt.task.enqueued_at for attempt in attempts] == [NOON, client.now, client.now]
    assert client.now - NOON == timedelta(seconds=30)


def test_chosen_queues_run_in_their_order(client: RecordingClient) -> None:
    for queue in ("critical", "low", "own"):
        client.enqueue("echo", queue, queue=queue)

    attempts = client.drain(queues=["own", "low"])

    assert [attempt.result for attempt in attempts] == ["own", "low"]


def test_tasks_without_end_are_an_error_that_names_them(client: RecordingClient, mux: ServeMux) -> None:
    mux.handle("again", lambda task: client.enqueue("again", process_in=1).id)
    client.enqueue("again")

    with pytest.raises(AssertionError, match="drain: 7 attempts have run, and there is more to run: again"):
        client.drain(until="end", limit=7)
    assert len(client.drain(until=3, limit=3)) == 3


def test_a_deadline_counts_by_the_clients_clock(client: RecordingClient) -> None:
    client.enqueue("echo", deadline=client.now + timedelta(minutes=1))

    client.travel(timedelta(minutes=2))

    with pytest.raises(DeadlineExceededError, match=r"the deadline passed 60\.0 s before"):
        client.drain()


def test_an_id_is_remembered_for_its_once_by_the_clients_clock(client: RecordingClient) -> None:
    client.enqueue("echo", task_id="order-7", once=timedelta(hours=1))
    client.drain()

    with pytest.raises(TaskIdConflictError, match="was used within the time of its once") as refused:
        client.enqueue("echo", task_id="order-7", once=timedelta(hours=1))
    client.travel(timedelta(hours=1))

    assert refused.value.is_remembered
    assert client.enqueue("echo", task_id="order-7", once=timedelta(hours=1)).id == "order-7"


def test_a_running_task_sees_its_limits_and_that_it_was_cancelled(client: RecordingClient, mux: ServeMux) -> None:
    @mux.handle("slow")
    def slow(task: Task) -> Any:
        seen = [task.remaining(), task.is_cancelled]
        client.travel(10)
        client.cancel(task.id)
        return [*seen, task.remaining(), task.is_cancelled, [waiting.type for waiting in client.tasks]]

    client.enqueue("slow", timeout=60)

    (attempt,) = client.drain()

    assert attempt.result == [60.0, False, 50.0, True, []]


def test_the_nearest_limit_of_an_attempt_counts(client: RecordingClient, mux: ServeMux) -> None:
    mux.handle("limits", lambda task: task.remaining())
    client.enqueue("limits", timeout=90)
    client.enqueue("limits", timeout=90, deadline=client.now + timedelta(seconds=30))
    client.enqueue("limits", deadline=client.now + timedelta(seconds=120), retention=60)

    attempts = client.drain()

    assert [attempt.result for attempt in attempts] == [90, 30, 120]
    assert client.completed[0].next_run_at is None


def test_a_task_that_was_cancelled_while_it_ran_is_not_tried_again(client: RecordingClient, mux: ServeMux) -> None:
    @mux.handle("cancelled")
    def cancelled(task: Task) -> None:
        client.cancel(task.id)
        raise ValueError("as it was cancelled")

    client.enqueue("cancelled")

    (attempt,) = client.drain(until="end", raise_errors=False)

    assert attempt.state == TaskState.ARCHIVED
    client.travel(ARCHIVE_TTL_S - 1)
    assert [task.id for task in client.archived] == [attempt.task.id]
    client.travel(1)
    assert client.archived == []


def test_ctrl_c_and_what_pytest_raises_end_the_drain(client: RecordingClient, mux: ServeMux) -> None:
    errors = [KeyboardInterrupt(), pytest.fail.Exception("too slow")]

    @mux.handle("ends")
    def ends(task: Task) -> None:
        raise errors.pop(0)

    client.enqueue_many([("ends", 1), ("ends", 2)])

    with pytest.raises(KeyboardInterrupt):
        client.drain()
    with pytest.raises(pytest.fail.Exception, match="too slow"):
        client.drain()


def test_the_settings_rule_where_a_handler_says_nothing() -> None:
    mux, settings = ServeMux(), Settings(retry=Retry(max_retries=1, base=Duration(7)), queues={"a": 1, "b": 2})
    client = RecordingClient.from_settings(settings, mux=mux)
    mux.handle("fail", lambda task: 1 / 0)
    client.enqueue("fail", queue="a")
    client.enqueue("fail", queue="b")

    attempts = client.drain(until="end", raise_errors=False)

    assert [attempt.task.queue for attempt in attempts] == ["b", "a", "b", "a"]
    assert [attempt.retry_in for attempt in attempts[:2]] == [timedelta(seconds=7)] * 2


def test_a_drain_needs_a_mux() -> None:
    with pytest.raises(ValueError, match=r"drain: this client has no mux; make it as RecordingClient\(mux=mux\)"):
        RecordingClient().drain()


def test_a_task_whose_payload_does_not_fit_is_tried_while_it_is_young(client: RecordingClient, mux: ServeMux) -> None:
    mux.handle("mail", lambda task: task.payload.to, payload=Mail)
    no_connection: Any = None
    # Another version of the application enqueues what this one does not take.
    Client(no_connection, store=client._store).enqueue("mail", {"copies": 2})

    attempts = client.drain(until="end", raise_errors=False)

    assert [str(attempt.state) for attempt in attempts] == ["retry"] * 10 + ["archived"]
    assert attempts[-2].started_at - client.now < timedelta(minutes=10) < attempts[-1].started_at - NOON


def test_a_model_of_pydantic_is_compared_as_it_is_sent(client: RecordingClient, mux: ServeMux) -> None:
    class Order(pydantic.BaseModel):
        number: int
        at: datetime = NOON

    mux.handle("order", lambda task: task.payload.number, payload=Order)
    client.enqueue("order", Order(number=7))

    client.assert_enqueued("order", Order(number=7), exact=True)
    client.assert_enqueued("order", {"number": 7})
    with pytest.raises(AssertionError, match=r"payload\.number is 7, expected 8"):
        client.assert_enqueued("order", Order(number=8))
    assert run(mux, "order", Order(number=9)) == 9


# Results.


def test_a_result_is_waited_for_behind_a_drain(client: RecordingClient) -> None:
    good, bad = (client.enqueue("flaky", fails, retention=600) for fails in (1, 9))
    other = AsyncClient(client)

    with pytest.raises(RuntimeError, match=r"is pending: this client has no broker.*; drain first"):
        good.wait(timeout=1)
    client.drain(until="end", raise_errors=False)

    assert good.wait() == client.wait(good.id) == asyncio.run(other.wait(good.id)) == 2
    with pytest.raises(TaskFailedError, match="ValueError: attempt 4") as failed:
        bad.wait()
    assert failed.value.attempts == 4
    assert 'raise ValueError(f"attempt {task.attempt}")' in failed.value.traceback
    with pytest.raises(TaskNotFoundError):
        client.wait("nothing")
    with pytest.raises(ValueError, match="give retention=60"):
        client.wait(client.enqueue("echo").id)


# The clock and periodic tasks.


def test_periodic_tasks_follow_their_time_zone_when_clocks_change(client: RecordingClient, mux: ServeMux) -> None:
    mux.cron("0 9 * * *", "echo", "morning", timezone="Europe/Berlin")
    mux.cron("@every 12h", "flaky", 0, name="twice")

    ticks = client.due(datetime(2026, 3, 28, tzinfo=UTC), datetime(2026, 3, 29, 12, tzinfo=UTC))

    assert [(f"{at:%d %H}", entry.name) for at, entry in ticks] == [
        ("28 00", "twice"), ("28 08", "echo"), ("28 12", "twice"), ("29 00", "twice"), ("29 07", "echo"),
    ]  # fmt: skip


def test_a_periodic_task_is_enqueued_as_the_scheduler_does(client: RecordingClient, mux: ServeMux) -> None:
    @mux.task("swift", queue="critical")
    def swift(task: Task[int]) -> None:
        """Has options of its type, which a client that knows the mux takes."""

    @mux.use_client
    def tagged(drafts: list[Draft], push: Push) -> Any:
        drafts[0].headers["tag"] = "mux"
        return push(drafts)

    client.use(lambda drafts, push: [])  # of this client alone
    mux.cron("@every 1h", "swift", "no number", name="by-name")
    mux.cron("@every 1h", swift.task(7), name="by-message")

    attempts = client.drain(until=timedelta(hours=1), cron=True, raise_errors=False)

    found = {attempt.task.id.rpartition("-")[0]: attempt for attempt in attempts}
    assert [found[name].task.queue for name in ("cron-by-name", "cron-by-message")] == ["default", "critical"]
    assert {attempt.task.headers["tag"] for attempt in attempts} == {"mux"}
    assert "InvalidPayloadError" in repr(found["cron-by-name"].error)


def test_a_tick_is_left_out_while_a_lock_is_held_and_two_entries_need_two_names(
    client: RecordingClient, mux: ServeMux
) -> None:
    mux.cron("@every 1h", "echo", unique=7200, unique_until="ttl")

    attempts = client.drain(until=timedelta(hours=2), cron=True)

    assert len(attempts) == 1
    mux.cron("@every 2h", "echo")
    with pytest.raises(ConfigError, match="'echo' is there twice"):
        client.drain(until=1, cron=True)


def test_periodic_tasks_run_in_a_drain_that_is_asked_for_them(client: RecordingClient, mux: ServeMux) -> None:
    mux.cron("@hourly", "echo", "tick", process_in=60, queue="low")
    mux.cron("@hourly", "flaky", 0, name="once", unique=7000)

    first = client.drain(until=timedelta(hours=1, minutes=1), cron=True)
    second = client.drain(until=timedelta(hours=1), cron=True)

    assert [(attempt.started_at - NOON).seconds for attempt in first] == [3600, 3660]
    assert [attempt.task.id for attempt in second] == ["cron-once-20260328T140000Z", "cron-echo-20260328T140000Z"]
    with pytest.raises(ValueError, match="periodic tasks have no end"):
        client.drain(until="end", cron=True)


def test_a_periodic_task_has_the_options_that_the_scheduler_gives_it(client: RecordingClient, mux: ServeMux) -> None:
    @mux.task("report", queue="low", retention=60)
    def report(task: Task[str]) -> str:
        return task.queue

    mux.cron("@hourly", "report", "by its name")
    mux.cron("@hourly", report.task("as a message"), name="message")

    attempts = client.drain(until=timedelta(hours=1), cron=True)

    assert {(attempt.task.payload, attempt.result) for attempt in attempts} == {
        ("by its name", "default"), ("as a message", "low"),
    }  # fmt: skip


def test_a_held_lock_is_told_before_an_id_that_is_remembered_as_in_redis(client: RecordingClient) -> None:
    client.enqueue("echo", 1, task_id="order-7", once=3600)
    client.cancel("order-7")
    client.enqueue("echo", 1, unique=60)

    with pytest.raises(DuplicateTaskError):
        client.enqueue("echo", 1, task_id="order-7", once=3600, unique=60)


@pytest.mark.parametrize("span", [-1, True, float("inf"), "1h"])
def test_the_clock_goes_forward_only(client: RecordingClient, span: Any) -> None:
    with pytest.raises(ValueError, match="neither a timedelta nor a number of seconds"):
        client.travel(span)
    with pytest.raises(ValueError, match="has no time zone"):
        client.drain(until=datetime(2026, 1, 1))  # noqa: DTZ001

    assert client.now == NOON


# Async.


def test_async_handlers_run_on_the_loop_of_the_test_inside_of_their_middleware(
    client: RecordingClient, mux: ServeMux
) -> None:
    seen: dict[str, Any] = {}

    @mux.use
    def around(handler: Any) -> Any:
        def run(task: Task) -> Any:
            SEEN.set("middleware")
            return f"<{handler(task)}>"

        return run

    @mux.handle("async")
    async def handle(task: Task) -> str:
        await asyncio.sleep(0)
        seen["loop"] = asyncio.get_running_loop()
        async with AsyncClient(client) as sends:
            await sends.enqueue("echo", task.payload)
        return SEEN.get()

    mux.handle("thread", lambda task: threading.current_thread() is threading.main_thread())

    async def in_loop() -> list[Any]:
        seen["test"] = asyncio.get_running_loop()
        client.enqueue_many([("async", 1), ("thread", None)])
        return [attempt.result for attempt in await client.adrain()]

    assert asyncio.run(in_loop()) == ["<middleware>", "<True>", "<1>"]
    assert seen["loop"] is seen["test"]
    assert SEEN.get() == ""


def test_an_async_handler_may_be_wrapped_but_not_hidden(client: RecordingClient, mux: ServeMux) -> None:
    async def handle(task: Task) -> bool:
        return asyncio.get_running_loop() is loop

    @mux.handle("wrapped")
    @functools.wraps(handle)
    def wrapped(task: Task) -> Any:
        return handle(task)

    @mux.handle("hidden")
    def hides(task: Task) -> Any:
        return handle(task)

    client.enqueue_many([("wrapped", 1), ("hidden", 1)])

    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        wrapped_attempt, hidden = runner.run(client.adrain(raise_errors=False))

    assert wrapped_attempt.result is True
    assert "returned by a handler that is not async def" in str(hidden.error)


def test_a_drain_inside_of_a_loop_names_its_async_form(client: RecordingClient, mux: ServeMux) -> None:
    @mux.handle("async")
    @retry(max_retries=0)
    async def handle(task: Task) -> None: ...

    async def in_loop() -> None:
        client.enqueue("async")
        client.drain()

    with pytest.raises(RuntimeError, match=r"or drain with `await client\.adrain\(\)`"):
        asyncio.run(in_loop())


def test_a_test_that_is_cancelled_cancels_the_handler_that_it_waits_for(client: RecordingClient, mux: ServeMux) -> None:
    told: list[str] = []

    async def in_loop() -> None:
        has_begun = asyncio.Event()

        @mux.handle("async")
        async def handle(task: Task) -> None:
            has_begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                told.append("ended")

        client.enqueue("async")
        drain = asyncio.create_task(client.adrain())
        await has_begun.wait()
        drain.cancel()
        with pytest.raises(asyncio.CancelledError):
            await drain
        await asyncio.sleep(0)

    asyncio.run(in_loop())

    assert told == ["ended"]


# Lifespans.


@pytest.fixture
def told(mux: ServeMux) -> list[Any]:
    """What the lifespans of the mux tell, in its order; three of them know their loop."""
    told: list[Any] = []

    @mux.lifespan
    @contextmanager
    def plain(worker: WorkerContext) -> Iterator[dict[str, Any]]:
        SEEN.set("lifespan")
        try:
            yield {"pool": worker.name}
        finally:
            told.append("plain left")

    @mux.lifespan
    @asynccontextmanager
    async def on_loop(worker: WorkerContext) -> AsyncIterator[dict[str, Any]]:
        async with asyncio.TaskGroup():
            yield {"loop": asyncio.get_running_loop()}
        told.append("on_loop left")

    @mux.on_worker_start
    async def start(worker: WorkerContext) -> None:
        told.append("start")

    @mux.on_worker_stop
    async def stop(worker: WorkerContext) -> None:
        told.append("stop")

    @mux.handle("state")
    async def state(task: Task) -> Any:
        return [task.state["pool"], task.state["loop"] is asyncio.get_running_loop(), SEEN.get()]

    return told


def test_a_drain_lives_in_the_lifespans_once_whatever_its_tasks_raise(client: RecordingClient, told: list[Any]) -> None:
    client.enqueue_many([("state", 1), ("state", 2)])

    states = [attempt.result for attempt in client.drain()]
    client.enqueue("flaky", 9, max_retries=0)
    with pytest.raises(ValueError, match="attempt 1"):
        client.drain()

    assert states == [["drain", True, "lifespan"]] * 2
    assert told == ["start", "stop", "on_loop left", "plain left"] * 2
    assert SEEN.get() == ""


def test_an_async_drain_lives_in_the_lifespans_on_the_loop_of_the_test(
    client: RecordingClient, told: list[Any]
) -> None:
    async def in_loop() -> list[Any]:
        client.enqueue("state")
        results = [attempt.result for attempt in await client.adrain()]
        return [*results, SEEN.get()]

    assert asyncio.run(in_loop()) == [["drain", True, "lifespan"], ""]
    assert told == ["start", "stop", "on_loop left", "plain left"]


def test_one_attempt_lives_in_the_lifespans_too(mux: ServeMux, told: list[Any]) -> None:
    mux.handle("limits", lambda task: (task.remaining(), task.write_result(1), task.is_cancelled))

    assert run(mux, "state") == ["drain", True, "lifespan"]
    assert run(mux, "limits", timeout_s=7) == (7, True, False)
    assert told == ["start", "stop", "on_loop left", "plain left"] * 2


# Clients that modules made.


@pytest.fixture
def unreachable() -> Settings:
    return Settings(redis_url="redis://127.0.0.1:1")


def test_what_clients_of_the_settings_enqueue_goes_to_the_recorder_within_the_block(
    client: RecordingClient, unreachable: Settings
) -> None:
    before = Client.from_settings(unreachable)

    with override(client):
        inside = AsyncClient.from_settings(unreachable)
        asyncio.run(inside.enqueue("echo", "inside"))
        before.enqueue("echo", "before")

    assert [task.payload for task in client.tasks] == ["inside", "before"]
    for behind in (before.enqueue, inside._client.enqueue):
        with pytest.raises(BrokerUnavailableError):
            behind("echo")
    asyncio.run(inside.aclose())


def test_clients_of_the_settings_wait_for_what_the_recorder_ran(client: RecordingClient, unreachable: Settings) -> None:
    made, calls = Client.from_settings(unreachable), AsyncClient.from_settings(unreachable)

    with override(client):
        info = made.enqueue("echo", 1, retention=60)
        with pytest.raises(RuntimeError, match="drain first"):
            info.wait(20)
        assert list(client.run_all(lambda task: task.payload)) == [1]
        results = [info.wait(20), asyncio.run(calls.wait(info.id, 20))]

    assert results == [1, 1]


def test_the_innermost_block_has_what_is_enqueued_and_gives_it_back_to_the_outer_one(
    client: RecordingClient, unreachable: Settings
) -> None:
    inner = RecordingClient()

    with override(client):
        with override(inner):
            made_inside = Client.from_settings(unreachable)
            made_inside.enqueue("echo", 1)
        made_inside.enqueue("echo", 2)

    assert [task.payload for task in inner.tasks] == [1]
    assert [task.payload for task in client.tasks] == [2]

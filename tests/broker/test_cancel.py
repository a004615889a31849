"""Tasks that somebody does not want any more, in whatever state they are."""

import asyncio
import json
import logging
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from msgspec import structs
from rq.command import send_command, send_stop_job_command
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer

from boilerd import Client, InvalidTaskError, RetryLater, ServeMux, Task, TaskNotFoundError
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.claims import Claim, Completion, Failure, batch_place
from boilerd.broker.connection import connect
from boilerd.errors import TaskCancelledError, WorkerDiedError
from boilerd.process.scoreboard import Scoreboard
from boilerd.scheduler.subscriber import Subscriber
from boilerd.tasks import coroutines
from boilerd.tasks.mux import Handler
from boilerd.tasks.retry import Decision, RetryPolicy, Verdict
from boilerd.worker.attempt import AttemptRunner, Completed, Failed
from boilerd.worker.runtime import AttemptRuntime
from boilerd.worker.settlement import Rules, record_failure
from builders import WORKER, claim, claim_batch, fail, rq_job, task_in
from support import Valkey, wait_until

#: The tests set the process's signal handlers; pytest-timeout's own would get lost.
pytestmark = [pytest.mark.timeout(method="thread"), pytest.mark.usefixtures("restored_signals")]

FOREVER_S = 30
RULES = Rules.of(ServeMux(), RetryPolicy(base=600.0), lambda handler: handler)


def is_marked(broker: Broker, task_id: str) -> bool:
    return broker.connection.hget(keys.job(task_id), "cancel_requested") is not None


def archived(connection: redis.Redis) -> list[str]:
    registry = FailedJobRegistry("default", connection=connection, serializer=JSONSerializer)
    return list(registry.get_job_ids(cleanup=False))


def has_nothing_of(connection: redis.Redis, task_id: str) -> bool:
    """Whether no key is named after the task, and no list or set of the queue holds it."""
    member = task_id.encode()
    registries = [keys.registry(kind, "default") for kind in ("scheduled", "failed", "finished")]
    registries += [f"{keys.OWN}:waiting:k", f"{keys.OWN}:called:k"]
    return (
        not connection.keys(f"*:{task_id}*")
        and member not in connection.lrange(keys.queue("default"), 0, -1)
        and not any(connection.zscore(name, task_id) is not None for name in registries)
    )


# What waits is deleted.


def test_a_pending_task_is_deleted(client: Client, broker: Broker, connection: redis.Redis) -> None:
    for task_id in ("before", "unwanted", "behind"):
        client.enqueue("test:echo", task_id=task_id)

    assert client.cancel("unwanted") is True

    assert has_nothing_of(connection, "unwanted")
    assert connection.lrange(keys.queue("default"), 0, -1) == [b"before", b"behind"]


def test_a_scheduled_task_is_deleted(client: Client, broker: Broker, connection: redis.Redis) -> None:
    client.enqueue("test:echo", task_id="unwanted", process_in=600)

    assert client.cancel("unwanted") is True

    assert has_nothing_of(connection, "unwanted")
    assert broker.forward() == (0, None)


def test_a_task_that_waits_for_its_retry_is_deleted_with_its_attempts(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    client.enqueue("test:echo", task_id="unwanted")
    fail(broker, claim(broker), Verdict.RETRY, delay_s=600.0)

    assert client.cancel("unwanted") is True

    assert has_nothing_of(connection, "unwanted")


def test_a_task_that_waits_for_its_concurrency_key_is_deleted(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    for task_id in ("running", "unwanted"):
        client.enqueue("test:echo", task_id=task_id, concurrency_key="k")
    held = claim(broker)
    stepped_aside = broker.advance("host.run.1", ("default",)).claims == []

    assert client.cancel("unwanted") is True

    assert stepped_aside
    assert has_nothing_of(connection, "unwanted")
    assert broker.advance(WORKER, ("default",), [Completion(held)]).claims == []


def test_an_id_is_free_again_after_the_cancellation(client: Client) -> None:
    client.enqueue("test:echo", task_id="a")
    client.cancel("a")

    assert client.enqueue("test:echo", task_id="a").id == "a"


# What has ended is left alone.


def test_a_completed_task_is_not_to_be_cancelled(client: Client, broker: Broker, connection: redis.Redis) -> None:
    client.enqueue("test:echo", task_id="a", retention=60)
    broker.advance(WORKER, (), [Completion(claim(broker), b"1")])

    assert client.cancel("a") is False

    assert connection.hget(keys.job("a"), "status") == b"finished"


def test_an_archived_task_is_not_to_be_cancelled(client: Client, broker: Broker, connection: redis.Redis) -> None:
    client.enqueue("test:echo", task_id="a")
    fail(broker, claim(broker), Verdict.ARCHIVE)

    assert client.cancel("a") is False

    assert archived(connection) == ["a"]


@pytest.mark.parametrize("is_completed", [True, False])
def test_a_task_that_does_not_exist_cannot_be_cancelled(client: Client, broker: Broker, is_completed: bool) -> None:
    if is_completed:
        client.enqueue("test:echo", task_id="a")
        broker.advance(WORKER, (), [Completion(claim(broker))])

    with pytest.raises(TaskNotFoundError, match="'a' does not exist") as raised:
        client.cancel("a")

    assert raised.value.task_id == "a"


def test_what_is_no_task_id_is_refused(client: Client) -> None:
    with pytest.raises(InvalidTaskError, match="task ID"):
        client.cancel("a b")


# What runs is marked, and its worker told.


def test_an_active_task_is_marked_and_its_worker_told_on_rqs_channel(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    client.enqueue("test:echo", task_id="a")
    claim(broker)
    with connection.pubsub(ignore_subscribe_messages=True) as channel:  # type: ignore[no-untyped-call]
        channel.subscribe(keys.channel(WORKER))
        wait_until(lambda: connection.pubsub_numsub(keys.channel(WORKER))[0][1], "the subscription")

        assert client.cancel("a") is True

        message = wait_until(lambda: channel.get_message(timeout=0.1), "the command")
    assert json.loads(message["data"]) == {"command": "stop-job", "job_id": "a"}
    assert is_marked(broker, "a")


def test_an_active_task_stays_active_until_its_worker_has_ended_it(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    client.enqueue("test:echo", task_id="a")
    claim(broker)

    client.cancel("a")

    assert connection.hget(keys.job("a"), "status") == b"started"
    assert connection.zcard(keys.wip("default")) == 1
    assert is_marked(broker, "other") is False


# Tasks that RQ's own tools cancel or delete.


def by_rq(connection: redis.Redis, how: str, task_id: str) -> None:
    getattr(rq_job(connection, task_id), how)()


@pytest.mark.parametrize("how", ["cancel", "delete"])
@pytest.mark.parametrize("end", [*Verdict, "result", "retention", "release"])
def test_a_task_that_rq_takes_away_while_it_runs_does_not_come_back(
    client: Client, broker: Broker, connection: redis.Redis, how: str, end: Verdict | str
) -> None:
    enqueue_batch(client)
    held, *others = broker.advance(WORKER, ("default",), limit=4).claims
    by_rq(connection, how, held.task_id)
    before = connection.hgetall(keys.job(held.task_id))

    if end == "release":
        assert held.task_id not in broker.release(WORKER)
    elif end == "retention":
        assert broker.advance(WORKER, (), [Completion(held, b"1")]).lost == []
    elif end == "result":
        assert broker.write_result(held, b"1") is False
    else:
        failure = Failure("ValueError: bad", "…", Decision(Verdict(end)), 25)
        assert broker.fail(WORKER, held, failure) is None

    broker.forward()
    assert connection.hgetall(keys.job(held.task_id)) == before
    assert not connection.exists(keys.results(held.task_id))
    for key in (keys.registry("scheduled", "default"), keys.registry("failed", "default")):
        assert connection.zscore(key, held.task_id) is None
    assert held.task_id.encode() not in connection.lrange(keys.queue("default"), 0, -1)
    if end != "result" and (end, how) != ("release", "delete"):  # there the lease runs out
        assert connection.zscore(keys.wip("default"), f"{held.task_id}:{held.execution_id}") is None
    assert others


@pytest.mark.parametrize("runs", [False, True], ids=["pending", "running"])
@pytest.mark.parametrize("end", [*Verdict, "complete", "keep", "release"])
def test_a_new_task_of_an_id_that_rq_deleted_while_it_ran_is_left_alone(
    client: Client, broker: Broker, connection: redis.Redis, end: Verdict | str, runs: bool
) -> None:
    client.enqueue("test:echo", task_id="a", retention=60 if end == "keep" else 0)
    held = structs.replace(claim(broker), started=repr(broker.now() - 1))  # long enough for a person
    by_rq(connection, "delete", "a")
    client.enqueue("test:echo", "again", task_id="a")
    if runs:
        broker.advance("host.run.1", ("default",))
    before = connection.hgetall(keys.job("a"))

    if end == "release":
        assert broker.release(WORKER) == []
    elif end in {"complete", "keep"}:
        assert broker.advance(WORKER, (), [Completion(held)]).lost == []
    else:
        failure = Failure("ValueError: bad", "…", Decision(Verdict(end)), 25)
        assert broker.fail(WORKER, held, failure) is None

    assert connection.hgetall(keys.job("a")) == before
    assert connection.lrange(keys.queue("default"), 0, -1) == ([] if runs else [b"a"])
    assert connection.zcard(keys.wip("default")) == runs


def enqueue_batch(client: Client) -> None:
    """So many tasks that a worker claims several of them."""
    client.enqueue_many([("test:echo", number) for number in range(100)], retention=60)


@pytest.mark.parametrize("how", ["cancel", "delete"])
def test_a_task_that_rq_takes_away_while_it_waits_for_its_key_is_not_called(
    client: Client, broker: Broker, connection: redis.Redis, how: str
) -> None:
    for task_id in "abc":
        client.enqueue("test:echo", task_id=task_id, concurrency_key="k")
    (held,) = broker.advance(WORKER, ("default",)).claims
    broker.advance("host.run.1", ("default",))
    by_rq(connection, how, "b")

    following = broker.advance(WORKER, ("default",), [Completion(held)]).claims

    assert [found.task_id for found in following] == ["c"]
    assert connection.hget(keys.job("b"), "status") == (b"canceled" if how == "cancel" else None)


def test_a_task_that_is_not_active_is_not_marked(client: Client, broker: Broker, connection: redis.Redis) -> None:
    client.enqueue("test:echo", task_id="a")

    broker.mark_cancelled("a")
    broker.mark_cancelled("unknown")

    assert is_marked(broker, "a") is False
    assert not connection.exists(keys.job("unknown"))


# A cancelled task stays cancelled.


def test_a_cancelled_attempt_is_archived_and_not_tried_again(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    client.enqueue("test:echo", task_id="a")
    held = claim(broker)
    client.cancel("a")

    record_failure(
        broker, WORKER, held, RULES.decide_failure(task_in(held), TaskCancelledError("cancelled on request"), "…")
    )

    assert archived(connection) == ["a"]
    assert connection.hget(keys.job("a"), "last_error") == b"TaskCancelledError: cancelled on request"


@pytest.mark.parametrize("error", [ValueError("at the same moment"), RetryLater(600)])
def test_a_cancelled_task_that_fails_before_it_is_interrupted_is_not_tried_again(
    client: Client, broker: Broker, connection: redis.Redis, error: Exception
) -> None:
    client.enqueue("test:echo", task_id="a")
    held = claim(broker)
    client.cancel("a")

    record_failure(broker, WORKER, held, RULES.decide_failure(task_in(held), error, "…"))

    assert connection.zcard(keys.registry("scheduled", "default")) == 0
    assert archived(connection) == ["a"]


def test_a_cancelled_task_whose_worker_died_is_not_tried_again(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    client.enqueue("test:echo", task_id="a")
    held = claim(broker)
    client.cancel("a")

    RULES.record_lost_attempt(broker, WORKER, held, WorkerDiedError("worker died: SIGKILL"))

    assert connection.zcard(keys.registry("scheduled", "default")) == 0
    assert archived(connection) == ["a"]


def test_a_cancelled_task_that_is_released_does_not_run_again(client: Client, broker: Broker) -> None:
    client.enqueue("test:echo", task_id="a")
    claim(broker)
    client.cancel("a")

    broker.release(WORKER)

    assert broker.advance("host.run.1", ("default",)).claims == []


def test_a_cancelled_task_that_somebody_runs_again_is_not_cancelled_any_more(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    client.enqueue("test:echo", task_id="a")
    held = claim(broker)
    client.cancel("a")
    record_failure(
        broker, WORKER, held, RULES.decide_failure(task_in(held), TaskCancelledError("cancelled on request"), "…")
    )

    FailedJobRegistry("default", connection=connection, serializer=JSONSerializer).requeue("a")
    claim(broker)

    assert is_marked(broker, "a") is False


def test_a_cancelled_task_that_came_to_a_good_end_is_completed(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    client.enqueue("test:echo", task_id="a", retention=60)
    held = claim(broker)
    client.cancel("a")

    broker.advance(WORKER, (), [Completion(held, b"1")])

    assert connection.hget(keys.job("a"), "status") == b"finished"


# RQ's command channel.


@pytest.fixture
def signals() -> list[int]:
    """The SIGUSR1 that this process got."""
    got: list[int] = []
    signal.signal(signal.SIGUSR1, lambda signum, frame: got.append(signum))
    return got


@pytest.fixture
def subscriber(valkey: Valkey, connection: redis.Redis, signals: list[int]) -> Iterator[Subscriber]:
    """One that listens for two workers, of which the first is this process."""
    scoreboard = Scoreboard()
    scoreboard.put(0, os.getpid())
    names = [WORKER, "host.run.1"]
    with connect(valkey.url) as own:
        made = Subscriber(own, names, scoreboard)
        made.start()
        wait_until(lambda: all(n for _, n in connection.pubsub_numsub(*map(keys.channel, names))), "subscriptions")
        yield made
        made.stop()
        connection.publish(keys.channel(WORKER), "{}")  # ends its wait
        wait_until(lambda: "subscriber" not in {t.name for t in threading.enumerate()}, "the thread ended")


def test_a_cancellation_reaches_the_worker_that_runs_the_task(
    client: Client, broker: Broker, subscriber: Subscriber, signals: list[int]
) -> None:
    client.enqueue("test:echo", task_id="a")
    claim(broker)

    client.cancel("a")

    assert wait_until(lambda: signals, "the signal") == [signal.SIGUSR1]


def test_rqs_own_stop_job_command_marks_the_task_and_reaches_its_worker(
    client: Client, broker: Broker, connection: redis.Redis, subscriber: Subscriber, signals: list[int]
) -> None:
    client.enqueue("test:echo", task_id="a")
    claim(broker)

    send_stop_job_command(connection, "a", serializer=JSONSerializer)

    wait_until(lambda: signals, "the signal")
    assert is_marked(broker, "a")


def test_a_command_for_a_row_without_a_process_signals_nobody_and_is_kept_for_the_next(
    client: Client, broker: Broker, connection: redis.Redis, subscriber: Subscriber, signals: list[int]
) -> None:
    client.enqueue("test:echo", task_id="a")
    broker.advance("host.run.1", ("default",))

    send_stop_job_command(connection, "a", serializer=JSONSerializer)

    wait_until(lambda: is_marked(broker, "a"), "the mark")
    assert signals == []


@pytest.mark.parametrize(
    "command",
    [b"no JSON", b"[1]", b'{"command": "stop-job"}', b'{"command": "stop-job", "job_id": 5}', b'{"command": "other"}'],
)
def test_a_command_that_makes_no_sense_is_ignored_and_the_next_one_is_heard(
    client: Client, broker: Broker, connection: redis.Redis, *, subscriber: Subscriber, signals: list[int],
    caplog: pytest.LogCaptureFixture, command: bytes,
) -> None:  # fmt: skip
    client.enqueue("test:echo", task_id="a")
    claim(broker)

    with caplog.at_level(logging.DEBUG, "boilerd.subscriber"):
        connection.publish(keys.channel(WORKER), command)
        client.cancel("a")
        wait_until(lambda: signals, "the signal")

    assert signals == [signal.SIGUSR1]
    assert [record.message.partition(" that")[0] for record in caplog.records] == ["a command"]


def test_rqs_shutdown_command_is_none_of_ours(
    connection: redis.Redis, subscriber: Subscriber, signals: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    send_command(connection, WORKER, "shutdown")

    wait_until(lambda: caplog.records, "the warning")
    assert caplog.records[0].message == "a command that is not supported was ignored"
    assert signals == []


# The worker's side.


def run(broker: Broker, held: Claim, handler: Handler) -> Any:
    """An attempt as the worker runs it."""
    execution = AttemptRunner(handler)
    return execution.run(task_in(held), AttemptRuntime(broker, held, execution))


def test_a_task_that_was_cancelled_is_interrupted_by_the_signal(client: Client, broker: Broker) -> None:
    client.enqueue("test:echo", task_id="a")

    def handler(task: Task) -> str:
        client.cancel("a")
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            select.select([], [], [], FOREVER_S)
        except Exception:
            return "swallowed"
        return "not interrupted"

    outcome = run(broker, claim(broker), handler)

    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, TaskCancelledError)


@pytest.mark.parametrize("was_renewed", [True, False])
@pytest.mark.parametrize("how", ["delete", "cancel"])
def test_a_task_that_rq_took_away_while_it_runs_is_found_and_interrupted(
    client: Client, broker: Broker, connection: redis.Redis, how: str, was_renewed: bool
) -> None:
    client.enqueue("test:echo", task_id="a")
    held = claim(broker)

    def handler(task: Task) -> None:
        if was_renewed:  # RQ's tools know of an attempt from its first heartbeat on
            broker.extend([WORKER])
        getattr(rq_job(connection, "a"), how)()
        _, unwanted = broker.extend([WORKER], {WORKER: batch_place(held.execution_id)})
        if unwanted:
            os.kill(os.getpid(), signal.SIGUSR1)
            select.select([], [], [], FOREVER_S)

    outcome = run(broker, held, handler)

    assert isinstance(outcome, Failed)
    assert str(outcome.error) in {"the task was deleted", "the task is canceled by now"}


def test_the_heartbeat_finds_in_a_batch_which_task_rq_took_away(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    client.enqueue_many([("test:echo", number) for number in range(100)])
    claims = claim_batch(broker, limit=5)
    broker.extend([WORKER])
    rq_job(connection, claims[2].task_id).delete()

    found = [broker.extend([WORKER], {WORKER: batch_place(one.execution_id)})[1] for one in claims]

    assert found == [[], [], [WORKER], [], []]


def test_the_signal_leaves_a_task_alone_that_was_not_cancelled(client: Client, broker: Broker) -> None:
    client.enqueue("test:echo", task_id="before")
    client.enqueue("test:echo", task_id="now")
    first = claim(broker)
    client.cancel("before")
    second = broker.advance(WORKER, ("default",), [Completion(first)]).claims[0]

    def handler(task: Task) -> str:
        os.kill(os.getpid(), signal.SIGUSR1)
        return f"{task.id} went on"

    assert run(broker, second, handler) == Completed("now went on")


def test_the_signal_between_two_tasks_does_nothing(client: Client, broker: Broker) -> None:
    client.enqueue("test:echo", task_id="a")
    held = claim(broker)
    execution = AttemptRunner(lambda task: "done")
    client.cancel("a")

    os.kill(os.getpid(), signal.SIGUSR1)

    assert execution.run(task_in(held), AttemptRuntime(broker, held, execution)) == Completed("done")


def test_the_signal_leaves_the_task_alone_when_the_broker_cannot_be_asked(client: Client, broker: Broker) -> None:
    client.enqueue("test:echo", task_id="a")
    held = claim(broker)

    def handler(task: Task) -> str:
        os.kill(os.getpid(), signal.SIGUSR1)
        return "went on"

    with connect("unix:///nowhere/valkey.sock") as away:
        outcome = run(Broker(away), held, handler)

    assert outcome == Completed("went on")


def test_a_handler_can_look_whether_it_was_cancelled(client: Client, broker: Broker) -> None:
    client.enqueue("test:echo", task_id="a")
    seen: list[bool] = []

    def handler(task: Task) -> None:
        seen.append(task.is_cancelled)
        client.cancel(task.id)
        seen.append(task.is_cancelled)

    run(broker, claim(broker), handler)

    assert seen == [False, True]


async def sleep(task: Task) -> None:
    await asyncio.sleep(FOREVER_S)


@pytest.mark.parametrize("wait", [lambda task: select.select([], [], [], FOREVER_S), sleep])
def test_a_cancellation_from_afar_interrupts_a_handler_that_waits(
    valkey: Valkey, client: Client, broker: Broker, subscriber: Subscriber, wait: Callable[[Task], Any]
) -> None:
    client.enqueue("test:echo", task_id="a")

    def somebody() -> None:
        with Client.from_url(valkey.url) as other:
            other.cancel("a")

    def handler(task: Task) -> None:
        threading.Thread(target=somebody).start()
        coroutines.synchronous(wait)(task)

    outcome = run(broker, claim(broker), handler)

    assert isinstance(outcome, Failed)
    assert outcome.line == "TaskCancelledError: cancelled on request"

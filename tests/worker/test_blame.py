"""What a dead worker with several slots held: who counts, who is marked, and where the others stand."""

import logging
import time
from collections.abc import Sequence

import pytest
import redis

from boilerd import Client, ServeMux
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.claims import Claim, Completion
from boilerd.broker.connection import text
from boilerd.broker.constants import LEASE_OFFSET_S
from boilerd.errors import WorkerDiedError
from boilerd.tasks.retry import RetryPolicy
from boilerd.worker.settlement import Rules
from builders import WORKER, enqueue, pending

DIED = WorkerDiedError("worker died: signal 9 (SIGKILL)")
LIFE = "0f1e2d3c"


@pytest.fixture
def rules() -> Rules:
    return Rules.of(ServeMux(), RetryPolicy(), lambda handler: handler)


@pytest.fixture
def held(broker: Broker, client: Client) -> list[Claim]:
    """A worker of 100 slots holds the tasks t0 to t4, each with a timeout of a minute."""
    enqueue(client, *(f"t{number}" for number in range(5)), timeout=60)
    return serve(broker, 1)


def serve(broker: Broker, turn: int, limit: int = 64) -> list[Claim]:
    life = f"{LIFE}{turn:04x}"
    broker.register(WORKER, ["default"], {"life": life, "turn": 0, "slots": 100})
    return broker.serve(WORKER, life, turn, ["default"], limit=limit, parts=1, slots=100).claims


def alone(connection: redis.Redis, *task_ids: str) -> list[int]:
    return [int(connection.hget(keys.job(task_id), "alone") or 0) for task_id in task_ids]


def suspect(connection: redis.Redis, *task_ids: str, deaths: int = 2) -> None:
    """These tasks ran in so many workers that died."""
    for task_id in task_ids:
        connection.hset(keys.job(task_id), "alone", deaths)


def started_ago(connection: redis.Redis, *task_ids: str, seconds: float) -> None:
    """These tasks began so long ago."""
    began = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(time.time() - seconds))
    for task_id in task_ids:
        connection.hset(keys.job(task_id), "started_at", began)


def beat_ago(connection: redis.Redis, claims: Sequence[Claim], seconds: float) -> None:
    """The last heartbeat of these claims was so long ago."""
    lease = LEASE_OFFSET_S + time.time() + 30 - seconds
    connection.zadd(keys.wip("default"), {claim.pair: lease for claim in claims})


def failed(connection: redis.Redis, task_id: str) -> tuple[int, str]:
    """How many of its attempts count, and the last error."""
    retried, error = connection.hmget(keys.job(task_id), "number_of_retries", "last_error")
    return int(retried or 0), text(error or b"")


@pytest.mark.usefixtures("held")
def test_what_a_killed_worker_ran_goes_back_in_its_order_uncounted_and_marked(
    rules: Rules, broker: Broker, client: Client
) -> None:
    enqueue(client, "behind")

    rules.settle_dead_slots(broker, WORKER, False, DIED)

    tasks = [f"t{number}" for number in range(5)]
    assert pending(client.connection) == [*tasks, "behind"]
    assert alone(client.connection, *tasks, "behind") == [1, 1, 1, 1, 1, 0]
    assert [failed(client.connection, task_id)[0] for task_id in tasks] == [0] * 5
    assert not broker.executions_of(WORKER)


@pytest.mark.usefixtures("held")
def test_of_what_a_worker_held_that_is_told_first_which_may_have_ended_it(
    rules: Rules, broker: Broker, client: Client
) -> None:
    started_ago(client.connection, "t2", seconds=66)

    held = rules.settle_dead_slots(broker, WORKER, False, DIED)

    assert [claim.task_id for claim in held] == ["t2", "t0", "t1", "t3", "t4"]


@pytest.mark.usefixtures("held")
def test_what_a_worker_held_that_the_daemon_ended_goes_back_without_a_mark(
    rules: Rules, broker: Broker, client: Client
) -> None:
    suspect(client.connection, "t1")
    started_ago(client.connection, "t2", seconds=90)

    rules.settle_dead_slots(broker, WORKER, True, None)

    assert pending(client.connection) == ["t2", "t0", "t1", "t3", "t4"]  # t2 began before them
    assert alone(client.connection, "t0", "t1", "t2") == [0, 2, 0]


@pytest.mark.usefixtures("held")
def test_a_task_past_its_limit_counts_and_the_others_do_not(rules: Rules, broker: Broker, client: Client) -> None:
    started_ago(client.connection, "t2", seconds=66)

    rules.settle_dead_slots(broker, WORKER, False, DIED)

    assert pending(client.connection) == ["t0", "t1", "t3", "t4"]
    assert failed(client.connection, "t2") == (
        1, "TaskTimeoutError: the task took longer than its timeout, and its worker had to be killed",
    )  # fmt: skip
    assert alone(client.connection, "t1", "t2") == [1, 0]


def test_a_task_past_its_deadline_is_archived(rules: Rules, broker: Broker, client: Client, held: list[Claim]) -> None:
    client.connection.hset(keys.job("t2"), "deadline", time.time() - 1)

    rules.settle_dead_slots(broker, WORKER, False, DIED)

    assert client.connection.hget(keys.job("t2"), "status") == b"failed"
    assert failed(client.connection, "t2")[1].startswith("DeadlineExceededError: ")


@pytest.mark.usefixtures("held")
def test_the_only_suspect_is_to_blame(rules: Rules, broker: Broker, client: Client) -> None:
    suspect(client.connection, "t1")
    suspect(client.connection, "t3", deaths=1)

    rules.settle_dead_slots(broker, WORKER, False, DIED)

    assert pending(client.connection) == ["t0", "t2", "t3", "t4"]
    assert failed(client.connection, "t1") == (1, "WorkerDiedError: worker died: signal 9 (SIGKILL)")
    assert alone(client.connection, "t0", "t1", "t3") == [1, 2, 2]


@pytest.mark.usefixtures("held")
def test_of_two_suspects_none_is_to_blame(rules: Rules, broker: Broker, client: Client) -> None:
    suspect(client.connection, "t1", "t3")

    rules.settle_dead_slots(broker, WORKER, False, DIED)

    assert pending(client.connection) == ["t0", "t1", "t2", "t3", "t4"]
    assert alone(client.connection, "t1", "t3") == [3, 3]


@pytest.mark.usefixtures("held")
def test_no_suspect_is_to_blame_where_a_task_past_its_limit_explains_the_death(
    rules: Rules, broker: Broker, client: Client
) -> None:
    suspect(client.connection, "t1")
    started_ago(client.connection, "t3", seconds=66)

    rules.settle_dead_slots(broker, WORKER, False, DIED)

    assert failed(client.connection, "t1")[0] == 0
    assert failed(client.connection, "t3")[1].startswith("TaskTimeoutError")


def test_a_limit_that_passed_while_nothing_ran_any_more_counts_nothing(
    rules: Rules, broker: Broker, client: Client, held: list[Claim]
) -> None:
    started_ago(client.connection, "t1", seconds=3700)
    started_ago(client.connection, "t2", seconds=3630)
    beat_ago(client.connection, held, 3600)  # the host was off for an hour

    for _ in rules.settling_slots(broker, WORKER, None):
        pass

    assert failed(client.connection, "t1")[0] == 1
    assert failed(client.connection, "t2")[0] == 0
    assert set(pending(client.connection)) == {"t0", "t2", "t3", "t4"}


def test_hundreds_of_claims_stand_in_their_order_at_the_head(
    rules: Rules, broker: Broker, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    tasks = [f"t{number:03}" for number in range(350)]
    enqueue(client, *tasks)
    life = f"{LIFE}0001"
    broker.register(WORKER, ["default"], {"life": life, "turn": 0, "slots": 400})
    for turn in range(1, 20):
        broker.serve(WORKER, life, turn, ["default"], limit=64, parts=1)

    steps = sum(1 for _ in rules.settling_slots(broker, WORKER, DIED))

    assert steps == 4
    assert pending(client.connection) == tasks
    released = [line for line in caplog.records if line.message == "task released, it will run again"]
    assert len(released) == 350


@pytest.mark.usefixtures("held")
def test_a_claim_whose_job_is_gone_or_whose_lease_was_lost_is_given_up(
    rules: Rules, broker: Broker, client: Client, held: list[Claim]
) -> None:
    client.connection.delete(keys.job("t0"))
    client.connection.zrem(keys.wip("default"), held[1].pair)
    client.connection.sadd(keys.worker_executions(WORKER), "foreign")

    rules.settle_dead_slots(broker, WORKER, False, DIED)

    assert pending(client.connection) == ["t2", "t3", "t4"]
    assert broker.executions_of(WORKER) in ([], ["foreign"])


@pytest.mark.parametrize("pills", [{"t1"}, {"t1", "t3"}])
def test_pills_are_found_at_their_third_death_or_soon_after_and_innocents_are_never_counted(
    rules: Rules, broker: Broker, client: Client, held: list[Claim], pills: set[str]
) -> None:
    claims, uncounted = held, 0
    for turn in range(2, 20):
        if pills.isdisjoint(claim.task_id for claim in claims):
            broker.acknowledge(WORKER, [Completion(claim) for claim in claims])
        else:
            before = sum(failed(client.connection, pill)[0] for pill in pills)
            rules.settle_dead_slots(broker, WORKER, False, DIED)
            uncounted += sum(failed(client.connection, pill)[0] for pill in pills) == before
        claims = serve(broker, turn)

    cause = (1, "WorkerDiedError: worker died: signal 9 (SIGKILL)")
    assert [failed(client.connection, pill) for pill in pills] == [cause] * len(pills)
    assert uncounted == 2
    assert client.connection.zcard(keys.registry("scheduled", "default")) == len(pills)
    assert not client.connection.exists(*(keys.job(task_id) for task_id in {"t0", "t1", "t2", "t3", "t4"} - pills))

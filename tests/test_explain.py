"""Why a task does not run: each cause by its name, with its fact, its end and what would help; on real daemons."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from rq import Queue
from rq.job import Dependency

from boilerd import Client, Explanation, Inspector, Reason, TaskNotFoundError, TaskState
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.connection import connect, raw
from boilerd.broker.constants import LEASE_OFFSET_S, MOST_NEAR
from boilerd.entry_point import ENTRY_POINT
from boilerd.tasks.retry import Verdict
from builders import WORKER, claim, claim_batch, complete_next, fail_next, rq_queue, serve, store, worker_name
from support import RunningDaemon, private_directory, wait_until

#: Queues of the daemon that the tests share: each test has one of its own.
QUEUES = (
    "before",
    "behind",
    "paused",
    "limited",
    "keyed",
    "typed",
    "mixed",
    "late",
    "lasting",
    "ahead",
    "foreign",
    "retried",
    "many",
    "lived",
    "gone",
    "busy",
)


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    """A daemon with two workers and a Valkey of its own, where no retry comes before the tests have ended."""
    with private_directory() as directory:
        started = RunningDaemon(
            "--concurrency", "2", "--queues", ",".join(f"{name}=1" for name in QUEUES), directory=directory,
            env={
                "BOILERD_LIMITS": '{"limited": {"max_active": 1}}',
                "BOILERD_RETRY": '{"base": "600s", "max_delay": "600s"}',
            },
        )  # fmt: skip
        try:
            yield started.ready()
        finally:
            started.close()


@pytest.fixture
def live(daemon: RunningDaemon) -> Iterator[redis.Redis]:
    """A connection to the shared daemon's Valkey; what a test left running is cancelled."""
    with connect(f"unix://{daemon.directory}/run/valkey.sock") as made:
        yield made
        left = Client(made)
        for queue in QUEUES:
            for task in Inspector(made).tasks(queue, TaskState.ACTIVE) if made.exists(keys.wip(queue)) else ():
                with suppress(TaskNotFoundError):  # it has just ended
                    left.cancel(task.id)


def kinds(found: Explanation) -> list[str]:
    return [str(reason.kind) for reason in found.reasons]


def first(connection: redis.Redis, task_id: str) -> Reason:
    return Inspector(connection).explain(task_id).reasons[0]


def started(connection: redis.Redis, queue: str, seconds: float = 60, **options: Any) -> str:
    """A task that runs by now."""
    task_id = Client(connection).enqueue("test:sleep", seconds, queue=queue, **options).id
    wait_until(lambda: Inspector(connection).task(task_id).state is TaskState.ACTIVE, "it runs")
    return task_id


def seconds_until(moment: datetime | None) -> float:
    assert moment
    return (moment - datetime.now(UTC)).total_seconds()


# Nobody claims it.


def test_a_task_of_a_paused_queue_is_explained_by_the_pause(live: redis.Redis) -> None:
    Inspector(live).pause("paused")
    task_id = Client(live).enqueue("test:echo", queue="paused").id

    found = Inspector(live).explain(task_id)

    assert kinds(found) == ["paused", "ahead"]
    assert found.reasons[0].remedy == "boilerd queue resume paused"
    assert found.reasons[0].ends_at is None


def test_a_task_that_rq_suspend_holds_is_explained_by_that_first(live: redis.Redis) -> None:
    Inspector(live).pause("paused")
    live.set(keys.SUSPENDED, 1)
    try:
        found = Inspector(live).explain(Client(live).enqueue("test:echo", queue="paused").id)
    finally:
        live.delete(keys.SUSPENDED)

    assert kinds(found) == ["suspended", "paused", "ahead"]
    assert found.reasons[0].remedy == "rq resume"


def test_a_queue_that_nobody_serves_is_told_with_the_one_that_was_meant(live: redis.Redis) -> None:
    found = first(live, Client(live).enqueue("test:echo", queue="pauzed").id)

    assert found.kind == "unserved"
    assert found.fact.startswith("Nobody works on queue pauzed: the workers that live work on ahead, ")
    assert found.fact.endswith("; did you mean paused?")


def test_where_no_worker_lives_at_all_that_is_told(connection: redis.Redis, client: Client) -> None:
    found = first(connection, client.enqueue("test:echo").id)

    assert (found.kind, found.fact) == ("unserved", "Nobody works on queue default: no worker lives at all.")


def test_workers_of_a_daemon_that_was_killed_serve_no_longer(
    connection: redis.Redis, client: Client, broker: Broker
) -> None:
    old = datetime(2026, 1, 1, tzinfo=UTC).isoformat()
    broker.register(WORKER, ["default"], {"queues": "default", "birthmark": "x", "last_heartbeat": old})
    connection.hset(keys.worker(WORKER), "last_heartbeat", old)

    assert first(connection, client.enqueue("test:echo").id).kind == "unserved"


def test_a_worker_of_plain_rq_serves_its_queue(connection: redis.Redis, client: Client) -> None:
    connection.sadd(keys.WORKERS, keys.worker("plain"))
    connection.hset(keys.worker("plain"), mapping={"queues": "default", "last_heartbeat": "2026-01-01T00:00:00Z"})

    assert kinds(Inspector(connection).explain(client.enqueue("other:type").id)) == ["ahead"]


def test_a_type_that_nobody_handles_is_told_with_the_one_that_was_meant(live: redis.Redis) -> None:
    Inspector(live).pause("typed")
    task_id = Client(live).enqueue("test:ecko", queue="typed").id

    _, found, _ = Inspector(live).explain(task_id).reasons

    assert found.kind == "unhandled"
    assert found.fact.startswith("No worker of queue typed has a handler for test:ecko; they have ")
    assert found.fact.endswith("; did you mean test:echo?")


# Others come first.


def test_a_full_queue_is_told_with_the_task_that_fills_it(live: redis.Redis) -> None:
    holder = started(live, "limited")
    task_id = Client(live).enqueue("test:echo", queue="limited").id

    found = first(live, task_id)

    worker = Inspector(live).task(holder).worker
    assert found.kind == "max_active"
    assert found.fact == f"max_active of queue limited is 1, and 1 of its tasks run: {holder} on {worker}."
    assert (found.tasks, found.remedy) == ([holder], f"boilerd task why {holder}")


def test_a_full_concurrency_key_is_told_with_its_holder_and_the_place(live: redis.Redis) -> None:
    holder = started(live, "keyed", concurrency_key="one")
    waits = [Client(live).enqueue("test:echo", queue="keyed", concurrency_key="one").id for _ in range(3)]
    wait_until(lambda: live.zcard(keys.waiting("one")) == 3, "all stepped aside")

    found = first(live, waits[1])

    assert found.kind == "concurrency_key"
    assert found.fact.startswith(f"Its concurrency key one lets 1 run at a time, and 1 run: {holder} on ")
    assert found.fact.endswith("It is number 2 of 3 that wait for a share.")
    assert found.tasks == [holder]


def test_a_queue_that_all_its_workers_empty_first_is_told_with_what_waits_there(
    connection: redis.Redis, client: Client, broker: Broker
) -> None:
    for row in range(2):
        serve(broker, row, ["critical", "default", "low"], strict="1")
    before = kinds(Inspector(connection).explain(client.enqueue("test:echo", queue="low").id))
    client.enqueue_many([("test:echo", None)] * 3, queue="critical")
    task_id = client.enqueue("test:echo", queue="low").id

    told = first(connection, task_id)
    Inspector(connection).pause("critical")
    paused = kinds(Inspector(connection).explain(task_id))

    assert before == ["ahead"]
    assert (told.kind, told.remedy) == ("heavier", "boilerd scale N")
    assert told.fact == "Workers of queue low take a task of it only while none waits in critical (3 pending)."
    assert paused == ["ahead"]


@pytest.mark.parametrize(("queues", "strict"), [(["critical", "low"], ""), (["low", "critical"], "1")])
def test_a_queue_comes_first_only_if_it_does_with_each_worker(
    queues: list[str], strict: str, connection: redis.Redis, client: Client, broker: Broker
) -> None:
    serve(broker, 0, ["critical", "low"], strict="1")
    serve(broker, 1, queues, strict=strict)
    client.enqueue("test:echo", queue="critical")

    found = Inspector(connection).explain(client.enqueue("test:echo", queue="low").id)

    assert kinds(found) == ["ahead"]


def test_what_comes_first_is_told_by_the_workers_that_claim(
    connection: redis.Redis, client: Client, broker: Broker
) -> None:
    serve(broker, 0, ["critical", "low"], strict="1")
    serve(broker, 1, ["low"], state="suspended")
    client.enqueue("test:echo", queue="critical")

    assert first(connection, client.enqueue("test:echo", queue="low").id).kind == "heavier"


def test_a_heavier_queue_is_told_however_many_empty_ones_stand_before_it(
    connection: redis.Redis, client: Client, broker: Broker
) -> None:
    queues = [f"q{number}" for number in range(30)]
    serve(broker, 0, queues, strict="1")
    client.enqueue("test:echo", queue="q28")

    told = first(connection, client.enqueue("test:echo", queue="q29").id)

    assert told.fact == "Workers of queue q29 take a task of it only while none waits in q28 (1 pending)."


def test_a_task_that_waits_for_its_key_has_no_turn_that_a_heavier_queue_could_come_before(
    connection: redis.Redis, client: Client, broker: Broker
) -> None:
    serve(broker, 0, ["critical", "low"], strict="1")
    holder, task_id = (client.enqueue("test:echo", queue="low", concurrency_key="one").id for _ in range(2))
    claim(broker, "low", row=1)
    assert claim_batch(broker, "low", row=2) == []  # it steps aside
    client.enqueue("test:echo", queue="critical")

    found = Inspector(connection).explain(task_id)

    assert kinds(found) == ["concurrency_key"]
    assert list(found.reasons[0].tasks) == [holder]


def test_how_long_a_heavier_queue_takes_is_told_by_what_completed_there(live: redis.Redis) -> None:
    heavier, queue = "before", "behind"  # of equal weights, in this order
    client = Client(live)
    client.enqueue_many([("test:echo", None)] * 4, queue=heavier)
    wait_until(lambda: live.llen(keys.completed(heavier)) >= 4, "they completed")
    for _ in range(2):
        started(live, heavier)
    client.enqueue("test:echo", queue=heavier)

    found = first(live, client.enqueue("test:echo", queue=queue).id)

    assert found.kind == "heavier"
    assert f"{heavier} (1 pending); at the last rate, " in found.fact
    assert found.ends_at


def test_what_runs_longest_is_told_where_all_workers_are_busy(live: redis.Redis) -> None:
    holder = started(live, "busy")
    started(live, "busy")

    found = Inspector(live).explain(Client(live).enqueue("test:echo", queue="busy").id)

    assert kinds(found)[-1] == "busy"
    told = found.reasons[-1]
    assert told.fact.startswith("What runs longest on the workers of queue busy is a task of test:sleep, on ")
    assert list(told.tasks) == [holder]
    assert told.since


def test_what_runs_longest_is_told_also_beside_workers_that_are_quiet(
    connection: redis.Redis, client: Client, broker: Broker
) -> None:
    holder = client.enqueue("test:echo").id
    serve(broker, 0, ["default"])
    serve(broker, 1, ["default"], state="suspended")
    claim(broker, row=0)

    found = Inspector(connection).explain(client.enqueue("test:echo").id)

    assert kinds(found) == ["ahead", "busy"]
    assert list(found.reasons[-1].tasks) == [holder]


def test_a_worker_of_which_slots_are_free_is_not_busy(connection: redis.Redis, client: Client, broker: Broker) -> None:
    tasks = [client.enqueue("test:echo").id for _ in range(3)]
    serve(broker, 0, ["default"], slots="2", state="busy")
    claim(broker, row=0)
    some = Inspector(connection).explain(tasks[2])
    other = claim(broker, row=1)
    connection.sadd(keys.worker_executions(worker_name(0)), f"{other.task_id}:{other.execution_id}")

    all_of_them = Inspector(connection).explain(tasks[2])

    assert [reason.kind for reason in some.reasons] == ["ahead"]
    assert "0 of the 1 workers of the queue are busy" in some.reasons[0].fact
    assert kinds(all_of_them) == ["ahead", "busy"]
    assert "1 of the 1 workers of the queue are busy" in all_of_them.reasons[0].fact
    # Only one of its tasks is looked at.
    fact = f"On the workers of queue default runs, among others, a task of test:echo, on {worker_name(0)}."
    assert all_of_them.reasons[1].fact == fact


def test_workers_that_are_all_quiet_are_told(connection: redis.Redis, client: Client, broker: Broker) -> None:
    task_id = client.enqueue("test:echo").id
    for row in range(2):
        serve(broker, row, ["default"], state="suspended", pool="mail")
    quiet = Inspector(connection).explain(task_id)
    serve(broker, 0, ["default"], state="idle")

    some = Inspector(connection).explain(task_id)

    assert kinds(quiet) == ["quiet", "ahead"]
    assert quiet.reasons[0].fact == "All workers of queue default, 2, are quiet or about to end, and claim nothing."
    assert quiet.reasons[0].remedy == "boilerd resume mail"
    assert [reason.fact for reason in some.reasons] == [
        "It is the next one of queue default; 0 of the 2 workers of the queue are busy, 1 are quiet."
    ]


def test_who_worked_last_on_a_queue_that_nobody_serves_is_told(
    connection: redis.Redis, client: Client, broker: Broker
) -> None:
    client.enqueue("test:echo")
    complete_next(broker)

    found = first(connection, client.enqueue("test:echo").id)

    assert found.kind == "unserved"
    assert f" The last task of it completed on worker {WORKER}, at {datetime.now(UTC):%Y-%m-%d }" in found.fact


def test_what_is_ahead_is_told_with_the_time_that_it_takes(live: redis.Redis) -> None:
    client = Client(live)
    done = [client.enqueue("test:echo", queue="ahead").id for _ in range(5)]
    wait_until(lambda: live.llen(keys.completed("ahead")) == len(done), "they completed")
    for _ in range(2):
        started(live, "ahead")
    waits = [client.enqueue("test:echo", queue="ahead").id for _ in range(4)]
    began = datetime.now(UTC)

    found, next_one = first(live, waits[3]), first(live, waits[0])

    assert found.kind == "ahead"
    assert found.fact.startswith(
        "3 of the 4 tasks of queue ahead are ahead of it; 2 of the 2 workers of the queue are busy"
    )
    assert ", and at the last rate, " in found.fact
    assert ", that takes about " in found.fact
    assert found.ends_at
    assert 0 < (found.ends_at - began).total_seconds() < 300
    assert next_one.fact == "It is the next one of queue ahead; 2 of the 2 workers of the queue are busy."


def test_where_nothing_completed_today_nobody_knows_how_long_it_takes(live: redis.Redis) -> None:
    holder = started(live, "many")
    other = started(live, "many")
    waits = [Client(live).enqueue("test:echo", queue="many").id for _ in range(2)]

    found = first(live, waits[1])

    assert found.fact == (
        "1 of the 2 tasks of queue many are ahead of it; 2 of the 2 workers of the queue are busy,"
        " and how long it takes is not known, for none completed today."
    )
    assert (found.ends_at, found.remedy) == (None, "boilerd scale N")
    assert {holder, other}.isdisjoint(found.tasks)


@pytest.mark.parametrize(
    ("pools", "remedy"),
    [
        (["web", "mail"], "boilerd scale mail=N"),
        (["web", "default"], "boilerd scale N"),
        (["web"], "boilerd scale web=N"),
    ],
)
def test_the_pool_that_serves_the_queue_is_the_one_to_scale(
    connection: redis.Redis, client: Client, broker: Broker, pools: list[str], remedy: str
) -> None:
    now = datetime.now(UTC).isoformat()
    for row, pool in enumerate(pools):
        record: dict[Any, Any] = {
            "queues": "default",
            "birthmark": "x",
            "last_heartbeat": now,
            "state": "busy",
            "pool": pool,
        }
        broker.register(worker_name(row), ["default"], record)
        connection.hset(keys.worker(worker_name(row)), mapping=record)

    assert first(connection, client.enqueue("test:echo").id).remedy == remedy


def push_others(connection: redis.Redis, number: int) -> None:
    """Make so many more pending, in pieces: on a busy machine a client would not wait for all of them."""
    push = "for i = 1, ARGV[1] do redis.call('RPUSH', KEYS[1], 'other-' .. i) end"
    for before in range(0, number, 10_000):
        connection.eval(push, 1, keys.queue("default"), min(10_000, number - before))


@pytest.mark.parametrize(
    ("place", "told"),
    [
        (MOST_NEAR - 1, f"{MOST_NEAR - 1:,} of the "),
        (MOST_NEAR + 5, f"At least {MOST_NEAR:,} of the "),
        (2 * MOST_NEAR + 5, f"{2 * MOST_NEAR + 5:,} of the "),
    ],
)
def test_the_place_in_a_long_queue_is_looked_for_at_both_its_ends_and_no_further(
    connection: redis.Redis, broker: Broker, place: int, told: str
) -> None:
    task_id = store(broker, "it")
    connection.delete(keys.queue("default"))
    push_others(connection, place)
    connection.rpush(keys.queue("default"), task_id)
    push_others(connection, 2 * MOST_NEAR + 50 - place)
    connection.config_resetstat()

    found = Inspector(connection).explain(task_id)

    assert found.reasons[-1].fact.startswith(told)
    stats = connection.info("commandstats")
    assert stats["cmdstat_lpos"]["calls"] == 2
    assert stats.get("cmdstat_lrange", {"calls": 0})["calls"] == 1  # the last completions


# It waits for a moment, or for others.


def test_a_scheduled_task_is_explained_by_the_moment_at_which_it_is_due(live: redis.Redis) -> None:
    Inspector(live).pause("paused")
    task_id = Client(live).enqueue("test:echo", queue="paused", process_in=3600).id

    found = Inspector(live).explain(task_id)

    assert kinds(found) == ["due", "paused"]
    assert seconds_until(found.reasons[0].ends_at) == pytest.approx(3600, abs=20)
    assert found.reasons[0].remedy == f"boilerd task run {task_id}"


def test_a_task_that_is_due_while_no_daemon_lives_says_so(connection: redis.Redis, client: Client) -> None:
    task_id = client.enqueue("test:echo", process_in=3600).id
    connection.zadd(keys.registry("scheduled", "default"), {task_id: 1.0})

    found = first(connection, task_id)

    assert (found.kind, found.ends_at) == ("due", None)
    assert found.fact.endswith("which has come, but no daemon lives that makes it pending.")


def test_a_retry_is_told_with_its_number_its_error_and_its_moment(live: redis.Redis) -> None:
    task_id = Client(live).enqueue("test:fail", "so", queue="retried", max_retries=7).id
    wait_until(lambda: Inspector(live).task(task_id).state is TaskState.RETRY, "it failed")

    found = first(live, task_id)

    assert found.kind == "retry"
    assert found.fact == "It failed: RuntimeError: failed as told: so; retry 1 of 7 waits for its moment."
    assert found.ends_at == Inspector(live).task(task_id).next_run_at


@pytest.fixture
def foreign(live: redis.Redis) -> Queue:
    """A queue of plain RQ's client that the daemon serves."""
    return rq_queue(live, "foreign")


def rq_enqueue(queue: Queue, job_id: str, seconds: float = 0, **options: Any) -> Any:
    return queue.enqueue(ENTRY_POINT, args=("test:sleep", seconds), job_id=job_id, **options)


def test_a_job_that_depends_on_others_names_those_that_have_not_ended(live: redis.Redis, foreign: Queue) -> None:
    parent = rq_enqueue(foreign, "parent", 60)
    wait_until(lambda: parent.get_status() == "started", "it runs")
    rq_enqueue(foreign, "child", depends_on=parent)

    found = first(live, "child")

    assert (found.kind, found.fact) == (
        "dependencies", "It depends on jobs that have not ended: parent (started).",
    )  # fmt: skip
    assert (found.tasks, found.remedy) == (["parent"], "boilerd task why parent")


def test_a_job_that_depends_on_one_that_failed_never_runs(connection: redis.Redis, broker: Broker) -> None:
    queue = rq_queue(connection)
    parent = rq_enqueue(queue, "parent")
    rq_enqueue(queue, "child", depends_on=parent)
    rq_enqueue(queue, "lenient", depends_on=Dependency([parent, rq_enqueue(queue, "other")], allow_failure=True))
    fail_next(broker, Verdict.ARCHIVE)

    found, lenient = first(connection, "child"), first(connection, "lenient")

    assert found.fact.startswith("It depends on jobs that have ended, and did not complete: parent (failed).")
    assert found.remedy == "boilerd task run parent"
    assert lenient.fact.startswith("It depends on jobs that have not ended: ")


def test_a_deadline_that_has_passed_is_told(live: redis.Redis) -> None:
    Inspector(live).pause("late")
    task_id = Client(live).enqueue("test:echo", queue="late", deadline=datetime(2100, 1, 1, tzinfo=UTC)).id
    live.hset(keys.job(task_id), "deadline", "1000000000")

    found = Inspector(live).explain(task_id)

    assert kinds(found) == ["paused", "deadline", "ahead"]
    assert found.reasons[1].since == datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)


def test_a_deadline_before_the_moment_at_which_it_is_due_is_told(connection: redis.Redis, client: Client) -> None:
    task_id = client.enqueue("test:echo", process_in=3600, deadline=datetime(2100, 1, 1, tzinfo=UTC)).id
    connection.hset(keys.job(task_id), "deadline", str(connection.time()[0] + 60))

    assert kinds(Inspector(connection).explain(task_id)) == ["due", "unserved", "deadline"]


# It runs, or has ended.


def test_a_task_that_runs_says_where_since_when_and_until_when(live: redis.Redis) -> None:
    task_id = started(live, "lasting", timeout=600)

    found = first(live, task_id)

    task = Inspector(live).task(task_id)
    assert found.kind == "running"
    assert found.fact.startswith(f"It runs on worker {task.worker} of host ")
    assert found.since == task.started_at
    assert seconds_until(found.ends_at) == pytest.approx(600, abs=20)
    assert found.remedy == f"boilerd task cancel {task_id}"


def test_a_worker_that_is_gone_is_told_with_the_time_until_the_recovery(live: redis.Redis) -> None:
    broker = Broker(live)
    store(broker, "lost", queue="elsewhere")
    claim(broker, "elsewhere")

    found = first(live, "lost")

    assert found.kind == "lease"
    assert found.fact.startswith(f"Its worker {WORKER} gives no sign of life, and its lease ends: a scheduler counts ")
    assert seconds_until(found.ends_at) == pytest.approx(35, abs=10)


def test_a_lease_that_ended_while_no_daemon_lives_says_so(connection: redis.Redis, broker: Broker) -> None:
    store(broker, "lost")
    held = claim(broker)
    connection.zadd(keys.wip("default"), {f"lost:{held.execution_id}": LEASE_OFFSET_S + 1.0})

    found = first(connection, "lost")

    assert (found.kind, found.ends_at) == ("lease", None)
    assert found.fact == f"Its lease on worker {WORKER} has ended, but no daemon lives that takes it over."


def test_a_claim_that_rqs_tools_took_away_counts_as_a_lease_that_ended(connection: redis.Redis, broker: Broker) -> None:
    store(broker, "lost")
    claim(broker)
    connection.delete(keys.wip("default"), keys.worker_executions(WORKER))

    assert kinds(Inspector(connection).explain("lost")) == ["lease"]


def test_a_cancelled_task_that_still_runs_says_so(connection: redis.Redis, client: Client, broker: Broker) -> None:
    broker.register(WORKER, ["default"], {"queues": "default"})
    store(broker, "it")
    claim(broker)
    client.cancel("it")

    assert kinds(Inspector(connection).explain("it")) == ["cancelled", "running"]


def test_a_completed_task_says_when_and_how_long_it_is_kept(live: redis.Redis) -> None:
    task_id = Client(live).enqueue("test:echo", queue="lasting", retention=60).id
    wait_until(lambda: Inspector(live).task(task_id).state is TaskState.COMPLETED, "it completed")

    found = first(live, task_id)

    task = Inspector(live).task(task_id)
    assert (found.kind, found.since, found.ends_at) == ("completed", task.ended_at, task.expires_at)
    assert found.fact == f"It completed on worker {task.worker}, and is kept until it expires."


def test_a_task_that_completed_and_was_not_kept_is_known_all_the_same(live: redis.Redis) -> None:
    task_id = Client(live).enqueue("test:echo", queue="gone").id
    wait_until(lambda: live.llen(keys.completed("gone")), "it completed")

    found = Inspector(live).explain(task_id)

    assert (found.type, found.queue, found.state) == ("test:echo", "gone", TaskState.COMPLETED)
    assert found.reasons[0].fact.endswith(", and was not kept: its retention is 0 or over.")


def test_an_archived_task_is_told_with_its_error(live: redis.Redis) -> None:
    task_id = Client(live).enqueue("test:request", "skip", queue="retried").id
    wait_until(lambda: Inspector(live).task(task_id).state is TaskState.ARCHIVED, "it was archived")

    found = first(live, task_id)

    assert (found.kind, found.fact) == ("archived", "It is archived, SkipRetry: not worth it.")
    assert found.remedy == f"boilerd task run {task_id}"


def test_a_job_that_plain_rqs_worker_failed_is_told_with_the_end_of_its_traceback(
    connection: redis.Redis, broker: Broker
) -> None:
    store(broker, "it")
    fail_next(broker, Verdict.ARCHIVE)
    connection.hdel(keys.job("it"), "last_error")

    assert first(connection, "it").fact == "It is archived, ValueError: bad."


def test_an_archived_task_whose_lock_another_one_has_names_it(
    connection: redis.Redis, client: Client, broker: Broker
) -> None:
    client.enqueue("test:echo", task_id="old", unique=60, unique_until="end")
    fail_next(broker, Verdict.ARCHIVE)
    client.enqueue("test:echo", task_id="new", unique=60)

    found = first(connection, "old")

    assert found.fact.endswith(" Task new has its unique lock, so that it cannot be run meanwhile.")
    assert (found.tasks, found.remedy) == (["new"], "boilerd task why new")


def test_a_task_with_a_unique_lock_says_what_it_keeps_out_and_until_when(live: redis.Redis) -> None:
    Inspector(live).pause("paused")
    task_id = Client(live).enqueue("test:echo", queue="paused", unique=600).id

    *_, found = Inspector(live).explain(task_id).reasons

    assert found.kind == "unique"
    assert found.fact.startswith("It has a unique lock: an enqueue of the same type and payload is refused meanwhile")
    assert seconds_until(found.ends_at) == pytest.approx(600, abs=20)


def test_a_task_that_nobody_knows_is_an_error(connection: redis.Redis) -> None:
    with pytest.raises(TaskNotFoundError):
        Inspector(connection).explain("never")


# Whatever Redis holds.


def test_a_job_of_pickled_data_is_told_to_be_refused(live: redis.Redis) -> None:
    Inspector(live).pause("mixed")
    Queue("mixed", connection=live).enqueue("shop.bill", job_id="pickled")

    found = Inspector(live).explain("pickled")

    assert kinds(found) == ["paused", "unhandled", "ahead"]
    assert found.reasons[1].fact.startswith("Whoever claims it archives it: its data is not JSON of a call; pickled")


def test_a_job_that_rqs_tools_cancelled_names_their_state(connection: redis.Redis) -> None:
    rq_enqueue(rq_queue(connection), "job").cancel()

    found = Inspector(connection).explain("job")

    assert (kinds(found), found.state, found.rq_status) == (["ended"], None, "canceled")


def test_a_task_that_stands_in_no_list_says_so(connection: redis.Redis, client: Client) -> None:
    lost = [client.enqueue("test:echo").id, client.enqueue("test:echo", process_in=60).id]
    connection.delete(keys.queue("default"), keys.registry("scheduled", "default"))

    for task_id in lost:
        assert kinds(Inspector(connection).explain(task_id))[0] == "stray"


WRONG: dict[str, list[str]] = {
    keys.queue("default"): ["misplaced", "unserved"],
    keys.wip("default"): ["misplaced", "unserved"],
    keys.PAUSED: ["unserved", "concurrency_key", "ahead"],
    keys.LIMITS: ["unserved", "concurrency_key", "ahead"],
    keys.WORKERS: ["unserved", "concurrency_key", "ahead"],
    keys.completed("default"): ["unserved", "concurrency_key", "ahead"],
    keys.running("one"): ["unserved", "ahead"],
    keys.waiting("one"): ["unserved", "concurrency_key", "ahead"],
    keys.aside("default"): ["unserved", "concurrency_key", "ahead"],
    keys.dependencies("it"): ["unserved", "concurrency_key", "ahead"],
}


@pytest.mark.parametrize("key", WRONG)
def test_a_key_of_another_kind_hides_no_other_reason(
    connection: redis.Redis, client: Client, broker: Broker, key: str
) -> None:
    client.enqueue("test:echo", task_id="first", concurrency_key="one")
    claim(broker)
    client.enqueue("test:echo", task_id="it", concurrency_key="one")
    connection.delete(key)
    connection.xadd(key, {"x": "1"})

    assert kinds(Inspector(connection).explain("it")) == WRONG[key]


def test_names_of_bytes_that_are_no_text_are_read(connection: redis.Redis) -> None:
    name = b"\xff\xfe$(x)"
    fields: dict[Any, Any] = {
        "status": "queued",
        "origin": name,
        "concurrency_key": name,
        "worker_name": name,
        "task_type": name,
    }
    connection.hset(b"rq:job:" + name, mapping=fields)
    connection.rpush(b"rq:queue:" + name, name)
    connection.zadd(raw(keys.running("")) + name, {name: 1})
    connection.sadd(keys.PAUSED, name)
    shown = name.decode("utf-8", "surrogateescape")

    found = Inspector(connection).explain(shown)

    assert kinds(found) == ["unserved", "paused", "concurrency_key", "ahead"]
    assert found.reasons[1].remedy == f"boilerd queue resume '{shown}'"


def test_an_explanation_takes_three_round_trips(
    connection: redis.Redis, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = client.enqueue("test:echo", unique=60, concurrency_key="one").id
    sent: list[Any] = []
    inspector = Inspector(connection)
    count_sent(connection, sent, monkeypatch)

    inspector.explain(task_id)

    assert len(sent) == 3


def test_workers_of_other_queues_are_not_asked_while_one_of_ours_works_on_the_queue(
    connection: redis.Redis, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = Broker(connection)
    task_id = client.enqueue("test:echo").id
    born = {"queues": "elsewhere", "birthmark": "1"}
    broker.register("host.run.elsewhere", ["elsewhere"], born)
    sent: list[Any] = []
    inspector = Inspector(connection)
    count_sent(connection, sent, monkeypatch)

    unserved, asked = (
        inspector.explain(task_id),
        b"host.run.elsewhere" in b"".join(part for parts in sent for part in parts),
    )
    broker.register("host.run.here", ["default"], {"queues": "default", "birthmark": "1"})
    sent.clear()
    served = inspector.explain(task_id)

    assert (kinds(unserved), asked) == (["unserved", "ahead"], True)
    assert kinds(served) == ["ahead"]
    assert not any(b"host.run.elsewhere" in part for parts in sent for part in parts)


def count_sent(connection: redis.Redis, sent: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Note each time that something is sent to Redis."""
    kind: Any = connection.connection_pool.connection_class
    send: Callable[..., Any] = kind.send_packed_command

    def noted(self: Any, command: Any, *args: Any, **options: Any) -> Any:
        sent.append(command)
        return send(self, command, *args, **options)

    monkeypatch.setattr(kind, "send_packed_command", noted)


def test_workers_in_their_lifespans_are_told_apart_from_idle_ones(live: redis.Redis) -> None:
    holders = [started(live, "lived"), started(live, "lived")]
    task_id = Client(live).enqueue("test:echo", queue="lived").id
    worker = str(Inspector(live).task(holders[0]).worker)
    live.hset(keys.worker(worker), "state", "starting")  # as before its first claim

    found = first(live, task_id)

    assert "1 of the 2 workers of the queue are busy, 1 are starting" in found.fact
    assert found.remedy == ""

"""A worker with slots in a process of its own, on a real broker."""

import asyncio
import gc
import os
import select
import signal
import threading
import time
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from boilerd import Client, Inspector, ServeMux, SkipRetry, Task, TaskState, current_task
from boilerd.broker import keys, outage
from boilerd.broker.broker import Broker
from boilerd.broker.scripts import scripts
from boilerd.process.exit_status import DONE, FAILED, OK, RECYCLED, TIMED_OUT
from boilerd.process.scoreboard import Scoreboard
from boilerd.tasks.metric_record import Numbers
from boilerd.tasks.queues import ClaimOrder
from boilerd.tasks.retry import RetryPolicy
from boilerd.tasks.rq_functions import Functions
from boilerd.worker import settlement
from boilerd.worker.limits import Limits, SlotLimits
from boilerd.worker.slots import closing, escalation, intake, keeper
from builders import WORKER, enqueue, pending, rq_queue, worker_name
from proxy import Proxy
from reckoning import counted
from slotted import Gate, StartWorker
from support import Valkey, wait_until

BURST = Limits(drain_s=10, is_burst=True)


@pytest.fixture
def mux(gate: Gate) -> ServeMux:
    made = ServeMux()

    @made.handle("test:echo")
    async def held(task: Task) -> Any:
        await gate.passed(task)
        return task.payload

    @made.handle("test:quick")
    async def quick(task: Task) -> Any:
        return task.payload

    return made


def held_by(connection: redis.Redis, worker: str = WORKER) -> int:
    return int(connection.scard(keys.worker_executions(worker)))


def ids(count: int) -> list[str]:
    return [f"task-{i:04}" for i in range(count)]


# Claims.


def test_a_worker_runs_as_many_tasks_at_once_as_it_has_slots(
    *,
    start_worker: StartWorker,
    mux: ServeMux,
    gate: Gate,
    client: Client,
    connection: redis.Redis,
    scoreboard: Scoreboard,
) -> None:
    enqueue(client, *ids(60))

    worker = start_worker(mux, slots=25, limits=BURST)
    wait_until(lambda: gate.count() == 25, "25 run")

    assert held_by(connection) == 25
    assert len(pending(connection)) == 35
    wait_until(lambda: scoreboard.running(0) == 25, "the scoreboard shows it")
    gate.open()
    assert worker.wait() == DONE
    assert gate.count() == 60
    assert not connection.exists(keys.wip("default"), keys.queue("default"))
    assert Broker(connection).registered() == {}


def test_a_worker_never_holds_more_claims_than_it_has_slots(
    start_worker: StartWorker, client: Client, connection: redis.Redis, directory: Path
) -> None:
    """And each begins within moments of its claim."""
    mux = ServeMux()
    log = os.open(directory / "most", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    @mux.handle("test:echo")
    async def note(task: Task) -> None:
        os.write(log, b"%d\n" % held_by(connection))

    enqueue(client, *ids(1000))

    assert start_worker(mux, slots=100, limits=BURST).wait() == DONE

    found = [int(line) for line in (directory / "most").read_text().split()]
    os.close(log)
    assert len(found) == 1000
    assert max(found) <= 100


def test_after_a_claim_of_its_share_a_worker_leaves_the_rest_to_others(
    *,
    start_worker: StartWorker,
    mux: ServeMux,
    gate: Gate,
    client: Client,
    connection: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intake, "SHARE_S", 600.0)  # however busy this machine is
    client.enqueue_many([("test:echo", None)] * 40)
    start_worker(mux, slots=500, row=0)
    wait_until(lambda: gate.count() == 21, "it runs its half, and one more")

    start_worker(mux, slots=500, row=1)
    wait_until(lambda: held_by(connection, worker_name(1)) == 10, "another has a half of the rest")

    assert held_by(connection) == 21


def test_full_slots_leave_the_next_task_to_a_worker_that_has_room(
    *,
    start_worker: StartWorker,
    mux: ServeMux,
    gate: Gate,
    client: Client,
    connection: redis.Redis,
    scoreboard: Scoreboard,
) -> None:
    start_worker(mux, slots=2, row=0, limits=Limits(idle_s=60))
    wait_until(lambda: scoreboard.has_booted(0), "the first serves")
    enqueue(client, "a", "b")
    wait_until(lambda: gate.count() == 2, "its slots are taken")
    start_worker(mux, slots=2, row=1, limits=Limits(idle_s=60))
    wait_until(lambda: scoreboard.has_booted(1), "the second serves")

    enqueue(client, "c")

    wait_until(lambda: gate.count() == 3, "the second runs it")
    assert held_by(connection, worker_name(1)) == 1


def test_an_outcome_is_acknowledged_although_nothing_else_happens(
    start_worker: StartWorker, mux: ServeMux, gate: Gate, client: Client, connection: redis.Redis
) -> None:
    """Neither the end of another task nor the bell."""
    start_worker(mux, limits=Limits(idle_s=60))
    enqueue(client, "slow")
    wait_until(lambda: gate.count() == 1, "it runs")
    client.enqueue("test:quick", task_id="plain")
    client.enqueue("test:quick", [1], task_id="kept", retention=60)

    wait_until(lambda: not connection.exists(keys.job("plain")), "the one is gone")
    wait_until(lambda: Inspector(connection).task("kept").state is TaskState.COMPLETED, "the other is kept")

    assert held_by(connection) == 1


def test_a_claim_whose_answer_is_lost_is_given_back_and_runs_once(
    start_worker: StartWorker, client: Client, valkey: Valkey, directory: Path, connection: redis.Redis
) -> None:
    mux = ServeMux()

    @mux.handle("test:echo")
    async def run(task: Task) -> None:
        (directory / f"ran-{task.id}-{os.urandom(4).hex()}").touch()

    enqueue(client, *ids(20))
    with Proxy(directory, valkey.socket) as proxy:
        connection.script_load(scripts()["serve"].source)
        proxy.cuts_reply_to = scripts()["serve"].digest.encode()

        worker = start_worker(mux, slots=10, limits=BURST, url=proxy.url)

        assert worker.wait() == DONE
        assert proxy.cuts == 1
    assert len(list(directory.glob("ran-*"))) == 20
    assert not connection.exists(keys.wip("default"))


def test_a_claim_whose_answer_is_lost_is_given_back_although_the_worker_claims_nothing_more(
    *,
    start_worker: StartWorker, mux: ServeMux, client: Client, connection: redis.Redis, valkey: Valkey,
    directory: Path, scoreboard: Scoreboard, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(outage, "FIRST_PAUSE_S", 1.0)
    enqueue(client, "a")
    with Proxy(directory, valkey.socket) as proxy:
        connection.script_load(scripts()["serve"].source)
        proxy.cuts_reply_to = scripts()["serve"].digest.encode()
        worker = start_worker(mux, url=proxy.url)
        wait_until(lambda: proxy.cuts == 1, "the answer is lost")

        scoreboard.is_quiet = True

        wait_until(lambda: pending(connection) == ["a"], "it waits again")
        worker.close()  # it has the proxy's sockets


def test_a_bell_whose_connection_hangs_is_left(
    *,
    start_worker: StartWorker, mux: ServeMux, gate: Gate, client: Client, connection: redis.Redis, valkey: Valkey,
    directory: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(intake, "BELL_LATE_S", 0.5)
    with Proxy(directory, valkey.socket) as proxy:
        worker = start_worker(mux, limits=Limits(idle_s=0.5), url=f"{proxy.url}?socket_timeout=0.5")
        wait_until(lambda: any(each["cmd"] == "blpop" for each in connection.client_list()), "it waits for the bell")
        proxy.half_open()

        enqueue(client, "a")

        wait_until(lambda: gate.count() == 1, "it runs")
        worker.close()


# Outcomes.


def test_failures_are_decided_and_written(start_worker: StartWorker, client: Client, connection: redis.Redis) -> None:
    mux = ServeMux()

    @mux.handle("test:echo")
    async def refuse(task: Task) -> None:
        raise SkipRetry("no")

    enqueue(client, *ids(40))

    assert start_worker(mux, slots=10, limits=BURST).wait() == DONE

    assert connection.zcard(keys.registry("failed", "default")) == 40
    assert not connection.exists(keys.wip("default"))


def test_hooks_run_in_a_thread_and_find_the_task(start_worker: StartWorker, client: Client, directory: Path) -> None:
    mux = ServeMux()

    @mux.handle("test:echo")
    async def refuse(task: Task) -> None:
        raise ValueError("no")

    @mux.error_handler
    def note(task: Task, error: BaseException) -> None:
        is_apart = threading.current_thread() is not threading.main_thread()
        (directory / f"{task.id}-{current_task().id}-{error}-{is_apart}").touch()

    enqueue(client, "a", "b")

    assert start_worker(mux, limits=BURST).wait() == DONE

    assert (directory / "a-a-no-True").exists()
    assert (directory / "b-b-no-True").exists()


def test_a_hook_that_does_not_return_holds_up_no_other_failure(
    start_worker: StartWorker, client: Client, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settlement, "HOOK_LIMIT_S", 1.0)
    mux = ServeMux()

    @mux.handle("test:echo")
    async def refuse(task: Task) -> None:
        raise ValueError("no")

    @mux.error_handler
    def hang(task: Task, error: BaseException) -> None:
        if task.id == "a":
            threading.Event().wait()

    enqueue(client, "a", "b", "c")
    worker = start_worker(mux, limits=BURST)

    assert worker.wait() == DONE
    assert connection.zcard(keys.registry("failed", "default")) == 3
    assert sum("a hook does not return" in line for line in worker.lines()) == 1


def test_hooks_that_are_slow_one_after_the_other_end_no_worker(
    *,
    start_worker: StartWorker, client: Client, connection: redis.Redis, directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The first one returns when nobody waits for it any more, and the second one is slow as well."""
    monkeypatch.setattr(settlement, "HOOK_LIMIT_S", 0.2)
    monkeypatch.setattr(keeper, "LOOK_S", 0.1)
    mux = ServeMux()

    @mux.handle("test:echo")
    async def refuse(task: Task) -> None:
        raise ValueError("no")

    @mux.error_handler
    def slow(task: Task, error: BaseException) -> None:
        time.sleep(1.0 if task.id == "a" else 0.0)

    @mux.is_failure
    def slow_again(error: BaseException) -> bool:
        if current_task().id == "a":
            (directory / "again").touch()
            time.sleep(0.8)
            (directory / "returned").touch()
        return True

    enqueue(client, "a")
    worker = start_worker(mux, policy=RetryPolicy(max_retries=5))  # the last failure asks no is_failure
    wait_until(lambda: connection.zcard(keys.registry("scheduled", "default")) == 1, "it is decided without the hooks")
    wait_until((directory / "again").exists, "the second hook is asked")
    wait_until(lambda: (directory / "returned").exists() or worker.has_ended(), "it has returned")
    enqueue(client, "b")

    wait_until(lambda: connection.zcard(keys.registry("scheduled", "default")) == 2, "the next failure is written")
    assert worker.stop() == OK


def test_a_child_that_a_hook_forks_ends_with_the_hook(
    start_worker: StartWorker, client: Client, directory: Path
) -> None:
    mux = ServeMux()

    @mux.handle("test:echo")
    async def refuse(task: Task) -> None:
        raise ValueError("no")

    @mux.error_handler
    def fork(task: Task, error: BaseException) -> None:
        pid = os.fork()
        if pid:
            (directory / "child").write_text(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))

    enqueue(client, "a")

    assert start_worker(mux, limits=BURST).wait() == DONE
    assert (directory / "child").read_text() == "0"


def test_a_job_that_cannot_run_is_archived_and_takes_no_slot(
    start_worker: StartWorker, mux: ServeMux, client: Client, connection: redis.Redis
) -> None:
    connection.hset(keys.job("evil"), mapping={"data": '["os.system", null, [], {}]', "origin": "default"})
    connection.rpush(keys.queue("default"), "evil")
    client.enqueue("test:quick", [7], task_id="good", retention=60)

    assert start_worker(mux, slots=2, limits=BURST).wait() == DONE

    assert connection.zcard(keys.registry("failed", "default")) == 1
    assert Inspector(connection).task("good").attempts[-1].result == [7]


def test_a_deadline_that_has_passed_ends_a_task_before_it_begins(
    start_worker: StartWorker, mux: ServeMux, gate: Gate, client: Client, connection: redis.Redis
) -> None:
    deadline = datetime.now(UTC) + timedelta(seconds=0.2)
    client.enqueue("test:echo", task_id="late", deadline=deadline)
    wait_until(lambda: datetime.now(UTC) > deadline, "its deadline has passed")

    assert start_worker(mux, limits=BURST).wait() == DONE

    assert gate.count() == 0
    assert "deadline" in Inspector(connection).task("late").last_error


def test_a_timeout_ends_one_task_alone(
    start_worker: StartWorker, mux: ServeMux, gate: Gate, client: Client, connection: redis.Redis
) -> None:
    enqueue(client, "short", timeout=0.2)
    enqueue(client, "long", timeout=60)
    worker = start_worker(mux, limits=BURST)

    wait_until(lambda: connection.zcard(keys.registry("failed", "default")), "the one has ended")

    assert held_by(connection) == 1
    gate.open()
    assert worker.wait() == DONE
    assert Inspector(connection).task("short").last_error.startswith("TaskTimeoutError")


# Cancel, and lost leases.


def test_a_cancelled_task_ends_and_its_neighbours_go_on(
    *, start_worker: StartWorker, mux: ServeMux, gate: Gate, client: Client, connection: redis.Redis, broker: Broker
) -> None:
    enqueue(client, *ids(50))
    worker = start_worker(mux, slots=50, limits=BURST)
    wait_until(lambda: gate.count() == 50, "all run")

    broker.mark_cancelled("task-0007")
    worker.signal(signal.SIGUSR1)

    wait_until(lambda: connection.zcard(keys.registry("failed", "default")), "it has ended")
    assert held_by(connection) == 49
    gate.open()
    assert worker.wait() == DONE
    assert Inspector(connection).task("task-0007").last_error.startswith("TaskCancelledError")
    assert connection.zcard(keys.registry("failed", "default")) == 1


def test_lost_leases_end_these_tasks_alone_and_their_outcomes_are_refused(
    start_worker: StartWorker, mux: ServeMux, gate: Gate, client: Client, connection: redis.Redis
) -> None:
    enqueue(client, *ids(30), retention=60)
    worker = start_worker(mux, slots=30, limits=BURST)
    wait_until(lambda: gate.count() == 30, "all run")
    for pair, _ in connection.zscan_iter(keys.wip("default"), "task-000*"):
        connection.zrem(keys.wip("default"), pair)

    worker.signal(signal.SIGUSR1)

    wait_until(lambda: sum("lease was lost" in line for line in worker.lines()) == 10, "they were dropped")
    gate.open()
    assert worker.wait() == DONE
    assert connection.zcard(keys.registry("finished", "default")) == 20


def test_what_completed_without_its_lease_does_not_count_as_completed(
    start_worker: StartWorker, mux: ServeMux, gate: Gate, client: Client, connection: redis.Redis
) -> None:
    enqueue(client, *ids(30))
    worker = start_worker(mux, slots=30, limits=BURST)
    wait_until(lambda: gate.count() == 30, "all run")
    for pair, _ in connection.zscan_iter(keys.wip("default"), "task-000*"):
        connection.zrem(keys.wip("default"), pair)

    gate.open()
    assert worker.wait() == DONE

    attempts = Numbers.sum_of(map(Numbers, counted(connection).values())).attempts
    assert {outcome: n for outcome, n in attempts.items() if n} == {"completed": 20}


# The end.


def test_a_stop_claims_nothing_more_and_waits_for_what_runs(
    start_worker: StartWorker, mux: ServeMux, gate: Gate, client: Client, connection: redis.Redis
) -> None:
    enqueue(client, *ids(40))
    worker = start_worker(mux, slots=10)
    wait_until(lambda: gate.count() == 10, "its slots are taken")

    worker.signal(signal.SIGTERM)
    gate.open()

    assert worker.wait() == OK
    assert pending(connection) == ids(40)[10:]
    assert not connection.exists(keys.wip("default"))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_worker_stops_at_once(
    start_worker: StartWorker, mux: ServeMux, scoreboard: Scoreboard, signum: signal.Signals
) -> None:
    worker = start_worker(mux, limits=Limits(idle_s=60))
    wait_until(lambda: scoreboard.has_booted(0), "it serves")
    began_s = time.monotonic()

    worker.signal(signum)

    assert worker.wait() == OK
    assert time.monotonic() - began_s < 30


@pytest.mark.fault(58)
def test_the_end_of_a_drain_gives_back_a_thousand_tasks_in_their_order_after_their_finally_blocks(
    *,
    start_worker: StartWorker,
    client: Client,
    connection: redis.Redis,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(closing, "GRACE_S", 20.0)  # however busy this machine is
    mux = ServeMux()
    begun, ended = (os.open(directory / name, os.O_WRONLY | os.O_CREAT) for name in ("begun", "ended"))

    @mux.handle("test:echo")
    async def wait(task: Task) -> None:
        os.write(begun, b"x")
        try:
            await asyncio.Event().wait()
        finally:
            os.write(ended, b"x")

    client.enqueue_many([("test:echo", None)] * 1010)
    before = pending(connection)
    worker = start_worker(mux, slots=1000, limits=Limits(drain_s=0.5))
    wait_until(lambda: os.fstat(begun).st_size == 1000, "all run")

    assert worker.stop() == TIMED_OUT

    assert pending(connection) == before
    assert not connection.exists(keys.wip("default"))
    assert os.fstat(ended).st_size == 1000
    for fd in (begun, ended):
        os.close(fd)
    inspector = Inspector(connection)
    assert {inspector.task(task_id).retried for task_id in before[:20]} == {0}


def test_a_second_signal_to_stop_ends_a_drain_at_once(
    start_worker: StartWorker, mux: ServeMux, gate: Gate, client: Client, connection: redis.Redis
) -> None:
    enqueue(client, "a", "b")
    worker = start_worker(mux, limits=Limits(drain_s=600))
    wait_until(lambda: gate.count() == 2, "both run")
    worker.signal(signal.SIGTERM)
    select.select([], [], [], 1.2)  # sooner it would count as the same

    assert worker.stop() == TIMED_OUT

    assert pending(connection) == ["a", "b"]


def test_a_blocked_loop_keeps_no_stop_from_being_noted(
    start_worker: StartWorker, client: Client, connection: redis.Redis, directory: Path
) -> None:
    """Nor other outcomes from being written."""
    mux = ServeMux()

    @mux.handle("test:block")
    async def block(task: Task) -> None:
        (directory / "blocked").touch()
        while not (directory / "free").exists():
            time.sleep(0.01)  # noqa: ASYNC251 - it is what is tested

    @mux.handle("test:plain")
    def plain(task: Task) -> None:
        (directory / "plain").touch()
        while not (directory / "end").exists():
            time.sleep(0.01)

    client.enqueue("test:plain", task_id="plain")
    worker = start_worker(mux)
    wait_until((directory / "plain").exists, "the one runs in a thread")
    client.enqueue("test:block", task_id="block")
    wait_until((directory / "blocked").exists, "the other blocks the loop")
    worker.signal(signal.SIGTERM)
    (directory / "end").touch()

    wait_until(lambda: held_by(connection) == 1, "the outcome of the one is written")

    (directory / "free").touch()
    assert worker.wait() == OK


def test_a_worker_is_recycled_after_its_number_of_tasks(
    *,
    start_worker: StartWorker,
    mux: ServeMux,
    gate: Gate,
    client: Client,
    connection: redis.Redis,
    scoreboard: Scoreboard,
) -> None:
    enqueue(client, *ids(20))
    worker = start_worker(mux, slots=8, limits=Limits(max_tasks=5))

    wait_until(lambda: scoreboard.is_retiring(0), "it retires")

    wait_until(lambda: gate.count() == 5, "they run")
    gate.open()
    assert worker.wait() == RECYCLED
    assert gate.count() == 5
    assert len(pending(connection)) == 15


def test_a_worker_that_is_too_large_ends_after_what_runs(
    *,
    start_worker: StartWorker,
    mux: ServeMux,
    gate: Gate,
    client: Client,
    connection: redis.Redis,
    scoreboard: Scoreboard,
) -> None:
    enqueue(client, *ids(20))
    worker = start_worker(mux, slots=8, limits=Limits(max_memory=1))

    wait_until(lambda: scoreboard.is_retiring(0), "it retires")

    gate.open()
    assert worker.wait() == RECYCLED
    assert gate.count() <= 8
    assert len(pending(connection)) == 20 - gate.count()


def test_a_quiet_worker_claims_nothing_until_it_is_resumed(
    *,
    start_worker: StartWorker,
    mux: ServeMux,
    gate: Gate,
    client: Client,
    connection: redis.Redis,
    scoreboard: Scoreboard,
) -> None:
    start_worker(mux)
    enqueue(client, "a")
    wait_until(lambda: gate.count() == 1, "it runs")
    scoreboard.is_quiet = True

    enqueue(client, "b")
    gate.open()
    wait_until(lambda: not held_by(connection), "the first has ended")

    assert pending(connection) == ["b"]
    scoreboard.is_quiet = False
    wait_until(lambda: gate.count() == 2, "the second runs")


def test_a_quiet_worker_does_not_wait_for_a_bell_that_it_could_not_answer(
    start_worker: StartWorker, mux: ServeMux, connection: redis.Redis, scoreboard: Scoreboard
) -> None:
    def waiting() -> int:
        return sum(each["cmd"] == "blpop" and "b" in each["flags"] for each in connection.client_list())

    start_worker(mux, limits=Limits(idle_s=60))
    wait_until(lambda: waiting() == 1, "it waits for the bell")

    scoreboard.is_quiet = True

    wait_until(lambda: waiting() == 0, "it waits no longer")
    scoreboard.is_quiet = False
    wait_until(lambda: waiting() == 1, "it waits again")


def test_a_burst_ends_when_the_last_task_that_enqueues_has_ended(
    start_worker: StartWorker, client: Client, valkey: Valkey, connection: redis.Redis
) -> None:
    mux = ServeMux()

    @mux.handle("test:count")
    async def count(task: Task) -> None:
        await asyncio.sleep(0.05)
        if task.payload:
            with Client.from_url(valkey.url) as own:
                own.enqueue("test:count", task.payload - 1)

    client.enqueue("test:count", 5)

    assert start_worker(mux, limits=BURST).wait() == DONE

    assert not connection.exists(keys.queue("default"), keys.wip("default"))
    # Of two days: it may go on beyond midnight.
    assert sum(day.processed for day in Inspector(connection).history("default", 2)) == 6


def test_a_burst_ends_when_no_task_is_due_and_none_waits_that_a_failed_one_enqueued(
    start_worker: StartWorker, mux: ServeMux, gate: Gate, valkey: Valkey, scoreboard: Scoreboard
) -> None:
    gate.open()

    @mux.handle("test:fail")
    async def fail(task: Task) -> None:
        with Client.from_url(valkey.url) as own:
            own.enqueue("test:echo", task_id="left")
        raise ValueError("no")

    with Client.from_url(valkey.url) as own:
        own.enqueue("test:fail")
        own.enqueue("test:echo", task_id="due", process_in=0.01)

    assert start_worker(mux, limits=BURST).wait() == DONE

    assert sorted(gate.ids()) == ["due", "left"]
    assert scoreboard.has_claimed(0)


def test_a_worker_whose_supervisor_is_gone_stops(
    start_worker: StartWorker, mux: ServeMux, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getppid", lambda: 1)

    worker = start_worker(mux)

    assert worker.wait() == OK
    assert any("supervisor is gone" in line for line in worker.lines())


# Stuck tasks.


@pytest.fixture
def stubborn(monkeypatch: pytest.MonkeyPatch, mux: ServeMux) -> ServeMux:
    """A mux with a task that swallows its cancellation for ever, and soon counts as stuck."""
    monkeypatch.setattr(escalation, "STEPS_S", (0.1, 0.2, 0.3))
    monkeypatch.setattr(escalation, "LOOK_S", 0.1)
    monkeypatch.setattr(keeper, "LOOK_S", 0.1)

    @mux.handle("test:stubborn")
    async def stay(task: Task) -> None:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    return mux


def test_a_stuck_task_keeps_its_claim_and_another_runs_in_its_place(
    *,
    start_worker: StartWorker,
    stubborn: ServeMux,
    gate: Gate,
    client: Client,
    connection: redis.Redis,
    scoreboard: Scoreboard,
) -> None:
    start_worker(stubborn, slot_limits=SlotLimits(slots=2, max_stuck=1))
    client.enqueue("test:stubborn", task_id="stuck", timeout=0.1)
    wait_until(lambda: scoreboard.stuck(0) == 1, "it is stuck")

    enqueue(client, "a", "b")

    wait_until(lambda: gate.count() == 2, "two others run")
    assert held_by(connection) == 3
    assert Inspector(connection).task("stuck").state is TaskState.ACTIVE
    assert not scoreboard.is_retiring(0)


@pytest.mark.parametrize(
    "limits", [SlotLimits(slots=4, max_stuck=0), SlotLimits(slots=4, max_stuck=2, stuck_s=0.2)], ids=["number", "time"]
)
def test_too_much_that_is_stuck_ends_the_worker_when_the_others_have_ended(
    *,
    start_worker: StartWorker,
    stubborn: ServeMux,
    gate: Gate,
    client: Client,
    connection: redis.Redis,
    scoreboard: Scoreboard,
    limits: SlotLimits,
) -> None:
    """What is stuck has failed by its timeout then."""
    enqueue(client, "good")
    client.enqueue("test:stubborn", task_id="stuck", timeout=0.1)
    worker = start_worker(stubborn, slot_limits=limits)

    wait_until(lambda: scoreboard.is_retiring(0), "it retires")

    enqueue(client, "later")
    gate.open()
    assert worker.wait() == RECYCLED
    assert pending(connection) == ["later"]
    assert gate.ids() == ["good"]
    stuck = Inspector(connection).task("stuck")
    assert (stuck.state, stuck.last_error.partition(":")[0]) == (TaskState.ARCHIVED, "TaskTimeoutError")


def test_a_worker_that_retires_gives_back_what_does_not_end_in_the_time_of_a_drain(
    *,
    start_worker: StartWorker,
    stubborn: ServeMux,
    client: Client,
    connection: redis.Redis,
    gate: Gate,
) -> None:
    enqueue(client, "a", "b")
    worker = start_worker(stubborn, slot_limits=SlotLimits(slots=4, max_stuck=0), limits=Limits(drain_s=0.5))
    wait_until(lambda: gate.count() == 2, "they run")

    client.enqueue("test:stubborn", task_id="stuck", timeout=0.1)

    assert worker.wait() == RECYCLED
    assert pending(connection) == ["a", "b"]
    assert connection.zcard(keys.registry("failed", "default")) == 1


# Life.


def test_a_worker_gives_way_where_another_process_has_taken_its_name(
    start_worker: StartWorker, mux: ServeMux, connection: redis.Redis, scoreboard: Scoreboard
) -> None:
    worker = start_worker(mux, limits=Limits(idle_s=0.05))
    wait_until(lambda: scoreboard.has_booted(0), "it serves")

    def ends() -> bool:
        connection.hset(keys.worker(WORKER), "life", "another")
        return worker.has_ended()

    wait_until(ends, "it has ended")

    assert worker.wait() == FAILED
    assert any("worker ends" in line for line in worker.lines())
    assert connection.exists(keys.worker(WORKER))


def test_a_child_that_a_handler_forks_leaves_the_worker_alone(
    *, start_worker: StartWorker, mux: ServeMux, gate: Gate, client: Client, connection: redis.Redis
) -> None:
    @mux.handle("test:fork")
    def fork(task: Task) -> int:
        pid = os.fork()
        if pid == 0:
            return 0  # the worker's code ends it
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    client.enqueue("test:fork", task_id="forks", retention=60)
    enqueue(client, "a")
    worker = start_worker(mux, limits=BURST)
    inspector = Inspector(connection)

    wait_until(lambda: inspector.task("forks").state is TaskState.COMPLETED, "it has ended")

    assert inspector.task("forks").attempts[-1].result == 0
    gate.open()
    assert worker.wait() == DONE


def test_lifespans_are_entered_before_the_first_claim_and_left_after_the_drain(
    start_worker: StartWorker, mux: ServeMux, client: Client, connection: redis.Redis, directory: Path
) -> None:
    loops: list[Any] = []

    @mux.lifespan
    @asynccontextmanager
    async def live(worker: Any) -> Any:
        assert not held_by(connection)
        loops.append(asyncio.get_running_loop())
        yield {"word": "here"}
        assert asyncio.get_running_loop() is loops[0]
        (directory / "left").touch()

    @mux.handle("test:async")
    async def on_loop(task: Task) -> Any:
        return [task.state["word"], asyncio.get_running_loop() is loops[0]]

    @mux.handle("test:plain")
    def plain(task: Task) -> Any:
        return task.state["word"]

    client.enqueue("test:async", task_id="a", retention=60)
    client.enqueue("test:plain", task_id="b", retention=60)

    assert start_worker(mux, limits=BURST).wait() == DONE

    inspector = Inspector(connection)
    assert inspector.task("a").attempts[-1].result == ["here", True]
    assert inspector.task("b").attempts[-1].result == "here"
    assert (directory / "left").exists()


def test_garbage_is_searched_for_when_as_much_is_new_as_waits_in_all_slots(
    start_worker: StartWorker, mux: ServeMux, client: Client, connection: redis.Redis
) -> None:
    @mux.handle("test:threshold")
    async def threshold(task: Task) -> Any:
        return gc.get_threshold()

    client.enqueue("test:threshold", task_id="a", retention=60)

    assert start_worker(mux, slots=200, limits=BURST).wait() == DONE

    assert Inspector(connection).task("a").attempts[-1].result == [4000, *gc.get_threshold()[1:]]


def test_an_error_in_a_lifespan_is_a_worker_that_did_not_start(
    start_worker: StartWorker, mux: ServeMux, client: Client, connection: redis.Redis, scoreboard: Scoreboard
) -> None:
    @mux.on_worker_start
    async def fail(worker: Any) -> None:
        raise OSError("no database")

    enqueue(client, "a")

    assert start_worker(mux).wait() == FAILED

    assert not scoreboard.has_booted(0)
    assert "no database" in scoreboard.start_error(0)
    assert pending(connection) == ["a"]


def test_the_record_of_a_worker_tells_its_slots_and_pool(
    start_worker: StartWorker, mux: ServeMux, connection: redis.Redis, scoreboard: Scoreboard
) -> None:
    start_worker(mux, slots=33, pool="waits")

    wait_until(lambda: scoreboard.has_booted(0), "it serves")

    assert connection.hmget(keys.worker(WORKER), "slots", "pool") == [b"33", b"waits"]


# What a task asks.


@pytest.mark.parametrize("is_async", [True, False])
def test_a_task_shows_its_progress_and_a_result_so_far(
    start_worker: StartWorker, client: Client, connection: redis.Redis, gate: Gate, is_async: bool
) -> None:
    mux = ServeMux()

    def show(task: Task) -> bool:
        task.progress(1, 2, "half")
        return task.write_result({"so": "far"})

    @mux.handle("test:async")
    async def on_loop(task: Task) -> Any:
        done = show(task)
        await gate.passed(task)
        return done

    @mux.handle("test:plain")
    def plain(task: Task) -> Any:
        done = show(task)
        asyncio.run(gate.passed(task))
        return done

    client.enqueue("test:async" if is_async else "test:plain", task_id="a", retention=60)
    worker = start_worker(mux, limits=BURST)
    inspector = Inspector(connection)

    wait_until(lambda: gate.count() == 1, "it runs")

    progress = wait_until(lambda: inspector.task("a").progress, "its progress is shown")
    assert progress is not None
    assert (progress.done, progress.total, progress.note) == (1, 2, "half")
    wait_until(lambda: connection.hget(keys.job("a"), "result"), "its result so far is there")
    gate.open()
    assert worker.wait() == DONE
    assert inspector.task("a").attempts[-1].result is True


def test_a_task_knows_without_asking_that_it_is_cancelled_and_how_long_it_may_run(
    start_worker: StartWorker, client: Client, connection: redis.Redis, broker: Broker, directory: Path
) -> None:
    mux = ServeMux()

    @mux.handle("test:echo")
    async def look(task: Task) -> None:
        (directory / f"remaining-{task.remaining() <= 60}-{task.is_cancelled}").touch()
        try:
            await asyncio.sleep(60)
        finally:
            (directory / f"cancelled-{task.is_cancelled}").touch()

    enqueue(client, "a", timeout=60)
    worker = start_worker(mux, limits=BURST)
    wait_until((directory / "remaining-True-False").exists, "it runs")
    broker.mark_cancelled("a")

    worker.signal(signal.SIGUSR1)

    assert worker.wait() == DONE
    assert (directory / "cancelled-True").exists()


def test_a_function_of_plain_rq_finds_its_own_job(start_worker: StartWorker, connection: redis.Redis) -> None:
    mux = ServeMux()
    mux.handle("rq_jobs.", Functions(["rq_jobs.*"]))
    queue = rq_queue(connection)
    jobs = [queue.enqueue("rq_jobs.tell", number=1, result_ttl=60) for _ in range(5)]

    assert start_worker(mux, limits=BURST).wait() == DONE

    inspector = Inspector(connection)
    assert [inspector.task(job.id).attempts[-1].result for job in jobs] == [job.id for job in jobs]


# Outages.


def test_a_worker_goes_on_with_what_runs_while_the_broker_is_away(
    *,
    start_worker: StartWorker, mux: ServeMux, gate: Gate, client: Client, connection: redis.Redis, valkey: Valkey,
    directory: Path, scoreboard: Scoreboard,
) -> None:  # fmt: skip
    with Proxy(directory, valkey.socket) as proxy:
        enqueue(client, *ids(5), retention=60)
        worker = start_worker(mux, slots=5, limits=BURST, url=proxy.url)
        wait_until(lambda: gate.count() == 5, "all run")
        proxy.refuse()
        gate.open()
        wait_until(lambda: scoreboard.is_broker_away, "the worker waits for the broker")

        proxy.accept()

        assert worker.wait() == DONE
    assert connection.zcard(keys.registry("finished", "default")) == 5


def test_an_outage_is_over_although_the_slots_are_full(
    *,
    start_worker: StartWorker, mux: ServeMux, gate: Gate, client: Client, valkey: Valkey, directory: Path,
    scoreboard: Scoreboard,
) -> None:  # fmt: skip
    """And there is nothing to ask the broker for."""

    @mux.handle("test:tell")
    async def tell(task: Task) -> None:
        while not (directory / "tell").exists():  # noqa: ASYNC110 - the test makes it
            await asyncio.sleep(0.01)
        task.progress(1, 2)
        await gate.passed(task)

    with Proxy(directory, valkey.socket) as proxy:
        client.enqueue("test:tell")
        enqueue(client, "a")
        worker = start_worker(mux, slots=2, url=proxy.url)
        wait_until(lambda: scoreboard.running(0) == 2, "both run")
        proxy.refuse()
        (directory / "tell").touch()
        wait_until(lambda: scoreboard.is_broker_away, "the worker waits for the broker")

        proxy.accept()

        wait_until(lambda: not scoreboard.is_broker_away, "the broker is there again")
        assert gate.count() == 2
        worker.close()


def test_outcomes_that_come_while_the_last_call_hangs_are_kept(
    *,
    start_worker: StartWorker, mux: ServeMux, gate: Gate, client: Client, valkey: Valkey, directory: Path,
) -> None:  # fmt: skip
    @mux.handle("test:first")
    async def first(task: Task) -> None:
        while not (directory / "first").exists():  # noqa: ASYNC110 - the test makes it
            await asyncio.sleep(0.01)
        (directory / "ends").touch()

    with Proxy(directory, valkey.socket) as proxy:
        client.enqueue("test:first")
        enqueue(client, *ids(3))
        worker = start_worker(mux, limits=Limits(drain_s=2), url=f"{proxy.url}?socket_timeout=3")
        wait_until(lambda: gate.count() == 3, "all run")
        proxy.stall()
        worker.signal(signal.SIGTERM)
        (directory / "first").touch()
        wait_until((directory / "ends").exists, "its completion is sent")
        time.sleep(0.1)

        gate.open()

        assert worker.wait() == FAILED
    [kept] = (directory / "kept").iterdir()
    assert len(kept.read_text().splitlines()) == 4


def test_outcomes_are_kept_when_the_broker_stays_away_to_the_end_of_a_drain(
    *,
    start_worker: StartWorker, mux: ServeMux, gate: Gate, client: Client, connection: redis.Redis, valkey: Valkey,
    directory: Path, scoreboard: Scoreboard,
) -> None:  # fmt: skip
    """And written by the worker that comes next."""
    with Proxy(directory, valkey.socket) as proxy:
        enqueue(client, *ids(5), retention=60)
        worker = start_worker(mux, slots=5, limits=Limits(drain_s=1), url=proxy.url)
        wait_until(lambda: gate.count() == 5, "all run")
        proxy.refuse()
        gate.open()
        wait_until(lambda: scoreboard.is_broker_away, "the worker waits for the broker")
        assert worker.stop() == FAILED
    assert connection.zcard(keys.wip("default")) == 5

    assert start_worker(mux, limits=BURST).wait() == DONE

    assert connection.zcard(keys.registry("finished", "default")) == 5
    assert gate.count() == 5


def test_a_drain_ends_in_time_while_the_broker_hangs(
    *,
    start_worker: StartWorker,
    mux: ServeMux,
    gate: Gate,
    client: Client,
    connection: redis.Redis,
    valkey: Valkey,
    directory: Path,
) -> None:
    with Proxy(directory, valkey.socket) as proxy:
        enqueue(client, *ids(5), retention=60)
        url = f"{proxy.url}?socket_timeout=0.5&socket_connect_timeout=0.5"
        worker = start_worker(mux, slots=5, limits=Limits(drain_s=1), url=url)
        wait_until(lambda: gate.count() == 5, "all run")
        proxy.stall()
        began_s = time.monotonic()

        worker.signal(signal.SIGTERM)
        gate.open()

        assert worker.wait() == FAILED
        assert time.monotonic() - began_s < 30
    assert any("outcomes kept" in line for line in worker.lines())


def test_a_broker_that_has_forgotten_the_worker_gets_it_registered_again(
    *,
    start_worker: StartWorker, mux: ServeMux, gate: Gate, client: Client, connection: redis.Redis, broker: Broker,
    scoreboard: Scoreboard,
) -> None:  # fmt: skip
    start_worker(mux, limits=Limits(idle_s=0.1))
    wait_until(lambda: scoreboard.has_booted(0), "it serves")

    connection.flushall()

    wait_until(lambda: WORKER in broker.registered(), "it is registered again")
    enqueue(client, "a")
    wait_until(lambda: gate.count() == 1, "it claims")


def test_the_keys_of_another_program_end_no_worker(
    start_worker: StartWorker, mux: ServeMux, gate: Gate, client: Client, connection: redis.Redis
) -> None:
    connection.set(keys.queue("foreign"), "x")
    client.enqueue("test:echo", task_id="a")
    order = ClaimOrder({"foreign": 2, "default": 1}, is_strict=True)

    start_worker(mux, order=order)

    wait_until(lambda: gate.count() == 1, "it runs")

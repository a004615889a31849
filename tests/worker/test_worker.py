"""A worker in a process of its own, on a real broker."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from msgspec import structs

from boilerd import Client, Inspector, Task, TaskState, current_task
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.process.exit_status import DONE, OK
from boilerd.process.scoreboard import Scoreboard
from boilerd.tasks.metric_record import Numbers
from boilerd.tasks.mux import ServeMux
from boilerd.tasks.queues import ClaimOrder
from boilerd.tasks.retry import Hooks, RetryPolicy
from boilerd.worker import tally, work_loop
from boilerd.worker.kept_outcomes import KeptOutcomes
from boilerd.worker.limits import Limits, Recycling
from boilerd.worker.prefetch import Prefetch
from boilerd.worker.settlement import Rules
from boilerd.worker.worker import Worker
from builders import pending
from reckoning import counted

NAME = "host.run.0"
MakeWorker = Callable[..., Worker]


@pytest.fixture
def scoreboard() -> Scoreboard:
    return Scoreboard()


@pytest.fixture
def make_worker(connection: redis.Redis, scoreboard: Scoreboard, directory: Path) -> MakeWorker:
    def make(rules: Rules, limits: Limits | None = None) -> Worker:
        prefetch = Prefetch()
        for _ in range(40):
            prefetch.note(0.0001)
        return Worker(
            connection,
            name=NAME,
            title="worker:0",
            order=ClaimOrder({"default": 1}, is_strict=True),
            rules=rules,
            limits=limits or Limits(),
            prefetch=prefetch,
            scoreboard=scoreboard,
            row=0,
            address="",
            kept=KeptOutcomes(directory, "broker"),
        )

    return make


def exit_status(worker: Worker) -> int:
    """How the worker ends in a process of its own."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            status = worker.run()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_making_a_worker_leaves_the_signals_of_its_supervisor_alone(make_worker: MakeWorker) -> None:
    signums = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGUSR1)
    before = [signal.getsignal(signum) for signum in signums]

    make_worker(Rules.of(ServeMux(), RetryPolicy(), lambda handler: handler))

    assert [signal.getsignal(signum) for signum in signums] == before


def test_a_worker_is_worn_out_when_its_own_number_of_tasks_is_done() -> None:
    def lifetime(recycling: Recycling) -> int:
        while not recycling.is_due():
            recycling.tasks += 1
        return recycling.tasks

    ends = {lifetime(Recycling(Limits(max_tasks=1000))) for _ in range(20)}
    # So that workers that started together are not replaced together.
    assert len(ends) > 1
    assert min(ends) >= 1000
    assert max(ends) <= 1100


def test_a_refused_task_of_a_batch_counts_as_finished(
    make_worker: MakeWorker, connection: redis.Redis, broker: Broker, scoreboard: Scoreboard
) -> None:
    running, was_running = os.pipe()

    def may_call(function: str) -> bool:
        os.write(was_running, b"1" if scoreboard.batch(0).is_running else b"0")
        return False

    connection.hset(keys.job("evil"), mapping={"data": '["os.system", null, [], {}]', "origin": "default"})
    connection.rpush(keys.queue("default"), "evil")
    rules = Rules(lambda task: None, may_call, lambda task_type: RetryPolicy(), Hooks())

    assert exit_status(make_worker(rules, Limits(is_burst=True))) == DONE

    assert os.read(running, 2) == b"1"
    batch = scoreboard.batch(0)
    assert (batch.size, batch.finished, batch.is_running) == (1, 1, False)
    assert connection.zcard(keys.registry("failed", "default")) == 1
    assert not broker.held(NAME)
    os.close(running)
    os.close(was_running)


def test_a_worker_that_ends_gives_the_rest_of_its_batch_back_by_itself(
    make_worker: MakeWorker, client: Client, connection: redis.Redis
) -> None:
    mux = ServeMux()
    mux.handle("test:term")(lambda task: os.kill(os.getpid(), signal.SIGTERM))
    client.enqueue_many([("test:term", None)] * 64)
    before = pending(connection)

    assert exit_status(make_worker(Rules.of(mux, RetryPolicy(), lambda handler: handler))) == OK

    assert pending(connection) == before[1:]
    assert not connection.zcard(keys.wip("default"))


def test_a_worker_is_in_the_registry_of_rq_while_it_works_and_leaves_it(
    make_worker: MakeWorker, client: Client, connection: redis.Redis, broker: Broker
) -> None:
    mux = ServeMux()
    mux.handle("test:look")(lambda task: [*broker.registered()])
    client.enqueue("test:look", task_id="a", retention=60)
    rules = Rules.of(mux, RetryPolicy(), lambda handler: handler)

    assert exit_status(make_worker(rules, Limits(is_burst=True))) == DONE

    assert Inspector(connection).task("a").attempts[-1].result == [NAME]
    assert broker.registered() == {}


def test_in_a_worker_each_handler_finds_its_own_task_as_the_current_one(
    make_worker: MakeWorker, client: Client, connection: redis.Redis
) -> None:
    mux = ServeMux()

    @mux.task("test:plain", payload=list[int])
    def plain(task: Task[list[int]]) -> list[object]:
        return [current_task().id, current_task() is task]

    @mux.task("test:async")
    async def in_a_loop(task: Task) -> list[object]:
        return [current_task().id, current_task() is task]

    for task_id in ("a", "b"):
        plain.enqueue(client, [1], task_id=task_id, retention=60)
    in_a_loop.enqueue(client, None, task_id="c", retention=60)

    assert (
        exit_status(make_worker(Rules.of(mux, RetryPolicy(), lambda handler: handler), Limits(is_burst=True))) == DONE
    )

    inspector = Inspector(connection)
    assert {name: inspector.task(name).attempts[-1].result for name in "abc"} == {name: [name, True] for name in "abc"}


def test_what_a_long_task_counts_is_sent_before_the_next_begins(
    make_worker: MakeWorker, connection: redis.Redis, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (tally, work_loop):
        monkeypatch.setattr(module, "SEND_EVERY_S", 0.0)  # every task is a long one
    mux, (told, telling) = ServeMux(), os.pipe()

    @mux.handle("test:count")
    def count(task: Task) -> None:
        found = Numbers.sum_of(map(Numbers, counted(connection).values()))
        os.write(telling, b"%d" % found.attempts["completed"])

    for _ in range(2):
        client.enqueue("test:count", concurrency_key="one")  # so that the two are no batch

    rules = Rules.of(mux, RetryPolicy(), lambda handler: handler)

    assert exit_status(make_worker(rules, Limits(is_burst=True))) == DONE

    assert os.read(told, 10) == b"01"


def test_a_burst_runs_what_is_due_by_now_although_no_scheduler_has_come_to_it(
    make_worker: MakeWorker, client: Client, connection: redis.Redis
) -> None:
    mux = ServeMux()

    @mux.handle("test:twice")
    def twice(task: Task) -> None:
        if task.runs == 1:
            raise ValueError("once more")

    client.enqueue("test:twice", task_id="due", process_in=60, retention=60)
    client.enqueue("test:twice", task_id="later", process_in=60)
    connection.zadd(keys.registry("scheduled", "default"), {"due": 1}, xx=True)
    rules = structs.replace(
        Rules.of(mux, RetryPolicy(), lambda handler: handler), hooks=Hooks(retry_delay=lambda *_: 0)
    )

    assert exit_status(make_worker(rules, Limits(is_burst=True))) == DONE

    inspector = Inspector(connection)
    assert (inspector.task("due").state, inspector.task("due").retried) == (TaskState.COMPLETED, 1)
    assert inspector.task("later").state == TaskState.SCHEDULED

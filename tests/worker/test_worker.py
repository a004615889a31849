"""The worker's own state, between two of its steps, on a real broker."""

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest
import redis

from boilerd import Client
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.process.exit_status import OK
from boilerd.process.scoreboard import Scoreboard
from boilerd.process.signals import Stopped, StopRequest
from boilerd.tasks.mux import ServeMux
from boilerd.tasks.queues import ClaimOrder
from boilerd.tasks.retry import RetryPolicy
from boilerd.worker.prefetch import Prefetch
from boilerd.worker.settlement import Rules
from boilerd.worker.worker import Limits, Worker
from builders import pending

NAME = "host.run.0"
MakeWorker = Callable[..., Worker]


@pytest.fixture
def make_worker(connection: redis.Redis) -> Iterator[MakeWorker]:
    """Makes a worker whose steps the test does by itself."""
    kept = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}

    def make(limits: Limits | None = None, mux: ServeMux | None = None) -> Worker:
        made = Worker(
            connection,
            name=NAME,
            title="worker:0",
            order=ClaimOrder({"default": 1}, is_strict=True),
            rules=Rules.of(mux or ServeMux(), RetryPolicy(), lambda handler: handler),
            limits=limits or Limits(),
            prefetch=Prefetch(),
            scoreboard=Scoreboard(),
            slot=0,
            address="",
        )
        made._stop = StopRequest()
        return made

    yield make
    for signum, handler in kept.items():
        signal.signal(signum, handler)


def test_a_claim_whose_answer_was_lost_is_given_back_and_claimed_again(
    make_worker: MakeWorker, client: Client, broker: Broker
) -> None:
    worker = make_worker()
    client.enqueue("test:echo", task_id="a")
    broker.advance(NAME, ["default"])

    worker._advance()
    assert not worker._held

    worker._advance()
    assert [claim.task_id for claim in worker._held] == ["a"]


def test_what_was_claimed_while_a_signal_ended_the_wait_goes_back(
    make_worker: MakeWorker, client: Client, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = make_worker()
    client.enqueue("test:echo", task_id="a")

    def interrupted(*_: object) -> None:
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(worker._scoreboard, "open_batch", interrupted)  # the answer is there, and half noted
        worker._wait()
    assert pending(connection) == []

    worker._acknowledge()

    assert pending(connection) == ["a"]
    assert not connection.zcard(keys.wip("default"))


def test_a_batch_that_took_too_long_goes_back_and_the_next_is_of_one_task(
    make_worker: MakeWorker, client: Client, connection: redis.Redis
) -> None:
    worker = make_worker()
    for _ in range(40):
        worker._prefetch.note(0.0001)
    client.enqueue_many([("test:echo", n) for n in range(64)])
    before = pending(connection)
    worker._advance()
    held = [claim.task_id.encode() for claim in worker._held]
    assert len(held) > 1

    worker._held_until_s = 0.0
    claim = worker._next()

    assert claim is not None
    assert claim.task_id.encode() == held[0]
    assert pending(connection) == before[1:]


def test_a_worker_is_worn_out_when_its_own_number_of_tasks_is_done(make_worker: MakeWorker) -> None:
    workers = [make_worker(Limits(max_tasks=1000)) for _ in range(20)]

    def lifetime(worker: Worker) -> int:
        while not worker._is_worn_out():
            worker._done += 1
        return worker._done

    ends = {lifetime(worker) for worker in workers}
    # So that workers that started together are not replaced together.
    assert len(ends) > 1
    assert min(ends) >= 1000
    assert max(ends) <= 1100


def test_an_outcome_is_tried_to_be_written_until_the_drain_is_over(make_worker: MakeWorker) -> None:
    worker = make_worker(Limits(drain_s=30.0))
    worker._parent = os.getppid()
    worker._is_writing = True
    assert worker._pause(0.0)

    worker._stop.make()
    assert worker._pause(0.0)

    worker._stop._at_s = time.monotonic() - 30.0
    assert not worker._pause(0.0)


def test_a_worker_without_an_outcome_gives_up_on_the_broker_as_soon_as_it_shall_stop(make_worker: MakeWorker) -> None:
    worker = make_worker(Limits(drain_s=30.0))
    worker._parent = os.getppid()
    worker._write(lambda: None)

    worker._stop.make()

    assert not worker._pause(0.0)


def test_a_refused_task_of_a_batch_counts_as_finished(
    make_worker: MakeWorker, connection: redis.Redis, broker: Broker
) -> None:
    worker = make_worker()
    connection.hset(keys.job("evil"), mapping={"data": '["os.system", null, [], {}]', "origin": "default"})
    connection.rpush(keys.queue("default"), "evil")
    worker._advance()

    claim = worker._next()
    assert claim is not None
    assert worker._scoreboard.batch(0).is_running
    assert worker._perform(claim)

    batch = worker._scoreboard.batch(0)
    assert (batch.finished, batch.is_running) == (1, False)
    assert not broker.held(NAME)


def test_a_worker_that_ends_gives_the_rest_of_its_batch_back_by_itself(
    make_worker: MakeWorker, client: Client, connection: redis.Redis
) -> None:
    mux = ServeMux()
    mux.handle("test:term")(lambda task: os.kill(os.getpid(), signal.SIGTERM))
    worker = make_worker(mux=mux)
    for _ in range(40):
        worker._prefetch.note(0.0001)
    client.enqueue_many([("test:term", None)] * 64)
    before = pending(connection)

    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            status = worker.run()
        finally:
            os._exit(status)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == OK
    assert pending(connection) == before[1:]
    assert not connection.zcard(keys.wip("default"))

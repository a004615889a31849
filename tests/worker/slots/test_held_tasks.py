"""What a worker with slots claims ahead of its threads, on a real broker: it keeps nobody waiting, and costs nobody."""

import os
import signal
import time
from pathlib import Path

import pytest
import redis

from boilerd import Client, Inspector, ServeMux, Task
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.process.exit_status import DONE, OK, RECYCLED
from boilerd.process.scoreboard import Scoreboard
from boilerd.tasks.queues import ClaimOrder
from boilerd.worker.limits import Limits, SlotLimits
from boilerd.worker.prefetch import MOST
from boilerd.worker.slots import ahead, escalation, keeper, runner
from builders import WORKER, pending, worker_name
from slotted import ForkedWorker, Gate, StartWorker
from support import DEADLINE_S, wait_until

SLOTS = 4
#: So many short tasks teach a worker to claim ahead; of so many that wait, a claim gets all that it asks for.
SHORT, LONG = 300, 150
NEVER_S = 3600.0


@pytest.fixture
def mux(gate: Gate) -> ServeMux:
    made = ServeMux()

    @made.handle("test:short")
    def short(task: Task) -> None:
        pass

    @made.handle("test:long")
    def long(task: Task) -> None:
        (gate._place / task.id).touch()
        ends_s = time.monotonic() + DEADLINE_S
        while not (gate._open.exists() or gate.pass_of(task.id).exists()) and time.monotonic() < ends_s:
            time.sleep(0.005)

    return made


def ids() -> list[str]:
    return [f"long-{i:04}" for i in range(LONG)]


@pytest.fixture
def waiting(client: Client) -> None:
    """Short tasks wait, and long ones behind them."""
    client.enqueue_many([("test:short", None)] * SHORT)
    for task_id in ids():
        client.enqueue("test:long", task_id=task_id)


@pytest.fixture
def holds_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "HOLD_S", NEVER_S)


def claims_of(connection: redis.Redis, row: int = 0) -> int:
    return int(connection.scard(keys.worker_executions(worker_name(row))))


def suspects(connection: redis.Redis) -> list[str]:
    return [task_id for task_id in ids() if connection.hexists(keys.job(task_id), "alone")]


@pytest.fixture
def worker(
    *,
    start_worker: StartWorker,
    mux: ServeMux,
    gate: Gate,
    connection: redis.Redis,
    waiting: None,
    holds_for_ever: None,
) -> ForkedWorker:
    """Its slots have long tasks, and it holds more of them."""
    made = start_worker(mux, slots=SLOTS)
    wait_until(lambda: gate.count() == SLOTS, "the long tasks have begun")
    wait_until(lambda: connection.llen(keys.completed("default")) == SHORT, "the short ones are acknowledged")
    wait_until(lambda: claims_of(connection) > SLOTS, "it has claimed ahead")
    return made


def test_what_is_held_behind_long_tasks_goes_back_in_its_order_and_another_worker_runs_it(
    *, start_worker: StartWorker, mux: ServeMux, gate: Gate, connection: redis.Redis, waiting: None
) -> None:
    start_worker(mux, slots=SLOTS)
    wait_until(lambda: gate.count() == SLOTS and claims_of(connection) == SLOTS, "it runs four and holds none")

    assert pending(connection) == ids()[SLOTS:]
    start_worker(mux, slots=SLOTS, row=1)
    wait_until(lambda: gate.count() == 2 * SLOTS, "another runs the next")
    assert sorted(gate.ids()) == ids()[: 2 * SLOTS]


def test_what_is_held_goes_back_although_nothing_else_wakes_the_keeper(
    *, start_worker: StartWorker, mux: ServeMux, gate: Gate, connection: redis.Redis, waiting: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for module, name in ((keeper, "BEAT_S"), (keeper, "LOOK_S"), (runner, "LOOK_S"), (escalation, "LOOK_S")):
        monkeypatch.setattr(module, name, NEVER_S)
    monkeypatch.setattr(ahead, "MOST", 1)  # or a second call would follow

    start_worker(mux, slots=SLOTS)

    wait_until(lambda: gate.count() == SLOTS and claims_of(connection) == SLOTS, "it runs four and holds none")


def test_no_more_run_at_once_than_there_are_slots_and_each_once(
    *, start_worker: StartWorker, client: Client, connection: redis.Redis, directory: Path
) -> None:
    mux, running = ServeMux(), directory / "running"
    running.mkdir()
    log = os.open(directory / "most", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    @mux.handle("test:short")
    def short(task: Task) -> None:
        own = running / task.id
        own.touch(exist_ok=False)
        os.write(log, b"%d %d\n" % (len([*running.iterdir()]), claims_of(connection)))
        own.unlink()

    client.enqueue_many([("test:short", None)] * 800)

    assert start_worker(mux, slots=SLOTS, limits=Limits(drain_s=10, is_burst=True)).wait() == DONE

    found = [[*map(int, line.split())] for line in (directory / "most").read_text().splitlines()]
    os.close(log)
    assert len(found) == 800
    assert max(at_once for at_once, _ in found) <= SLOTS
    assert SLOTS < max(claims for _, claims in found) <= SLOTS + MOST + SLOTS  # some have ended, and are not written


def test_the_scoreboard_shows_what_runs_without_what_is_held(worker: ForkedWorker, scoreboard: Scoreboard) -> None:
    wait_until(lambda: scoreboard.running(0) == SLOTS, "it shows the slots")


@pytest.mark.parametrize("how", ["stop", "quiet"])
def test_what_is_held_goes_back_at_once_when_nothing_more_may_begin(
    *, worker: ForkedWorker, gate: Gate, connection: redis.Redis, scoreboard: Scoreboard, how: str
) -> None:
    if how == "stop":
        worker.signal(signal.SIGTERM)
    scoreboard.is_quiet = how == "quiet"

    wait_until(lambda: claims_of(connection) == SLOTS, "what is held has gone back")

    assert pending(connection) == ids()[SLOTS:]
    gate.open()
    wait_until(lambda: not claims_of(connection), "the others have ended")
    assert how == "quiet" or worker.wait() == OK
    assert gate.count() == SLOTS


def test_a_worker_that_is_killed_costs_what_it_held_nothing(
    *, start_worker: StartWorker, worker: ForkedWorker, mux: ServeMux, gate: Gate, connection: redis.Redis
) -> None:
    held = claims_of(connection) - SLOTS
    worker.close()

    gate.open()
    start_worker(mux, slots=SLOTS)
    wait_until(lambda: gate.count() == LONG and not claims_of(connection), "all have run")

    assert held > 0
    assert not connection.exists(keys.registry("failed", "default"), keys.registry("scheduled", "default"))


def test_what_a_worker_held_when_it_was_killed_is_back_at_the_head_of_its_queue_in_its_order(
    *, start_worker: StartWorker, worker: ForkedWorker, mux: ServeMux, connection: redis.Redis
) -> None:
    worker.close()

    start_worker(mux, slots=SLOTS, order=ClaimOrder({"other": 1}, is_strict=True))

    wait_until(lambda: not claims_of(connection), "its successor has settled what it held")
    assert pending(connection) == ids()


def test_a_worker_that_is_killed_makes_no_suspects_of_what_it_held(
    *, start_worker: StartWorker, worker: ForkedWorker, mux: ServeMux, gate: Gate, connection: redis.Redis
) -> None:
    ran, held = ids()[:SLOTS], ids()[SLOTS : claims_of(connection)]
    worker.close()

    start_worker(mux, slots=SLOTS, order=ClaimOrder({"other": 1}, is_strict=True))
    wait_until(lambda: not claims_of(connection), "its successor has settled what it held")

    assert suspects(connection) == ran
    assert held


def test_what_began_in_place_of_another_is_a_suspect_when_its_worker_is_killed(
    *, start_worker: StartWorker, worker: ForkedWorker, mux: ServeMux, gate: Gate, connection: redis.Redis
) -> None:
    for task_id in ids()[:SLOTS]:
        gate.pass_of(task_id).touch()
    wait_until(lambda: gate.count() == 2 * SLOTS, "what was held has begun")
    wait_until(lambda: connection.llen(keys.completed("default")) == SHORT + SLOTS, "the first have ended")
    worker.close()

    start_worker(mux, slots=SLOTS, order=ClaimOrder({"other": 1}, is_strict=True))
    wait_until(lambda: not claims_of(connection), "its successor has settled what it held")

    assert suspects(connection) == ids()[SLOTS : 2 * SLOTS]


def test_a_pause_of_the_queue_does_not_keep_back_what_is_held(
    *, worker: ForkedWorker, gate: Gate, connection: redis.Redis
) -> None:
    Inspector(connection).pause("default")
    claimed = claims_of(connection)

    gate.open()

    wait_until(lambda: not claims_of(connection), "all that was claimed has ended")
    assert (sorted(gate.ids()), pending(connection)) == (ids()[:claimed], ids()[claimed:])


def test_a_held_task_whose_lease_is_lost_never_runs_here(
    *, worker: ForkedWorker, gate: Gate, connection: redis.Redis, broker: Broker
) -> None:
    lost = max(broker.held(WORKER), key=lambda claim: claim.task_id)
    connection.zrem(keys.wip("default"), lost.pair)
    broker.mark_cancelled(ids()[0])
    worker.signal(signal.SIGUSR1)
    wait_until(lambda: connection.zcard(keys.registry("failed", "default")), "it has asked which are not wanted")
    gate.open()

    wait_until(lambda: any("lease was lost" in line for line in worker.lines()), "its outcome is dropped")
    assert lost.task_id not in gate.ids()


def test_a_held_task_that_is_cancelled_never_runs(
    *, worker: ForkedWorker, gate: Gate, connection: redis.Redis, broker: Broker
) -> None:
    held = max(claim.task_id for claim in broker.held(WORKER))

    for task_id in (ids()[0], held):
        broker.mark_cancelled(task_id)
    worker.signal(signal.SIGUSR1)
    wait_until(lambda: connection.zcard(keys.registry("failed", "default")), "the one that runs has ended")
    gate.open()

    wait_until(lambda: connection.zcard(keys.registry("failed", "default")) == 2, "the other has ended")
    assert Inspector(connection).task(held).last_error.startswith("TaskCancelledError")
    assert held not in gate.ids()


def test_a_worker_runs_no_more_than_its_number_of_tasks_where_it_claims_ahead(
    *, start_worker: StartWorker, mux: ServeMux, connection: redis.Redis, waiting: None
) -> None:
    worker = start_worker(mux, slots=SLOTS, limits=Limits(max_tasks=200))

    assert worker.wait() == RECYCLED
    assert SHORT + LONG - 220 <= len(pending(connection)) <= SHORT + LONG - 200


def test_nothing_is_held_with_a_pool_that_does_not_prefetch(
    *, start_worker: StartWorker, client: Client, connection: redis.Redis, directory: Path
) -> None:
    mux = ServeMux()
    log = os.open(directory / "most", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    @mux.handle("test:short")
    def short(task: Task) -> None:
        os.write(log, b"%d\n" % Broker(connection).connection.zcard(keys.wip("default")))

    client.enqueue_many([("test:short", None)] * 400)
    limits = SlotLimits(slots=SLOTS, claims_ahead=False)

    assert start_worker(mux, slot_limits=limits, limits=Limits(drain_s=10, is_burst=True)).wait() == DONE

    found = [*map(int, (directory / "most").read_text().split())]
    os.close(log)
    assert len(found) == 400
    assert max(found) <= SLOTS

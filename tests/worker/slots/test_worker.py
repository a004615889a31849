"""A worker with slots in a process of its own, on a real broker."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from rq import get_current_job

from boilerd import Client, Inspector, ServeMux, SkipRetry, Task, TaskState, current_task
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.errors import TaskCancelledError
from boilerd.process.exit_status import DONE, FAILED, OK, RECYCLED, TIMED_OUT
from boilerd.process.scoreboard import Scoreboard
from boilerd.tasks.queues import ClaimOrder
from boilerd.worker.limits import Limits, SlotLimits
from builders import WORKER, enqueue, pending, worker_name
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
    assert not connection.exists(keys.wip("default"), keys.queue("default"), keys.worker(WORKER))


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


def test_two_processes_share_a_queue_of_long_tasks(
    start_worker: StartWorker,
    mux: ServeMux,
    gate: Gate,
    client: Client,
    connection: redis.Redis,
    scoreboard: Scoreboard,
) -> None:
    for row in (0, 1):
        start_worker(mux, slots=500, row=row)
    wait_until(lambda: scoreboard.has_booted(0) and scoreboard.has_booted(1), "both serve")

    client.enqueue_many([("test:echo", None)] * 40)
    wait_until(lambda: gate.count() == 40, "all run")

    shares = [held_by(connection, worker_name(row)) for row in (0, 1)]
    assert sum(shares) == 40
    assert max(shares) <= 30


def test_full_slots_leave_the_next_task_to_a_worker_that_has_room(
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

    wait_until(lambda: gate.count() == 3, "the second runs it", deadline_s=10)
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

    wait_until(lambda: not connection.exists(keys.job("plain")), "the one is gone", deadline_s=10)
    wait_until(lambda: Inspector(connection).task("kept").state is TaskState.COMPLETED, "the other is kept")

    assert held_by(connection) == 1

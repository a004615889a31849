"""What workers with several slots held whose daemon or host is gone, or which the daemon has ended."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from boilerd import ServeMux
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.claims import Claim
from boilerd.broker.connection import text
from boilerd.broker.constants import LEASE_OFFSET_S
from boilerd.process.exit_status import STOPPED_BY_DAEMON
from boilerd.process.identity import birthmark
from boilerd.process.scoreboard import Scoreboard
from boilerd.scheduler import recovery
from boilerd.scheduler.recovery import GRACE_S, Recoverer
from boilerd.tasks.retry import RetryPolicy
from boilerd.worker.kept_outcomes import KeptOutcomes
from boilerd.worker.settlement import Rules
from builders import WORKER, Clock, new_task, pending

LIFE = "0f1e2d3c"
#: Of another daemon.
OTHER = "other.run.0"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def scoreboard() -> Scoreboard:
    """Of a daemon with one worker of 1,000 slots."""
    made = Scoreboard()
    made.note_slots(0, 1000)
    return made


@pytest.fixture
def recoverer(broker: Broker, scoreboard: Scoreboard, clock: Clock, directory: Path) -> Recoverer:
    """It has looked once, so long ago that it takes leases that ended."""
    rules = Rules.of(ServeMux(), RetryPolicy(), lambda handler: handler)
    kept = KeptOutcomes(directory / "outcomes", "broker")
    made = Recoverer(
        broker, scoreboard=scoreboard, worker_names=[WORKER], queues=["default"], rules=rules, kept=kept, clock=clock
    )
    made.recover()
    clock.ahead_s = GRACE_S
    return made


@pytest.fixture
def hold(broker: Broker) -> Callable[..., list[Claim]]:
    """Have a worker hold so many new tasks; takes what its record says beside that."""

    def claim_all(worker: str, count: int, **record: str) -> list[Claim]:
        broker.enqueue([new_task(f"t{number:03}", timeout=60) for number in range(count)])
        broker.register(worker, ["default"], {"life": LIFE, "turn": 0, "slots": 1000, **record})
        claims: list[Claim] = []
        turn = 0
        while len(claims) < count:
            turn += 1
            claims += broker.serve(worker, LIFE, turn, ["default"], limit=64, parts=1).claims
        return claims

    return claim_all


def dead_mark() -> str:
    """The birthmark of a process that has ended."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
    mark = birthmark(pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return mark


def fields(connection: redis.Redis, task_id: str) -> tuple[Any, ...]:
    """Its status, and what says whether it counted and is marked."""
    return tuple(connection.hmget(keys.job(task_id), "status", "number_of_retries", "alone"))


def beat_ago(connection: redis.Redis, claims: list[Claim], seconds: float) -> None:
    """The last heartbeat of these claims was so long ago."""
    lease = LEASE_OFFSET_S + time.time() + 30 - seconds
    connection.zadd(keys.wip("default"), {claim.pair: lease for claim in claims})


def started_ago(connection: redis.Redis, task_id: str, seconds: float) -> None:
    began = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(time.time() - seconds))
    connection.hset(keys.job(task_id), "started_at", began)


@pytest.mark.fault(51)
def test_what_a_daemon_held_that_was_killed_with_its_workers_goes_back_uncounted_and_marked(
    recoverer: Recoverer, hold: Callable[..., list[Claim]], connection: redis.Redis, broker: Broker
) -> None:
    claims = hold(OTHER, 250, birthmark=dead_mark(), supervisor=dead_mark())
    started_ago(connection, "t007", 66)

    while recoverer.recover() == 0.0:
        pass

    tasks = [claim.task_id for claim in claims if claim.task_id != "t007"]
    assert pending(connection) == tasks
    assert {fields(connection, task_id) for task_id in tasks} == {(b"queued", None, b"1")}
    assert fields(connection, "t007") == (b"scheduled", b"1", None)
    assert broker.registered() == {}


@pytest.mark.parametrize("is_daemon_here", [True, False])
def test_the_only_task_that_was_in_several_deaths_is_to_blame_for_that_of_its_daemon_or_host(
    is_daemon_here: bool,
    recoverer: Recoverer,
    hold: Callable[..., list[Claim]],
    connection: redis.Redis,
) -> None:
    claims = hold(OTHER, 3, **({"birthmark": dead_mark(), "supervisor": dead_mark()} if is_daemon_here else {}))
    for name in ("t000", "t001"):
        connection.hset(keys.job(name), "alone", {"t000": 1, "t001": 2}[name])
    if not is_daemon_here:
        beat_ago(connection, claims, 31)

    while recoverer.recover() == 0.0:
        pass

    assert fields(connection, "t001") == (b"scheduled", b"1", b"2")
    assert fields(connection, "t000")[1:] == (None, b"2")
    assert fields(connection, "t002")[1:] == (None, b"1")


def test_the_claims_of_a_dead_daemon_do_not_keep_the_scheduler_from_its_other_duties(
    recoverer: Recoverer, hold: Callable[..., list[Claim]], connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(OTHER, 250, birthmark=dead_mark(), supervisor=dead_mark())
    monkeypatch.setattr(recovery, "LONGEST_STEP_S", -1.0)

    steps = [(recoverer.recover(), len(pending(connection))) for _ in range(3)]

    assert steps == [(0.0, 50), (0.0, 150), (0.0, 250)]


@pytest.mark.fault(51)
def test_of_a_host_that_is_gone_only_what_was_past_its_limit_counts(
    recoverer: Recoverer, hold: Callable[..., list[Claim]], connection: redis.Redis
) -> None:
    claims = hold(OTHER, 3)
    for task_id, seconds in (("t000", 40), ("t001", 80), ("t002", 120)):  # the timeout is 60 s, the last heartbeat
        started_ago(connection, task_id, seconds)  # was 31 s ago
    beat_ago(connection, claims, 31)

    recoverer.recover()

    assert fields(connection, "t000") == (b"scheduled", None, b"1")
    assert fields(connection, "t001") == (b"scheduled", None, b"1")
    assert fields(connection, "t002") == (b"scheduled", b"1", None)
    error = connection.hget(keys.job("t002"), "last_error")
    assert text(error or b"").startswith("TaskTimeoutError: ")


def test_many_leases_that_ended_are_looked_at_without_a_pause(
    recoverer: Recoverer, hold: Callable[..., list[Claim]], connection: redis.Redis
) -> None:
    beat_ago(connection, hold(OTHER, 250), 31)

    pauses = [recoverer.recover() for _ in range(3)]

    assert pauses[:2] == [0.0, 0.0]
    assert pauses[2] > 0.0
    assert connection.zcard(keys.registry("scheduled", "default")) == 250


def test_what_a_worker_held_that_the_daemon_stopped_goes_back_uncounted_and_in_its_order(
    recoverer: Recoverer, hold: Callable[..., list[Claim]], connection: redis.Redis, scoreboard: Scoreboard
) -> None:
    tasks = [claim.task_id for claim in hold(WORKER, 150)]
    scoreboard.clear(0, STOPPED_BY_DAEMON)

    recoverer.recover()

    assert pending(connection) == tasks
    assert {fields(connection, task_id) for task_id in tasks} == {(b"queued", None, None)}


def test_what_a_worker_held_that_was_killed_in_a_drain_goes_back_uncounted_and_in_its_order(
    recoverer: Recoverer, hold: Callable[..., list[Claim]], connection: redis.Redis, scoreboard: Scoreboard
) -> None:
    tasks = [claim.task_id for claim in hold(WORKER, 150)]
    scoreboard.clear(0, -signal.SIGKILL)

    recoverer.release_killed()

    assert pending(connection) == tasks
    assert {fields(connection, task_id) for task_id in tasks} == {(b"queued", None, None)}

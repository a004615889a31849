"""The leases of workers with several slots are renewed in pieces, and a task that is not wanted is told its worker."""

import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import redis

from boilerd import Client
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.claims import Claim
from boilerd.broker.constants import LEASE_OFFSET_S
from boilerd.errors import BrokerRefusedError
from boilerd.process.scoreboard import Scoreboard
from boilerd.scheduler import slotted_heartbeat
from boilerd.scheduler.heartbeat import Heartbeater
from boilerd.scheduler.slotted_heartbeat import MOST_RENEWED, ROUND_S, SlottedHeartbeater
from builders import enqueue, new_task, worker_name
from support import expire_leases, wait_until

LIFE = "0f1e2d3c"


class Worker(NamedTuple):
    """A process that waits to be told of something; each SIGUSR1 is a byte in its pipe."""

    pid: int
    told: int

    def times_told(self, *, within_s: float = 20.0) -> int:
        ready, _, _ = select.select([self.told], [], [], within_s)
        return len(os.read(self.told, 100)) if ready else 0


def listen(tell: int, ready: int) -> None:
    """In the worker's process."""
    signal.signal(signal.SIGUSR1, lambda *_: os.write(tell, b"!"))
    os.write(ready, b"!")
    while True:
        signal.pause()


@pytest.fixture
def workers(scoreboard: Scoreboard) -> Iterator[list[Worker]]:
    """Two workers of 1,000 slots, in the rows 0 and 1."""
    made = []
    for row in (0, 1):
        told, tell = os.pipe()
        go, ready = os.pipe()
        pid = os.fork()
        if pid == 0:
            listen(tell, ready)
        os.read(go, 1)
        for fd in (tell, go, ready):
            os.close(fd)
        made.append(Worker(pid, told))
        scoreboard.put(row, pid)
        scoreboard.note_slots(row, 1000)
        scoreboard.mark_booted(row)
    yield made
    for worker in made:
        os.close(worker.told)
        try:
            os.kill(worker.pid, signal.SIGKILL)
            os.waitpid(worker.pid, 0)
        except (ProcessLookupError, ChildProcessError):  # the test did it
            pass


@pytest.fixture
def scoreboard() -> Scoreboard:
    return Scoreboard()


@pytest.fixture
def heartbeater(broker: Broker, scoreboard: Scoreboard, workers: list[Worker]) -> SlottedHeartbeater:
    return SlottedHeartbeater(broker, scoreboard, [worker_name(0), worker_name(1)])


def claim_all(broker: Broker, scoreboard: Scoreboard, row: int, count: int) -> list[Claim]:
    """Have the worker hold so many new tasks, ``ROW-NUMBER``."""
    broker.enqueue([new_task(f"{row}-{number}") for number in range(count)])
    broker.register(worker_name(row), ["default"], {"life": LIFE, "turn": 0, "slots": 1000})
    claims: list[Claim] = []
    turn = 0
    while len(claims) < count:
        turn += 1
        claims += broker.serve(worker_name(row), LIFE, turn, ["default"], limit=64, parts=1).claims
    scoreboard.note_running(row, count)
    return claims


def whole_round(heartbeater: SlottedHeartbeater) -> list[float]:
    """Beat until a round is over; the pauses that it asks for."""
    pauses = [heartbeater.beat()]
    while heartbeater._round is not None:
        pauses.append(heartbeater.beat())
    return pauses


def age_leases(connection: redis.Redis) -> None:
    """Have each lease end in a second."""
    pairs = {pair: LEASE_OFFSET_S + time.time() + 1 for pair, _ in connection.zscan_iter(keys.wip("default"))}
    connection.zadd(keys.wip("default"), pairs, xx=True)


def left_s(connection: redis.Redis) -> list[float]:
    """For how many seconds each lease lasts, the shortest first."""
    found: Any = connection.zrange(keys.wip("default"), 0, -1, withscores=True)
    return [score - LEASE_OFFSET_S - time.time() for _, score in found]


def test_a_round_renews_all_leases_of_all_workers(
    heartbeater: SlottedHeartbeater, broker: Broker, scoreboard: Scoreboard, connection: redis.Redis
) -> None:
    claim_all(broker, scoreboard, 0, 2 * MOST_RENEWED + 10)
    claim_all(broker, scoreboard, 1, 20)
    age_leases(connection)

    whole_round(heartbeater)

    leases = left_s(connection)
    assert len(leases) == 2 * MOST_RENEWED + 30
    assert min(leases) > 25


def test_the_steps_of_a_round_are_spread_and_leave_time_between_them(
    heartbeater: SlottedHeartbeater, broker: Broker, scoreboard: Scoreboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slotted_heartbeat, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    claim_all(broker, scoreboard, 0, 3 * MOST_RENEWED)

    *pauses, last_s = whole_round(heartbeater)

    assert len(pauses) >= 3
    assert all(pause_s > 0.1 for pause_s in pauses)
    assert last_s > ROUND_S / 2


def test_a_claim_that_is_new_has_its_first_heartbeat_before_the_others(
    heartbeater: SlottedHeartbeater, broker: Broker, scoreboard: Scoreboard, connection: redis.Redis
) -> None:
    claim_all(broker, scoreboard, 0, MOST_RENEWED)
    whole_round(heartbeater)
    broker.enqueue([new_task("new")])
    (claim,) = broker.serve(worker_name(0), LIFE, 900, ["default"], limit=64, parts=1).claims
    age_leases(connection)

    heartbeater.beat()

    lease = connection.zscore(keys.wip("default"), claim.pair)
    assert lease is not None
    assert lease - LEASE_OFFSET_S - time.time() > 25


def test_a_worker_without_claims_stays_present(
    heartbeater: SlottedHeartbeater, broker: Broker, connection: redis.Redis
) -> None:
    broker.register(worker_name(0), ["default"], {"life": LIFE, "turn": 0, "slots": 1000})
    connection.expire(keys.worker(worker_name(0)), 10)

    whole_round(heartbeater)

    assert connection.ttl(keys.worker(worker_name(0))) > 10


@pytest.mark.fault(49)
def test_a_worker_that_lost_a_lease_is_told_once_at_each_heartbeat(
    heartbeater: SlottedHeartbeater,
    workers: list[Worker],
    broker: Broker,
    scoreboard: Scoreboard,
    connection: redis.Redis,
) -> None:
    claims = claim_all(broker, scoreboard, 0, 2 * MOST_RENEWED)
    claim_all(broker, scoreboard, 1, 1)
    for claim in claims[::50]:
        connection.zrem(keys.wip("default"), claim.pair)

    whole_round(heartbeater)

    assert workers[0].times_told() == 1
    assert workers[1].times_told(within_s=0.0) == 0
    whole_round(heartbeater)
    assert workers[0].times_told() == 1


def test_a_worker_whose_task_was_cancelled_is_told_although_the_command_was_lost(
    heartbeater: SlottedHeartbeater, workers: list[Worker], broker: Broker, scoreboard: Scoreboard
) -> None:
    claim_all(broker, scoreboard, 0, 3)
    broker.mark_cancelled("0-1")

    whole_round(heartbeater)

    assert workers[0].times_told() == 1


def test_a_worker_that_starts_is_not_told_of_what_its_predecessor_lost(
    heartbeater: SlottedHeartbeater,
    workers: list[Worker],
    broker: Broker,
    scoreboard: Scoreboard,
    connection: redis.Redis,
) -> None:
    (claim,) = claim_all(broker, scoreboard, 0, 1)
    connection.zrem(keys.wip("default"), claim.pair)
    scoreboard.mark_booted(0, has_booted=False)

    whole_round(heartbeater)

    assert workers[0].times_told(within_s=0.1) == 0


def test_a_worker_that_a_signal_has_stopped_gets_no_new_leases(
    heartbeater: SlottedHeartbeater,
    workers: list[Worker],
    broker: Broker,
    scoreboard: Scoreboard,
    connection: redis.Redis,
) -> None:
    claim_all(broker, scoreboard, 0, 3)
    claim_all(broker, scoreboard, 1, 3)
    age_leases(connection)
    os.kill(workers[0].pid, signal.SIGSTOP)
    os.waitid(os.P_PID, workers[0].pid, os.WSTOPPED)

    whole_round(heartbeater)

    assert [lease_s > 25 for lease_s in left_s(connection)] == [False, False, False, True, True, True]
    assert scoreboard.halted() == [0]


def test_what_redis_refuses_for_one_worker_keeps_no_other_from_its_leases(
    heartbeater: SlottedHeartbeater, broker: Broker, scoreboard: Scoreboard, connection: redis.Redis
) -> None:
    claim_all(broker, scoreboard, 1, 3)
    age_leases(connection)
    connection.set(keys.worker_executions(worker_name(0)), "foreign")

    with pytest.raises(BrokerRefusedError):
        whole_round(heartbeater)

    assert min(left_s(connection)) > 25


def test_what_rq_s_tools_see_of_an_attempt_is_renewed_every_two_minutes(
    heartbeater: SlottedHeartbeater,
    broker: Broker,
    scoreboard: Scoreboard,
    connection: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (claim,) = claim_all(broker, scoreboard, 0, 1)
    record = keys.execution(claim.pair)
    connection.hset(record, "last_heartbeat", "1.0")
    whole_round(heartbeater)
    assert connection.hget(record, "last_heartbeat") == b"1.0"

    monkeypatch.setattr(slotted_heartbeat, "RECORDS_S", 0.0)
    whole_round(heartbeater)
    assert float(connection.hget(record, "last_heartbeat") or 0) > 1.0


def test_what_a_worker_holds_no_longer_is_forgotten(
    heartbeater: SlottedHeartbeater, broker: Broker, scoreboard: Scoreboard
) -> None:
    claims = claim_all(broker, scoreboard, 0, 10)
    whole_round(heartbeater)
    broker.give_back(worker_name(0), claims)

    whole_round(heartbeater)

    assert heartbeater._held == {0: {}, 1: {}}
    assert heartbeater._recorded_s == {}


@pytest.mark.usefixtures("workers")
def test_workers_with_one_slot_and_with_several_have_a_heartbeat_each(
    broker: Broker, scoreboard: Scoreboard, connection: redis.Redis, client: Client
) -> None:
    heartbeater = Heartbeater(broker, scoreboard, [worker_name(0), worker_name(1)], lambda: None)
    claim_all(broker, scoreboard, 0, 3)
    scoreboard.note_slots(1, 1)
    enqueue(client, "single")
    broker.advance(worker_name(1), ["default"])
    age_leases(connection)

    heartbeater.beat()
    assert [lease_s > 25 for lease_s in left_s(connection)] == [False, False, False, True]

    whole_round(heartbeater.slotted)
    assert min(left_s(connection)) > 25


@pytest.mark.fault(20)
def test_orphans_with_several_slots_keep_their_leases_while_they_drain(
    broker: Broker, scoreboard: Scoreboard, workers: list[Worker], connection: redis.Redis
) -> None:
    heartbeater = Heartbeater(broker, scoreboard, [worker_name(0)], lambda: None)
    claim_all(broker, scoreboard, 0, 3)
    expire_leases(connection, broker.expired)

    def end_when_renewed() -> None:
        try:
            wait_until(lambda: min(left_s(connection)) > 0, "the leases are renewed")
        finally:
            os.kill(workers[0].pid, signal.SIGKILL)
            os.waitpid(workers[0].pid, 0)

    ending = threading.Thread(target=end_when_renewed)
    ending.start()
    heartbeater.keep_leases_of_orphans()
    ending.join()

    assert not broker.expired()

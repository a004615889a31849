"""The hand: what a worker claimed and what it has not acknowledged, on a real broker."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from boilerd import Client
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.claims import Completion
from boilerd.broker.connection import connect
from boilerd.process.scoreboard import Scoreboard
from boilerd.process.signals import StopRequest
from boilerd.tasks.metric_record import Numbers
from boilerd.tasks.queues import ClaimOrder
from boilerd.worker import hand as hand_module
from boilerd.worker.hand import Hand
from boilerd.worker.prefetch import HOLD_S, Prefetch
from boilerd.worker.resilient_broker import ResilientBroker
from boilerd.worker.tally import Tally
from support import DEADLINE_S, Valkey, completed, wait_until

NAME = "host.run.0"
MakeHand = Callable[..., Hand]


@pytest.fixture
def stop() -> Iterator[StopRequest]:
    kept = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    yield StopRequest()
    for signum, handler in kept.items():
        signal.signal(signum, handler)


@pytest.fixture
def registered() -> list[str]:
    """A word for each time that a hand registered its worker again."""
    return []


@pytest.fixture
def make_hand(broker: Broker, stop: StopRequest, registered: list[str]) -> MakeHand:
    """Makes hands of one worker that give up on an unavailable broker at once."""
    broker.register(NAME, ["default"], {"state": "starting"})

    def make(
        scoreboard: Scoreboard | None = None, prefetch: Prefetch | None = None, tally: Tally | None = None
    ) -> Hand:
        return Hand(
            ResilientBroker(broker, lambda seconds: False),
            name=NAME,
            order=ClaimOrder({"default": 1}, is_strict=True),
            prefetch=prefetch or Prefetch(),
            scoreboard=scoreboard or Scoreboard(),
            row=0,
            stop=stop,
            register=lambda: registered.append("again"),
            tally=tally or Tally(),
        )

    return make


def for_short_tasks() -> Prefetch:
    """A prefetch that claims as many as it may."""
    prefetch = Prefetch()
    for _ in range(40):
        prefetch.note(0.0001)
    return prefetch


def pending(connection: redis.Redis) -> list[bytes]:
    found: Any = connection.lrange(keys.queue("default"), 0, -1)
    return list(found)


def attempts(tally: Tally) -> dict[str, int]:
    """What it sends of ended attempts, by outcome."""
    return Numbers.sum_of(Numbers(record) for record in tally.take()[1::2]).attempts


def ids(hand: Hand) -> list[bytes]:
    return [claim.task_id.encode() for claim in hand.claims]


def test_a_claim_whose_answer_was_lost_is_given_back_and_claimed_again(
    make_hand: MakeHand, client: Client, broker: Broker
) -> None:
    hand = make_hand()
    client.enqueue("test:echo", task_id="a")
    broker.advance(NAME, ["default"])

    assert hand.take() is None

    claim = hand.take()
    assert claim is not None
    assert claim.task_id == "a"
    assert [held.execution_id for held in broker.held(NAME)] == [claim.execution_id]


def test_what_was_claimed_while_a_signal_ended_the_wait_goes_back(
    make_hand: MakeHand, client: Client, connection: redis.Redis, stop: StopRequest
) -> None:
    class Interrupting(Scoreboard):
        """The answer is there, and half noted, when the signal comes."""

        def open_batch(self, row: int, number: int, size: int) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            super().open_batch(row, number, size)

    hand = make_hand(Interrupting())
    client.enqueue("test:echo", task_id="a")

    hand.wait(1.0)
    assert stop
    assert not hand.claims
    assert pending(connection) == []

    hand.acknowledge()

    assert pending(connection) == [b"a"]
    assert not connection.zcard(keys.wip("default"))


def test_a_batch_that_took_too_long_goes_back_and_the_next_is_of_one_task(
    make_hand: MakeHand, client: Client, connection: redis.Redis
) -> None:
    hand = make_hand(prefetch=for_short_tasks())
    client.enqueue_many([("test:echo", n) for n in range(64)])
    before = pending(connection)
    first = hand.take()
    assert first is not None
    assert ids(hand) == before[1 : 1 + len(hand.claims)]
    assert hand.claims

    hand.complete(Completion(first))
    late_s = time.monotonic() + HOLD_S
    wait_until(lambda: time.monotonic() > late_s, "the batch is late")
    claim = hand.take()

    assert claim is not None
    assert claim.task_id.encode() == before[1]
    assert not hand.claims
    assert pending(connection) == before[2:]


def test_a_batch_is_taken_in_its_order_and_acknowledged_with_the_next_claim(
    make_hand: MakeHand, client: Client, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hand_module, "HOLD_S", DEADLINE_S)  # on a slow machine as well
    scoreboard = Scoreboard()
    hand = make_hand(scoreboard, for_short_tasks())
    client.enqueue_many([("test:echo", n) for n in range(32)])
    before = pending(connection)
    taken: list[bytes] = []
    while (claim := hand.take()) and (not taken or hand.claims):
        taken.append(claim.task_id.encode())
        assert scoreboard.batch(0).is_running
        hand.complete(Completion(claim))

    assert claim is not None
    assert [*taken, claim.task_id.encode()] == before[: len(taken) + 1]
    assert (scoreboard.batch(0).finished, scoreboard.batch(0).is_running) == (len(taken), True)
    assert len(hand.completions) == len(taken)

    hand.complete(Completion(claim))
    assert hand.take() is not None
    assert not hand.completions
    assert [completed(connection, task_id.decode()) for task_id in [*taken, *before[len(taken) :][:1]]] == [1] * (
        len(taken) + 1
    )


def test_a_result_to_keep_is_acknowledged_before_the_next_task_of_its_batch(
    make_hand: MakeHand, client: Client, connection: redis.Redis
) -> None:
    hand = make_hand(prefetch=for_short_tasks())
    client.enqueue_many([("test:echo", n) for n in range(32)], retention=60)
    claim = hand.take()
    assert claim is not None
    rest = ids(hand)

    hand.complete(Completion(claim, b"1"))

    assert connection.hget(keys.job(claim.task_id), "status") == b"finished"
    assert not hand.completions
    assert ids(hand) == rest != []


def test_a_hand_whose_batch_was_revoked_begins_nothing_more_of_it(make_hand: MakeHand, client: Client) -> None:
    scoreboard = Scoreboard()
    hand = make_hand(scoreboard, for_short_tasks())
    client.enqueue_many([("test:echo", n) for n in range(64)])
    slow = hand.take()
    assert slow is not None
    behind = ids(hand)[0]
    Broker(client.connection).release(NAME, only=[claim.execution_id for claim in hand.claims])
    scoreboard.revoke(0, scoreboard.batch(0).number)

    hand.complete(Completion(slow))
    claim = hand.take()

    assert claim is not None
    assert claim.task_id.encode() == behind
    assert scoreboard.batch(0).finished == 0


def test_completions_that_the_scheduler_acknowledged_are_not_called_lost(
    make_hand: MakeHand, client: Client, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    scoreboard = Scoreboard()
    hand = make_hand(scoreboard)
    client.enqueue("test:echo")
    claim = hand.take()
    assert claim is not None
    hand.complete(Completion(claim))

    broker.acknowledge(NAME, hand.completions)
    scoreboard.revoke(0, scoreboard.batch(0).number)
    hand.acknowledge()

    assert not hand.completions
    assert "lease was lost" not in caplog.text


def test_a_completion_whose_lease_was_lost_is_dropped_and_logged(
    make_hand: MakeHand, client: Client, connection: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    hand = make_hand()
    client.enqueue("test:echo")
    claim = hand.take()
    assert claim is not None
    connection.zrem(keys.wip("default"), f"{claim.task_id}:{claim.execution_id}")

    hand.complete(Completion(claim))
    hand.acknowledge()

    assert not hand.completions
    assert "outcome dropped, the lease was lost" in caplog.text


@pytest.mark.parametrize(("loses", "count"), [(False, 1), (True, 0)], ids=["kept", "lost"])
def test_what_completed_counts_when_redis_has_taken_it_and_not_where_the_lease_was_lost(
    *, make_hand: MakeHand, client: Client, connection: redis.Redis, loses: bool, count: int
) -> None:
    tally = Tally()
    hand = make_hand(tally=tally)
    client.enqueue("test:echo")
    claim = hand.take()
    assert claim is not None
    if loses:
        connection.zrem(keys.wip("default"), claim.pair)

    hand.complete(Completion(claim, ran_s=0.5))
    assert not tally.take()
    hand.acknowledge()

    assert attempts(tally)["completed"] == count


def test_what_the_scheduler_acknowledged_counts(make_hand: MakeHand, client: Client, broker: Broker) -> None:
    scoreboard, tally = Scoreboard(), Tally()
    hand = make_hand(scoreboard, tally=tally)
    client.enqueue("test:echo")
    claim = hand.take()
    assert claim is not None
    hand.complete(Completion(claim))

    broker.acknowledge(NAME, hand.completions)
    scoreboard.revoke(0, scoreboard.batch(0).number)
    hand.acknowledge()

    assert attempts(tally)["completed"] == 1


def test_a_worker_that_redis_has_forgotten_registers_again(
    make_hand: MakeHand, connection: redis.Redis, registered: list[str]
) -> None:
    hand = make_hand()
    assert hand.take() is None
    assert registered == []

    connection.delete(keys.worker(NAME))

    assert hand.take() is None
    assert registered == ["again"]


def test_nothing_is_claimed_for_a_worker_that_is_to_stop_or_quiet(
    make_hand: MakeHand, client: Client, connection: redis.Redis, stop: StopRequest
) -> None:
    scoreboard = Scoreboard()
    hand = make_hand(scoreboard)
    client.enqueue("test:echo", task_id="a")

    scoreboard.is_quiet = True
    assert hand.take() is None
    scoreboard.is_quiet = False
    stop.make()
    assert hand.take() is None
    hand.wait(0.0)

    assert pending(connection) == [b"a"]


def test_a_stop_during_an_outage_keeps_the_worker_from_claiming_when_the_broker_is_back(
    start_valkey: Callable[..., Valkey], stop: StopRequest
) -> None:
    server = start_valkey()
    away = server.socket.with_name("away.sock")
    with Client.from_url(server.url) as client, connect(server.url) as own:
        client.enqueue("test:echo", task_id="a")
        server.socket.rename(away)

        def pause(seconds: float) -> bool:
            stop.make()
            away.rename(server.socket)
            return True

        hand = Hand(
            ResilientBroker(Broker(own), pause),
            name=NAME,
            order=ClaimOrder({"default": 1}, is_strict=True),
            prefetch=Prefetch(),
            scoreboard=Scoreboard(),
            row=0,
            stop=stop,
            register=lambda: None,
            tally=Tally(),
        )

        assert hand.take() is None

        assert stop
        assert pending(client.connection) == [b"a"]


def test_a_worker_whose_hand_rests_is_not_told_as_busy_where_all_that_it_had_was_given_back(
    make_hand: MakeHand, client: Client, connection: redis.Redis
) -> None:
    client.enqueue("a:type")
    hand = make_hand()
    hand.wait(0.1)
    before = connection.hget(keys.worker(NAME), "state")

    hand.give_back()
    hand.rest()

    assert before == b"busy"
    assert connection.hget(keys.worker(NAME), "state") == b"suspended"
    assert connection.llen(keys.queue("default")) == 1

"""How long a worker waits for a broker that is away, on a real socket where nobody answers."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from boilerd import Client
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.connection import connect
from boilerd.errors import BrokerUnavailableError
from boilerd.process.scoreboard import Scoreboard
from boilerd.process.signals import StopRequest
from boilerd.worker.resilient_broker import OutagePause, ResilientBroker
from support import Valkey, wait_until

NAME = "host.run.0"


@pytest.fixture
def stop() -> Iterator[StopRequest]:
    kept = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    yield StopRequest()
    for signum, handler in kept.items():
        signal.signal(signum, handler)


def pause_of(stop: StopRequest, *, has_outcome: bool, drain_s: float = 30.0, parent: int | None = None) -> OutagePause:
    return OutagePause(
        stop,
        parent=parent or os.getppid(),
        drain_s=drain_s,
        has_outcome=lambda: has_outcome,
        scoreboard=Scoreboard(),
        row=0,
    )


@pytest.fixture
def away(directory: Path) -> Iterator[redis.Redis]:
    """Leads to nobody."""
    with connect(f"unix://{directory}/away.sock") as connection:
        yield connection


def test_an_outcome_is_tried_to_be_written_until_the_drain_is_over(stop: StopRequest, away: redis.Redis) -> None:
    pause = pause_of(stop, has_outcome=True)
    assert pause(0.0)

    stop.make()
    assert pause(0.0)

    drain_s = stop.age_s() + 0.3
    broker = ResilientBroker(Broker(away), pause_of(stop, has_outcome=True, drain_s=drain_s))
    with pytest.raises(BrokerUnavailableError):
        broker.release(NAME, ["a"])
    assert stop.age_s() >= drain_s


def test_a_worker_without_an_outcome_gives_up_on_the_broker_as_soon_as_it_shall_stop(
    stop: StopRequest, away: redis.Redis
) -> None:
    pause = pause_of(stop, has_outcome=False)
    assert pause(0.0)

    stop.make()

    assert not pause(0.0)
    with pytest.raises(BrokerUnavailableError):
        ResilientBroker(Broker(away), pause).release(NAME, ["a"])


def test_a_worker_whose_supervisor_is_gone_is_to_stop(stop: StopRequest) -> None:
    pause = pause_of(stop, has_outcome=False, parent=os.getpid())

    assert not pause(0.0)
    assert stop


def test_a_call_gets_through_when_the_broker_is_back(start_valkey: Callable[..., Valkey], stop: StopRequest) -> None:
    server = start_valkey()
    hidden = server.socket.with_name("away.sock")
    scoreboard = Scoreboard()
    with Client.from_url(server.url) as client, connect(server.url) as own:
        client.enqueue("test:echo", task_id="a")
        broker = Broker(own)
        (claim,) = broker.advance(NAME, ["default"]).claims
        own.connection_pool.disconnect()
        server.socket.rename(hidden)
        pauses: list[bool] = []

        def pause(seconds: float) -> bool:
            pauses.append(scoreboard.is_broker_away)
            if len(pauses) == 3:
                hidden.rename(server.socket)
            return True

        assert ResilientBroker(broker, pause).release(NAME, [claim.execution_id]) == ["a"]
        assert len(pauses) == 3
        wait_until(lambda: client.connection.llen(keys.queue("default")) == 1, "it is back in its queue")


def test_the_status_shows_that_a_worker_waits_for_the_broker(stop: StopRequest) -> None:
    class Looking(Scoreboard):
        """Notes what others see at the pause."""

        seen: list[bool]

        def mark_waiting(self, row: int, *, is_waiting: bool) -> None:
            super().mark_waiting(row, is_waiting=is_waiting)
            self.seen = [*getattr(self, "seen", []), self.is_broker_away]

    scoreboard = Looking()
    pause = OutagePause(
        stop, parent=os.getppid(), drain_s=30.0, has_outcome=lambda: False, scoreboard=scoreboard, row=0
    )

    assert pause(0.0)
    assert scoreboard.seen == [True, False]

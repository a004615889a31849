"""Staying awake for an answer: which calls do, for how long, and when it is given up."""

import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

import boilerd.broker.spin
from boilerd import BrokerUnavailableError, Client
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.connection import connect
from boilerd.broker.connection_pool import ConnectionStack
from boilerd.broker.spin import Spin
from support import DEADLINE_S, Valkey, wait_until

PAUSE_MS = 50


class Counting(socket.socket):
    """A socket that counts the looks at it."""

    looks = 0

    def recv(self, *args: int) -> bytes:
        self.looks += 1
        return super().recv(*args)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks for long enough that no load on the machine ends it before the second look."""
    monkeypatch.setattr(boilerd.broker.spin, "SPIN_S", 1.0)


@pytest.fixture
def ends() -> Iterator[tuple[Counting, socket.socket]]:
    ours, theirs = socket.socketpair()
    with Counting(fileno=ours.detach()) as counting, theirs:
        yield counting, theirs


def looks(spin: Spin, sock: Counting) -> int:
    """How often the spin looks in one call."""
    before = sock.looks
    spin.wait(sock)
    return sock.looks - before


@pytest.mark.usefixtures("patient")
def test_an_answer_that_comes_is_left_where_it_is(
    ends: tuple[Counting, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = ends
    monkeypatch.setattr(os, "sched_yield", lambda: theirs.send(b"answer"))

    Spin().wait(ours)

    assert ours.looks == 2
    assert ours.recv(100) == b"answer"


def test_after_each_miss_in_a_row_it_looks_at_fewer_calls(ends: tuple[Counting, socket.socket]) -> None:
    spin, (ours, _) = Spin(), ends

    looked_at = [number for number in range(260) if looks(spin, ours)]

    assert [after - before for before, after in itertools.pairwise(looked_at)] == [2, 3, 5, 9, 17, 33, 65, 65]


def test_after_an_answer_it_looks_at_each_call_again(
    ends: tuple[Counting, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    spin, (ours, theirs) = Spin(), ends
    for _ in range(10):
        spin.wait(ours)
    with monkeypatch.context() as answered:
        answered.setattr(boilerd.broker.spin, "SPIN_S", DEADLINE_S)
        answered.setattr(os, "sched_yield", lambda: theirs.send(b"answer"))
        while looks(spin, ours) == 0:
            pass
    ours.recv(100)

    assert [looks(spin, ours) > 0 for _ in range(4)] == [True, False, True, False]


def test_answers_that_are_there_at_once_are_not_looked_for(ends: tuple[Counting, socket.socket]) -> None:
    spin, (ours, theirs) = Spin(), ends
    theirs.send(b"answer")

    assert [looks(spin, ours) for _ in range(5)] == [1, 0, 1, 0, 0]


def test_a_closed_connection_ends_the_wait(ends: tuple[Counting, socket.socket]) -> None:
    ours, theirs = ends
    theirs.close()

    Spin().wait(ours)

    assert ours.looks == 1


def test_a_connection_that_was_reset_ends_the_wait(ends: tuple[Counting, socket.socket]) -> None:
    ours, theirs = ends
    ours.send(b"a command that nobody reads")
    theirs.close()

    Spin().wait(ours)

    assert ours.looks == 1


@pytest.fixture
def yields(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the thread's ID when a thread offers its core, to look again."""
    found: list[int] = []
    monkeypatch.setattr(os, "sched_yield", lambda: found.append(threading.get_ident()))
    return found


@pytest.fixture
def slow(connection: redis.Redis) -> Iterator[redis.Redis]:
    """The server that `pause` makes answer late."""
    yield connection
    connection.client_unpause()


def pause(server: redis.Redis) -> None:
    server.client_pause(PAUSE_MS, all=False)


@pytest.mark.usefixtures("patient")
def test_an_enqueue_stays_awake_for_its_answer(valkey: Valkey, slow: redis.Redis, yields: list[int]) -> None:
    with Client.from_url(valkey.url) as client:

        def is_awake() -> bool:
            pause(slow)
            client.enqueue("test:echo")
            return bool(yields)

        # The answer before may have been there at once; then the next ones are not looked for.
        wait_until(is_awake, "an enqueue that stays awake")


@pytest.mark.usefixtures("patient")
def test_an_enqueue_of_many_a_claim_and_a_command_sleep_until_they_are_answered(
    valkey: Valkey, slow: redis.Redis, yields: list[int]
) -> None:
    with Client.from_url(valkey.url) as client:
        client.enqueue("test:echo")  # opens the connection
        yields.clear()
        pause(slow)
        client.enqueue_many([("test:echo", 1), ("test:echo", 2)])
        pause(slow)
        Broker(client.connection).advance("worker", ("default",))
        pause(slow)
        client.connection.set("a", "b")

    assert yields == []


@pytest.mark.usefixtures("patient")
def test_nobody_stays_awake_while_another_thread_waits_as_well(
    valkey: Valkey, slow: redis.Redis, yields: list[int]
) -> None:
    with Client.from_url(valkey.url) as client:
        other = threading.Thread(target=client.connection.blpop, args=([keys.bell("low")], DEADLINE_S))
        other.start()
        wait_until(lambda: slow.info("clients")["blocked_clients"] == 1, "a blocked client")
        pause(slow)

        client.enqueue("test:echo")

        assert yields == []
        slow.rpush(keys.bell("low"), "1")
        other.join()


def test_a_connection_that_another_thread_closes_meanwhile_is_an_unavailable_broker(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client.from_url(valkey.url) as client:
        client.enqueue("test:echo")  # opens the connection
        pool = client.connection.connection_pool
        assert isinstance(pool, ConnectionStack)
        stay_awake = pool.stay_awake

        def close_first(connection: Any) -> None:
            connection.disconnect()
            stay_awake(connection)

        monkeypatch.setattr(pool, "stay_awake", close_first)

        with pytest.raises(BrokerUnavailableError, match="may have been stored"):
            client.enqueue("test:echo")


def test_a_wait_for_the_answer_ends_with_the_timeout(valkey: Valkey, slow: redis.Redis) -> None:
    client = Client(connect(valkey.url, timeout_s=0.2))
    client.enqueue("test:echo")
    slow.client_pause(int(DEADLINE_S * 1000), all=False)
    began_s = time.monotonic()

    with client, pytest.raises(Exception, match=r"Redis did not answer within 0\.2 s"):
        client.enqueue("test:echo")

    assert time.monotonic() - began_s < DEADLINE_S / 2

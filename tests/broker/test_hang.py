"""While Redis takes commands and answers none, one of them waits for it, and all others are told at once."""

import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import redis

from boilerd.broker import hang
from boilerd.broker.connection import connect
from boilerd.broker.hang import Hang, wait_one_at_a_time
from boilerd.broker.refusals import KnownSilenceError, NoAnswerError, translated
from boilerd.errors import BrokerUnavailableError
from support import DEADLINE_S, StartValkey, Valkey, wait_until

LIMIT_S = 0.3


@pytest.fixture
def server(start_valkey: StartValkey) -> Iterator[Valkey]:
    server = start_valkey()
    yield server
    send(server, signal.SIGCONT)


@pytest.fixture
def client(server: Valkey) -> Iterator[redis.Redis]:
    with wait_one_at_a_time(connect(server.url, timeout_s=LIMIT_S)) as client:
        yield client


def send(server: Valkey, signum: signal.Signals) -> None:
    if server.process:
        server.process.send_signal(signum)


def hear_nothing(client: redis.Redis) -> None:
    with pytest.raises(NoAnswerError) as raised:
        client.ping()
    assert not isinstance(raised.value, KnownSilenceError)


def test_the_next_command_is_not_sent_and_says_that_it_is_known(
    server: Valkey, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hang, "PAUSE_S", 2 * DEADLINE_S)
    send(server, signal.SIGSTOP)
    hear_nothing(client)

    with pytest.raises(BrokerUnavailableError) as raised, translated():
        client.incr("count")
    send(server, signal.SIGCONT)

    assert str(raised.value) == "Redis did not answer within 0.3 s, a moment ago"
    assert not raised.value.was_sent
    with connect(server.url) as other:
        assert other.get("count") is None


def test_a_pause_later_one_thread_asks_and_the_others_are_told_until_it_has_its_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hang, "PAUSE_S", 0.0)
    known = Hang()
    known.note(answered=False)

    with ThreadPoolExecutor(1) as other:
        known.check(DEADLINE_S)  # to open a connection
        known.check(DEADLINE_S)  # to send the command
        with pytest.raises(KnownSilenceError):
            other.submit(known.check, DEADLINE_S).result()
        known.note(answered=True)
        other.submit(known.check, DEADLINE_S).result()


def test_an_answer_that_is_an_error_ends_it(
    server: Valkey, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hang, "PAUSE_S", 0.0)
    client.set("text", "a")
    send(server, signal.SIGSTOP)
    hear_nothing(client)
    send(server, signal.SIGCONT)

    with pytest.raises(redis.ResponseError):
        client.lpush("text", "a")
    monkeypatch.setattr(hang, "PAUSE_S", 2 * DEADLINE_S)

    assert client.ping()


def test_a_server_that_is_not_there_is_asked_each_time(server: Valkey, client: redis.Redis) -> None:
    server.stop()
    for _ in range(2):
        with pytest.raises(redis.ConnectionError):
            client.ping()

    server.start()

    assert client.ping()


def test_one_that_has_no_answer_while_others_do_tells_nothing_of_redis(
    server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hang, "PAUSE_S", 2 * DEADLINE_S)

    with wait_one_at_a_time(connect(server.url, timeout_s=2)) as client, ThreadPoolExecutor(1) as other:
        # As on a connection that a firewall forgot: so long, one of these has no answer.
        waits = other.submit(client.blpop, ["nothing"], timeout=2 * DEADLINE_S)
        with connect(server.url) as onlooker:
            wait_until(lambda: onlooker.info("clients")["blocked_clients"] == 1, "it waits")
        client.ping()
        with pytest.raises(NoAnswerError):
            waits.result()

        assert client.ping()


def test_a_host_that_lets_nobody_connect_hangs_however_soon_that_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hang, "PAUSE_S", 2 * DEADLINE_S)

    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        url = f"redis://127.0.0.1:{full.getsockname()[1]}?socket_connect_timeout=0.1"
        client = stack.enter_context(wait_one_at_a_time(connect(url)))
        with pytest.raises(redis.TimeoutError, match="connecting"):
            client.ping()

        with pytest.raises(KnownSilenceError):
            client.ping()

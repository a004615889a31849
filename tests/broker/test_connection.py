"""Connections: which ones are taken, that none is lost, and the bytes that are sent on them."""

import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import hiredis
import pytest
import redis
import redis.asyncio

from boilerd import BrokerError, BrokerUnavailableError, Client, Inspector, TaskState
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.claims import Completion, Failure
from boilerd.broker.job_hash import NewTask
from boilerd.broker.script_connection import packed
from boilerd.tasks.options import task_options
from boilerd.tasks.retry import Decision, Verdict
from support import DEADLINE_S, Valkey, wait_until


class Interrupted(BaseException):
    """Raised by a signal handler."""


def enqueue(client: Client) -> object:
    return client.enqueue("test:echo")


def ping(client: Client) -> object:
    return client.connection.ping()


@pytest.mark.parametrize("step", [(redis.connection.AbstractConnection, "can_read"), (socket.socket, "setsockopt")])
@pytest.mark.parametrize("commands", [(ping, enqueue), (enqueue, ping)])
def test_an_interrupt_while_a_connection_is_taken_loses_none(
    valkey: Valkey,
    monkeypatch: pytest.MonkeyPatch,
    step: tuple[type, str],
    commands: tuple[Callable[[Client], object], Callable[[Client], object]],
) -> None:
    def interrupt(*_: object) -> None:
        raise Interrupted

    before, command = commands
    with Client.from_url(f"{valkey.url}?max_connections=1") as client:
        for _ in range(2):  # the second finds the connection open
            before(client)

        with monkeypatch.context() as patched:
            patched.setattr(*step, interrupt)
            with pytest.raises(Interrupted):
                command(client)

        assert client.enqueue("test:echo").state is TaskState.PENDING
        assert client.connection.ping()


class GreenSocket:
    """A socket like gevent's: it hands all calls on, and never waits in the kernel itself."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def test_a_socket_that_never_waits_in_the_kernel_keeps_its_timeout(valkey: Valkey) -> None:
    with Client.from_url(valkey.url, timeout_s=3.0) as client:
        client.enqueue("test:echo")  # opens the connection
        pool = client.connection.connection_pool
        opened: Any = pool.get_connection()
        opened._sock = opened._parser._sock = GreenSocket(opened._sock)
        pool.release(opened)

        client.enqueue("test:echo")

        assert opened._sock.gettimeout() == 3.0


@pytest.mark.parametrize("pool_class", [redis.ConnectionPool, redis.BlockingConnectionPool])
def test_scripts_are_called_on_a_connection_that_the_application_made(
    valkey: Valkey, pool_class: type[redis.ConnectionPool]
) -> None:
    with Client(redis.Redis.from_pool(pool_class.from_url(valkey.url, max_connections=1))) as client:
        for _ in range(3):
            assert client.enqueue("test:echo").state is TaskState.PENDING
        assert client.connection.ping()


@pytest.mark.parametrize(
    "option",
    [
        "db=0", "username=default&password=x", "client_name=mine", "protocol=2", "protocol=3", "socket_timeout=0.5",
        "socket_connect_timeout=0.5", "socket_read_size=1", "max_connections=1", "health_check_interval=1",
        "max_connections=1&socket_timeout=0.5&protocol=3&health_check_interval=1&client_name=mine",
    ],
)  # fmt: skip
def test_a_client_works_with_each_option_of_a_url_that_is_taken(valkey: Valkey, option: str) -> None:
    with Client.from_url(f"{valkey.url}?{option}") as client:
        states = [client.enqueue("test:echo", task_id=task_id).state for task_id in "ab"]
        is_cancelled = client.cancel("a")

        assert (states, is_cancelled) == ([TaskState.PENDING] * 2, True)
        assert client.connection.client_getname() == ("mine" if "mine" in option else None)


def test_the_timeout_of_a_call_wins_over_the_urls_which_wins_over_the_default(valkey: Valkey) -> None:
    url = f"{valkey.url}?socket_timeout=2"
    clients = [Client.from_url(url, timeout_s=1.0), Client.from_url(url), Client.from_url(valkey.url)]

    taken: list[Any] = [client.connection.connection_pool.make_connection() for client in clients]

    assert [connection.socket_timeout for connection in taken] == [1.0, 2.0, 5.0]


def test_options_count_with_sentinels_too() -> None:
    url = "redis+sentinel://user:pw@one:1/main/3?socket_timeout=2&max_connections=7"

    pool = Client.from_url(url).connection.connection_pool

    kept = pool.connection_kwargs
    assert (kept["db"], kept["username"], kept["password"], kept["socket_timeout"]) == (3, "user", "pw", 2.0)
    assert pool.max_connections == 7


def test_a_pool_without_a_free_connection_has_sent_nothing(valkey: Valkey) -> None:
    with Client.from_url(f"{valkey.url}?max_connections=1") as client:
        taken = client.connection.connection_pool.get_connection()

        with pytest.raises(BrokerUnavailableError, match=r"no connection is free: .* raise max_connections") as raised:
            client.enqueue("test:echo")

        assert not raised.value.was_sent
        client.connection.connection_pool.release(taken)


@pytest.mark.parametrize(
    ("part", "sent"),
    [("ü", "ü".encode()), (b"\xff", b"\xff"), ("\udcff", b"\xff"), (TaskState.PENDING, b"pending"), ("0", b"0")],
)
def test_parts_of_a_command_are_sent_as_text_or_as_the_bytes_they_are(part: Any, sent: bytes) -> None:
    assert packed(["SET", part]) == b"*2\r\n$3\r\nSET\r\n$%d\r\n%b\r\n" % (len(sent), sent)


STORM = """
import signal
from boilerd.broker.job_hash import describe_task
from boilerd.broker.job_hash import NewTask
from boilerd.broker.script_connection import packed
from boilerd.tasks.options import task_options

def interrupt(signum, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGVTALRM, interrupt)
options = task_options(timeout=5, deadline=None, process_in=0.5, unique=5, max_retries=3, concurrency_key="k")
parts = describe_task(NewTask("a", "test:echo", b"null", options)) * 1000
struck = 0
while struck < 100:
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, 1e-3)
        while True:
            packed(parts)
    except KeyboardInterrupt:
        struck += 1
"""


def test_a_signal_handler_may_raise_while_a_task_is_packed() -> None:
    done = subprocess.run([sys.executable, "-c", STORM], timeout=DEADLINE_S, check=False)

    assert done.returncode == 0


def test_no_number_is_left_to_hiredis_which_crashes_when_a_signal_handler_raises(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: set[type] = set()

    def packing(parts: tuple[Any, ...]) -> Any:
        kinds.update(map(type, parts))
        return packed(parts)

    packed = hiredis.pack_command
    monkeypatch.setattr(hiredis, "pack_command", packing)
    broker.register("w", ["default"], {"pid": 7})
    for number in range(3):
        broker.enqueue(
            [NewTask(f"t{number}", "test:echo", b"null", task_options(retention=9, process_in=number / 1000))]
        )
    wait_until(lambda: broker.forward()[1] is None, "all tasks are due")
    (done,) = broker.advance("w", ["default"], wait_s=0.1).claims
    (failed,) = broker.advance("w", ["default"], [Completion(done, b"5")]).claims
    broker.fail("w", failed, Failure("ValueError: bad", "Traceback …", Decision(Verdict.RETRY, 0.5), 25))
    broker.act("delete", ["t0"])
    broker.tick("nightly", 5.0, None)
    broker.extend(["w"])
    broker.expired()
    broker.clean()
    broker.ring("default")
    broker.wait_for_alarm(0.01)

    assert all(issubclass(kind, str | bytes) for kind in kinds)


@pytest.mark.parametrize("taker", [Client, Inspector, Broker])
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda url: url, "a str is no redis.Redis"),
        (lambda url: None, "a NoneType is no redis.Redis"),
        (redis.asyncio.Redis.from_url, "a redis.asyncio.client.Redis is no redis.Redis"),
        (lambda url: redis.Redis.from_url(url, decode_responses=True), "decode_responses=True"),
        (lambda url: redis.Redis.from_url(url + "?decode_responses=yes"), "decode_responses=True"),
    ],
)
def test_a_connection_of_another_kind_is_refused_with_what_would_do(
    valkey: Valkey, taker: Callable[[Any], object], make: Callable[[str], Any], why: str
) -> None:
    with pytest.raises(TypeError, match=rf"^connection: .*{why}.*; use from_url, as in Client\.from_url"):
        taker(make(valkey.url))


def test_a_wait_that_redis_refuses_leaves_no_answer_for_the_next_command(client: Client) -> None:
    client.connection.set(keys.bell("default"), "a key of another kind")
    client.enqueue("test:echo", task_id="a", queue="other")
    broker = Broker(client.connection)
    broker.advance("host.run.1", ["never"])  # Redis knows the script from now on

    with pytest.raises(BrokerError, match="WRONGTYPE"):
        broker.advance("host.run.0", ["default", "other"], wait_s=1.0)

    assert broker.now() > 1e9
    assert [claim.task_id for claim in broker.held("host.run.0")] == ["a"]

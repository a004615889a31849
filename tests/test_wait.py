"""Wait for results: on a real server, while others end the tasks, and while the server or the network fails."""

import asyncio
import math
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import redis

from boilerd import (
    AsyncClient,
    BoilerdError,
    BrokerRefusedError,
    BrokerUnavailableError,
    Client,
    Inspector,
    InvalidPayloadError,
    InvalidTaskError,
    ServeMux,
    Task,
    TaskFailedError,
    TaskInfo,
    TaskNotFoundError,
    TaskProgress,
)
from boilerd.broker import keys, waiter
from boilerd.broker.broker import Broker
from boilerd.broker.connection import connect, text
from boilerd.broker.endings import Ending
from boilerd.broker.watch_connection import AT_ONCE, WatchConnection
from boilerd.tasks.current import CURRENT
from boilerd.tasks.retry import Verdict
from boilerd.testing import RecordingClient
from builders import claim, complete, complete_next, enqueue, fail, fail_next, rq_job, rq_queue, task_in
from support import DEADLINE_S, StartValkey, Valkey, run_python, wait_until

#: Far above what a test waits for, so that nothing is seen by looking again.
NEVER_S = 3600.0


@pytest.fixture
def never_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits is woken by Redis, or not at all."""
    monkeypatch.setattr(waiter, "POLL_S", NEVER_S)


@pytest.fixture
def in_thread() -> Iterator[Callable[[Callable[[], Any]], Future[Any]]]:
    with ThreadPoolExecutor(120) as threads:
        yield threads.submit


InThread = Callable[[Callable[[], Any]], Future[Any]]


def watched(connection: redis.Redis, count: int = 1) -> None:
    """Wait until Redis is to tell of changes of so many records."""
    wait_until(lambda: connection.info("stats")["tracking_total_keys"] == count, f"{count} records are watched")


def watchers(connection: redis.Redis) -> list[dict[str, str]]:
    """The connections of the server on which somebody waits."""
    return [each for each in connection.client_list() if "t" in each["flags"]]


def has_no_thread() -> bool:
    """True if nobody waits in this process, nor has lately."""
    return not any(each.name == "boilerd-wait" for each in threading.enumerate())


# The ends of a task.


@pytest.mark.usefixtures("never_polls")
def test_a_result_wakes_whoever_waits_without_looking_again(
    client: Client, broker: Broker, in_thread: InThread
) -> None:
    info = client.enqueue("test:echo", retention=60)
    waiting = in_thread(lambda: info.wait(3 * DEADLINE_S))
    watched(client.connection)

    complete_next(broker, result=b'{"a":[1]}')

    assert waiting.result(DEADLINE_S) == {"a": [1]}


def test_who_comes_late_gets_the_result_at_once(client: Client, broker: Broker) -> None:
    info = client.enqueue("test:echo", retention=60)
    complete_next(broker, result=b"7")

    assert info.wait(DEADLINE_S) == 7
    assert client.wait(info.id, timedelta(seconds=DEADLINE_S)) == 7


@dataclass
class Receipt:
    number: int


def test_a_result_has_the_type_that_the_handler_declares(client: Client, broker: Broker) -> None:
    mux = ServeMux()

    @mux.task("receipt:make")
    def make(task: Task[int]) -> Receipt:
        return Receipt(task.payload)

    info = make.enqueue(client, 7, retention=60)
    complete_next(broker, result=b'{"number":7}')
    other = make.enqueue(client, 7, retention=60)
    complete_next(broker, result=b'{"number":"seven"}')

    assert info.wait(DEADLINE_S) == Receipt(7)
    with pytest.raises(InvalidPayloadError, match=r"^result of receipt:make: \$\.number: Expected `int`, got `str`"):
        other.wait(DEADLINE_S)


def test_a_result_of_none_is_none(client: Client, broker: Broker) -> None:
    info = client.enqueue("test:echo", retention=60)
    complete_next(broker)

    result = info.wait(DEADLINE_S)

    assert result is None


@pytest.mark.usefixtures("never_polls")
def test_a_retry_in_between_does_not_end_the_wait(client: Client, broker: Broker, in_thread: InThread) -> None:
    info = client.enqueue("test:echo", retention=60)
    waiting = in_thread(lambda: info.wait(3 * DEADLINE_S))
    watched(client.connection)

    fail_next(broker, Verdict.RETRY)
    watched(client.connection)
    assert not waiting.done()
    Inspector(client.connection).run(info.id)
    complete_next(broker, result=b'"at last"')

    assert waiting.result(DEADLINE_S) == "at last"


@pytest.mark.usefixtures("never_polls")
def test_a_task_that_is_archived_ends_the_wait_with_all_that_is_known(
    client: Client, broker: Broker, in_thread: InThread
) -> None:
    info = client.enqueue("test:echo", retention=60)
    waiting = in_thread(lambda: info.wait(3 * DEADLINE_S))
    watched(client.connection)

    fail_next(broker, Verdict.RETRY)
    Inspector(client.connection).run(info.id)
    fail_next(broker, Verdict.ARCHIVE)

    with pytest.raises(TaskFailedError) as raised:
        waiting.result(DEADLINE_S)
    error = pickle.loads(pickle.dumps(raised.value))
    assert str(error) == f"task {info.id} (test:echo) failed: ValueError: bad"
    assert vars(error) == {
        "task_id": info.id, "type": "test:echo", "error_type": "ValueError", "message": "bad",
        "traceback": "Traceback …\nValueError: bad", "attempts": 2, "is_cancelled": False,
    }  # fmt: skip


def test_a_task_that_is_archived_by_hand_says_so(client: Client) -> None:
    info = client.enqueue("test:echo", retention=60)
    Inspector(client.connection).archive(info.id)

    with pytest.raises(TaskFailedError, match=r"failed: archived by hand$") as raised:
        info.wait(DEADLINE_S)
    assert (raised.value.error_type, raised.value.attempts) == ("", 0)


@pytest.mark.usefixtures("never_polls")
@pytest.mark.parametrize(
    "end",
    [
        lambda client, info: client.cancel(info.id),
        lambda client, info: Inspector(client.connection).delete(info.id),
        lambda client, info: list(Inspector(client.connection).bulk("delete", "default", info.state)),
        lambda client, info: client.connection.delete(keys.job(info.id)),
        lambda client, info: client.connection.pexpire(keys.job(info.id), 1),
        lambda client, info: client.connection.flushall(),
    ],
    ids=["cancel", "delete", "delete all", "purge", "expire", "flush"],
)
def test_a_task_that_goes_away_ends_the_wait(
    client: Client, in_thread: InThread, end: Callable[[Client, TaskInfo], object]
) -> None:
    info = client.enqueue("test:echo", retention=60)
    waiting = in_thread(lambda: info.wait(3 * DEADLINE_S))
    watched(client.connection)

    end(client, info)

    with pytest.raises(TaskNotFoundError):
        waiting.result(DEADLINE_S)


def test_a_server_that_does_not_tell_is_asked_again(
    client: Client, broker: Broker, valkey: Valkey, in_thread: InThread
) -> None:
    client.connection.acl_setuser(
        "quiet", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-client|tracking", "-hello"]
    )
    try:
        info = client.enqueue("test:echo", retention=60)
        with Client.from_url(f"{valkey.url}?username=quiet", password="x") as asking:
            waiting = in_thread(lambda: asking.wait(info.id, 60))
            wait_until(lambda: asking.connection.info("commandstats").get("cmdstat_hmget"), "the record was read")
            complete_next(broker, result=b"1")

            assert waiting.result(DEADLINE_S) == 1
            assert not watchers(client.connection)
    finally:
        client.connection.acl_deluser("quiet")


@pytest.mark.parametrize("sent", [1, 2])
def test_an_end_that_is_deleted_while_it_is_read_is_none(client: Client, broker: Broker, sent: int) -> None:
    info = client.enqueue("test:echo", retention=60)
    complete_next(broker, result=b"7")
    commands, answers = [*Ending.commands(info.id)], list[Any]()

    with closing(WatchConnection(client.connection, print)) as connection:
        connection.ask(commands[:sent], answers.extend)
        connection.receive(DEADLINE_S)
        Inspector(client.connection).delete(info.id)
        connection.ask(commands[sent:], answers.extend)
        while len(answers) < len(commands):
            connection.receive(DEADLINE_S)

    assert not Ending(info.id, answers).is_whole


@pytest.mark.usefixtures("never_polls")
def test_a_task_that_is_deleted_before_its_end_is_read_is_gone(
    client: Client, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    info, commands = client.enqueue("test:echo", retention=60), Ending.commands
    complete_next(broker, result=b"7")

    def delete_first(task_id: str) -> Any:
        Inspector(client.connection).delete(task_id)
        return commands(task_id)

    monkeypatch.setattr(Ending, "commands", staticmethod(delete_first))

    with pytest.raises(TaskNotFoundError):
        info.wait(DEADLINE_S)


# What is refused at once.


def test_a_task_that_would_leave_nothing_is_refused_with_what_would_do(client: Client) -> None:
    info = client.enqueue("test:echo")
    told = f"task {info.id} is deleted when it completes, with its result; give retention=60 at the enqueue"

    with pytest.raises(ValueError, match=told):
        info.wait()
    with pytest.raises(ValueError, match=told):
        client.wait(info.id)


def test_a_task_that_nothing_runs_is_not_waited_for() -> None:
    info = RecordingClient().enqueue("test:echo", retention=60)

    with pytest.raises(RuntimeError, match="this client has no broker"):
        info.wait()


def test_an_unknown_id_is_refused_at_once(client: Client) -> None:
    with pytest.raises(TaskNotFoundError):
        client.wait("unknown")


@pytest.mark.parametrize("task_id", ["a b", "", "\ud800", 5, None, b"a"])
def test_an_id_that_no_task_can_have_is_refused_and_ends_no_other_wait(
    client: Client, broker: Broker, in_thread: InThread, task_id: Any
) -> None:
    info = client.enqueue("test:echo", retention=60)
    waiting = in_thread(lambda: info.wait(3 * DEADLINE_S))
    watched(client.connection)

    with pytest.raises(InvalidTaskError, match="task ID"):
        client.wait(task_id)
    complete_next(broker, result=b"1")

    assert waiting.result(DEADLINE_S) == 1


def test_a_handler_may_not_wait_unless_it_says_that_it_may(client: Client, broker: Broker) -> None:
    info = client.enqueue("test:echo", retention=60)
    token = CURRENT.set(task_in(claim(broker)))
    client.enqueue("test:echo", task_id="other", retention=60)
    complete(broker, claim(broker, row=1), b"5", row=1)
    try:
        with pytest.raises(RuntimeError, match="a handler that waits holds its worker"):
            info.wait()
        with pytest.raises(RuntimeError, match="allow_in_handler=True"):
            asyncio.run(AsyncClient(client).wait("other"))
        assert client.wait("other", DEADLINE_S, allow_in_handler=True) == 5
    finally:
        CURRENT.reset(token)


def test_a_key_of_another_kind_is_named(client: Client) -> None:
    client.connection.set(keys.job("a"), "foreign")

    with pytest.raises(BrokerRefusedError, match="key rq:job:a is no hash"):
        client.wait("a")


def test_a_key_of_another_kind_in_the_place_of_the_results_is_named_and_ends_no_other_wait(
    client: Client, broker: Broker, in_thread: InThread
) -> None:
    info, other = (client.enqueue("test:echo", retention=60) for _ in range(2))
    complete_next(broker)
    client.connection.delete(keys.results(info.id))
    client.connection.set(keys.results(info.id), "foreign")
    waiting = in_thread(lambda: other.wait(3 * DEADLINE_S))
    watched(client.connection)

    with pytest.raises(BrokerRefusedError, match=f"key rq:results:{info.id} is no stream"):
        info.wait(DEADLINE_S)
    complete_next(broker, result=b"1")

    assert waiting.result(DEADLINE_S) == 1


def test_a_copy_of_an_info_knows_no_client_and_says_what_would_do(client: Client) -> None:
    info = client.enqueue("test:echo", 1, retention=60)

    copy = pickle.loads(pickle.dumps(info))

    assert copy == info
    assert "client" not in repr(info)
    with pytest.raises(RuntimeError, match=r"client\.wait\(info\.id\)"):
        copy.wait()


# Time.


def test_past_its_timeout_the_wait_ends_and_the_task_goes_on(client: Client, broker: Broker) -> None:
    info = client.enqueue("test:echo", retention=60)

    with pytest.raises(TimeoutError, match=f"task {info.id} has not ended within 0.05 s, and goes on"):
        info.wait(0.05)
    complete_next(broker, result=b"1")
    assert info.wait(DEADLINE_S) == 1


@pytest.mark.parametrize("timeout", [0, -1, timedelta(0)])
def test_without_time_to_wait_a_task_is_looked_at_once(
    client: Client, broker: Broker, valkey: Valkey, timeout: Any
) -> None:
    ended, running = client.enqueue("test:echo", retention=60), client.enqueue("test:echo", retention=60)
    complete_next(broker, result=b"1")

    async def from_asyncio() -> Any:
        async with AsyncClient.from_url(valkey.url) as calls:
            with pytest.raises(TimeoutError, match=f"task {running.id} has not ended within .* s, and goes on"):
                await calls.wait(running.id, timeout)
            return await calls.wait(ended.id, timeout)

    assert ended.wait(timeout) == 1
    with pytest.raises(TimeoutError, match=f"task {running.id} has not ended within .* s, and goes on"):
        running.wait(timeout)
    with pytest.raises(TaskNotFoundError):
        client.wait("nobody", timeout)
    assert asyncio.run(from_asyncio()) == 1


def test_a_look_ends_soon_where_redis_does_not_answer(
    start_valkey: StartValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boilerd.enqueuing.waiting.LOOK_S", 0.1)
    server = start_valkey()
    with Client.from_url(server.url) as client:
        info = client.enqueue("test:echo", retention=60)
        server.stop(signal.SIGKILL)

        with pytest.raises(TimeoutError, match="has not ended within 0 s"):
            info.wait(0)


@pytest.mark.parametrize("timeout", [math.inf, timedelta.max])
def test_a_timeout_may_be_longer_than_a_thread_can_wait(client: Client, broker: Broker, timeout: Any) -> None:
    info = client.enqueue("test:echo", retention=60)
    complete_next(broker, result=b"1")

    assert info.wait(timeout) == 1


def test_nobody_waits_any_more_when_all_have_left(client: Client) -> None:
    info = client.enqueue("test:echo", retention=60)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            info.wait(0.01)

    waits = next(iter(client._waits.waiters(client.connection)._by_pid.values()))._waits
    wait_until(lambda: not waits, "the IDs were taken out")


def test_who_leaves_needs_no_lock_of_who_comes(client: Client, in_thread: InThread) -> None:
    info = client.enqueue("test:echo", retention=60)
    waiting = client.start_wait(info.id, print, has_timeout=False, allow_in_handler=False)

    with next(iter(client._waits.waiters(client.connection)._by_pid.values()))._lock:
        left = in_thread(waiting.cancel).result(DEADLINE_S)

    assert left


def test_connection_and_thread_end_when_nobody_waits_for_a_while(
    client: Client, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiter, "IDLE_S", 0.01)
    for result in (b"1", b"2"):
        info = client.enqueue("test:echo", retention=60)
        complete_next(broker, result=result)

        assert info.wait(DEADLINE_S) == int(result)
        wait_until(lambda: not watchers(client.connection), "the connection was closed")
        wait_until(has_no_thread, "the thread ended")


# Many.


@pytest.mark.usefixtures("never_polls")
def test_many_threads_wait_on_one_connection(
    client: Client, broker: Broker, connection: redis.Redis, in_thread: InThread
) -> None:
    before = {each["id"] for each in connection.client_list()}  # also those of tests before it that end only now
    infos = client.enqueue_many((("test:echo", n) for n in range(100)), retention=60)
    waiting = []
    for info in infos:
        assert isinstance(info, TaskInfo)
        waiting.append(in_thread(partial(info.wait, 60)))
        watched(connection, len(waiting))  # one by one: calls at one moment have a connection each
    new = [each for each in connection.client_list() if each["id"] not in before]

    for number in range(100):
        complete_next(broker, result=str(number).encode())

    assert [each.result(DEADLINE_S) for each in waiting] == list(range(100))
    assert ["t" in each["flags"] for each in sorted(new, key=lambda each: int(each["id"]))] == [False, True]


@pytest.mark.usefixtures("never_polls")
def test_several_wait_for_one_task_and_one_of_another_client(
    client: Client, broker: Broker, valkey: Valkey, in_thread: InThread
) -> None:
    info = client.enqueue("test:echo", retention=60)
    with Client.from_url(valkey.url) as other:
        waiting = [in_thread(lambda: client.wait(info.id, 60)) for _ in range(2)]
        waiting.append(in_thread(lambda: other.wait(info.id, 60)))
        wait_until(lambda: len(watchers(client.connection)) == 2, "both clients wait")
        watched(client.connection)

        complete_next(broker, result=b"[1]")

        results = [each.result(DEADLINE_S) for each in waiting]
    assert results == [[1], [1], [1]]


def test_few_answers_stand_in_the_server_at_one_time_however_many_are_asked_for(client: Client) -> None:
    before, answers = echoes(client.connection), list[Any]()

    with closing(WatchConnection(client.connection, print)) as connection:
        for number in range(500):
            connection.ask([["ECHO", str(number)]], answers.extend)
        connection.receive(DEADLINE_S)
        at_first = echoes(client.connection) - before
        while len(answers) < 500:
            connection.receive(DEADLINE_S)

    assert 0 < at_first <= AT_ONCE
    assert answers == [str(number).encode() for number in range(500)]


def echoes(connection: redis.Redis) -> int:
    """How many such questions the server has answered."""
    return int(connection.info("commandstats").get("cmdstat_echo", {}).get("calls", 0))


# Faults.


@pytest.mark.usefixtures("never_polls")
def test_a_connection_that_is_killed_loses_nothing(
    client: Client, broker: Broker, in_thread: InThread, caplog: pytest.LogCaptureFixture
) -> None:
    info = client.enqueue("test:echo", retention=60)
    waiting = in_thread(lambda: info.wait(3 * DEADLINE_S))
    watched(client.connection)
    (first,) = watchers(client.connection)

    client.connection.client_kill_filter(_id=first["id"])
    complete_next(broker, result=b"1")

    assert waiting.result(DEADLINE_S) == 1
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "broker unavailable, waiting"
    ]


def test_an_idle_connection_that_the_server_closes_is_no_outage(
    client: Client, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    for result in range(3):
        info = client.enqueue("test:echo", retention=60)
        complete_next(broker, result=str(result).encode())

        assert info.wait(DEADLINE_S) == result
        (first,) = watchers(client.connection)
        client.connection.client_kill_filter(_id=first["id"])
        wait_until(has_no_thread, "the thread ended")

    assert caplog.records == []


@pytest.mark.parametrize("is_kept", [True, False], ids=["its file", "nothing"])
def test_a_broker_that_is_restarted_is_waited_for(
    start_valkey: StartValkey, in_thread: InThread, *, is_kept: bool
) -> None:
    server = start_valkey(*(("--appendonly", "yes", "--appendfsync", "always") if is_kept else ()))
    with Client.from_url(server.url) as client:
        info = client.enqueue("test:echo", retention=60)
        waiting = in_thread(lambda: info.wait(2 * DEADLINE_S))
        watched(client.connection)

        server.stop(signal.SIGKILL)
        server.start()
        if is_kept:
            with connect(server.url) as connection:
                complete_next(Broker(connection), result=b"1")

        if is_kept:
            assert waiting.result(DEADLINE_S) == 1
        else:
            with pytest.raises(TaskNotFoundError):
                waiting.result(DEADLINE_S)


def test_through_an_outage_one_waits_as_long_as_one_says_and_else_for_a_while(
    start_valkey: StartValkey, in_thread: InThread, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(waiter, "PATIENCE_S", 0.3)
    monkeypatch.setattr(waiter, "LONGEST_PAUSE_S", 0.02)
    server = start_valkey()
    with Client.from_url(server.url) as client:
        info = client.enqueue("test:echo", retention=60)
        for_ever, limited = in_thread(info.wait), in_thread(lambda: info.wait(1.5))
        watched(client.connection)

        server.stop(signal.SIGKILL)

        with pytest.raises(BrokerUnavailableError):
            for_ever.result(DEADLINE_S)
        came_s = time.monotonic()
        with pytest.raises(BrokerUnavailableError):
            info.wait()
        waited_s = time.monotonic() - came_s
        with pytest.raises(TimeoutError, match=r"has not ended within 1\.5 s"):
            limited.result(DEADLINE_S)
    assert waited_s >= 0.3
    assert [record.getMessage() for record in caplog.records].count("broker unavailable, waiting") == 1


def test_a_server_that_stalls_is_left_for_one_that_answers(
    start_valkey: StartValkey, in_thread: InThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiter, "POLL_S", 0.1)
    server, other = start_valkey(), start_valkey()
    with Client.from_url(server.url, timeout_s=1.0) as client, Client.from_url(other.url) as fresh:
        info = client.enqueue("test:echo", task_id="a", retention=60)
        fresh.enqueue("test:echo", task_id="a", retention=60)
        waiting = in_thread(lambda: info.wait(2 * DEADLINE_S))
        watched(client.connection)
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)

        server.socket.rename(server.socket.with_name("old.sock"))
        server.socket.symlink_to(other.socket)
        complete_next(Broker(fresh.connection), result=b'"other"')

        assert waiting.result(DEADLINE_S) == "other"
        server.process.send_signal(signal.SIGCONT)


@pytest.mark.usefixtures("never_polls")
def test_a_closed_client_waits_no_longer(client: Client, in_thread: InThread) -> None:
    info = client.enqueue("test:echo", retention=60)
    waiting = in_thread(lambda: info.wait(3 * DEADLINE_S))
    watched(client.connection)

    client.close()

    with pytest.raises(RuntimeError, match="the client was closed"):
        waiting.result(DEADLINE_S)


def test_a_wrong_password_is_said_at_once(valkey: Valkey) -> None:
    with (
        Client.from_url(f"{valkey.url}?username=nobody", password="wrong") as client,
        pytest.raises(BrokerRefusedError, match="Redis refused the password"),
    ):
        client.wait("a", DEADLINE_S)


#: A process that waits before a fork, in the child and in itself again; prints the results, and who watched when.
FORK = """
import json, os, threading
from boilerd import Client
from boilerd.broker.connection import connect
client, look = Client.from_url(URL), connect(URL)

def watchers():
    return [each["id"] for each in look.client_list() if "t" in each["flags"]]

def files():
    return len(os.listdir("/dev/fd"))

first, before = client.wait("a"), watchers()
reader, writer = os.pipe()
if not os.fork():
    look = connect(URL)
    open_before = files()
    result, open_after = client.wait("a"), files()
    os.write(writer, json.dumps([result, watchers(), open_after - open_before]).encode())
    os._exit(0)
os.close(writer)
with open(reader) as pipe:
    in_child = json.load(pipe)
os.wait()
print(json.dumps([first, before, in_child, client.wait("a"), watchers()]))
"""


def test_a_child_waits_on_a_connection_of_its_own(valkey: Valkey, client: Client, broker: Broker) -> None:
    enqueue(client, "a", retention=60)
    complete_next(broker, result=b"1")

    first, before, (in_child, in_both, more_open), again, after = run_python(FORK.replace("URL", repr(valkey.url)))

    assert [first, in_child, again] == [1, 1, 1]
    assert len(before) == 1
    assert set(before) < set(in_both)
    assert more_open == 0
    assert after == before


# From asyncio.


@pytest.mark.usefixtures("never_polls")
def test_very_many_coroutines_wait_on_one_connection_and_take_no_thread_of_the_calls(
    valkey: Valkey, client: Client, broker: Broker
) -> None:
    async def main() -> tuple[list[Any], int]:
        async with AsyncClient.from_url(valkey.url) as calls:
            infos = await calls.enqueue_many((("test:echo", n) for n in range(100)), retention=60)
            waiting = [asyncio.create_task(info.await_result(60)) for info in infos if isinstance(info, TaskInfo)]
            await asyncio.to_thread(watched, client.connection, 100)
            await calls.enqueue("test:echo", task_id="last")
            for number in range(100):
                complete_next(broker, result=str(number).encode())
            return await asyncio.gather(*waiting), len(watchers(client.connection))

    results, count = asyncio.run(main())

    assert results == list(range(100))
    assert count == 1


def test_a_coroutine_that_is_cancelled_takes_its_id_out(valkey: Valkey, client: Client) -> None:
    info = client.enqueue("test:echo", retention=60)

    async def main() -> None:
        async with AsyncClient.from_url(valkey.url) as calls:
            waiting = asyncio.create_task(calls.wait(info.id, 60))
            await asyncio.to_thread(watched, client.connection)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await calls.wait(info.id)
            with pytest.raises(TimeoutError, match="and goes on"):
                await calls.wait(info.id, 0.01)
            waits = next(iter(calls._client._waits.waiters(calls._client.connection)._by_pid.values()))._waits
            await asyncio.to_thread(wait_until, lambda: not waits, "the IDs were taken out")

    asyncio.run(main())


def test_an_info_says_how_its_client_waits(valkey: Valkey, client: Client) -> None:
    info = client.enqueue("test:echo", retention=60)

    async def main() -> TaskInfo:
        async with AsyncClient.from_url(valkey.url) as calls:
            with pytest.raises(RuntimeError, match=r"use info\.wait\(\)"):
                await info.await_result()
            return await calls.enqueue("test:echo", retention=60)

    with pytest.raises(RuntimeError, match=r"use await info\.await_result\(\)"):
        asyncio.run(main()).wait()


def test_a_task_that_fails_raises_in_the_coroutine(valkey: Valkey, client: Client, broker: Broker) -> None:
    info = client.enqueue("test:echo", retention=60)
    fail_next(broker, Verdict.ARCHIVE)

    async def main() -> None:
        async with AsyncClient.from_url(valkey.url) as calls:
            await calls.wait(info.id)

    with pytest.raises(TaskFailedError, match="ValueError: bad"):
        asyncio.run(main())


# Progress.


def has_seen(seen: list[TaskProgress], count: int) -> bool:
    return len(seen) == count


@pytest.mark.usefixtures("never_polls")
def test_progress_comes_in_its_order_and_before_the_result(client: Client, broker: Broker, in_thread: InThread) -> None:
    seen: list[TaskProgress] = []
    info = client.enqueue("test:echo", retention=60)
    waiting = in_thread(lambda: info.wait(on_progress=seen.append))
    watched(client.connection)
    held = claim(broker)

    for done in range(1, 4):
        broker.write_progress(held, TaskProgress(done, 3, "sending"))
        wait_until(partial(has_seen, seen, done), "the progress was seen")
    complete(broker, held, b'"sent"')

    assert waiting.result(DEADLINE_S) == "sent"
    assert seen == [TaskProgress(done, 3, "sending") for done in range(1, 4)]


def test_who_comes_late_sees_how_far_it_came(client: Client, broker: Broker) -> None:
    seen: list[TaskProgress] = []
    info = client.enqueue("test:echo", retention=60)
    held = claim(broker)
    broker.write_progress(held, TaskProgress(3, 3))
    complete(broker, held, b"1")

    assert info.wait(DEADLINE_S, on_progress=seen.append) == 1
    assert seen == [TaskProgress(3, 3)]


@pytest.mark.usefixtures("never_polls")
def test_a_new_attempt_begins_without_the_progress_of_the_one_before(
    client: Client, broker: Broker, in_thread: InThread
) -> None:
    early: list[TaskProgress] = []
    late: list[TaskProgress] = []
    info = client.enqueue("test:echo", retention=60)
    waiting = [in_thread(lambda: info.wait(3 * DEADLINE_S, on_progress=early.append))]
    watched(client.connection)

    held = claim(broker)
    broker.write_progress(held, TaskProgress(1, 2))
    wait_until(lambda: len(early) == 1, "the progress was seen")
    fail(broker, held, Verdict.RETRY)
    Inspector(client.connection).run(info.id)
    held = claim(broker)
    watched(client.connection)
    waiting.append(in_thread(lambda: info.wait(3 * DEADLINE_S, on_progress=late.append)))
    broker.write_progress(held, TaskProgress(1, 2))
    wait_until(lambda: len(early) == 2, "the progress of the second was seen")
    complete(broker, held)

    assert [each.result(DEADLINE_S) for each in waiting] == [None, None]
    assert late in ([], [TaskProgress(1, 2)])


def test_what_whoever_waits_does_with_progress_may_fail_and_ends_the_wait(client: Client, broker: Broker) -> None:
    info = client.enqueue("test:echo", retention=60)
    broker.write_progress(claim(broker), TaskProgress(1))

    def refuse(progress: TaskProgress) -> None:
        raise TimeoutError(f"no time for {progress}")

    async def main() -> None:
        async with AsyncClient(client) as calls:
            await calls.wait(info.id, DEADLINE_S, on_progress=refuse)

    with pytest.raises(TimeoutError, match="no time for 1"):
        info.wait(DEADLINE_S, on_progress=refuse)
    with pytest.raises(TimeoutError, match="no time for 1"):
        asyncio.run(main())


def test_the_progress_of_an_attempt_that_ended_is_not_shown(client: Client, broker: Broker) -> None:
    inspector, info = Inspector(client.connection), client.enqueue("test:echo", retention=60)
    held = claim(broker)
    broker.write_progress(held, TaskProgress(1, 2, "half"))
    shown = [inspector.task(info.id).progress]

    fail(broker, held, Verdict.RETRY)
    shown.append(inspector.task(info.id).progress)
    inspector.run(info.id)
    held = claim(broker)
    shown.append(inspector.task(info.id).progress)
    complete(broker, held)
    shown.append(inspector.task(info.id).progress)

    assert shown == [TaskProgress(1, 2, "half"), None, None, None]


def test_who_lost_the_lease_shows_no_progress(client: Client, broker: Broker) -> None:
    info = client.enqueue("test:echo", retention=60)
    held = claim(broker)
    client.connection.delete(keys.wip("default"))

    assert broker.write_progress(held, TaskProgress(1)) is False
    assert Inspector(client.connection).task(info.id).progress is None


#: The last one would end in an error wherever its share is computed.
UNREADABLE = ["", "x", "{}", '{"done":"much"}', "[" * 100_000, "\udcff", '{"done":1e999}', '{"done":1%s}' % ("0" * 400)]


@pytest.mark.parametrize("value", UNREADABLE, ids=lambda value: value[:30])
def test_progress_that_nobody_can_read_is_none(client: Client, broker: Broker, value: str) -> None:
    info = client.enqueue("test:echo", retention=60)
    claim(broker)
    began = text(client.connection.hget(keys.job(info.id), "started_at") or b"")
    client.connection.hset(keys.job(info.id), "progress", f"{began} {value}".encode("utf-8", "surrogateescape"))

    assert Inspector(client.connection).task(info.id).progress is None


# Jobs of plain RQ.


#: A plain RQ worker, which runs what there is.
WORK = """
import json, logging
from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer
from boilerd.broker.connection import connect
logging.disable()
connection = connect(URL)
queue = Queue(connection=connection, serializer=JSONSerializer)
print(json.dumps(SimpleWorker([queue], connection=connection, serializer=JSONSerializer).work(burst=True)))
"""


def test_jobs_of_plain_rq_are_waited_for_as_well(valkey: Valkey, client: Client, connection: redis.Redis) -> None:
    queue = rq_queue(connection)
    good, bad = queue.enqueue("operator.add", 1, 2), queue.enqueue("operator.add", 1, "x")
    unkept = queue.enqueue("operator.add", 1, 2, result_ttl=0)

    with pytest.raises(ValueError, match="retention"):
        client.wait(unkept.id)
    assert run_python(WORK.replace("URL", repr(valkey.url)))

    assert client.wait(good.id, DEADLINE_S) == 3
    with pytest.raises(TaskFailedError, match="TypeError: ") as raised:
        client.wait(bad.id, DEADLINE_S)
    assert (raised.value.error_type, raised.value.attempts) == ("TypeError", 1)
    assert "Traceback" in raised.value.traceback


def test_a_job_that_rqs_tools_cancelled_is_cancelled(client: Client, connection: redis.Redis) -> None:
    info = client.enqueue("test:echo", retention=60)
    rq_job(connection, info.id).cancel()

    with pytest.raises(TaskFailedError) as raised:
        info.wait(DEADLINE_S)
    assert raised.value.is_cancelled


def test_a_result_that_is_no_json_is_an_error_and_not_none(client: Client, broker: Broker) -> None:
    info = client.enqueue("test:echo", retention=60)
    complete_next(broker, result=pickle.dumps(1))

    with pytest.raises(BoilerdError, match="its result is no JSON that can be read"):
        info.wait(DEADLINE_S)


def test_a_result_that_redis_evicted_is_an_error_and_not_none(client: Client, broker: Broker) -> None:
    info = client.enqueue("test:echo", retention=60)
    complete_next(broker, result=b"1")
    client.connection.delete(keys.results(info.id))

    with pytest.raises(BoilerdError, match=f"its result is gone: key rq:results:{info.id} was deleted, or evicted"):
        info.wait(DEADLINE_S)


def test_an_ended_task_that_runs_again_is_waited_for_to_its_next_end(
    client: Client, broker: Broker, in_thread: InThread
) -> None:
    info = client.enqueue("test:echo", retention=60)
    fail_next(broker, Verdict.ARCHIVE)
    Inspector(client.connection).run(info.id)
    began_s = time.monotonic()
    waiting = in_thread(lambda: info.wait(3 * DEADLINE_S))
    watched(client.connection)

    complete_next(broker, result=b"2")

    assert waiting.result(DEADLINE_S) == 2
    assert time.monotonic() - began_s < DEADLINE_S

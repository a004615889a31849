"""The client for asyncio, on a real server."""

import asyncio
import signal
import threading
import time
from collections.abc import Iterable
from typing import Any

import pytest
import redis

from boilerd import (
    AsyncClient,
    BoilerdError,
    BrokerUnavailableError,
    Client,
    DuplicateTaskError,
    InvalidTaskError,
    TaskNotFoundError,
    TaskState,
    async_client,
)
from boilerd.async_client import THREADS
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.connection import connect, text
from boilerd.broker.job_hash import NewTask
from builders import pending
from support import DEADLINE_S, StartValkey, Valkey, run_python


def test_calls_do_and_raise_what_those_of_the_client_do(valkey: Valkey, client: Client) -> None:
    async def main() -> None:
        async with AsyncClient.from_url(valkey.url) as calls:
            info = await calls.enqueue("test:echo", {"a": 1}, queue="low", unique=60)
            assert (info.type, info.queue, info.state, info.payload) == (
                "test:echo",
                "low",
                TaskState.PENDING,
                {"a": 1},
            )
            with pytest.raises(DuplicateTaskError):
                await calls.enqueue("test:echo", {"a": 1}, queue="low", unique=60)
            with pytest.raises(InvalidTaskError):
                await calls.enqueue("no type")
            assert len(await calls.enqueue_many((("test:echo", number) for number in range(3)), process_in=60)) == 3
            assert await calls.cancel(info.id) is True
            with pytest.raises(TaskNotFoundError):
                await calls.cancel(info.id)

    asyncio.run(main())

    assert client.connection.zcard(keys.registry("scheduled", "default")) == 3
    assert not client.connection.llen(keys.queue("low"))


def test_many_calls_at_once_are_all_done(valkey: Valkey, client: Client) -> None:
    async def main() -> set[str]:
        async with AsyncClient.from_url(valkey.url) as calls:
            return {info.id for info in await asyncio.gather(*(calls.enqueue("test:echo", n) for n in range(300)))}

    ids = asyncio.run(main())

    assert {text(task_id) for task_id in client.connection.lrange(keys.queue("default"), 0, -1)} == ids


def test_the_loop_goes_on_while_redis_does_not_answer(start_valkey: StartValkey) -> None:
    server = start_valkey()
    process = server.process
    assert process is not None

    async def main() -> int:
        ticks = 0
        calls = AsyncClient.from_url(server.url, timeout_s=0.5)
        await calls.enqueue("test:echo")
        process.send_signal(signal.SIGSTOP)
        try:
            call = asyncio.create_task(calls.enqueue("test:echo"))
            while not call.done():
                await asyncio.sleep(0)
                ticks += 1
            with pytest.raises(BrokerUnavailableError):
                call.result()
        finally:
            process.send_signal(signal.SIGCONT)
        await calls.aclose()
        return ticks

    assert asyncio.run(main()) > 10


def test_who_is_cancelled_stops_waiting_and_the_client_goes_on(start_valkey: StartValkey) -> None:
    server = start_valkey()
    process = server.process
    assert process is not None

    async def main() -> None:
        async with AsyncClient.from_url(server.url) as calls:
            await calls.enqueue("test:echo")
            process.send_signal(signal.SIGSTOP)
            try:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(calls.enqueue("test:echo", task_id="one"), 0.1)
            finally:
                process.send_signal(signal.SIGCONT)
            assert (await calls.enqueue("test:echo", task_id="two")).id == "two"

    asyncio.run(main())


def test_a_stalled_broker_ends_all_of_many_calls_within_one_timeout(start_valkey: StartValkey) -> None:
    server = start_valkey()
    process = server.process
    assert process is not None

    async def main() -> tuple[dict[str, Any], float]:
        calls = AsyncClient.from_url(server.url, timeout_s=0.5)
        await calls.enqueue("test:echo", task_id="before")
        process.send_signal(signal.SIGSTOP)
        began_s = time.monotonic()
        waiting = {f"t{number}": calls.enqueue("test:echo", task_id=f"t{number}") for number in range(100)}
        answers = await asyncio.gather(*waiting.values(), return_exceptions=True)
        took_s = time.monotonic() - began_s
        process.send_signal(signal.SIGCONT)
        await calls.aclose()
        return dict(zip(waiting, answers, strict=True)), took_s

    errors, took_s = asyncio.run(main())

    assert took_s < 5  # before, the last one waited for 12 others, one after the other
    with Client.from_url(server.url) as client:
        stored = set(pending(client.connection))
    assert {type(error) for error in errors.values()} == {BrokerUnavailableError}
    assert {task_id for task_id, error in errors.items() if not error.was_sent}.isdisjoint(stored)
    assert sum(not error.was_sent for error in errors.values()) >= 50


def test_a_call_that_a_thread_has_begun_may_have_been_sent(start_valkey: StartValkey, monkeypatch: Any) -> None:
    monkeypatch.setattr(async_client, "GRACE_S", 0)
    server = start_valkey()
    process = server.process
    assert process is not None

    async def main() -> BrokerUnavailableError:
        calls = AsyncClient.from_url(server.url, timeout_s=0.3)
        await calls.enqueue("test:echo", task_id="before")
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(BrokerUnavailableError, match="may have been done") as raised:
            await calls.enqueue("test:echo", task_id="sent")
        process.send_signal(signal.SIGCONT)
        await calls.aclose()
        return raised.value

    error = asyncio.run(main())

    assert error.was_sent
    with Client.from_url(server.url) as client:
        assert pending(client.connection) == ["before", "sent"]


def test_calls_whose_callers_were_cancelled_leave_room_for_others(start_valkey: StartValkey) -> None:
    server = start_valkey()
    process = server.process
    assert process is not None

    async def main() -> None:
        async with AsyncClient.from_url(server.url, timeout_s=0.5) as calls:
            process.send_signal(signal.SIGSTOP)
            waiting = [asyncio.create_task(calls.enqueue("test:echo", task_id=f"t{number}")) for number in range(100)]
            await asyncio.wait(waiting, timeout=0.1)
            for call in waiting:
                call.cancel()
            await asyncio.wait(waiting)
            process.send_signal(signal.SIGCONT)
            assert (await calls.enqueue("test:echo", task_id="after")).id == "after"

    asyncio.run(main())

    with Client.from_url(server.url) as client:
        assert len(pending(client.connection)) <= THREADS + 1


class SlowBroker(Broker):
    """Takes as long to enqueue as the test wants."""

    may_go_on = threading.Event()

    def enqueue(self, tasks: Iterable[NewTask]) -> list[TaskState | BoilerdError]:
        self.may_go_on.wait(DEADLINE_S)
        return super().enqueue(tasks)


def test_many_tasks_may_take_longer_than_the_timeout_of_one_answer(valkey: Valkey, monkeypatch: Any) -> None:
    monkeypatch.setattr(async_client, "GRACE_S", 0.01)

    async def main(connection: redis.Redis) -> bool:
        store = SlowBroker(connection)
        calls = AsyncClient(Client(connection, store=store))
        one = asyncio.create_task(calls.enqueue("test:echo"))
        many = asyncio.create_task(calls.enqueue_many([("test:echo", 1), ("test:echo", 2)]))
        await asyncio.wait([one])
        assert isinstance(one.exception(), BrokerUnavailableError)
        is_waiting = not many.done()
        store.may_go_on.set()
        await many
        await calls.aclose()
        return is_waiting

    with connect(valkey.url, timeout_s=0.1) as connection:
        is_waiting = asyncio.run(main(connection))

    assert is_waiting


#: A process that uses both clients before it forks, in the child, and in itself again; prints how the child ended.
FORK = """
import asyncio, json, multiprocessing, os, signal, sys, threading
from boilerd import AsyncClient, Client
client, calls = Client.from_url(URL, timeout_s=2), AsyncClient.from_url(URL, timeout_s=2)

def both(who):
    async def enqueue():
        await asyncio.gather(*(calls.enqueue("test:echo", task_id=f"{who}-{n}") for n in range(20)))
    client.enqueue("test:echo", task_id=who)
    asyncio.run(enqueue())

def child():
    signal.alarm(15)  # ends a child that hangs
    both("child")
    client.close()
    asyncio.run(calls.aclose())

def by_os():
    pid = os.fork()
    if not pid:
        child()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def by_multiprocessing():
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    return process.exitcode

def while_threads_connect():
    locks = [each.connection.connection_pool._lock for each in (client, calls._client)]
    held, done = threading.Event(), threading.Event()
    def hold():
        with locks[0], locks[1]:
            held.set()
            done.wait()
    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    ended = by_os()
    done.set()
    thread.join()
    return ended

both("parent")
ended = HOW()
both("later")
print(json.dumps(ended))
"""


@pytest.mark.parametrize("how", ["by_os", "by_multiprocessing", "while_threads_connect"])
def test_clients_that_were_used_before_a_fork_work_in_the_child_and_in_the_parent(
    valkey: Valkey, connection: redis.Redis, how: str
) -> None:
    ended = run_python(FORK.replace("URL", repr(valkey.url)).replace("HOW", how))

    assert ended == 0
    whole = {f"{who}{place}" for who in ("parent", "child", "later") for place in ("", *(f"-{n}" for n in range(20)))}
    assert sorted(pending(connection)) == sorted(whole)


#: A process that forks after it connected; prints which connections the server has: before, for the child, and after.
SOCKETS = """
import asyncio, json, os
from boilerd import AsyncClient, Client
from boilerd.broker.connection import connect
client, calls, look = Client.from_url(URL), AsyncClient.from_url(URL), connect(URL, name="look")

def ids():
    return [each["id"] for each in look.client_list() if each["name"] != "look"]

def both():
    client.enqueue("test:echo")
    asyncio.run(calls.enqueue("test:echo"))

both()
before = ids()
reader, writer = os.pipe()
if not os.fork():
    look = connect(URL, name="look")
    both()
    os.write(writer, json.dumps(ids()).encode())
    os._exit(0)
os.close(writer)
with open(reader) as pipe:
    child = json.load(pipe)
os.wait()
both()
print(json.dumps([before, child, ids()]))
"""


def test_a_child_takes_no_connection_of_its_parent(valkey: Valkey) -> None:
    before, in_child, after = run_python(SOCKETS.replace("URL", repr(valkey.url)))

    assert set(before) < set(in_child)
    assert len(in_child) == len(before) + 2
    assert after == before

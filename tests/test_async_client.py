"""The client for asyncio, on a real server."""

import asyncio
import signal

import pytest

from boilerd import (
    AsyncClient,
    BrokerUnavailableError,
    Client,
    DuplicateTaskError,
    InvalidTaskError,
    TaskNotFoundError,
    TaskState,
)
from boilerd.broker import keys
from boilerd.broker.connection import text
from support import StartValkey, Valkey


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

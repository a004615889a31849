"""One reading a second, for however many ask."""

import asyncio
import threading

import pytest

from boilerd.exporter.cached import FRESH_S, Cached


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_all_who_ask_within_a_second_get_one_reading() -> None:
    clock, numbers = Clock(), iter(range(100))
    cached = Cached(lambda: next(numbers), clock)

    async def run() -> list[int]:
        first = await asyncio.gather(*(cached.get() for _ in range(10)))
        clock.now_s = FRESH_S * 0.9
        second = await cached.get()
        clock.now_s = FRESH_S
        return [*first, second, await cached.get()]

    assert asyncio.run(run()) == [0] * 11 + [1]


def test_a_reading_that_takes_long_is_waited_for_and_not_begun_again() -> None:
    clock, go, numbers = Clock(), threading.Event(), iter(range(100))

    def read() -> int:
        go.wait(20)
        return next(numbers)

    cached = Cached(read, clock)

    async def run() -> list[int]:
        first = asyncio.ensure_future(cached.get())
        await asyncio.sleep(0)
        clock.now_s = 10 * FRESH_S
        second = asyncio.ensure_future(cached.get())
        await asyncio.sleep(0)
        go.set()
        return [await first, await second]

    assert asyncio.run(run()) == [0, 0]


def test_whoever_gives_up_takes_the_reading_from_nobody() -> None:
    go = threading.Event()
    cached = Cached(lambda: go.wait(20))

    async def run() -> bool:
        impatient, patient = asyncio.ensure_future(cached.get()), asyncio.ensure_future(cached.get())
        await asyncio.sleep(0)
        impatient.cancel()
        go.set()
        return await patient

    assert asyncio.run(run())


def test_what_a_reading_raises_all_get_and_the_next_one_may_go_well() -> None:
    clock, numbers = Clock(), iter(range(10))

    def read() -> int:
        if (number := next(numbers)) == 0:
            raise OSError("away")
        return number

    cached = Cached(read, clock)

    async def run() -> int:
        with pytest.raises(OSError, match="away"):
            await cached.get()
        with pytest.raises(OSError, match="away"):
            await cached.get()
        clock.now_s = FRESH_S
        return await cached.get()

    assert asyncio.run(run()) == 1

"""The more polls take, the less often open pages ask; and as often as before once that is over."""

import asyncio
import time
from collections.abc import Awaitable

import pytest
import redis

from boilerd.web import pace, sampler
from boilerd.web.pace import FORGOTTEN_S, LONGEST_S, SHARE, WINDOW_S, Pace, cpu_of
from boilerd.web.sampler import Sampler
from browser import Browser, with_people


class Clock:
    """The time of a test."""

    now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def take(self, found: Pace, share: float, seconds: float = 5.0) -> float:
        """Have polls take so much of a CPU for so long: how long pages wait then."""
        self.now_s += max(seconds, found.wait_s)
        found.note(share * max(seconds, found.wait_s))
        return found.wait_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(pace, "time", found)
    return found


def test_pages_renew_as_their_readers_like_while_polls_take_little(clock: Clock) -> None:
    assert clock.take(Pace(), 0.9 * SHARE) == 0


def test_pages_wait_the_longer_the_more_polls_take_and_no_longer_than_that(clock: Clock) -> None:
    waits_s = [clock.take(Pace(), share * SHARE) for share in (1, 4, 9, 1e6)]

    assert waits_s == pytest.approx([0, 2, 3, LONGEST_S])


def test_a_pace_goes_half_of_the_way_each_time_and_stays_where_it_fits(clock: Clock) -> None:
    found = Pace()

    def wait_with(takes_s: float) -> float:
        return clock.take(found, takes_s / max(found.wait_s, 2.0))

    more_s = [wait_with(20 * SHARE) for _ in range(20)]  # of CPU, each time that all pages have asked
    fewer_s = [wait_with(3 * SHARE) for _ in range(20)]

    assert more_s == sorted(more_s)
    assert more_s[-1] == pytest.approx(20, rel=0.01)
    assert fewer_s == sorted(fewer_s, reverse=True)
    assert fewer_s[-1] == pytest.approx(3, rel=0.01)


def test_what_a_moment_takes_is_looked_at_with_what_others_take(clock: Clock) -> None:
    found = Pace()

    waits_s = [clock.take(found, 100 * SHARE, seconds=WINDOW_S / 4) for _ in range(3)]

    assert waits_s == [0, 0, 0]


def test_a_pace_stays_where_nobody_has_asked_for_a_while(clock: Clock) -> None:
    found = Pace()
    before_s = [clock.take(found, 16 * SHARE) for _ in range(4)][-1]

    clock.now_s += 1.6 * before_s
    found.note(0)

    assert 20 < before_s <= LONGEST_S
    assert found.wait_s == before_s


def test_a_pace_is_forgotten_when_no_page_asks(clock: Clock) -> None:
    found = Pace()
    before_s = clock.take(found, 16 * SHARE)

    clock.now_s += FORGOTTEN_S
    forgotten_s = found.wait_s
    found.note(0)

    assert before_s == pytest.approx(4)
    assert (forgotten_s, found.wait_s) == (0.0, 0.0)


def test_of_a_poll_that_waits_its_own_steps_count_alone() -> None:
    def burn(seconds: float) -> None:
        end_s = time.thread_time() + seconds
        while time.thread_time() < end_s:
            pass

    async def poll(others: asyncio.Event) -> None:
        burn(0.01)
        await others.wait()
        burn(0.01)

    async def main() -> float:
        others = asyncio.Event()
        task = asyncio.ensure_future(_awaited(poll(others)))
        await asyncio.sleep(0)
        burn(0.2)
        others.set()
        return await task

    assert 0.02 <= asyncio.run(main()) < 0.1


def test_a_poll_that_is_cancelled_or_fails_ends_as_it_would() -> None:
    ended = []

    async def poll() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("poll")

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_awaited(poll()), 0.01)
        with pytest.raises(ValueError, match="no"):
            await cpu_of(fail())

    asyncio.run(main())

    assert ended == ["poll"]


async def _awaited(work: Awaitable[None]) -> float:
    return await cpu_of(work)


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever polls take is too much, and that is found after each."""
    monkeypatch.setattr(pace, "WINDOW_S", 0.0)
    monkeypatch.setattr(pace, "SHARE", 1e-9)


@pytest.mark.usefixtures("busy")
def test_a_stranger_does_not_have_pages_wait(connection: redis.Redis) -> None:
    app = with_people(connection)

    with Browser(app) as stranger, Browser(app, x_who="viewer") as viewer:
        refused = [stranger.get("/", boilerd_live="1").status_code for _ in range(3)]
        before_s = viewer.get("/system.json").json()["dashboard"]["wait_s"]
        told = viewer.get("/", boilerd_live="1").headers["boilerd-wait"]

    assert refused == [401] * 3
    assert (before_s, told) == (0, "30.0")


@pytest.mark.usefixtures("busy")
def test_polls_are_told_how_long_to_wait_and_others_are_not(browser: Browser) -> None:
    later = browser.get("/", boilerd_live="1")
    same = browser.get("/", boilerd_live="1", if_none_match=later.headers["etag"])

    assert [later.headers["boilerd-wait"], same.headers["boilerd-wait"]] == ["30.0", "30.0"]
    assert same.status_code == 304
    assert "boilerd-wait" not in browser.get("/").headers
    assert browser.get("/system.json").json()["dashboard"]["wait_s"] == 30
    assert "every 30 s, as the dashboard is busy" in browser.get("/system").text


def test_a_picture_that_takes_long_is_shown_to_polls_for_as_long_as_pages_wait(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "FRESH_S", 0.0)
    monkeypatch.setattr(sampler, "FRESH_TIMES", 1e9)
    found = Pace()
    looked = Sampler(connection, pace=found)
    anew = looked.read(is_poll=True) is not looked.read(is_poll=True)
    monkeypatch.setattr(Pace, "wait_s", 600.0)

    first = looked.read(is_poll=True)
    polled, opened = looked.read(is_poll=True), looked.read()

    assert anew
    assert polled is first
    assert opened is not first
    assert looked.read(is_poll=True) is opened

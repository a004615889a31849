"""The more polls take, the less often open pages ask; and as often as before once that is over."""

import time

import pytest
import redis

from boilerd.web import pace, sampler
from boilerd.web.pace import LEAST_S, LONGEST_S, Pace
from boilerd.web.sampler import Sampler
from browser import Browser, with_people
from support import wait_until


def burn(seconds: float) -> float:
    """Use so much CPU: what was used."""
    began_s = time.thread_time()
    while time.thread_time() < began_s + seconds:
        pass
    return time.thread_time() - began_s


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What polls take is looked at after each."""
    monkeypatch.setattr(pace, "WINDOW_S", 0.0)


def test_pages_renew_as_their_readers_like_while_polls_take_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "SHARE", 2.0)
    found = Pace()

    found.note(burn(0.02))

    assert found.wait_s == 0


def test_pages_wait_the_longer_the_more_polls_take_and_no_longer_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    waits_s = []
    for share in (0.5, 0.05, 1e-9):
        monkeypatch.setattr(pace, "SHARE", share)
        found = Pace()
        found.note(burn(0.02))
        waits_s.append(found.wait_s)

    assert waits_s == sorted(waits_s)
    assert waits_s[1] > LEAST_S
    assert waits_s[2] == LONGEST_S


def test_pages_wait_less_when_polls_take_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "LEAST_S", 0.01)
    found = Pace()
    found.note(burn(0.02))
    before_s = found.wait_s

    def is_over() -> bool:
        found.note(0)
        return not found.wait_s

    wait_until(is_over, "they renew as their readers like")

    assert before_s > 0.01


def test_a_stranger_does_not_have_pages_wait(connection: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "SHARE", 1e-9)
    app = with_people(connection)

    with Browser(app) as stranger, Browser(app, x_who="viewer") as viewer:
        refused = [stranger.get("/", boilerd_live="1").status_code for _ in range(3)]
        before_s = viewer.get("/system.json").json()["dashboard"]["wait_s"]
        told = viewer.get("/", boilerd_live="1").headers["boilerd-wait"]

    assert refused == [401] * 3
    assert (before_s, told) == (0, "30.0")


def test_polls_are_told_how_long_to_wait_and_others_are_not(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "SHARE", 1e-9)

    later = browser.get("/", boilerd_live="1")
    same = browser.get("/", boilerd_live="1", if_none_match=later.headers["etag"])

    assert [later.headers["boilerd-wait"], same.headers["boilerd-wait"]] == ["30.0", "30.0"]
    assert same.status_code == 304
    assert "boilerd-wait" not in browser.get("/").headers
    assert browser.get("/system.json").json()["dashboard"]["wait_s"] == 30
    assert "every 30 s at most, as many look" in browser.get("/system").text


def test_a_picture_that_takes_long_is_shown_for_as_long_as_pages_wait(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "FRESH_S", 0.0)
    monkeypatch.setattr(sampler, "FRESH_TIMES", 1e9)
    found = Pace()
    looked = Sampler(connection, pace=found)

    anew = looked.read() is not looked.read()
    found.wait_s = 600.0
    first = looked.read()

    assert anew
    assert looked.read() is first

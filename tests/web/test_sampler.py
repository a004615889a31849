"""One picture for however many look, also of a Redis that does not answer."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from boilerd.errors import BrokerUnavailableError
from boilerd.web import sampler
from boilerd.web.sampler import Sampler
from support import DEADLINE_S, wait_until


def test_those_who_wait_for_a_picture_fail_with_it_and_do_not_each_try_again(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends, calls = threading.Event(), []

    def stall(_connection: redis.Redis) -> None:
        calls.append(1)
        ends.wait(DEADLINE_S)
        raise BrokerUnavailableError("no answer")

    monkeypatch.setattr(sampler, "FRESH_S", 3600.0)
    monkeypatch.setattr(sampler, "read_overview", stall)
    looked = Sampler(connection)
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(looked.read) for _ in range(4)]
        wait_until(lambda: bool(calls), "one of them asks")
        ends.set()
        errors = [type(each.exception(DEADLINE_S)) for each in found]

    assert errors == [BrokerUnavailableError] * 4
    assert len(calls) == 1


def test_after_a_failure_the_next_picture_is_taken_when_something_was_done(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "FRESH_S", 3600.0)
    looked = Sampler(connection)
    with monkeypatch.context() as away:
        away.setattr(sampler, "read_overview", lambda _: (_ for _ in ()).throw(BrokerUnavailableError("away")))
        with pytest.raises(BrokerUnavailableError):
            looked.read()

    looked.forget()

    assert looked.read().number == 1

"""What Redis did not answer once is told by no page as if there were nothing, and is read again for the next one."""

from collections.abc import Callable
from typing import Any

import pytest
import redis

from boilerd import Client, Inspector
from boilerd.broker.broker import Broker
from boilerd.errors import BrokerUnavailableError
from boilerd.tasks.fingerprint import FailureKind
from boilerd.tasks.metric_record import OUTCOME_KEYS, encode, pack_pair
from boilerd.web import sampler
from browser import Browser
from builders import count_in_minute, counted, enqueue, fail_as, tell_cron

Told = Callable[[Any], object]


@pytest.fixture
def _with_something(connection: redis.Redis, client: Client, broker: Broker) -> None:
    """A type that fails suddenly, a queue and a periodic task that are paused."""
    minute = int(connection.time()[0]) // 60 - 5
    fail_as(broker, "failed", FailureKind("b" * 12, "mail:send", "Error", "", (), ""))
    hour = f"boilerd:metrics:hour:{minute // 60 - 12}"
    connection.hset(hour, pack_pair("default", "mail:send"), encode({OUTCOME_KEYS["completed"]: 200}))
    count_in_minute(connection, minute, "default", "mail:send", counted(0, archived=20))
    enqueue(client, "a")
    Inspector(connection).pause("default", note="a deploy")
    tell_cron(broker)
    Inspector(connection).pause_cron("nightly")


def fail_once(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
    """Have Redis not answer it the first time."""
    read, calls = getattr(owner, name), list[int]()

    def once(*args: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise BrokerUnavailableError("Redis did not answer")
        return read(*args, **more)

    monkeypatch.setattr(owner, name, once)


@pytest.mark.usefixtures("_with_something")
@pytest.mark.parametrize(
    ("page", "asks", "is_told"),
    [
        ("/crons", (Inspector, "paused_crons"), lambda page: page["crons"][0]["paused_since"]),
        ("/crons", (Inspector, "last_ticks"), lambda page: not page["crons"][0]["missed"]),
        ("/crons", (Inspector, "histories"), lambda page: page["crons"][0]["outcomes"] == []),
        ("/queues/default", (Inspector, "pauses"), lambda page: page["pause"]["note"] == "a deploy"),
        ("/types", (Inspector, "failures"), lambda page: page["skipped"] == []),
        ("/overview", (Inspector, "metrics"), lambda page: page["types"][0]["type"] == "mail:send"),
        ("/overview", (sampler, "sudden_failures"), lambda page: "failing" in {e["kind"] for e in page["findings"]}),
    ],
)
def test_it_is_told_and_then_read_again(
    page: str, asks: tuple[object, str], is_told: Told, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "FRESH_S", 0.0)
    fail_once(monkeypatch, *asks)

    first, second = (browser.get(f"{page}.json") for _ in range(2))

    assert first.status_code == 503
    assert is_told(second.json())

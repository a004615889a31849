"""What daemons tell of themselves: kept for a minute, and read whatever stands there."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from boilerd import CronFacts, Inspector, PoolFacts
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.constants import DAEMON_TTL_S
from boilerd.broker.daemons import MOST_BYTES, DaemonInfo
from boilerd.broker.neighbours import Declared
from boilerd.process.identity import Load
from builders import WORKER

FACTS = {
    "host": "web1", "pid": 7, "release": "2.4.1", "started_at": "2026-11-24T09:30:00+00:00",
    "versions": {"boilerd": "1.0", "python": "3.13.1"}, "types": ["mail:", ""], "schemas": {"mail:": {"type": "array"}},
    "pools": [{"name": "default", "queues": {"default": 3}, "processes": 10, "slots": 1}],
    "crons": [{"name": "nightly", "spec": "0 8 * * *", "timezone": "Europe/Berlin", "type": "mail:all"}],
    "settings": {"app": "shop:mux"},
}  # fmt: skip


def tell(broker: Broker, name: str, facts: Any = FACTS) -> None:
    encoded = json.dumps(facts)
    assert broker.publish(name, len(encoded), encoded)


def daemons(connection: redis.Redis) -> list[DaemonInfo]:
    return Inspector(connection).daemons()


def test_a_daemon_is_read_as_it_tells_of_itself(broker: Broker, connection: redis.Redis) -> None:
    tell(broker, "web1.0a1b2c")

    (found,) = daemons(connection)

    assert (found.name, found.host, found.pid, found.release) == ("web1.0a1b2c", "web1", 7, "2.4.1")
    assert found.started_at == datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
    assert found.seen_at is not None
    assert abs(found.seen_at.timestamp() - broker.now()) < DAEMON_TTL_S
    assert found.pools == [PoolFacts("default", {"default": 3}, 10, 1)]
    assert found.processes == 10
    assert found.crons == [CronFacts("nightly", "0 8 * * *", "Europe/Berlin", "mail:all")]
    assert (found.types, found.schemas) == (["mail:", ""], {"mail:": {"type": "array"}})
    assert (found.settings, found.problem) == ({"app": "shop:mux"}, "")


def test_what_daemons_tell_alike_stands_in_memory_once(broker: Broker, connection: redis.Redis) -> None:
    tell(broker, "web1.0a1b2c")
    tell(broker, "web2.0a1b2c", FACTS | {"host": "web2", "pid": 8})

    one, other = daemons(connection)

    assert (one.pid, other.pid) == (7, 8)
    assert one.crons is other.crons
    assert one.schemas is other.schemas


def test_what_is_told_lasts_a_minute_and_is_renewed_without_being_sent(broker: Broker, connection: redis.Redis) -> None:
    tell(broker, "web1.a")
    connection.expire(keys.daemon("web1.a"), 5)
    connection.zadd(keys.DAEMONS, {"web1.a": 1.0})

    is_there = broker.publish("web1.a", len(json.dumps(FACTS)))

    assert is_there
    assert 5 < connection.ttl(keys.daemon("web1.a")) <= DAEMON_TTL_S
    assert 5 < connection.ttl(keys.DAEMONS) <= DAEMON_TTL_S
    assert (connection.zscore(keys.DAEMONS, "web1.a") or 0) > 1.0


@pytest.mark.parametrize("key", [keys.daemon("web1.a"), keys.DAEMONS])
@pytest.mark.parametrize("kind", ["none", "string", "hash"])
def test_what_stands_in_the_place_of_the_facts_makes_way(
    broker: Broker, connection: redis.Redis, key: str, kind: str
) -> None:
    tell(broker, "web1.a")
    connection.delete(key)
    if kind != "none":
        connection.set(key, "a stranger's") if kind == "string" else connection.hset(key, "x", "1")

    is_there = broker.publish("web1.a", len(json.dumps(FACTS)))

    assert is_there is (key == keys.DAEMONS)
    tell(broker, "web1.a")
    assert [found.host for found in daemons(connection)] == ["web1"]


def test_daemons_that_are_gone_leave_and_one_that_ends_takes_all_back(broker: Broker, connection: redis.Redis) -> None:
    tell(broker, "web1.a")
    tell(broker, "web2.b")
    now_s = broker.now()
    connection.zadd(keys.DAEMONS, {"killed.c": now_s - 2 * DAEMON_TTL_S, "ahead.d": now_s + 2 * DAEMON_TTL_S})

    assert broker.publish("web2.b", len(json.dumps(FACTS)))
    known = connection.zrange(keys.DAEMONS, 0, -1)
    broker.withdraw("web1.a")
    left = daemons(connection)
    broker.withdraw("web2.b")

    assert known == [b"web1.a", b"web2.b"]
    assert [found.name for found in left] == ["web2.b"]
    assert connection.keys("*") == []


DEEP = b'{"schemas":' + b"[" * 200 + b"]" * 200 + b"}"


@pytest.mark.parametrize(
    "content", [b"\xff", b"[]", b"nonsense", b'{"pid": NaN}', DEEP, b"[" * 100_000, b'"' + b"x" * MOST_BYTES + b'"']
)
def test_what_is_no_daemons_is_a_problem_and_hides_no_other(
    broker: Broker, connection: redis.Redis, content: bytes
) -> None:
    tell(broker, "web1.a")
    tell(broker, "web2.b")
    connection.set(keys.daemon("web1.a"), content)

    odd, sound = daemons(connection)

    assert odd == DaemonInfo("web1.a", problem=f"key {keys.daemon('web1.a')} holds no facts about a daemon, delete it")
    assert sound.host == "web2" or sound.name == "web2.b"


def test_keys_of_another_kind_are_told(broker: Broker, connection: redis.Redis) -> None:
    tell(broker, "web1.a")
    connection.delete(keys.daemon("web1.a"))
    connection.hset(keys.daemon("web1.a"), "x", "1")
    odd = daemons(connection)
    connection.set(keys.DAEMONS, "x")

    assert [found.problem for found in odd] == [f"key {keys.daemon('web1.a')} is no string, rename it or delete it"]
    assert [found.problem for found in daemons(connection)] == [
        f"key {keys.DAEMONS} is no sorted set, rename it or delete it"
    ]


def test_a_later_version_may_tell_more_and_otherwise(broker: Broker, connection: redis.Redis) -> None:
    pools = [{"name": "web", "colour": "red"}, {"name": 7}, "mail"]
    tell(broker, "web1.a", FACTS | {"more": 1, "pid": "seven", "pools": pools, "crons": {}, "types": ["a", 1]})

    (found,) = daemons(connection)

    assert (found.pid, found.pools, found.crons, found.types) == (0, [PoolFacts("web")], [], ["a"])
    assert (found.host, found.problem) == ("web1", "")


def line(spec: str, timezone: str = "UTC") -> dict[str, Any]:
    return FACTS | {"crons": [{"name": "nightly", "spec": spec, "timezone": timezone, "type": "mail:all"}]}


def test_periodic_tasks_are_those_of_all_daemons_with_the_lines_that_each_has(
    broker: Broker, connection: redis.Redis
) -> None:
    tell(broker, "web1.a", line("@daily"))
    tell(broker, "web2.b", line("@daily"))
    tell(broker, "web3.c", line("@hourly", "Europe/Berlin"))
    broker.ticks_since({"nightly": "UTC @daily", "gone": "UTC @weekly"})
    broker.tick("nightly", broker.now() // 86400 * 86400, None)

    gone, daily, hourly = Inspector(connection).crons()

    assert (gone.name, gone.spec, gone.daemons, gone.task_type) == ("gone", "@weekly", (), "")
    assert (daily.spec, daily.daemons, daily.task_type) == ("@daily", ["web1.a", "web2.b"], "mail:all")
    assert (hourly.spec, hourly.timezone, hourly.daemons) == ("@hourly", "Europe/Berlin", ["web3.c"])
    assert daily.since is not None
    assert (hourly.since, hourly.previous) == (None, daily.previous)
    assert daily.previous is not None
    assert hourly.next is not None


def test_a_daemon_that_tells_nothing_is_known_to_have_an_entry_by_its_workers(
    broker: Broker, connection: redis.Redis
) -> None:
    declared = Declared(("mail:",), ("nightly", "weekly"))
    for worker in ("old.e.0", "old.e.1", "web1.a.0"):
        broker.register(worker, ["default"], {"queues": "default", "application": declared.encoded()})
    tell(broker, "web1.a", line("@daily"))
    broker.ticks_since({"nightly": "UTC @hourly", "weekly": "UTC @weekly"})

    found = {(cron.name, cron.spec): cron.daemons for cron in Inspector(connection).crons()}

    assert found == {
        ("nightly", "@daily"): ["web1.a"], ("nightly", "@hourly"): ["old.e"], ("weekly", "@weekly"): ["old.e"],
    }  # fmt: skip


def test_a_foreign_key_in_place_of_the_schedules_hides_no_daemons_entries(
    broker: Broker, connection: redis.Redis
) -> None:
    connection.set(keys.SCHEDULES, "x")
    tell(broker, "web1.a")

    assert [cron.name for cron in Inspector(connection).crons()] == ["nightly"]


def load_of(connection: redis.Redis) -> list[tuple[int | None, int | None]]:
    return [(worker.rss_bytes, worker.cpu_ms) for worker in Inspector(connection).workers()]


@pytest.mark.parametrize("slots", [1, 8])
def test_a_heartbeat_tells_what_a_worker_takes_of_its_host(broker: Broker, connection: redis.Redis, slots: int) -> None:
    def beat(load: Load | None) -> list[tuple[int | None, int | None]]:
        broker.extend([WORKER], {}, {WORKER: load}) if slots == 1 else broker.renew(WORKER, [], load)
        return load_of(connection)

    broker.register(WORKER, ["default"], {"slots": slots})
    before = load_of(connection)

    assert before == [(None, None)]
    assert beat(Load(1_000, 20)) == [(1_000, 20)]
    assert beat(None) == [(1_000, 20)]
    assert beat(Load(3_000, 40)) == [(3_000, 40)]


def test_a_heartbeat_makes_no_record_of_a_worker_that_has_none(broker: Broker, connection: redis.Redis) -> None:
    broker.extend([WORKER], {}, {WORKER: Load(1_000, 20)})

    assert connection.keys("*") == []

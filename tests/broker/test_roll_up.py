"""Metrics on their way through Redis: what enqueues and processes count, in its minute, and rolled up from there."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from boilerd.broker import connection_pool, keys
from boilerd.broker.broker import Broker
from boilerd.broker.connection import connect, text
from boilerd.broker.constants import LAST_MINUTE, METRIC_PERIODS, MOST_PAIRS, MOST_ROLLED, OTHER
from boilerd.broker.rider import Ride
from boilerd.errors import BrokerUnavailableError
from boilerd.tasks.metric_record import (
    ENQUEUED,
    MOST_RUN_US,
    OUTCOME_KEYS,
    RUN_US,
    Pair,
    Record,
    decode,
    encode,
    pack_pair,
)
from builders import new_task, store, task_ids
from reckoning import counted, in_bytes
from support import ServerClock, StartValkey, Valkey

COMPLETED = OUTCOME_KEYS["completed"]


class Counted:
    """A rider that has what a test gives it."""

    def __init__(self, *records: tuple[Pair, Record]) -> None:
        self.records = list(records)
        self.refusals: list[Exception] = []

    def is_due(self) -> bool:
        return bool(self.records)

    def take(self) -> Sequence[str | bytes]:
        taken, self.records = self.records, []
        return [part for pair, record in taken for part in (pack_pair(*pair), encode(record))]

    def note_refused(self, error: Exception) -> None:
        self.refusals.append(error)


def add(broker: Broker, *records: tuple[Pair, Record]) -> None:
    """Add records to this minute, as a process does at its end."""
    broker.rider = Counted(*records)
    broker.send_metrics()


def this_minute(broker: Broker) -> int:
    return int(broker.now() // 60)


def read(connection: redis.Redis, key: str) -> dict[Pair, Record]:
    return counted(connection, key.partition(":metrics:")[2], has_marks=True)


def read_all(connection: redis.Redis, period: str) -> dict[Pair, Record]:
    """All periods of a kind, added."""
    return counted(connection, f"{period}:*")


def read_totals(connection: redis.Redis) -> dict[Pair, Record]:
    return counted(connection, "total")


def fill(connection: redis.Redis, minute: int, records: Iterable[tuple[Pair, Record]]) -> None:
    """Write a minute that is over."""
    for pair, record in records:
        connection.hset(keys.metrics("minute", minute), pack_pair(*pair), encode(record))


def roll_all(*brokers: Broker) -> None:
    """Roll up in turns, until there is no more."""
    left = list(brokers)
    while left:
        left = [broker for broker in left if broker.roll_metrics()]


@pytest.fixture
def mail() -> Pair:
    return Pair("default", "email:send")


# --- What a process counted


def test_a_call_takes_along_what_was_counted(broker: Broker, connection: redis.Redis, mail: Pair) -> None:
    broker.rider = Counted((mail, {COMPLETED: 3, RUN_US: 70, MOST_RUN_US: 50}))
    store(broker, "a")

    answer = broker.advance("host.run.0", ["default"])

    assert [claim.task_id for claim in answer.claims] == ["a"]
    assert read_all(connection, "minute")[mail] == {COMPLETED: 3, RUN_US: 70, MOST_RUN_US: 50}


def test_numbers_of_a_minute_are_added_and_of_maxima_the_greater_stays(
    broker: Broker, connection: redis.Redis, mail: Pair
) -> None:
    add(broker, (mail, {COMPLETED: 3, RUN_US: 2**40, MOST_RUN_US: 50}))

    add(broker, (mail, {COMPLETED: 1, RUN_US: 2**40, MOST_RUN_US: 20}), (Pair("a: b", ""), {COMPLETED: 1}))

    assert read_all(connection, "minute") == {
        mail: {COMPLETED: 4, RUN_US: 2**41, MOST_RUN_US: 50},
        Pair("a: b", ""): {COMPLETED: 1},
    }


def test_a_redis_that_knows_no_script_gets_what_was_counted(
    broker: Broker, connection: redis.Redis, mail: Pair
) -> None:
    connection.script_flush()
    broker.rider = Counted((mail, {COMPLETED: 3}))

    answer = broker.advance("host.run.0", ["default"])

    assert answer.claims == []
    assert read_all(connection, "minute") == {mail: {COMPLETED: 3}}


def test_a_refusal_of_metrics_harms_no_call(valkey: Valkey, connection: redis.Redis, mail: Pair) -> None:
    connection.execute_command(  # type: ignore[no-untyped-call]
        "ACL", "SETUSER", "no-metrics", "on", ">secret", "~rq:*", "~boilerd:[^m]*", "+@all"
    )
    with connect(f"{valkey.url}?username=no-metrics", password="secret") as confined:
        broker = Broker(confined)
        rider = broker.rider = Counted((mail, {COMPLETED: 3}))

        store(broker, "a")
        answer = broker.advance("host.run.0", ["default"])

    connection.acl_deluser("no-metrics")
    assert task_ids(answer.claims) == ["a"]
    assert len(rider.refusals) == 1
    assert not connection.keys(f"{keys.OWN}:metrics:*")


def test_a_refusal_of_metrics_that_are_sent_alone_is_told_and_harms_nothing(
    valkey: Valkey, connection: redis.Redis, mail: Pair
) -> None:
    connection.execute_command(  # type: ignore[no-untyped-call]
        "ACL", "SETUSER", "no-numbers", "on", ">secret", "~rq:*", "~boilerd:[^m]*", "+@all"
    )
    with connect(f"{valkey.url}?username=no-numbers", password="secret") as confined:
        broker = Broker(confined)
        rider = broker.rider = Counted((mail, {COMPLETED: 3}))

        broker.send_metrics()

    connection.acl_deluser("no-numbers")
    assert len(rider.refusals) == 1


def test_a_signal_while_the_metrics_script_is_sent_mixes_up_no_answers(
    broker: Broker, connection: redis.Redis, mail: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear = Ride.hear

    def interrupted(ride: Ride, connection: Any) -> None:
        if ride.is_unknown:
            raise KeyboardInterrupt
        hear(ride, connection)

    # The answer is still under way when the connection is used next.
    monkeypatch.setattr(connection_pool, "_check", lambda _: None)
    monkeypatch.setattr(Ride, "hear", interrupted)
    connection.script_flush()
    store(broker, "a")
    broker.rider = Counted((mail, {COMPLETED: 3}))

    with pytest.raises(KeyboardInterrupt):
        broker.advance("host.run.0", ["default"])
    held = broker.held("host.run.0")

    assert [claim.task_id for claim in held] == ["a"]


def test_where_nobody_answers_what_was_counted_stays(directory: Path, mail: Pair) -> None:
    with connect(f"unix://{directory}/nobody") as connection:
        broker = Broker(connection)
        rider = broker.rider = Counted((mail, {COMPLETED: 3}))

        with pytest.raises(BrokerUnavailableError):
            broker.advance("host.run.0", ["default"])

    assert rider.records == [(mail, {COMPLETED: 3})]


def test_what_is_no_record_harms_nothing(broker: Broker, connection: redis.Redis, mail: Pair) -> None:
    minute = keys.metrics("minute", this_minute(broker))
    connection.hset(minute, pack_pair(*mail), b"\xc1 no record")
    connection.hset(minute, b"no pair", encode({COMPLETED: 1}))

    add(broker, (mail, {COMPLETED: 3}))

    assert decode(in_bytes(connection.hget(minute, pack_pair(*mail)) or b"")) == {COMPLETED: 3}


@pytest.mark.parametrize("period", ["minute", "ten", "hour", "day", "total", "rolled", "enqueued", "order"])
def test_a_foreign_key_in_the_place_of_metrics_gives_way(
    broker: Broker, connection: redis.Redis, mail: Pair, period: str
) -> None:
    now = this_minute(broker)
    fill(connection, now - 1, [(mail, {COMPLETED: 3})])
    roll_all(broker)
    connection.delete(*connection.keys(f"{keys.OWN}:metrics:*"))
    fill(connection, now - 1, [(mail, {COMPLETED: 3})])
    connection.set(keys.METRICS_ROLLED, f"{now - 2}:0")
    length_s = METRIC_PERIODS.get(period, (0, 0))[0]
    name = f"{period}:{now * 60 // length_s}" if length_s else period
    connection.delete(f"{keys.OWN}:metrics:{name}")
    connection.xadd(f"{keys.OWN}:metrics:{name}", {"foreign": "1"})

    store(broker, "a")
    add(broker, (mail, {COMPLETED: 1}))
    roll_all(broker)

    if period not in {"rolled", "minute"}:
        assert read_totals(connection)[mail] == {COMPLETED: 3}
    assert read_all(connection, "minute")[mail][COMPLETED] >= 1


def test_a_minute_has_so_many_pairs_at_most_and_nothing_is_lost(broker: Broker, connection: redis.Redis) -> None:
    pairs = [Pair(f"q{number % 7}", f"t{number}") for number in range(MOST_PAIRS)]
    pairs += [Pair(f"other-q{number}", "t") for number in range(MOST_PAIRS)]
    for first in range(0, len(pairs), 100):
        add(broker, *((pair, {COMPLETED: 1}) for pair in pairs[first : first + 100]))

    found = read_all(connection, "minute")

    assert len(found) == MOST_PAIRS
    assert sum(record[COMPLETED] for record in found.values()) == len(pairs)
    assert found[Pair("q0", OTHER)][COMPLETED] > 0
    assert found[Pair(OTHER, OTHER)][COMPLETED] > 0


# --- Enqueues


def test_enqueued_tasks_are_counted_by_queue_and_type(broker: Broker, connection: redis.Redis) -> None:
    broker.enqueue([new_task(f"a{number}", task_type="email:send") for number in range(3)])
    broker.enqueue([new_task("b", task_type="email:send", process_in=60), new_task("c", queue="low")])
    broker.enqueue([new_task("b", task_type="email:send")])  # its ID is taken

    roll_all(broker)

    assert read_all(connection, "minute") == {
        Pair("default", "email:send"): {ENQUEUED: 4},
        Pair("low", "test:echo"): {ENQUEUED: 1},
    }
    assert not connection.exists(keys.METRICS_ENQUEUED)


def test_tasks_of_ticks_are_counted(broker: Broker, connection: redis.Redis) -> None:
    for _ in range(2):
        broker.tick("nightly", broker.now(), new_task("a", task_type="report:make"))

    roll_all(broker)

    assert read_all(connection, "minute") == {Pair("default", "report:make"): {ENQUEUED: 1}}


def test_enqueued_types_beyond_the_number_of_pairs_are_counted_as_others(
    broker: Broker, connection: redis.Redis
) -> None:
    for number in range(0, MOST_PAIRS + 100, 100):
        broker.enqueue([new_task(f"{number + place}", task_type=f"t{number + place}") for place in range(100)])

    found = connection.hgetall(keys.METRICS_ENQUEUED)

    assert len(found) == MOST_PAIRS + 1
    assert sum(map(int, found.values())) == MOST_PAIRS + 100
    assert 0 < connection.ttl(keys.METRICS_ENQUEUED) <= METRIC_PERIODS["minute"][1]


# --- Rolled up


def test_minutes_that_are_over_are_added_to_longer_periods_and_totals(
    broker: Broker, connection: redis.Redis, mail: Pair
) -> None:
    now, other = this_minute(broker), Pair("low", "a")
    wanted: dict[Pair, Counter[int]] = {mail: Counter(), other: Counter()}
    for minute in range(now - 30, now):
        records = [(mail, {COMPLETED: 1, RUN_US: minute}), (other, {COMPLETED: 2})]
        fill(connection, minute, records)
        for pair, record in records:
            wanted[pair].update(record)
    add(broker, (mail, {COMPLETED: 1000}))  # the minute that is not over

    roll_all(broker)

    for period in ("ten", "hour", "day"):
        assert read_all(connection, period) == wanted, period
    assert read_totals(connection) == wanted
    assert read(connection, keys.METRICS_TOTAL)[mail][LAST_MINUTE] in {now - 1, now}
    assert len(connection.keys(keys.metrics("ten", 0)[:-1] + "*")) in {3, 4}


def test_several_schedulers_roll_up_once(broker: Broker, connection: redis.Redis) -> None:
    now, pairs = this_minute(broker), [Pair("default", f"t{number}") for number in range(3 * MOST_ROLLED + 7)]
    for minute in (now - 2, now - 1):
        fill(connection, minute, [(pair, {COMPLETED: 1}) for pair in pairs])

    roll_all(broker, Broker(connection), Broker(connection))
    roll_all(broker)

    assert read_totals(connection) == {pair: {COMPLETED: 2} for pair in pairs}


def test_a_call_rolls_up_so_many_pairs_in_the_order_of_their_bytes(broker: Broker, connection: redis.Redis) -> None:
    now = this_minute(broker)
    pairs = [Pair(queue, f"t{number}") for number in range(40) for queue in ("Ä", "a", "B", "b.", "_b")]
    connection.set(keys.METRICS_ROLLED, f"{now - 2}:0")
    fill(connection, now - 1, [(pair, {COMPLETED: 1}) for pair in pairs])

    assert broker.roll_metrics()

    names = sorted(pack_pair(*pair) for pair in pairs)
    assert set(connection.hgetall(keys.METRICS_TOTAL)) == set(names[:MOST_ROLLED])
    assert connection.get(keys.METRICS_ROLLED) == f"{now - 1}:{MOST_ROLLED}".encode()


def test_a_scheduler_that_comes_late_rolls_up_what_is_left(broker: Broker, connection: redis.Redis, mail: Pair) -> None:
    now = this_minute(broker)
    connection.set(keys.METRICS_ROLLED, f"{now - 2000}:0")
    fill(connection, now - 170, [(mail, {COMPLETED: 1})])

    roll_all(broker)

    assert read_totals(connection) == {mail: {COMPLETED: 1}}


def test_while_the_clock_is_put_back_numbers_go_to_a_minute_that_is_not_rolled_up(
    broker: Broker, connection: redis.Redis, mail: Pair
) -> None:
    now = this_minute(broker)
    connection.set(keys.METRICS_ROLLED, f"{now + 7}:3")

    add(broker, (mail, {COMPLETED: 1}))
    store(broker, "a")
    roll_all(broker)

    assert read(connection, keys.metrics("minute", now + 8))[mail] == {COMPLETED: 1}
    assert connection.get(keys.METRICS_ROLLED) == f"{now + 7}:3".encode()


def test_what_was_rolled_up_while_the_clock_was_wrong_by_more_than_an_hour_keeps_nothing_from_it(
    broker: Broker, connection: redis.Redis, mail: Pair
) -> None:
    now = this_minute(broker)
    connection.set(keys.METRICS_ROLLED, f"{now + 100_000}:0")

    add(broker, (mail, {COMPLETED: 1}))
    roll_all(broker)

    assert mail in read(connection, keys.metrics("minute", this_minute(broker))) or this_minute(broker) > now


def test_every_key_of_metrics_ends_by_itself(broker: Broker, connection: redis.Redis, mail: Pair) -> None:
    add(broker, (mail, {COMPLETED: 1}))
    over = keys.metrics("minute", this_minute(broker) - 1)
    fill(connection, this_minute(broker) - 1, [(mail, {COMPLETED: 1})])
    connection.expire(over, 60)
    roll_all(broker)
    store(broker, "a")

    found = {text(key): connection.ttl(key) for key in connection.keys(f"{keys.OWN}:metrics:*")}

    assert len(found) == 8
    assert all(0 < ttl <= METRIC_PERIODS["day"][1] + 3600 for ttl in found.values()), found


def test_totals_of_pairs_that_were_not_seen_for_90_days_go(
    start_valkey: StartValkey, directory: Path, mail: Pair
) -> None:
    midnight = int(time.time() // 86400 + 1) * 1440
    clock = ServerClock(directory)
    clock.put(midnight * 60 + 1800 - time.time())
    with connect(start_valkey(env=clock.env).url) as connection:
        for pair, last in ((Pair("gone", "a"), midnight - 90 * 1440 - 1), (mail, midnight - 90 * 1440)):
            connection.hset(keys.METRICS_TOTAL, pack_pair(*pair), encode({COMPLETED: 1, LAST_MINUTE: last}))

        roll_all(Broker(connection))

        assert set(read_totals(connection)) == {mail}

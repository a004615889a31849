"""What is read of metrics: whole while the scheduler rolls them up, little at a time, whatever else is in Redis."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from boilerd import Inspector
from boilerd.broker import keys
from boilerd.broker import metrics as metrics_module
from boilerd.broker.broker import Broker
from boilerd.broker.connection import connect
from boilerd.broker.constants import METRIC_PERIODS
from boilerd.broker.metrics import MOST_FIELDS, Period, Series
from boilerd.errors import MisplacedKeyError
from boilerd.tasks.metric_record import ENQUEUED, OUTCOME_KEYS, Numbers, Pair, Record, decode, encode, merge, pack_pair
from support import ServerClock, StartValkey, Valkey, private_directory, wait_until

COMPLETED = OUTCOME_KEYS["completed"]
A, B, C = Pair("default", "a"), Pair("default", "b"), Pair("low", "a")
HOUR_S, DAY_S = 3600, 86400


@pytest.fixture
def inspector(connection: redis.Redis) -> Inspector:
    return Inspector(connection)


@pytest.fixture
def minute(connection: redis.Redis) -> int:
    """One that is over."""
    return minute_of(connection) - 10


def minute_of(connection: redis.Redis) -> int:
    return int(connection.time()[0]) // 60


def put(connection: Any, key: str, pair: Pair, record: Record) -> None:
    """Add a record, as the scripts do."""
    name = pack_pair(*pair)
    whole = decode(connection.hget(key, name) or encode({})) or {}
    merge(whole, record)
    connection.hset(key, name, encode(whole))


def count(connection: redis.Redis, minute: int, *pairs: Pair, number: int = 1) -> None:
    """Count so many completed tasks of each pair in a minute."""
    for pair in pairs:
        put(connection, keys.metrics("minute", minute), pair, {COMPLETED: number})


def roll_up(connection: Any, *minutes: int) -> Iterator[None]:
    """Roll up minutes as the scheduler does, and stop wherever it may be interrupted."""
    for minute in minutes:
        fields = connection.hgetall(keys.metrics("minute", minute))
        for number, name in enumerate(sorted(fields), 1):
            pair, record = metrics_module._to_pair(name), decode(fields[name])
            assert pair is not None
            assert record is not None
            for period in ("ten", "hour", "day"):
                put(connection, keys.metrics(period, minute * 60 // METRIC_PERIODS[period][0]), pair, record)
            put(connection, keys.METRICS_TOTAL, pair, record)
            connection.set(keys.METRICS_ROLLED, f"{minute}:{number}")
            yield
        connection.set(keys.METRICS_ROLLED, f"{minute + 1}:0")
        yield


def completed(numbers: dict[Pair, Numbers]) -> dict[Pair, int]:
    return {pair: found.attempts["completed"] for pair, found in numbers.items()}


def at(minute: int) -> datetime:
    return datetime.fromtimestamp(minute * 60, UTC)


def by_start(series: Series) -> dict[datetime, int]:
    """The periods in which something completed."""
    counted = {period.start: period.total().attempts["completed"] for period in series.periods}
    return {start: number for start, number in counted.items() if number}


def test_an_empty_server_has_periods_without_numbers(inspector: Inspector) -> None:
    series = inspector.metrics(timedelta(hours=1))

    assert (series.step_s, len(series.periods), series.total(), series.skipped) == (60, 61, {}, ())
    assert inspector.totals() == {}


def test_minutes_are_told_one_by_one_without_gaps(inspector: Inspector, connection: redis.Redis, minute: int) -> None:
    count(connection, minute - 3, A)
    count(connection, minute, A, B, number=2)
    count(connection, minute + 1, A)

    series = inspector.metrics(at(minute - 3), at(minute + 1))

    assert [period.start for period in series.periods] == [at(minute - 3 + n) for n in range(4)]
    assert [completed(dict(period.numbers)) for period in series.periods] == [{A: 1}, {}, {}, {A: 2, B: 2}]
    assert completed(series.total()) == {A: 3, B: 2}
    assert (series.until, series.lasting_s) == (at(minute + 1), 240)


def test_what_gets_each_period_has_the_numbers_and_the_series_has_them_not(
    inspector: Inspector, connection: redis.Redis, minute: int
) -> None:
    count(connection, minute - 1, A)
    count(connection, minute, A, B, number=2)
    found: list[Period] = []

    series = inspector.metrics(at(minute - 1), at(minute + 1), each=found.append)

    assert [(period.start, completed(dict(period.numbers))) for period in found] == [
        (at(minute - 1), {A: 1}), (at(minute), {A: 2, B: 2}),
    ]  # fmt: skip
    assert [(period.start, period.numbers) for period in series.periods] == [(at(minute - 1), {}), (at(minute), {})]


@pytest.mark.parametrize("step_s", [600, HOUR_S, DAY_S])
def test_all_is_counted_once_wherever_a_roll_up_stops(
    inspector: Inspector, connection: redis.Redis, step_s: int, minute: int
) -> None:
    minutes = range(minute - 2, minute + 1)
    for number in minutes:
        count(connection, number, A, B, C)
    count(connection, minute + 5, A)
    expected = {A: 4, B: 3, C: 3}
    periods: dict[datetime, int] = {}
    for number in (*minutes, minute + 5):
        start = datetime.fromtimestamp(number * 60 // step_s * step_s, UTC)
        periods[start] = periods.get(start, 0) + (1 if number == minute + 5 else 3)

    seen = []
    for _ in roll_up(connection, *minutes):
        series = inspector.metrics(timedelta(hours=2), step_s=step_s)
        seen.append((completed(inspector.totals()), completed(series.total()), by_start(series)))

    assert seen == [(expected, expected, periods)] * 12


def test_totals_do_not_change_when_a_roll_up_goes_on_while_they_are_read(
    inspector: Inspector, connection: redis.Redis, minute: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    count(connection, minute, A, B, C)
    steps = roll_up(connection, minute, minute + 1, minute + 2)
    read = metrics_module._Reader.minutes

    def read_late(*args: Any) -> Any:
        next(steps)
        return read(*args)

    monkeypatch.setattr(metrics_module._Reader, "minutes", read_late)
    seen = [completed(inspector.totals()) for _ in range(5)]

    assert seen == [{A: 1, B: 1, C: 1}] * 5


def test_a_period_that_fills_up_while_it_is_looked_for_is_read_whole(
    inspector: Inspector, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = (minute_of(connection) - 30) // 10 * 10
    for number in range(first, first + 20):
        count(connection, number, A)
    steps = roll_up(connection, *range(first, first + 20))
    next(steps)
    look = metrics_module._Reader.place

    def look_early(*args: Any) -> Any:
        found = look(*args)
        for _ in range(24):  # into the next ten minutes
            next(steps)
        return found

    monkeypatch.setattr(metrics_module._Reader, "place", look_early)
    series = inspector.metrics(at(first), at(first + 20), 600)

    assert by_start(series) == {at(first): 10, at(first + 10): 10}


def test_a_period_is_read_once_when_a_roll_up_goes_on_meanwhile(
    inspector: Inspector, connection: redis.Redis, minute: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    count(connection, minute, A, B, C)
    steps = roll_up(connection, minute)
    next(steps)
    read = metrics_module._Reader.many

    def read_late(*args: Any) -> Any:
        next(steps, None)
        return read(*args)

    monkeypatch.setattr(metrics_module._Reader, "many", read_late)
    series = inspector.metrics(timedelta(hours=2), step_s=600)

    assert completed(series.total()) == {A: 1, B: 1, C: 1}


def test_totals_never_fall_while_tasks_are_counted_and_rolled_up(
    inspector: Inspector, connection: redis.Redis, minute: int
) -> None:
    seen = []
    for number in range(minute - 5, minute):
        count(connection, number, A, B)
        seen.append(completed(inspector.totals())[B])
        seen += [completed(inspector.totals())[B] for _ in roll_up(connection, number)]

    assert seen == sorted(seen)
    assert seen[-1] == 5


def test_what_the_scheduler_rolls_up_is_counted_once_whatever_it_has_come_to(
    inspector: Inspector, broker: Broker, connection: redis.Redis, minute: int
) -> None:
    many = [Pair("default", f"type-{number}") for number in range(120)]
    for number in range(minute, minute + 3):
        count(connection, number, *many, C)
    connection.set(keys.METRICS_ROLLED, f"{minute - 1}:0")

    seen = []
    while broker.roll_metrics():
        totals, hours = inspector.totals(), inspector.metrics(timedelta(hours=2), step_s=HOUR_S).total()
        seen.append((set(completed(totals).values()), len(totals), set(completed(hours).values()), len(hours)))

    assert len(seen) > 5
    assert seen == [({3}, 121, {3}, 121)] * len(seen)


def test_types_for_which_totals_have_no_room_are_counted_there_as_others_from_the_first_moment_on(
    inspector: Inspector, broker: Broker, connection: redis.Redis, minute: int
) -> None:
    count(connection, minute, *(Pair("default", f"type-{number}") for number in range(470)))
    count(connection, minute + 1, Pair("new", "z"), Pair("new", "a"), Pair("default", "type-1"))
    connection.set(keys.METRICS_ROLLED, f"{minute - 1}:0")

    before = completed(inspector.totals())
    while broker.roll_metrics():
        assert completed(inspector.totals()) == before

    assert before[Pair("new", "other")] == 2
    assert completed(inspector.totals()) == before
    assert sum(before.values()) == 473


def test_a_queue_or_a_type_can_be_asked_for_alone(inspector: Inspector, connection: redis.Redis, minute: int) -> None:
    count(connection, minute, A, B, C)
    next(roll_up(connection, minute))
    since = timedelta(hours=1)

    for step_s in (60, 600):
        of_queue = inspector.metrics(since, step_s=step_s, queue="default")
        of_type = inspector.metrics(since, step_s=step_s, task_type="a")
        of_both = inspector.metrics(since, step_s=step_s, queue="low", task_type="a")

        assert {*of_queue.total()} == {A, B}
        assert {*of_type.total()} == {A, C}
        assert completed(of_both.total()) == {C: 1}


@pytest.mark.parametrize(
    "pair",
    [
        Pair("a:b", "c"), Pair("Bestellung-ü", "größe:日本"), Pair("", ""), Pair("7", "7:7:7"), Pair("q\n", "t\x00"),
        Pair("q\udcff", "\udc80t"), Pair("x" * 200, "y" * 5000),
    ],
)  # fmt: skip
def test_any_names_of_queues_and_types_are_told_as_they_are(
    inspector: Inspector, connection: redis.Redis, minute: int, pair: Pair
) -> None:
    count(connection, minute, pair, A)

    found = inspector.metrics(timedelta(hours=1), queue=pair.queue, task_type=pair.type)

    assert completed(found.total()) == {pair: 1}
    assert completed(inspector.totals()) == {pair: 1, A: 1}


@pytest.mark.parametrize(
    ("age", "step_s"),
    [
        (timedelta(minutes=5), 60), (timedelta(hours=3), 60), (timedelta(hours=4), 600), (timedelta(days=3), 600),
        (timedelta(days=14), HOUR_S), (timedelta(days=15), DAY_S), (timedelta(days=4000), DAY_S),
    ],
)  # fmt: skip
def test_periods_are_as_short_as_they_are_kept_for_so_long(inspector: Inspector, age: timedelta, step_s: int) -> None:
    series = inspector.metrics(age)

    kept_s = dict(METRIC_PERIODS.values())[step_s]
    assert series.step_s == step_s
    assert min(age.total_seconds(), kept_s) <= series.lasting_s < min(age.total_seconds(), kept_s) + step_s


def test_a_step_that_is_not_kept_is_refused(inspector: Inspector) -> None:
    with pytest.raises(ValueError, match="step 61 s: there are 60, 600, 3600, 86400"):
        inspector.metrics(timedelta(hours=1), step_s=61)


@pytest.mark.parametrize(
    ("since", "until"), [(timedelta(hours=-1), None), (at(1), at(1)), (datetime.max.replace(tzinfo=UTC), None)]
)
def test_a_time_that_has_not_been_has_no_periods(
    inspector: Inspector, since: datetime | timedelta, until: datetime | None
) -> None:
    series = inspector.metrics(since, until)

    assert (series.periods, series.lasting_s) == ([], 0)


# --- Whatever else is in Redis


def test_a_key_of_another_kind_is_left_out_and_told(inspector: Inspector, connection: redis.Redis, minute: int) -> None:
    count(connection, minute, A)
    bad = [keys.metrics("minute", minute - 1), keys.metrics("hour", minute // 60 - 3)]
    for key in bad:
        connection.rpush(key, "x")

    by_minute = inspector.metrics(timedelta(hours=1))
    by_hour = inspector.metrics(timedelta(hours=6), step_s=HOUR_S)

    assert completed(by_minute.total()) == completed(by_hour.total()) == {A: 1}
    told = [str(MisplacedKeyError(key, "hash")) for key in bad]
    assert by_minute.skipped == (told[0],)
    assert {*by_hour.skipped} == {*told}


def test_fields_of_another_program_are_left_out_and_counted(
    inspector: Inspector, connection: redis.Redis, minute: int
) -> None:
    count(connection, minute, A)
    key = keys.metrics("minute", minute)
    connection.hset(key, mapping={"x": encode({COMPLETED: 1}), "7:default:b": "x", b"\xff": b"\xff", "0::": "\x90"})

    series = inspector.metrics(timedelta(hours=1))

    assert completed(series.total()) == completed(inspector.totals()) == {A: 1}
    assert series.skipped == (f"{key} has 4 fields of another program's",)


def test_totals_of_another_kind_tell_nothing_instead_of_less(
    inspector: Inspector, connection: redis.Redis, minute: int
) -> None:
    count(connection, minute, A)
    connection.rpush(keys.METRICS_TOTAL, "x")

    assert inspector.totals() == {}


@pytest.mark.parametrize("value", ["", "x", "12", "1:2:3", "-1:0", b"\xff:1", "9" * 20 + ":0", None])
def test_an_unreadable_note_of_the_roll_up_counts_nothing_twice(
    inspector: Inspector, connection: redis.Redis, minute: int, value: str | bytes | None
) -> None:
    count(connection, minute, A, B)
    list(roll_up(connection, minute))
    connection.delete(keys.METRICS_ROLLED)
    connection.rpush(keys.METRICS_ROLLED, "x") if value is None else connection.set(keys.METRICS_ROLLED, value)

    series = inspector.metrics(timedelta(hours=1), step_s=600)

    assert completed(inspector.totals()) == completed(series.total()) == {A: 1, B: 1}
    assert series.skipped == (f"{keys.METRICS_ROLLED} is none of boilerd's, remove it",)


def test_what_was_rolled_up_by_a_wrong_clock_hides_nothing(inspector: Inspector, connection: redis.Redis) -> None:
    connection.set(keys.METRICS_ROLLED, f"{minute_of(connection) + 10_000}:0")
    for ahead in (0, 1):  # the next minute may have begun
        count(connection, minute_of(connection) + ahead, A)

    assert A in inspector.totals()
    assert A in inspector.metrics(timedelta(hours=1), step_s=600).total()


def test_a_scheduler_that_was_away_for_days_leaves_what_is_still_there(
    inspector: Inspector, connection: redis.Redis, minute: int
) -> None:
    count(connection, minute, A)
    connection.set(keys.METRICS_ROLLED, f"{minute - 10_000}:0")

    assert completed(inspector.totals()) == {A: 1}
    assert completed(inspector.metrics(timedelta(hours=6), step_s=HOUR_S).total()) == {A: 1}


def test_a_hash_with_a_million_fields_is_not_read(inspector: Inspector, connection: redis.Redis, minute: int) -> None:
    count(connection, minute, A)
    key = keys.metrics("minute", minute - 1)
    connection.hset(key, mapping={f"{number}": "x" for number in range(20 * MOST_FIELDS)})

    connection.config_resetstat()
    series = inspector.metrics(timedelta(hours=1))
    stats = connection.info("commandstats")

    assert completed(series.total()) == {A: 1}
    assert series.skipped == (f"{key} has more than {MOST_FIELDS:,} fields, and is none of boilerd's, remove it",)
    assert "cmdstat_hgetall" not in stats
    assert stats["cmdstat_hscan"]["calls"] == 61


def test_ninety_days_are_read_in_a_few_round_trips(
    inspector: Inspector, connection: redis.Redis, minute: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection.set(keys.METRICS_ROLLED, f"{minute}:0")
    trips = []
    ask = metrics_module._Reader._ask

    def counted(reader: Any, commands: Any, **options: Any) -> Any:
        sent = list(commands)
        trips.append(len(sent))
        return ask(reader, sent, **options)

    monkeypatch.setattr(metrics_module._Reader, "_ask", counted)
    inspector.metrics(timedelta(days=90))

    assert len(trips) < 10
    assert max(trips) <= 20


def test_a_user_who_may_only_read_reads_them(connection: redis.Redis, valkey: Valkey, minute: int) -> None:
    count(connection, minute, A)
    rights = ["+@read", "+@connection", "+@transaction", "+time"]
    connection.acl_setuser("reader", enabled=True, passwords=["+p"], keys=["*"], commands=rights)

    try:
        with connect(valkey.url.replace("unix://", "unix://reader:p@")) as reading:
            inspector = Inspector(reading)
            seen = (completed(inspector.totals()), completed(inspector.metrics(timedelta(hours=1)).total()))
    finally:
        connection.acl_deluser("reader")

    assert seen == ({A: 1}, {A: 1})


@pytest.mark.parametrize("number", [1, 127, 128, 2**31, 2**32 + 1, 2**52 + 1])
def test_what_a_script_packs_reads_the_same(connection: redis.Redis, number: int) -> None:
    record = {COMPLETED: number, ENQUEUED: 3, 127: number}

    packed = connection.eval("return cmsgpack.pack(cmsgpack.unpack(ARGV[1]))", 0, encode(record))

    assert decode(packed) == record


# --- Clocks


@pytest.fixture
def clock() -> Iterator[ServerClock]:
    with private_directory() as directory:
        yield ServerClock(directory)


@pytest.fixture
def put_clock(start_valkey: StartValkey, clock: ServerClock) -> Iterator[Callable[[float], redis.Redis]]:
    """Have a server's clock run so many seconds ahead, and connect to it."""
    server = start_valkey(env=clock.env)

    def put_ahead(ahead_s: float) -> redis.Redis:
        clock.put(ahead_s)
        broker = Broker(made)
        wait_until(lambda: abs(broker.now() - time.time() - ahead_s) < 2, "the server looked at its clock")
        return made

    made: redis.Redis
    with connect(server.url) as made:
        yield put_ahead


def test_the_minutes_around_midnight_belong_to_their_days(put_clock: Callable[[float], redis.Redis]) -> None:
    midnight = (int(time.time()) // DAY_S + 1) * DAY_S
    connection = put_clock(midnight + 150 - time.time())
    inspector, first = Inspector(connection), midnight // 60
    count(connection, first - 1, A)
    count(connection, first, A, number=2)
    count(connection, first + 1, A, number=4)

    seen = [by_start(inspector.metrics(timedelta(days=2), step_s=DAY_S)) for _ in roll_up(connection, first - 1, first)]

    assert seen == [{at(first - 1440): 1, at(first): 6}] * 4


def test_numbers_survive_a_clock_that_jumps(put_clock: Callable[[float], redis.Redis]) -> None:
    connection = put_clock(0)
    inspector, minute = Inspector(connection), minute_of(connection)
    count(connection, minute - 5, A)
    list(roll_up(connection, minute - 5, minute - 4))

    put_clock(-30 * 60)
    count(connection, minute - 2, A)  # as workers do then
    behind = completed(inspector.totals()), inspector.metrics(timedelta(minutes=10)).total()
    put_clock(5 * DAY_S)
    ahead = completed(inspector.totals()), completed(inspector.metrics(timedelta(days=10)).total())

    assert behind == ({A: 2}, {})
    assert ahead == ({A: 1}, {A: 1})


@pytest.mark.parametrize(
    "name", ["a*", "a?", "[ab]", "a\\b", "^a", "a:b", "é", b"\xff".decode("utf-8", "surrogateescape")]
)
def test_a_queue_or_type_is_picked_whatever_characters_are_in_its_name(
    name: str, inspector: Inspector, connection: redis.Redis, minute: int
) -> None:
    wanted = [Pair("low", name), Pair(name, "x"), Pair(name, name)]
    count(connection, minute, *wanted, Pair("low", "a"), Pair("ab", "x"), Pair("low", f"z:{name}"), Pair("1:low", "b"))

    of_type = inspector.metrics(timedelta(hours=1), task_type=name).total()
    of_queue = inspector.metrics(timedelta(hours=1), queue=name).total()

    assert set(of_type) == {Pair("low", name), Pair(name, name)}
    assert set(of_queue) == {Pair(name, "x"), Pair(name, name)}


def test_of_a_type_that_is_asked_for_alone_no_other_is_sent(
    inspector: Inspector, connection: redis.Redis, minute: int
) -> None:
    for number in range(200):
        count(connection, minute, Pair("default", f"type:{number}"))
    before = connection.info("stats")["total_net_output_bytes"]

    inspector.metrics(timedelta(hours=1), task_type="type:7")

    assert connection.info("stats")["total_net_output_bytes"] - before < 12_000

"""When cron entries are due, across time zones and changes of the clocks."""

import dataclasses
import random
import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from boilerd.errors import ConfigError
from boilerd.tasks.cron import MISSED_LIMIT, NAME_LENGTH, CronEntry, Schedule
from boilerd.tasks.task import check_task_id

BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400


def at(text: str) -> float:
    """A moment from ISO 8601 with an offset; UTC without one."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def ticks(schedule: Schedule, start: str, end: str) -> list[float]:
    """All ticks after `start` and before `end`."""
    found, moment = [], at(start)
    while (moment := schedule.next_after(moment)) < at(end):
        found.append(moment)
    return found


def walls(spec: str, zone: str, start: str, end: str) -> list[str]:
    """The ticks as a clock on the wall shows them, with their offset."""
    found = ticks(Schedule.parse(spec, zone), start, end)
    return [datetime.fromtimestamp(tick, ZoneInfo(zone)).strftime("%d %H:%M %z") for tick in found]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("* * * * *", "2026-03-04T05:07:00"),
        ("30 2 * * *", "2026-03-05T02:30:00"),
        ("*/15 * * * *", "2026-03-04T05:15:00"),
        ("5/20 * * * *", "2026-03-04T05:25:00"),
        ("0 9-17/4 * * mon-fri", "2026-03-04T09:00:00"),
        ("0 0 1 JAN,jul *", "2026-07-01T00:00:00"),
        ("0 0 ? * SUN", "2026-03-08T00:00:00"),
        ("0 0 * * 7", "2026-03-08T00:00:00"),
        ("0 0 * * 5-7", "2026-03-06T00:00:00"),
        ("0 0 * * sat/2", "2026-03-07T00:00:00"),
        ("0 0 29 2 *", "2028-02-29T00:00:00"),
        ("0 0 13 * fri", "2026-03-06T00:00:00"),
        ("0 0 31 4 mon", "2026-04-06T00:00:00"),
        ("0 0 1-31 * sat", "2026-03-05T00:00:00"),
        ("0 0 */1 * sat", "2026-03-07T00:00:00"),
        ("  0\t12 * * *  ", "2026-03-04T12:00:00"),
        ("30-30 * * * *", "2026-03-04T05:30:00"),
    ],
)
def test_five_fields_begin_with_the_minute(spec: str, expected: str) -> None:
    assert Schedule.parse(spec).next_after(at("2026-03-04T05:06:07.5")) == at(expected)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("* * * * * *", "2026-03-04T05:06:08"),
        ("*/10 * * * * *", "2026-03-04T05:06:10"),
        ("5 * * * * *", "2026-03-04T05:07:05"),
        ("0 30 2 * * *", "2026-03-05T02:30:00"),
        ("59 59 23 31 12 *", "2026-12-31T23:59:59"),
        ("0,7,20 6 5 4 3 ?", "2026-03-04T05:06:20"),
    ],
)
def test_six_fields_begin_with_the_second(spec: str, expected: str) -> None:
    assert Schedule.parse(spec).next_after(at("2026-03-04T05:06:07.5")) == at(expected)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("@hourly", "2026-03-04T06:00:00"),
        ("@daily", "2026-03-05T00:00:00"),
        ("@midnight", "2026-03-05T00:00:00"),
        ("@weekly", "2026-03-08T00:00:00"),
        ("@Monthly", "2026-04-01T00:00:00"),
        ("@yearly", "2027-01-01T00:00:00"),
        ("@annually", "2027-01-01T00:00:00"),
    ],
)
def test_a_word_stands_for_its_fields(spec: str, expected: str) -> None:
    assert Schedule.parse(spec).next_after(at("2026-03-04T05:06:07.5")) == at(expected)


@pytest.mark.parametrize(
    ("spec", "interval_s"), [("@every 1s", 1), ("@every 30s", 30), ("@every 1h30m", 5400), ("@every 7", 7)]
)
@pytest.mark.parametrize("zone", ["UTC", LORD_HOWE])
def test_an_interval_ticks_at_its_multiples_since_1970_in_every_time_zone(
    spec: str, interval_s: int, zone: str
) -> None:
    schedule = Schedule.parse(spec, zone)

    first = schedule.next_after(1_700_000_000.25)
    second = schedule.next_after(first)

    assert first % interval_s == 0
    assert 0 < first - 1_700_000_000.25 <= interval_s
    assert second - first == interval_s


def test_a_time_is_one_on_the_wall_clock_of_the_time_zone() -> None:
    assert Schedule.parse("30 2 * * *", BERLIN).next_after(at("2026-01-10")) == at("2026-01-10T02:30+01:00")
    assert Schedule.parse("30 2 * * *", BERLIN).next_after(at("2026-07-10")) == at("2026-07-10T02:30+02:00")


SPECS = [
    "* * * * *", "0 * * * *", "*/7 * * * *", "59 23 * * *", "0 0 * * *", "15,45 */6 * * *", "10-20 3-5 * * *",
    "0 12 * * 1", "0 12 * * 1-5", "0 12 * * 0", "0 12 * * 7", "0 12 * * 6,7", "0 0 28-31 * *", "0 0 1 * *",
    "0 0 29 2 *", "0 0 1 3 *", "0 0 1 3 3", "0 0 */2 * 3", "*/20 22-23 27,28 2 *", "0 1 28 * 5", "3/13 5/9 * * *",
    "* 4 * feb tue", "0-59/29 0-23/7 * 2,3 *", "7 7 1 1 *", "1-5,58-59 23,0 * * 0,6", "0 6 ? 3 ?",
]  # fmt: skip


def expand(text: str, least: int, most: int) -> set[int]:
    """What a field names, told in another way than in boilerd."""
    numbers: set[int] = set()
    for part in text.replace("feb", "2").replace("tue", "2").replace("?", "*").split(","):
        bounds, _, step = part.partition("/")
        low, _, high = bounds.partition("-")
        low, high = (str(least), str(most)) if low == "*" else (low, high or (str(most) if step else low))
        numbers |= {number for number in range(int(low), int(high) + 1) if (number - int(low)) % int(step or 1) == 0}
    return numbers


def is_match(spec: str, moment: datetime) -> bool:
    minute, hour, day, month, weekday = spec.split()
    days = expand(day, 1, 31), {number % 7 for number in expand(weekday, 0, 6)}
    is_day, is_weekday = moment.day in days[0], moment.isoweekday() % 7 in days[1]
    is_either = day not in "*?" and weekday not in "*?"
    return (
        moment.minute in expand(minute, 0, 59)
        and moment.hour in expand(hour, 0, 23)
        and moment.month in expand(month, 1, 12)
        and (is_day or is_weekday if is_either else is_day and is_weekday)
    )


@pytest.mark.parametrize("year", [2026, 2028])
@pytest.mark.parametrize("spec", SPECS)
def test_the_ticks_are_the_minutes_that_match_and_no_others(spec: str, year: int) -> None:
    start = datetime(year, 2, 26, 22, 30, tzinfo=UTC)
    minutes = [start + timedelta(minutes=count) for count in range(1, 5 * 24 * 60)]
    expected = [moment.timestamp() for moment in minutes if is_match(spec, moment)]

    assert ticks(Schedule.parse(spec), start.isoformat(), (minutes[-1] + timedelta(seconds=1)).isoformat()) == expected


@pytest.mark.parametrize("zone", ["UTC", BERLIN, NEW_YORK, LORD_HOWE])
@pytest.mark.parametrize("spec", [*SPECS, "*/20 * * * * *", "5 0,30 1-3 * * *", "@every 90s", "@weekly"])
def test_ticks_rise_and_the_latest_before_a_moment_agrees_with_the_next_after_it(spec: str, zone: str) -> None:
    schedule, draw = Schedule.parse(spec, zone), random.Random(f"{spec} {zone}")
    for _ in range(20):
        start = draw.uniform(at("2020-01-01"), at("2030-01-01"))
        first = schedule.next_after(start)
        second = schedule.next_after(first)

        assert start < first < second
        assert schedule.next_after(draw.uniform(start, first - 0.001)) == first
        assert schedule.latest_at_or_before(first, start) == first
        assert schedule.latest_at_or_before(second - 0.001, start) == first
        assert schedule.latest_at_or_before(first - 0.001, start) is None
        assert schedule.latest_at_or_before(second, start - 1000 * DAY_S) == second


@pytest.mark.parametrize("zone", ["UTC", BERLIN, NEW_YORK, LORD_HOWE])
@pytest.mark.parametrize("spec", ["*/15 * * * *", "30 2 * * *", "0 */2 * * *", "*/20 0-3 * * *"])
@pytest.mark.parametrize("year", [2025, 2026])
def test_on_the_days_of_a_change_ticks_are_found_from_every_moment(spec: str, zone: str, year: int) -> None:
    schedule = Schedule.parse(spec, zone)
    starts = range(int(at(f"{year}-01-01")), int(at(f"{year + 1}-01-01")), DAY_S)
    offsets = [datetime.fromtimestamp(start, ZoneInfo(zone)).utcoffset() for start in starts]
    days = [start for start, (old, new) in zip(starts, pairwise(offsets), strict=False) if old != new]
    for day in days:
        found = [float(day)]
        while found[-1] < day + DAY_S:
            found.append(schedule.next_after(found[-1]))
        for start in range(day, day + DAY_S, 7 * MINUTE_S):
            assert schedule.next_after(start) == min(tick for tick in found[1:] if tick > start)
            latest = max((tick for tick in found[1:] if tick <= start), default=None)
            assert schedule.latest_at_or_before(start, day) == latest
    assert len(days) == (0 if zone == "UTC" else 2)


def test_no_tick_is_the_latest_where_the_span_is_empty_or_turned_round() -> None:
    schedule = Schedule.parse("* * * * * *")

    assert schedule.latest_at_or_before(1000.0, 1000.0) is None
    assert schedule.latest_at_or_before(1000.0, 2000.0) is None
    assert schedule.latest_at_or_before(1000.7, 1000.2) is None
    assert schedule.latest_at_or_before(1001.0, 1000.9) == 1001.0


@pytest.mark.fault(36)
@pytest.mark.parametrize(
    ("zone", "day_before", "expected"),
    [
        (BERLIN, "2026-03-28T00:00+01:00", ["28 02:30 +0100", "29 03:00 +0200", "30 02:30 +0200"]),
        (NEW_YORK, "2026-03-07T00:00-05:00", ["07 02:30 -0500", "08 03:00 -0400", "09 02:30 -0400"]),
        (LORD_HOWE, "2026-10-03T00:00+10:30", ["03 02:30 +1030", "04 02:30 +1100", "05 02:30 +1100"]),
        ("UTC", "2026-03-28", ["28 02:30 +0000", "29 02:30 +0000", "30 02:30 +0000"]),
    ],
)
def test_a_daily_time_that_the_clocks_skip_runs_once_at_the_end_of_the_gap(
    zone: str, day_before: str, expected: list[str]
) -> None:
    end = (datetime.fromisoformat(day_before) + timedelta(hours=70)).isoformat()

    assert walls("30 2 * * *", zone, day_before, end) == expected


def test_a_gap_of_half_an_hour_skips_no_more_than_that() -> None:
    span = ("2026-10-04T00:00+10:30", "2026-10-04T06:00+11:00")

    assert walls("15 2 * * *", LORD_HOWE, *span) == ["04 02:30 +1100"]


def test_a_day_that_a_country_skips_runs_at_the_start_of_the_next() -> None:
    span = ("2011-12-29T00:00-10:00", "2011-12-31T12:00+14:00")

    assert walls("0 9 * * *", "Pacific/Apia", *span) == ["29 09:00 -1000", "31 00:00 +1400", "31 09:00 +1400"]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("0,20,40 2 * * *", ["03:00 +0200"]),
        ("30 2,3 * * *", ["03:00 +0200", "03:30 +0200"]),
        ("0 2,3 * * *", ["03:00 +0200"]),
        ("0 */2 * * *", ["03:00 +0200", "04:00 +0200"]),
        ("*/10 30 2 * * *", ["03:00 +0200"]),
        ("*/20 2 * * *", []),
    ],
)
def test_all_times_in_a_gap_make_one_tick(spec: str, expected: list[str]) -> None:
    found = walls(spec, BERLIN, "2026-03-29T01:30+01:00", "2026-03-29T05:00+02:00")

    assert found == [f"29 {text}" for text in expected]


@pytest.mark.fault(36)
@pytest.mark.parametrize(
    ("zone", "spec", "day_before", "expected"),
    [
        (BERLIN, "30 2 * * *", "2026-10-24T00:00+02:00", ["24 02:30 +0200", "25 02:30 +0200", "26 02:30 +0100"]),
        (NEW_YORK, "30 1 * * *", "2026-10-31T00:00-04:00", ["31 01:30 -0400", "01 01:30 -0400", "02 01:30 -0500"]),
        (LORD_HOWE, "45 1 * * *", "2026-04-04T00:00+11:00", ["04 01:45 +1100", "05 01:45 +1100", "06 01:45 +1030"]),
    ],
)
def test_a_daily_time_that_the_clocks_repeat_runs_the_first_time_only(
    zone: str, spec: str, day_before: str, expected: list[str]
) -> None:
    end = (datetime.fromisoformat(day_before) + timedelta(hours=70)).isoformat()

    assert walls(spec, zone, day_before, end) == expected


@pytest.mark.parametrize(
    ("zone", "start", "end"),
    [
        (BERLIN, "2026-03-28T12:00", "2026-03-29T12:00"),
        (BERLIN, "2026-10-24T12:00", "2026-10-25T12:00"),
        (NEW_YORK, "2026-03-07T12:00", "2026-03-08T18:00"),
        (NEW_YORK, "2026-10-31T12:00", "2026-11-01T18:00"),
        (LORD_HOWE, "2026-04-04T00:00", "2026-04-05T00:00"),
        (LORD_HOWE, "2026-10-03T00:00", "2026-10-04T00:00"),
    ],
)
@pytest.mark.parametrize(
    ("spec", "interval_s"),
    [("*/15 * * * *", 15 * MINUTE_S), ("0-59/15 * * * *", 15 * MINUTE_S), ("* * * * *", MINUTE_S)],
)
def test_what_runs_every_so_many_minutes_does_so_through_every_change(
    spec: str, interval_s: int, zone: str, start: str, end: str
) -> None:
    found = ticks(Schedule.parse(spec, zone), start, end)

    assert {later - earlier for earlier, later in pairwise(found)} == {interval_s}
    assert len(found) == (at(end) - at(start)) // interval_s - 1


@pytest.mark.parametrize("spec", ["17 * * * *", "17 0-23 * * *", "17 */1 * * *", "0 17 * * * *"])
@pytest.mark.parametrize(
    ("zone", "day"),
    [(BERLIN, "2026-03-29"), (BERLIN, "2026-10-25"), (NEW_YORK, "2026-03-08"), (NEW_YORK, "2026-11-01")],
)
def test_what_runs_hourly_does_so_through_a_change_of_one_hour(spec: str, zone: str, day: str) -> None:
    end = (datetime.fromisoformat(day) + timedelta(days=1)).isoformat()

    found = ticks(Schedule.parse(spec, zone), day, end)

    assert [later - earlier for earlier, later in pairwise(found)] == [HOUR_S] * 23


@pytest.mark.parametrize(
    ("spec", "start", "expected"),
    [
        ("0 * * * *", "2026-04-05T00:30+11:00", ["01:00 +1100", "02:00 +1030", "03:00 +1030"]),
        ("40 * * * *", "2026-04-05T00:50+11:00", ["01:40 +1100", "01:40 +1030", "02:40 +1030"]),
        ("0 * * * *", "2026-10-04T00:30+10:30", ["01:00 +1030", "03:00 +1100", "04:00 +1100"]),
        ("30 * * * *", "2026-10-04T00:50+10:30", ["01:30 +1030", "02:30 +1100", "03:30 +1100"]),
    ],
)
def test_what_runs_hourly_keeps_its_minute_where_clocks_change_by_half_an_hour(
    spec: str, start: str, expected: list[str]
) -> None:
    end = (datetime.fromisoformat(start) + timedelta(hours=3, minutes=40)).isoformat()

    assert [text[3:] for text in walls(spec, LORD_HOWE, start, end)][:3] == expected


@pytest.mark.parametrize(
    ("spec", "last", "now", "expected"),
    [
        ("0 0 * * *", "2026-01-01", "2026-01-01T23:59", 0),
        ("0 0 * * *", "2026-01-01", "2026-01-02T12:00", 0),
        ("0 0 * * *", "2026-01-01", "2026-01-03", 1),
        ("0 0 * * *", "2026-01-01", "2026-01-11T12:00", 9),
        ("@every 1m", "2026-01-01", "2026-01-01T01:00", 59),
        ("@every 1m", "2026-01-01", "2025-12-31", 0),
        ("* * * * * *", "2026-01-01", "2026-01-01T00:16:41", 1000),
        ("* * * * * *", "2026-01-01", "2027-01-01", MISSED_LIMIT),
    ],
)
def test_missed_ticks_are_those_before_the_latest_counted_up_to_a_limit(
    spec: str, last: str, now: str, expected: int
) -> None:
    assert Schedule.parse(spec).missed(at(last), at(now)) == expected


MINUTE_RULE = "use a number from 0 to 59"


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("", "has 0 fields; use 5, minute first, or 6, second first, as in '*/15 * * * *'"),
        ("* * * *", "has 4 fields"),
        ("0 0 0 1 1 * 2030", "has 7 fields"),
        ("60 * * * *", f"minute '60': {MINUTE_RULE}"),
        ("60 * * * * *", "second '60': use a number from 0 to 59"),
        ("0-60 * * * *", f"minute '60': {MINUTE_RULE}"),
        ("x * * * *", f"minute 'x': {MINUTE_RULE}"),
        ("R * * * *", f"minute 'r': {MINUTE_RULE}"),
        ("* 24 * * *", "hour '24': use a number from 0 to 23"),
        ("* * 0 * *", "day of month '0': use a number from 1 to 31"),
        ("* * L * *", "day of month 'l': use a number from 1 to 31"),
        ("* * * 13 *", "month '13': use a number from 1 to 12 or one of jan, feb,"),
        ("* * * mon *", "month 'mon': use a number from 1 to 12 or one of jan, feb,"),
        ("* * * * 8", "day of week '8': use a number from 0 to 7 or one of sun, mon,"),
        ("* * * * mon#2", "day of week 'mon#2': use *, */5, 1, 1-5, 1-5/2 or a list of these with commas"),
        ("1,,2 * * * *", "minute '': use *,"),
        ("-5 * * * *", "minute '-5': use *,"),
        ("*-5 * * * *", "minute '*-5': use *,"),
        ("1.5 * * * *", "minute '1.5': use *,"),
        ("? * * * *", "minute '?': use *,"),
        ("\u0661 * * * *", "minute '\u0661': use *,"),
        ("*/0 * * * *", "minute '*/0': use a step from 1 to 60; for other intervals there is @every"),
        ("*/90 * * * *", "minute '*/90': use a step from 1 to 60"),
        ("* * * * */8", "day of week '*/8': use a step from 1 to 7"),
        ("* 22-2 * * *", "hour '22-2': runs backwards; use 22-23,0-2"),
        ("* * * * fri-mon", "day of week 'fri-mon': runs backwards; use 5-6,0-1"),
        ("0 0 30 2 *", "would never run: no month '2' has a day '30'; use another day"),
        ("0 0 31 4,6,9,11 ?", "would never run: no month '4,6,9,11' has a day '31'"),
        ("@reboot", "unknown; use @every and a duration, or one of @hourly, @daily, @midnight, @weekly,"),
        ("@daily 5", "unknown; use @every and a duration"),
        ("@every", "'' is not a duration such as 30s, 1h30m or 7d, or a number of seconds"),
        ("@every day", "'day' is not a duration"),
        ("@every 0s", "'0s' is not one second or more, in whole seconds, such as 30s or 1h30m"),
        ("@every 0.5s", "'0.5s' is not one second or more"),
        ("@every 1.5s", "'1.5s' is not one second or more"),
    ],
)
def test_a_spec_that_cannot_be_read_is_refused_with_what_is_wrong_and_what_would_do(spec: str, problem: str) -> None:
    with pytest.raises(ConfigError, match="^" + re.escape(f"cron spec {spec!r}: {problem}")):
        Schedule.parse(spec)


@pytest.mark.parametrize("backwards", ["* 22-2 * * *", "* * * * fri-mon", "* * * nov-feb *", "* * 30-2 * *"])
def test_what_is_said_to_use_for_a_backwards_range_can_be_used(backwards: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Schedule.parse(backwards)

    advice = str(raised.value).rpartition("use ")[2]
    Schedule.parse(" ".join(advice if "-" in word else word for word in backwards.split()))


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd", "/etc/localtime", "Europe", "a\0b", None])
def test_an_unknown_time_zone_is_refused(zone: Any) -> None:
    with pytest.raises(ConfigError, match="^" + re.escape(f"time zone {zone!r}: unknown here; ")):
        Schedule.parse("* * * * *", zone)


@pytest.mark.parametrize(
    ("zone", "hint"),
    [
        ("Europe/Berln", "did you mean 'Europe/Berlin'?"),
        ("qqq", "use a name such as 'Europe/Berlin', or install tzdata"),
    ],
)
def test_an_unknown_time_zone_is_answered_with_one_that_is_known(zone: str, hint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Schedule.parse("@hourly", zone)

    assert str(raised.value) == f"time zone {zone!r}: unknown here; {hint}"


def test_a_schedule_shows_its_spec_and_its_time_zone() -> None:
    assert repr(Schedule.parse("@daily", BERLIN)) == "Schedule(spec='@daily', timezone='Europe/Berlin')"
    assert Schedule.parse("@daily", BERLIN) == Schedule.parse("@daily", BERLIN)
    assert Schedule.parse("@daily", BERLIN) != Schedule.parse("@daily")


def test_an_entry_has_a_schedule_and_defaults() -> None:
    entry = CronEntry(spec="30 2 * * *", task_type="report:daily", timezone=BERLIN)

    assert entry.schedule.next_after(at("2026-01-10")) == at("2026-01-10T01:30")
    assert (entry.payload, entry.options, entry.catch_up) == (None, {}, False)


@pytest.mark.parametrize(
    ("name", "task_type", "expected"),
    [("nightly", "report:daily", "nightly"), ("", "report:daily", "report-daily"), ("", "a.b/c_d-9", "a-b-c_d-9")],
)
def test_an_entry_without_a_name_takes_one_from_its_type(name: str, task_type: str, expected: str) -> None:
    assert CronEntry(name=name, spec="@daily", task_type=task_type).name == expected


def test_the_id_of_a_tick_holds_the_name_and_the_moment_in_utc() -> None:
    entry = CronEntry(name="nightly", spec="30 2 * * *", task_type="report:daily", timezone=BERLIN)

    assert entry.tick_id(at("2026-07-10T02:30+02:00")) == "cron-nightly-20260710T003000Z"


def test_the_id_of_a_tick_is_a_task_id_even_with_the_longest_name() -> None:
    entry = CronEntry(name="x" * NAME_LENGTH, spec="@daily", task_type="a")

    assert len(check_task_id(entry.tick_id(at("9999-12-31")))) == 128


@pytest.mark.parametrize("spec", ["30 2 * * *", "*/15 * * * *"])
def test_no_two_ticks_share_an_id_when_the_clocks_go_back(spec: str) -> None:
    entry = CronEntry(spec=spec, task_type="a", timezone=BERLIN)
    found = ticks(entry.schedule, "2026-10-24", "2026-10-27")

    assert len({entry.tick_id(tick) for tick in found}) == len(found)


def test_an_entry_does_not_follow_later_changes_of_the_options_it_was_made_from() -> None:
    options = {"queue": "low", "max_retries": 3}
    entry = CronEntry(spec="@daily", task_type="a", options=options)

    options["queue"] = "no queue"

    assert entry.options == {"queue": "low", "max_retries": 3}


def test_an_entry_cannot_be_changed() -> None:
    entry = CronEntry(spec="@daily", task_type="a")

    with pytest.raises(dataclasses.FrozenInstanceError):
        entry.spec = "@hourly"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"name": "a b"}, "cron entry 'a b': name it with letters, digits, '_' and '-', at most 106"),
        ({"name": "x" * 107}, f"cron entry '{'x' * 107}': name it with"),
        ({"name": "a\n"}, "cron entry 'a\\n': name it with"),
        ({"task_type": "y" * 200}, f"cron entry '{'y' * 200}': name it with"),
        ({"name": "n", "task_type": "e mail"}, "cron entry 'n': task type 'e mail': use letters"),
        ({"spec": "61 * * * *"}, f"cron entry 'a-b': cron spec '61 * * * *': minute '61': {MINUTE_RULE}"),
        ({"timezone": "Mars"}, "cron entry 'a-b': time zone 'Mars': unknown here; "),
        ({"payload": object()}, "cron entry 'a-b': payload: "),
        ({"options": {"queue": "a b"}}, "cron entry 'a-b': queue 'a b': use letters"),
        ({"options": {"timeout": 0}}, "cron entry 'a-b': timeout: 0 would end"),
        ({"options": {"que": "low"}}, "cron entry 'a-b': options {'que': 'low'}: unknown option 'que', did you"),
        ({"options": {"process_at": datetime(2099, 1, 1, tzinfo=UTC)}}, "cron entry 'a-b': option 'process_at': leave"),
        ({"options": {"deadline": datetime(2099, 1, 1, tzinfo=UTC)}}, "cron entry 'a-b': option 'deadline': leave"),
        ({"options": {"task_id": "x"}}, "cron entry 'a-b': option 'task_id': leave it out; every tick has"),
    ],
)
def test_an_entry_with_something_wrong_in_it_is_refused_by_name(wrong: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match="^" + re.escape(problem)):
        CronEntry(**{"spec": "@daily", "task_type": "a:b", **wrong})

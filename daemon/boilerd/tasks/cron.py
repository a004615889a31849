"""When a cron entry is due: the moments that a spec names, its ticks.

The cron fields are read and searched here, for the libraries that do so failed the tests of this module. cronsim 2.8
failed 42 of 378: asked in the hour that the clocks repeat, it answers with a moment that is past, for ``30 2`` in
Berlin; it skips a run of ``30 *`` on Lord Howe, where clocks change by half an hour; its rule for such days leaves out
six fields and ``0-23``; and its errors name no more than the field. croniter 7.0, which RQ brings along, runs a daily
job twice on the day the clocks go back, takes ``30-30`` for every minute and ``R`` for a random one, which each host
draws anew, and has no types.
"""

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Any, NamedTuple

from boilerd.errors import ConfigError, InvalidTaskError, closest, shown
from boilerd.tasks.options import task_options
from boilerd.tasks.payload import encode_payload
from boilerd.tasks.task import check_type
from boilerd.tasks.typed import Message
from boilerd.units import Duration

#: `Schedule.missed` counts no further; at 12 µs a tick, this takes 12 ms.
MISSED_LIMIT = 1000
#: A task ID has 128 characters, and the rest of a tick's ID takes 22.
NAME_LENGTH = 106

_SHORTHANDS = {
    "@hourly": "0 * * * *",
    **dict.fromkeys(("@daily", "@midnight"), "0 0 * * *"),
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    **dict.fromkeys(("@yearly", "@annually"), "0 0 1 1 *"),
}
#: Options that an entry may not have, since they differ from tick to tick, and why.
_PER_TICK = {
    "task_id": "every tick has a task ID of its own",
    "once": "every tick is taken once in any case",
    "process_at": "every tick has a moment of its own; there is process_in",
    "deadline": "one moment cannot suit every tick; there is timeout",
    "inherit": "no task runs from which a tick could take headers over",
}
_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{NAME_LENGTH}}}")
_TICK_ID = re.compile(rf"cron-({_NAME.pattern})-\d{{8}}T\d{{6}}Z")
_PART = re.compile(r"(?:\*|(?P<low>[a-z0-9]+)(?:-(?P<high>[a-z0-9]+))?)(?:/(?P<step>[0-9]+))?")


@dataclass(frozen=True, slots=True)
class Schedule:
    """The ticks of one spec in one time zone: whole seconds since 1970, the same on all hosts.

    ``@every`` ticks at the multiples of its interval since 1970, whatever the time zone. Cron
    fields name times on the wall clock of the time zone, as crontab(5) has it: ``*``, ``?``,
    numbers, names, ranges, steps and lists; Sunday is 0 and 7; a day has to match only one of
    day-of-month and day-of-week when both are given.

    When the clocks change, the rule is that of Debian's and Vixie's cron(8), "Daylight Saving
    Time and other time changes", here for changes of any size (systemd skips what is in a gap):

    - Specs that run at set times: one that the clocks skip runs at the first moment after the
      gap, once for all in it; one that they repeat runs the first time only.
    - Specs that run hourly or more often, which is those with ``*`` in the minute or with all
      hours, follow the wall clock: no run in a gap, and again in what is repeated. So 15
      minutes stay 15 real minutes, and an hour an hour where clocks change by whole hours.
    """

    spec: str
    timezone: str
    _tick_after: Callable[[int], int] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, spec: str, timezone: str = "UTC") -> "Schedule":
        """Make a schedule from five cron fields, six with seconds first, ``@every 1h30m`` or ``@daily`` and its like.

        Raises:
            ConfigError: The spec or the IANA's name of the time zone cannot be used.
        """
        zone = _zone(timezone)
        try:
            return cls(spec, timezone, _parse_spec(spec, zone))
        except ValueError as error:
            raise ConfigError(f"cron spec {shown(spec)}: {error}") from error

    def next_after(self, moment_s: float) -> float:
        """The first tick strictly after `moment_s`."""
        return float(self._tick_after(math.floor(moment_s)))

    def latest_at_or_before(self, moment_s: float, not_before_s: float) -> float | None:
        """The last tick after `not_before_s` and at or before `moment_s`, if there is one."""
        seconds = range(math.floor(not_before_s), math.floor(moment_s))
        # The tick after a second never falls as the seconds rise, so about 30 of them are looked at.
        earlier = bisect_right(seconds, math.floor(moment_s), key=self._tick_after)
        return float(self._tick_after(seconds[earlier - 1])) if earlier else None

    def missed(self, last_s: float, now_s: float) -> int:
        """How many ticks after `last_s` came before the latest one at or before `now_s`; at most MISSED_LIMIT."""
        count, tick = 0, self.next_after(last_s)
        while count < MISSED_LIMIT and (tick := self.next_after(tick)) <= now_s:
            count += 1
        return count


@dataclass(frozen=True, slots=True, kw_only=True)
class CronEntry:
    """A task to enqueue at every tick of a spec; raises ConfigError if a part of it is not allowed.

    Attributes:
        name: Letters, digits, ``_`` and ``-``; made from the type if there is none. It must be
            unique: name and tick make the task ID, and the broker stores an ID once.
        options: Options of the enqueue, as `task_options` has them, but for ``task_id``, ``once``,
            ``process_at``, ``deadline`` and ``inherit``.
        catch_up: True if the latest of the ticks that were missed in a pause runs late.
    """

    name: str = ""
    spec: str
    task_type: str
    payload: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)
    timezone: str = "UTC"
    catch_up: bool = False
    schedule: Schedule = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        task_type: object = self.task_type
        name = self.name or re.sub(
            r"[^A-Za-z0-9_-]", "-", task_type if isinstance(task_type, str) else type(task_type).__name__
        )
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"cron entry {shown(name)}: name it with letters, digits, '_' and '-', at most {NAME_LENGTH}"
            )
        try:
            self._check_task()
            schedule = Schedule.parse(self.spec, self.timezone)
        except (ConfigError, InvalidTaskError) as error:
            raise ConfigError(f"cron entry {shown(name)}: {error}") from error
        for attribute, value in (("name", name), ("options", dict(self.options)), ("schedule", schedule)):
            object.__setattr__(self, attribute, value)

    def _check_task(self) -> None:
        check_type(self.task_type)
        encode_payload(self.payload)
        for option, why in _PER_TICK.items():
            if option in self.options:
                raise InvalidTaskError(f"option {shown(option)}: leave it out; {why}")
        try:
            task_options(**self.options)
        except TypeError as error:
            raise InvalidTaskError(f"options {shown(dict(self.options))}: {error}") from error

    @property
    def message(self) -> Message:
        """What is enqueued at a tick: the entry has all options, so the type gives no defaults."""
        return Message(self.task_type, self.payload)

    def tick_id(self, tick_s: float) -> str:
        """The ID of the tick's task, the same on all hosts."""
        return f"cron-{self.name}-{datetime.fromtimestamp(tick_s, UTC):%Y%m%dT%H%M%SZ}"


def entry_of_tick(task_id: str) -> str:
    """The name of the entry whose tick's task has this ID, see `CronEntry.tick_id`; empty: it is of no tick."""
    found = _TICK_ID.fullmatch(task_id) if task_id.startswith("cron-") else None
    return found[1] if found else ""


def check_unique_names(entries: Iterable[CronEntry]) -> None:
    """Raise ConfigError if two entries have the same name."""
    names: set[str] = set()
    for entry in entries:
        if entry.name in names:
            raise ConfigError(f"cron entry {shown(entry.name)} is there twice; give one of them another name")
        names.add(entry.name)


def check_entries(entries: Sequence[CronEntry], queues: Collection[str], has_handler: Callable[[str], bool]) -> None:
    """Check that a daemon can run what its entries enqueue, which would fill Redis else.

    Args:
        entries: Of its settings and its application.
        queues: Those that it serves.
        has_handler: Whether its application runs tasks of a type.

    Raises:
        ConfigError: An entry is for another queue, or for a type without a handler; or two have one name.
    """
    check_unique_names(entries)
    for entry in entries:
        queue = task_options(**entry.options).queue
        if queue not in queues:
            raise ConfigError(
                f"cron entry {shown(entry.name)}: this daemon does not serve queue {shown(queue)}; give the entry"
                f" one of its queues ({', '.join(queues)}), add {shown(queue)} to them, or write the entry as [[cron]]"
                " in the settings of the daemon that serves it"
            )
        if not has_handler(entry.task_type):
            raise ConfigError(
                f"cron entry {shown(entry.name)}: the app has no handler for type {shown(entry.task_type)};"
                " register one, or correct the type"
            )


def _zone(name: str) -> tzinfo:
    import zoneinfo  # noqa: PLC0415 - takes 0.3 MB, and few daemons have periodic tasks

    try:
        return zoneinfo.ZoneInfo(name)
    except (KeyError, OSError, TypeError, ValueError) as error:
        close = closest(str(name), zoneinfo.available_timezones())
        hint = f"did you mean {close!r}?" if close else "use a name such as 'Europe/Berlin', or install tzdata"
        raise ConfigError(f"time zone {shown(name)}: unknown here; {hint}") from error


def _parse_spec(spec: str, zone: tzinfo) -> Callable[[int], int]:
    """Make the function that finds the tick after a second; raises ValueError for a spec that cannot be used."""
    words = str(spec).lower().split()
    if words[:1] == ["@every"]:
        interval = _interval(" ".join(words[1:]))
        return lambda second: (second // interval + 1) * interval
    words = _SHORTHANDS.get(" ".join(words), " ".join(words)).split()
    if words and words[0].startswith("@"):
        raise ValueError(f"unknown; use @every and a duration, or one of {', '.join(_SHORTHANDS)}")
    if len(words) not in (5, 6):
        raise ValueError(f"has {len(words)} fields; use 5, minute first, or 6, second first, as in '*/15 * * * *'")
    return _Calendar(["0", *words][-6:], zone).tick_after


def _interval(text: str) -> int:
    interval = Duration.parse(text)
    if interval < 1 or not interval.is_integer():
        raise ValueError(f"{shown(text)} is not one second or more, in whole seconds, such as 30s or 1h30m")
    return int(interval)


class _Kind(NamedTuple):
    title: str
    least: int
    most: int
    names: Sequence[str] = ()  # for the numbers from `least` on


_KINDS = (
    _Kind("second", 0, 59),
    _Kind("minute", 0, 59),
    _Kind("hour", 0, 23),
    _Kind("day of month", 1, 31),
    _Kind("month", 1, 12, ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    _Kind("day of week", 0, 7, ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
)


def _field(kind: _Kind, text: str) -> list[int]:
    """The numbers that a field names, in order; the 7 of Sunday becomes 0."""
    modulus = 7 if kind.most == 7 else 60
    return sorted({number % modulus for part in text.split(",") for number in _part(kind, part)})


def _part(kind: _Kind, text: str) -> range:
    match = _PART.fullmatch("*" if text == "?" and "day" in kind.title else text)
    if not match:
        raise ValueError(f"{kind.title} {shown(text)}: use *, */5, 1, 1-5, 1-5/2 or a list of these with commas")
    most = 6 if kind.most == 7 else kind.most
    size, step = most - kind.least + 1, int(match["step"] or 1)
    if not 1 <= step <= size:
        raise ValueError(
            f"{kind.title} {shown(text)}: use a step from 1 to {size}; for other intervals there is @every"
        )
    low = _number(kind, match["low"] or str(kind.least))
    is_open = match["low"] is None or (match["step"] and not match["high"])
    high = max(low, most) if is_open else _number(kind, match["high"] or match["low"])
    if high < low:
        raise ValueError(f"{kind.title} {shown(text)}: runs backwards; use {low}-{most},{kind.least}-{high}")
    return range(low, high + 1, step)


def _number(kind: _Kind, text: str) -> int:
    if text in kind.names:
        return kind.names.index(text) + kind.least
    if not text.isdecimal() or not kind.least <= int(text) <= kind.most:
        names = f" or one of {', '.join(kind.names)}" if kind.names else ""
        raise ValueError(f"{kind.title} {shown(text)}: use a number from {kind.least} to {kind.most}{names}")
    return int(text)


class _Calendar:
    """The ticks of six cron fields, seconds first.

    It goes through the times on the wall clock that match, in order, as naive datetimes. `_moments` converts each to
    seconds since 1970, and applies the rule for changes of the clocks.
    """

    def __init__(self, texts: Sequence[str], zone: tzinfo) -> None:
        values = [_field(kind, text) for kind, text in zip(_KINDS, texts, strict=True)]
        self._seconds, self._minutes, self._hours, self._days, self._months, self._weekdays = values
        # As in crontab(5), the star counts and not what it stands for: 1-31 is a given day.
        self._is_either_day = not {texts[3], texts[5]} & {"*", "?", "*/1"}
        self._follows_clock = "*" in texts[1] or len(self._minutes) == 60 or len(self._hours) == 24
        self._zone = zone
        if not any(self._has_day(date(2000, 1, 1) + timedelta(days=days)) for days in range(366)):  # a leap year
            raise ValueError(
                f"would never run: no month {shown(texts[4])} has a day {shown(texts[3])}; use another day"
            )

    def tick_after(self, second: int) -> int:
        """The first tick after a second since 1970."""
        wall = self._wall(second)
        tick = self._first(wall, second)
        if self._follows_clock and (again := self._moments(wall)[-1]) > second:
            # The clocks will go back, and from then on earlier times come again.
            change = self._change(second, again)
            if tick >= change:
                return self._first(self._wall(change) - timedelta(seconds=1), change - 1)
        return tick

    def _first(self, wall: datetime, second: int) -> int:
        """The first moment after `second` among those of the times after `wall`."""
        while True:
            wall = self._match_after(wall)
            if later := [moment for moment in self._moments(wall) if moment > second]:
                return later[0]

    def _moments(self, wall: datetime) -> Sequence[int]:
        """The moments at which it is this time: none in a gap, two in repeated hours, unless the rule says one."""
        first, last = (int(wall.replace(tzinfo=self._zone, fold=fold).timestamp()) for fold in (0, 1))
        if first > last:  # PEP 495: the time is in a gap, and the gap's end between these two
            return () if self._follows_clock else (self._change(last, first),)
        return (first, last) if self._follows_clock else (first,)

    def _change(self, before: int, after: int) -> int:
        """The second at which the clocks change, between two seconds since 1970."""
        offset = self._offset(after)
        return before + bisect_left(range(before, after), 1, key=lambda second: self._offset(second) == offset)

    def _offset(self, second: int) -> timedelta | None:
        return datetime.fromtimestamp(second, self._zone).utcoffset()

    def _wall(self, second: int) -> datetime:
        return datetime.fromtimestamp(second, self._zone).replace(tzinfo=None, fold=0)

    def _match_after(self, wall: datetime) -> datetime:
        """The first time after `wall` that all fields match."""
        start = wall + timedelta(seconds=1)
        while not (self._has_day(start.date()) and (found := self._time_from(start.time()))):
            start = datetime.combine(start.date() + timedelta(days=1), time())
        return datetime.combine(start.date(), found)

    def _has_day(self, day: date) -> bool:
        matches = (day.day in self._days, day.isoweekday() % 7 in self._weekdays)
        return day.month in self._months and (any(matches) if self._is_either_day else all(matches))

    def _time_from(self, start: time) -> time | None:
        """The first time of day at or after `start`, if there is one."""
        if start.hour in self._hours:
            if start.minute in self._minutes and (seconds := _from(self._seconds, start.second)):
                return time(start.hour, start.minute, seconds[0])
            if minutes := _from(self._minutes, start.minute + 1):
                return time(start.hour, minutes[0], self._seconds[0])
        hours = _from(self._hours, start.hour + 1)
        return time(hours[0], self._minutes[0], self._seconds[0]) if hours else None


def _from(numbers: list[int], least: int) -> list[int]:
    return numbers[bisect_left(numbers, least) :]

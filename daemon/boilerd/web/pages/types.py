"""What each task type does, and one type over time, with what it did in the time before."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from boilerd.broker.metrics import Period, Series
from boilerd.broker.task_filter import TaskFilter
from boilerd.broker.type_metrics import (
    attempts_taken,
    failed_share,
    figures,
    heat_map,
    in_columns,
    lasting_s,
    lines_of,
    step_for,
)
from boilerd.errors import shown
from boilerd.tasks.metric_record import Numbers, Pair, Record, merge
from boilerd.web.ordering import in_order
from boilerd.web.page import Data, page
from boilerd.web.pages.type_actions import offered
from boilerd.web.permissions import Permission
from boilerd.web.releases import Release, releases
from boilerd.web.shown import LEAST_CHANGE
from boilerd.web.type_facts import daemons_of, patterns_of, timeout_share, timeouts_of
from boilerd.web.visit import NotThereError, Visit

T = TypeVar("T")

HOUR_S, DAY_S = 3600, 86400
#: Word of the query → the time that is looked at.
SINCE = {
    "1h": HOUR_S, "3h": 3 * HOUR_S, "24h": DAY_S, "7d": 7 * DAY_S, "30d": 30 * DAY_S, "90d": 90 * DAY_S,
}  # fmt: skip
#: The word for the time since the last release; with its name behind a colon, until the next one for an earlier one.
RELEASE = "release"
#: The word that leaves out types of which no more fails than before.
RISEN = "risen"
#: Metrics are kept for so long.
KEPT_S = 90 * DAY_S
#: Columns of a chart: as many as a narrow screen can show.
MOST_COLUMNS = 90
#: Periods that one type is read in: finer than lines of a table.
MOST_PERIODS, MOST_LINES = 180, 72
#: How long numbers are shown that everybody shares; those of the time before hardly change.
FRESH_S, FRESH_BEFORE_S = 10.0, 60.0
#: And for so many times as long as it takes to read them: of many types, few of the polls of one person read.
FRESH_TIMES = 300
#: A release that began later has too few numbers to be compared.
LEAST_S = 60
_TIMES = ("p50", "p95", "p99", "max")

SORTS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "type": lambda row: row["type"],
    "rate": lambda row: row["ended_per_s"],
    "failed": lambda row: row["failed_share"],
    "rise": lambda row: row["failed_rise"],
    "retries": lambda row: row["retries_per_success"],
    "time": lambda row: row["time_share"],
    "timeouts": lambda row: row["timeout_share"],
    "daemons": lambda row: row["daemons"],
    "size": lambda row: row["payload_bytes"]["mean"],
    **{f"wait_{name}": lambda row, name=name: row["wait_s"][name] for name in _TIMES[:3]},  # type: ignore[misc]
    **{f"run_{name}": lambda row, name=name: row["run_s"][name] for name in _TIMES},  # type: ignore[misc]
}


@dataclass(frozen=True, slots=True)
class Window:
    """The time that is looked at.

    Attributes:
        word: As the query has it.
        seconds: How long it is.
        begins: When it begins; None: so long ago.
        release: The release that began it; empty: none did.
        ends: When it ended: with the next release; None: it goes on.
    """

    word: str
    seconds: float
    begins: datetime | None = None
    release: str = ""
    ends: datetime | None = None

    @property
    def since(self) -> datetime | timedelta:
        """As `Inspector.metrics` takes it."""
        return self.begins or timedelta(seconds=self.seconds)

    def step_s(self, most: int) -> int:
        """The shortest period that is kept since then, of which there are at most so many."""
        return step_for(self.seconds, most, since_s=self.age_s)

    @property
    def age_s(self) -> float:
        """How long ago it began."""
        return (datetime.now(UTC) - self.begins).total_seconds() if self.begins else self.seconds

    def before(self, start: datetime) -> tuple[datetime, datetime, int] | None:
        """A time that is as long and ends where this one starts, and its periods; None: it is not kept for so long."""
        if self.seconds + self.age_s > KEPT_S:
            return None
        step_s = step_for(2 * self.seconds, MOST_PERIODS, since_s=self.seconds + self.age_s)
        # Whole periods: the one in which this time starts belongs to neither, where it is longer than those of this.
        until = datetime.fromtimestamp(start.timestamp() // step_s * step_s, UTC)
        return until - timedelta(seconds=self.seconds), until, step_s


@page("/types", needs=Permission.VIEW, title="Types", menu=37, rows="types", of_shared=True)
def types(visit: Visit) -> Data:
    """All types, the one that takes most of the workers' time first."""
    problems: list[str] = []
    known = visit.part(lambda: releases(visit), problems) or []
    window = _window(visit, known)
    queue = visit.query.get("queue") or None
    only = visit.word("only", of=["", RISEN])
    rows, skipped, until = visit.sharing(
        ("types", window.word, queue), FRESH_S, lambda: _rows(visit, window, queue), FRESH_TIMES
    )
    kept = [row for row in rows if (row["failed_rise"] or 0) >= LEAST_CHANGE] if only else rows
    shown, order = in_order(visit, kept, SORTS, "time")
    return {
        "types": shown,
        "order": order,
        "since": window.word,
        "periods": _words(known),
        "queue": queue or "",
        "queues": visit.sharing("queue names", FRESH_BEFORE_S, lambda: _queue_names(visit)),
        "has_before": 2 * window.seconds <= KEPT_S,
        "release": window.release,
        "releases": known,
        "only": only,
        "all": len(rows),
        "skipped": [*dict.fromkeys([*problems, *skipped])],
        "until": until,
    }


@page("/types/{type}", needs=Permission.VIEW, title="Type", template="type.html", rows="periods", of_shared=True)
def one_type(visit: Visit) -> Data:
    """One type over time."""
    name = visit.path["type"]
    problems: list[str] = []
    known = visit.part(lambda: releases(visit), problems) or []
    window = _window(visit, known)
    queue = visit.query.get("queue") or None
    found = visit.sharing(
        ("type", name, window.word, queue), FRESH_S, lambda: _over_time(visit, window, name, queue), FRESH_TIMES
    )
    is_counted = found["total"]["ended"] or found["total"]["enqueued"]
    if not is_counted and visit.part(lambda: _is_known(visit, name), problems) is False:
        raise NotThereError(f"nothing is known of type {shown(name)}; /types has those of which something was counted")
    return {
        "type": name,
        "since": window.word,
        "periods_known": _words(known),
        "queue": queue or "",
        "release": window.release,
        "releases": [mark for each in known if (mark := _mark(each, found["periods"]))],
        "failures": visit.trying(lambda: _failures(visit, name)),
        "actions": offered(visit),
        **found,
        "skipped": [*problems, *found["skipped"]],
    }


def _is_known(visit: Visit, name: str) -> bool:
    """Whether a type of which nothing was counted lately may be one: of a daemon, of some time before, or of a task."""
    queue = None if visit.who.queues is None else visit.query.get("queue")

    def look() -> bool:
        if daemons_of(name, patterns_of(visit)):
            return True
        series = visit.inspector.metrics(timedelta(seconds=KEPT_S), queue=queue, task_type=name)
        if series.skipped or series.total():
            return True
        tasks = visit.inspector.search(TaskFilter(type=name), queue=queue, size=1)
        return bool(tasks.tasks or tasks.after)  # where not all were looked at, one may be

    return visit.sharing(("is known", name, queue), FRESH_S, look, FRESH_TIMES)


def _queue_names(visit: Visit) -> list[str]:
    return sorted(queue.name for queue in visit.snapshot().overview.queues)


def _window(visit: Visit, known: Sequence[Release]) -> Window:
    word = visit.word("since", "1h", of=_words(known))
    if word in SINCE:
        return Window(word, SINCE[word])
    place = _words(known).index(word) - len(SINCE)
    begun, ends = known[place], known[place - 1].at if place else None
    seconds = ((ends or datetime.now(UTC)) - begun.at).total_seconds()
    return Window(word, max(LEAST_S, min(seconds, KEPT_S)), begun.at, begun.release, ends)


def _words(known: Sequence[Release]) -> list[str]:
    """The words that the query may have: the releases, the last one first, behind the others."""
    return [*SINCE, *(f"{RELEASE}:{one.release}" if place else RELEASE for place, one in enumerate(known))]


def _rows(visit: Visit, window: Window, queue: str | None) -> tuple[list[dict[str, Any]], Sequence[str], datetime]:
    step_s = window.step_s(MOST_LINES)
    sums = _Sums()
    series = visit.inspector.metrics(window.since, window.ends, step_s, queue=queue, each=sums.add)
    shares = _before(visit, window, series, ("types", queue), lambda *when: _shares(visit, when, queue)) or {}
    problems: list[str] = []
    timeouts = visit.part(lambda: _timeouts(visit, window, queue), problems)
    handled = patterns_of(visit)
    rows = [
        {
            "type": line.type, "queues": line.queues, "time_share": line.time_share,
            "timeout_share": timeout_share(line, timeouts), "daemons": daemons_of(line.type, handled),
            **figures(line.numbers, series.lasting_s), **_compared(line.numbers, shares.get(line.type)),
            "ended_by_period": sums.ended[line.type],
        }
        for line in lines_of(sums.total)
    ]  # fmt: skip
    return rows, [*problems, *series.skipped], series.until


def _timeouts(visit: Visit, window: Window, queue: str | None) -> Mapping[str, int] | None:
    return timeouts_of(visit, window.age_s, is_over=window.ends is not None) if queue is None else None


def _compared(numbers: Numbers, share_before: float | None) -> dict[str, Any]:
    share, attempts = failed_share(numbers), numbers.attempts
    return {
        "failed_share_before": share_before,
        # Of a type that is new all that fails is more than before.
        "failed_rise": None if share is None else share - (share_before or 0.0),
        "retries_per_success": attempts["retried"] / attempts["completed"] if attempts["completed"] else None,
    }


class _Sums:
    """What periods come to together, added while they are read: all at once would be megabytes.

    Attributes:
        ended: Type → the ended attempts of each period.
    """

    def __init__(self) -> None:
        self.ended: dict[str, list[int]] = {}
        self._records: dict[Pair, Record] = {}
        self._periods = 0

    @property
    def total(self) -> dict[Pair, Numbers]:
        """All of them, by queue and type."""
        return {pair: Numbers(record) for pair, record in self._records.items()}

    def add(self, period: Period) -> None:
        """Add the next one."""
        self._periods += 1
        for counts in self.ended.values():
            counts.append(0)
        for pair, packed in period.numbers.items():
            numbers = Numbers(packed.record)  # unpacked once
            merge(self._records.setdefault(pair, {}), numbers.record)
            self.ended.setdefault(pair.type, [0] * self._periods)[-1] += numbers.ended


def _shares(visit: Visit, when: tuple[datetime, datetime, int], queue: str | None) -> dict[str, float | None]:
    """Which part of the attempts of each type failed; from when to when, in periods of so many seconds."""
    sums = _Sums()
    visit.inspector.metrics(*when, queue=queue, each=sums.add)
    return {line.type: failed_share(line.numbers) for line in lines_of(sums.total)}


def _before(
    visit: Visit,
    window: Window,
    series: Series,
    key: tuple[Any, ...],
    read: Callable[[datetime, datetime, int], T],
) -> T | None:
    """What is read of the time before, from when to when and in which periods; None: that is not kept for so long."""
    if not series.periods or (wanted := window.before(series.periods[0].start)) is None:
        return None
    since, until, step_s = wanted
    return visit.sharing(
        ("before", window.word, *key),
        FRESH_BEFORE_S,
        lambda: read(since, until, step_s),
        FRESH_TIMES,
    )


def _over_time(visit: Visit, window: Window, name: str, queue: str | None) -> dict[str, Any]:
    step_s = window.step_s(MOST_PERIODS)
    series = visit.inspector.metrics(window.since, window.ends, step_s, queue=queue, task_type=name)
    before = _before(
        visit,
        window,
        series,
        ("type", name, queue),
        lambda *when: _whole(visit.inspector.metrics(*when, queue=queue, task_type=name)),
    )
    columns = in_columns(series, MOST_COLUMNS)
    numbers = [column.total() for column in columns]
    return {
        "total": _whole(series),
        "before": before,
        "queues": [
            {"queue": pair.queue, **figures(found, series.lasting_s)} for pair, found in sorted(series.total().items())
        ],
        "periods": [
            {"start": column.start, "step_s": column.step_s, "ended": each.ended, "failed": each.failed}
            | figures(each, lasting_s(series, column))
            for column, each in zip(columns, numbers, strict=True)
        ],
        "run_heat": heat_map([each.run for each in numbers]),
        "wait_heat": heat_map([each.wait for each in numbers]),
        "until": series.until,
        "skipped": series.skipped,
    }


def _whole(series: Series) -> dict[str, Any]:
    numbers = Numbers.sum_of(series.total().values())
    return {
        "ended": numbers.ended, "failed": numbers.failed, "attempts_taken": attempts_taken(numbers),
        **figures(numbers, series.lasting_s),
    }  # fmt: skip


def _mark(release: Release, periods: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Where in a chart a release began; None: it did not in this time."""
    if not periods or release.at < periods[0]["start"]:
        return None
    place = (release.at - periods[0]["start"]).total_seconds() / periods[0]["step_s"]
    if place > len(periods):
        return None
    return {"release": release.release, "at": release.at, "of": release.type, "place": place}


def _failures(visit: Visit, name: str) -> dict[str, Any]:
    """The failure groups of the type that were seen last."""
    groups = visit.sharing("failures", FRESH_S, visit.inspector.failures, FRESH_TIMES)
    found = [group for group in groups if group.type == name and not group.muted_at][:5]
    return {
        "groups": [
            {
                "fingerprint": group.fingerprint, "error": group.error, "message": group.message,
                "state": group.state, "last_hour": group.last_hour, "count": group.count,
                "last_seen": group.last_seen, "first_release": group.first_release,
            }
            for group in found
        ]
    }  # fmt: skip

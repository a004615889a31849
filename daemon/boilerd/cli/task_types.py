"""``boilerd types``."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from boilerd.cli.inspecting import inspecting, with_broker
from boilerd.cli.known_names import complete_queues, complete_types
from boilerd.cli.options import DurationType, Loaded, with_json_lines
from boilerd.cli.output import echo
from boilerd.cli.tables import brief, pace, print_json, print_table, rate, sized
from boilerd.errors import listed, shown
from boilerd.tasks.metric_record import Numbers

if TYPE_CHECKING:
    from boilerd.broker.metrics import Period, Series
    from boilerd.tasks.histogram import Histogram

#: Lines of one type over time, and one more, as the first began before the time that was asked for.
MOST_LINES = 72
#: Things that could not be read, of which is told.
_MOST_SKIPPED = 3
_PERCENTS = (50, 95, 99)
_TIMES = ("WAIT P50>", "P95>", "P99>", "RUN P50>", "P95>", "P99>", "MAX>")


@click.command()
@click.argument("task_type", metavar="[TYPE]", required=False, shell_complete=complete_types)
@click.option("--since", type=DurationType(), default="1h", show_default=True, help="Of the last so long: 10m, 24h.")
@click.option("-q", "--queue", metavar="Q", shell_complete=complete_queues, help="Of the attempts of this queue.")
@with_json_lines
@with_broker
def types(loaded: Loaded, *, task_type: str | None, since: float, queue: str | None, as_json: bool) -> None:
    """Show what each task type does: its rate, what fails, how long it waits and runs; or one type over time.

    The types that take most of the workers' time come first.

    \b
    boilerd types
    boilerd types email:send --since 24h
    boilerd types --queue low --json | jq -r 'select(.failed_share > 0.1) | .type'
    """  # noqa: D301 - click looks for the character \b
    with inspecting(loaded) as inspector:
        series = inspector.metrics(timedelta(seconds=since), step_s=_step(since), queue=queue, task_type=task_type)
        has_none = not (as_json or series.total()) and (queue is not None or task_type is not None)
        others = _lines(inspector.metrics(timedelta(seconds=since), step_s=series.step_s)) if has_none else []
    if as_json:
        for line in _as_json(series, task_type):
            print_json(line)
    elif task_type:
        _print_periods(series)
    else:
        _print_types(series)
    for reason in series.skipped[:_MOST_SKIPPED]:
        echo(f"left out: {reason}", err=True)
    if has_none:
        sought = _narrowed(queue, task_type)
        echo(f"note: nothing of {sought} was counted in this time, but of {_told(others)}", err=True)


@dataclass(frozen=True, slots=True)
class _Line:
    """A type, with the queues that it was in, and what was counted of it in all of them."""

    type: str
    queues: Sequence[str]
    numbers: Numbers


def _narrowed(queue: str | None, task_type: str | None) -> str:
    """What was asked for, as it was written: it may be a slip."""
    parts = (("type", task_type), ("queue", queue))
    return " in ".join(f"{name} {shown(value)}" for name, value in parts if value is not None)


def _told(lines: Sequence[_Line]) -> str:
    """The types that there are, and their queues."""
    return listed([f"{line.type} ({', '.join(line.queues)})" for line in lines])


def _lines(series: "Series") -> list[_Line]:
    by_type: dict[str, dict[str, Numbers]] = {}
    for pair, numbers in series.total().items():
        by_type.setdefault(pair.type, {})[pair.queue] = numbers
    lines = [_Line(name, sorted(found), Numbers.sum_of(found.values())) for name, found in by_type.items()]
    return sorted(lines, key=lambda line: (-line.numbers.run.sum, line.type))


def _print_types(series: "Series") -> None:
    lines = _lines(series)
    whole = sum(line.numbers.run.sum for line in lines)
    print_table(
        ("TYPE", "RATE>", "FAILED>", *_TIMES, "TIME>", "PAYLOAD>", "QUEUES"),
        [
            (
                line.type, *_counted(line.numbers, series.lasting_s), _share(line.numbers.run.sum, whole),
                _size(line.numbers.payload), ", ".join(line.queues),
            )
            for line in lines
        ],
    )  # fmt: skip


def _print_periods(series: "Series") -> None:
    print_table(
        ("FROM", "ENDED>", "RATE>", "FAILED>", *_TIMES),
        [
            (
                period.start.astimezone().isoformat(" ", "minutes"), numbers.ended,
                *_counted(numbers, _lasting_s(series, period)),
            )
            for period in series.periods
            for numbers in (period.total(),)
        ],
    )  # fmt: skip


def _counted(numbers: Numbers, lasting_s: float) -> Iterable[str]:
    """The columns that types and periods have in common."""
    times = [_time(each.percentile(percent)) for each in (numbers.wait, numbers.run) for percent in _PERCENTS]
    most = _time(numbers.run.most if numbers.run.count else None)
    return (pace(numbers.ended, lasting_s), rate(numbers.failed, numbers.ended), *times, most)


def _as_json(series: "Series", task_type: str | None) -> Iterable[dict[str, Any]]:
    if task_type:
        for period in series.periods:
            lasting_s = _lasting_s(series, period)
            yield {"start": period.start, "step_s": period.step_s} | _fields(period.total(), lasting_s)
        return
    lines = _lines(series)
    whole = sum(line.numbers.run.sum for line in lines)
    for line in lines:
        share = line.numbers.run.sum / whole if whole else None
        about = {"type": line.type, "queues": line.queues, "lasting_s": series.lasting_s}
        yield about | _fields(line.numbers, series.lasting_s) | {"time_share": share}


def _fields(numbers: Numbers, lasting_s: float) -> dict[str, Any]:
    return {
        "attempts": numbers.attempts, "enqueued": numbers.enqueued,
        "ended_per_s": numbers.ended / lasting_s if lasting_s else None,
        "failed_share": numbers.failed / numbers.ended if numbers.ended else None,
        "wait_s": _summary(numbers.wait), "run_s": _summary(numbers.run), "payload_bytes": _summary(numbers.payload),
    }  # fmt: skip


def _summary(values: "Histogram") -> dict[str, float | None]:
    percentiles = {f"p{percent}": values.percentile(percent) for percent in _PERCENTS}
    return {"count": values.count, "mean": values.mean, **percentiles, "max": values.most or None}


def _step(since_s: float) -> int:
    """The shortest period of which there are few enough to read as lines, and to add soon."""
    from boilerd.broker.constants import METRIC_PERIODS  # noqa: PLC0415 - a completion does without

    steps = [step_s for step_s, kept_s in METRIC_PERIODS.values() if since_s <= min(kept_s, MOST_LINES * step_s)]
    return min(steps, default=86400)


def _lasting_s(series: "Series", period: "Period") -> float:
    return min(float(period.step_s), (series.until - period.start).total_seconds())


def _time(seconds: float | None) -> str:
    return "" if seconds is None else brief(seconds)


def _size(values: "Histogram") -> str:
    return "" if values.mean is None else sized(values.mean)


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else ""

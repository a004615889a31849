"""``boilerd types``."""

from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from boilerd.cli.inspecting import inspecting, tell_skipped, with_broker
from boilerd.cli.known_names import complete_queues, complete_types
from boilerd.cli.options import DurationType, Loaded, with_json_lines
from boilerd.cli.output import echo
from boilerd.cli.tables import brief, pace, print_json, print_table, rate, sized
from boilerd.errors import listed, shown

if TYPE_CHECKING:
    from boilerd.broker.metrics import Series
    from boilerd.tasks.histogram import Histogram
    from boilerd.tasks.metric_record import Numbers

_TIMES = ("WAIT P50>", "P95>", "P99>", "RUN P50>", "P95>", "P99>", "MAX>")


@click.command()
@click.argument("task_type", metavar="[TYPE]", required=False, shell_complete=complete_types)
@click.option(
    "--since", type=DurationType(), default="1h", show_default=True, help="Of the last so long: 10m, 24h, 7d."
)
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
    from boilerd.broker import type_metrics  # noqa: PLC0415 - a completion does without

    with inspecting(loaded) as inspector:
        series = inspector.metrics(
            timedelta(seconds=since), step_s=type_metrics.step_for(since), queue=queue, task_type=task_type
        )
        has_none = not (as_json or series.total()) and (queue is not None or task_type is not None)
        others = inspector.metrics(timedelta(seconds=since), step_s=series.step_s) if has_none else series
    if as_json:
        for line in _as_json(series, task_type):
            print_json(line)
    elif not task_type:
        _print_types(series)
    elif not has_none:  # it would be 60 lines of nothing
        _print_periods(series)
    tell_skipped(series.skipped)
    if has_none:
        sought = _narrowed(queue, task_type)
        beside = f"but of {_told(others)}" if others.total() else "nor of any other"
        echo(f"note: nothing of {sought} was counted in this time, {beside}", err=True)


def _narrowed(queue: str | None, task_type: str | None) -> str:
    """What was asked for, as it was written: it may be a slip."""
    parts = (("type", task_type), ("queue", queue))
    return " in ".join(f"{name} {shown(value)}" for name, value in parts if value is not None)


def _told(series: "Series") -> str:
    """The types that there are, and their queues."""
    from boilerd.broker.type_metrics import type_lines  # noqa: PLC0415 - as above

    return listed([f"{line.type} ({', '.join(line.queues)})" for line in type_lines(series)])


def _print_types(series: "Series") -> None:
    from boilerd.broker.type_metrics import type_lines  # noqa: PLC0415 - as above

    print_table(
        ("TYPE", "RATE>", "FAILED>", *_TIMES, "TIME>", "PAYLOAD>", "QUEUES"),
        [
            (
                line.type, *_counted(line.numbers, series.lasting_s), _share(line.time_share),
                _size(line.numbers.payload), ", ".join(line.queues),
            )
            for line in type_lines(series)
        ],
    )  # fmt: skip


def _print_periods(series: "Series") -> None:
    from boilerd.broker.type_metrics import lasting_s  # noqa: PLC0415 - as above

    print_table(
        ("FROM", "ENDED>", "RATE>", "FAILED>", *_TIMES),
        [
            (
                period.start.astimezone().isoformat(" ", "minutes"), numbers.ended,
                *_counted(numbers, lasting_s(series, period)),
            )
            for period in series.periods
            for numbers in (period.total(),)
        ],
    )  # fmt: skip


def _counted(numbers: "Numbers", lasting_s: float) -> Iterable[str]:
    """The columns that types and periods have in common."""
    from boilerd.broker.type_metrics import PERCENTS  # noqa: PLC0415 - as above

    times = [_time(each.percentile(percent)) for each in (numbers.wait, numbers.run) for percent in PERCENTS]
    most = _time(numbers.run.most if numbers.run.count else None)
    return (pace(numbers.ended, lasting_s), rate(numbers.failed, numbers.ended), *times, most)


def _as_json(series: "Series", task_type: str | None) -> Iterable[dict[str, Any]]:
    from boilerd.broker.type_metrics import figures, lasting_s, type_lines  # noqa: PLC0415 - as above

    if task_type:
        for period in series.periods:
            numbers = figures(period.total(), lasting_s(series, period))
            yield {"start": period.start, "step_s": period.step_s} | numbers
        return
    for line in type_lines(series):
        about = {"type": line.type, "queues": line.queues, "lasting_s": series.lasting_s}
        yield about | figures(line.numbers, series.lasting_s) | {"time_share": line.time_share}


def _time(seconds: float | None) -> str:
    return "" if seconds is None else brief(seconds)


def _size(values: "Histogram") -> str:
    return "" if values.mean is None else sized(values.mean)


def _share(part: float | None) -> str:
    return "" if part is None else f"{part:.1%}"

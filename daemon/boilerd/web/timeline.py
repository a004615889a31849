"""What happened to a task and when, to scale, from what its record and its attempts know."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from boilerd.broker.traces import Pause
from boilerd.broker.views import TaskDetail
from boilerd.tasks.task import TaskState

#: A drawing is so wide, and a span in it at least.
WIDTH, LEAST = 1000.0, 3.0
#: Attempts that are kept of a task.
MOST_ATTEMPTS = 30


@dataclass(frozen=True, slots=True)
class Span:
    """A time in the life of a task.

    Attributes:
        kind: ``waiting``, ``paused``, ``scheduled``, ``running``, ``completed``, ``failed``, ``backoff`` or
            ``archived``.
        ends_at: None: it has not ended.
        seconds: How long it was; None: it has not ended.
        note: What there is to say of it.
        x: Where it begins in the drawing.
        width: How wide it is there.
    """

    kind: str
    since: datetime
    ends_at: datetime | None
    seconds: float | None
    worker: str = ""
    note: str = ""
    x: float = 0.0
    width: float = 0.0


def timeline(task: TaskDetail, now: datetime, pauses: Sequence[Pause] = ()) -> list[Span]:
    """The spans in their order; a clock that jumped makes none of negative length.

    Args:
        task: The task with its attempts.
        now: Until when what has not ended is drawn.
        pauses: When its queue was paused, in their order.
    """
    spans = [span for span in _spans(task) if span.ends_at is None or span.ends_at >= span.since]
    return _drawn([part for span in spans for part in _parted(span, pauses)], now)


def _parted(span: Span, pauses: Sequence[Pause]) -> Iterator[Span]:
    """A time of waiting with the pauses of its queue in it, each apart."""
    rest: Span | None = span
    for pause in pauses if span.kind == "waiting" else ():
        if rest is None or not _overlap(rest, pause):
            continue
        since = max(rest.since, pause.since)
        is_within = pause.ends_at is not None and (rest.ends_at is None or pause.ends_at < rest.ends_at)
        until = pause.ends_at if is_within else rest.ends_at
        if rest.since < since:
            yield _span("waiting", rest.since, since, note=rest.note)
        by = f" by {pause.user}" if pause.user else ""
        yield _span("paused", since, until, note=f"the queue was paused{by}")
        rest = _span("waiting", until, rest.ends_at, note=rest.note) if is_within and until else None
    if rest is not None:
        yield rest


def _overlap(span: Span, pause: Pause) -> bool:
    is_before = pause.ends_at is not None and pause.ends_at <= span.since
    return not is_before and (span.ends_at is None or pause.since < span.ends_at)


def _spans(task: TaskDetail) -> Iterator[Span]:
    attempts = [each for each in task.attempts if each.started_at and each.ended_at]
    # Where the first attempts are not kept, nothing is known of the time before.
    last = None if len(attempts) >= MOST_ATTEMPTS else task.created_at
    for number, attempt in enumerate(attempts):
        if attempt.started_at is None:
            continue
        if last is not None:
            yield from _before(task, last, attempt.started_at, is_first=number == 0)
        kind = "completed" if attempt.is_success else "failed"
        yield _span(kind, attempt.started_at, attempt.ended_at, worker=attempt.worker)
        last = attempt.ended_at
    if last is not None:
        yield from _after(task, last, is_first=not attempts)


def _before(task: TaskDetail, since: datetime, until: datetime, *, is_first: bool) -> Iterator[Span]:
    """What was between two attempts, or before the first."""
    came = task.enqueued_at
    kind = "waiting" if is_first else "backoff"
    # When it came back into its queue is known of the last time alone.
    if came is not None and since < came < until:
        yield _span("scheduled" if is_first else "backoff", since, came)
        yield _span("waiting", came, until)
    else:
        note = "" if is_first else "until it was due, and until a worker was free"
        yield _span(kind, since, until, note=note)


def _after(task: TaskDetail, since: datetime, *, is_first: bool) -> Iterator[Span]:
    """What it does since the last attempt, or since it was created."""
    match task.state:
        case TaskState.ACTIVE:
            began = task.started_at or since
            yield from _before(task, since, began, is_first=is_first)
            yield _span("running", began, None, worker=task.worker)
        case TaskState.PENDING:
            came = max(task.enqueued_at or since, since)
            if came > since:
                yield _span("scheduled" if is_first else "backoff", since, came)
            yield _span("waiting", came, None)
        case TaskState.SCHEDULED | TaskState.RETRY:
            yield _span("scheduled" if is_first else "backoff", since, task.next_run_at)
        case TaskState.ARCHIVED if is_first:
            yield _span("waiting", since, task.last_failed_at, note=task.last_error and "then it was archived")


def _span(kind: str, since: datetime, until: datetime | None, *, worker: str = "", note: str = "") -> Span:
    seconds = None if until is None else (until - since).total_seconds()
    return Span(kind, since, until, seconds, worker, note)


def _drawn(spans: Sequence[Span], now: datetime) -> list[Span]:
    if not spans:
        return []
    first = min(span.since for span in spans)
    is_open = spans[-1].ends_at is None
    last = max([span.ends_at or span.since for span in spans])
    length_s = (last - first).total_seconds()
    if is_open:
        length_s = max(length_s, _steady((now - first).total_seconds()))
    end, scale = first + timedelta(seconds=length_s), WIDTH / max(length_s, 0.001)
    drawn = []
    for span in spans:
        x = (span.since - first).total_seconds() * scale
        width = ((span.ends_at or end) - span.since).total_seconds() * scale
        x = min(round(x, 1), WIDTH - LEAST)
        drawn.append(
            Span(span.kind, span.since, span.ends_at, span.seconds, span.worker, span.note, x,
                 round(min(max(width, LEAST), WIDTH - x), 1))
        )  # fmt: skip
    return drawn


def _steady(seconds: float) -> float:
    """The time in two digits, rounded up: a drawing that grew with every second would be sent again each time."""
    step = max(10.0, 10.0 ** (math.floor(math.log10(max(seconds, 1.0))) - 1))
    return math.ceil(seconds / step) * step

"""OpenTelemetry: a span and metrics for each enqueue and each attempt; needs the extra ``otel``.

The API alone is used: without an SDK, which an application sets up in its workers, nothing is recorded. Names and
attributes are those of OpenTelemetry's conventions for messaging. No payload is in a span, nor in a metric.
"""

import atexit
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from boilerd.errors import (
    DuplicateTaskError,
    ShutdownTimeoutError,
    TaskCancelledError,
    TaskIdConflictError,
    interrupt_in,
)
from boilerd.process.logs import add_log_fields
from boilerd.tasks.current import CURRENT
from boilerd.tasks.drafts import Answers, Draft, Push
from boilerd.tasks.headers import inherit
from boilerd.tasks.life import WorkerContext
from boilerd.tasks.mux import ServeMux
from boilerd.tasks.queues import DEFAULT_QUEUE
from boilerd.tasks.retry import Hooks, RetryPolicy, Verdict, decide
from boilerd.tasks.task import Task, TaskInfo
from boilerd.worker.attempt_log import ATTEMPT

try:
    from opentelemetry import context as contexts
    from opentelemetry import metrics, propagate, trace
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.propagators.textmap import DefaultGetter, DefaultSetter
    from opentelemetry.trace import Link, Span, SpanKind, StatusCode, TracerProvider
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(f"{missing}; install boilerd[otel]", name=missing.name) from None

logger = logging.getLogger("boilerd.otel")

#: How long a worker's end waits for what is still to be exported; less than the least that lifespans get in a drain.
FLUSH_S = 1.5
#: Metrics tell so many types apart, and call all others "other": each is a series that lives as long as its process.
MOST_TYPES = 500
#: The bounds that the conventions suggest for durations, in seconds.
BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

#: Answers by which an enqueue did what it was asked for: the task is there already.
_THERE_ALREADY = (TaskIdConflictError, DuplicateTaskError)
#: What a failed attempt comes to, but for what the task's record decides.
_OUTCOMES = {Verdict.RETRY: "retried", Verdict.ARCHIVE: "archived", Verdict.DROP: "dropped"}
#: Set while one of ours is around: a second one, as of a client and of its mux, adds nothing.
_ENQUEUES = contexts.create_key("boilerd-enqueues")
_PROCESSES = contexts.create_key("boilerd-processes")

_BAGGAGE = "baggage"

Attributes = dict[str, Any]


def instrument(
    mux: ServeMux,
    *,
    one_trace: bool = False,
    flush_s: float = FLUSH_S,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> None:
    """Make spans and metrics of the attempts of the mux, and of the enqueues of clients that are given the mux.

    Call it before other `mux.use`, so that the span is around their middleware, and before `mux.on_worker_start` sets
    an SDK up, so that a worker's end exports what is left after all else has ended.

    Args:
        mux: The application's.
        one_trace: True to have the span of an attempt be a child of its enqueue's; without it, it begins a trace that
            has a link to the enqueue's.
        flush_s: Seconds that a worker's end waits for the providers to export what they hold.
        tracer_provider: Without it, the global one.
        meter_provider: Without it, the global one.
    """
    attempts = _Attempts(mux, tracer_provider, meter_provider, one_trace=one_trace)
    mux.use(attempts.around)
    mux.use_client(ClientMiddleware(tracer_provider=tracer_provider, meter_provider=meter_provider))

    @mux.lifespan
    @contextmanager
    def telemetry(worker: WorkerContext) -> Iterator[None]:
        attempts.worker = worker.name
        yield
        _flush(flush_s, tracer_provider or trace.get_tracer_provider(), meter_provider or metrics.get_meter_provider())


class ClientMiddleware:
    """Makes a span of each enqueue, which goes with the tasks in their headers; of a batch, one for all of them.

    For clients without an instrumented mux: ``client.use(ClientMiddleware())``.

    Args:
        tracer_provider: Without it, the global one.
        meter_provider: Without it, the global one.
    """

    def __init__(
        self, *, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        self._tracer = trace.get_tracer("boilerd", tracer_provider=tracer_provider)
        meter = metrics.get_meter("boilerd", meter_provider=meter_provider)
        self._sent = meter.create_counter(
            "messaging.client.sent.messages", "{message}", "Tasks that were to be enqueued."
        )
        self._duration = _durations(meter, "messaging.client.operation.duration", "Time that an enqueue took.")
        self._types = _Types()

    def __call__(self, drafts: list[Draft], push: Push) -> Answers:
        """Go around an enqueue."""
        if not drafts or contexts.get_value(_ENQUEUES):
            return push(drafts)
        attributes = _enqueue_attributes(drafts)
        caller = _caller(drafts[0])
        queue = attributes.get("messaging.destination.name")
        name = f"enqueue {queue}" if queue else "enqueue"
        span = self._tracer.start_span(name, caller, SpanKind.PRODUCER, attributes)
        started_s = time.perf_counter()
        token = contexts.attach(contexts.set_value(_ENQUEUES, True, trace.set_span_in_context(span, caller)))
        answers: Sequence[object] = ()
        try:
            _hand_on(drafts)
            answers = pushed = push(drafts)
            return pushed
        except BaseException as error:
            answers = [error] * len(drafts)
            raise
        finally:
            contexts.detach(token)
            self._end(span, drafts, answers, time.perf_counter() - started_s)

    def _end(self, span: Span, drafts: Sequence[Draft], answers: Sequence[object], seconds: float) -> None:
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        if span.is_recording():
            _tell_of_enqueue(span, answers, errors)
        span.end()
        for draft, answer in zip(drafts, answers, strict=False):
            self._sent.add(1, self._labels(draft, answer))
        whole = next(iter(errors), None)
        self._duration.record(seconds, self._labels(drafts[0], whole))

    def _labels(self, draft: Draft, answer: object) -> Attributes:
        queue = answer.queue if isinstance(answer, TaskInfo) else _queue_of(draft)
        error = answer if isinstance(answer, BaseException) else None
        return _labels("enqueue", "send", queue, self._types.named(draft.type), error)


class _Attempts:
    """Makes a span of each attempt.

    Args:
        mux: Whose handlers run.
        tracer_provider: Without it, the global one.
        meter_provider: Without it, the global one.
        one_trace: True to have it be a child of the enqueue's span.

    Attributes:
        worker: The name of the worker that this process is.
    """

    def __init__(
        self,
        mux: ServeMux,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
        *,
        one_trace: bool,
    ) -> None:
        self._mux = mux
        self._one_trace = one_trace
        self._tracer = trace.get_tracer("boilerd", tracer_provider=tracer_provider)
        meter = metrics.get_meter("boilerd", meter_provider=meter_provider)
        self._consumed = meter.create_counter(
            "messaging.client.consumed.messages", "{message}", "Attempts that came to a handler."
        )
        self._duration = _durations(meter, "messaging.process.duration", "Time that an attempt took.")
        self._types = _Types()
        self.worker = ""

    def around(self, task: Task) -> Iterator[None]:
        """Go around the handler, as middleware with one ``yield``."""
        if contexts.get_value(_PROCESSES) == task.id:  # that of another mux, or one more of this
            yield
            return
        span, context = self._begin(task)
        started_s = time.perf_counter()
        token = contexts.attach(context)
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            contexts.detach(token)
            self._end(span, task, error, time.perf_counter() - started_s)

    def _begin(self, task: Task) -> tuple[Span, Context]:
        """The span, and the context for the handler: it has the span, and the baggage of the enqueue."""
        carried = propagate.extract(task.headers, Context(), _GETTER)
        creator = trace.get_current_span(carried).get_span_context()
        links = [Link(creator)] if creator.is_valid else None
        parent = carried if self._one_trace else trace.set_span_in_context(trace.INVALID_SPAN, carried)
        span = self._tracer.start_span(
            f"process {task.queue}", parent, SpanKind.CONSUMER, self._attributes(task), links
        )
        begun = span.get_span_context()
        if begun.is_valid:
            add_log_fields(trace_id=trace.format_trace_id(begun.trace_id), span_id=trace.format_span_id(begun.span_id))
        return span, contexts.set_value(_PROCESSES, task.id, trace.set_span_in_context(span, carried))

    def _attributes(self, task: Task) -> Attributes:
        found: Attributes = {
            "messaging.system": "boilerd",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": task.queue,
            "messaging.message.id": task.id,
            "boilerd.task.type": task.type,
            "boilerd.task.attempt": task.attempt,
        }
        if self.worker:
            found["messaging.client.id"] = self.worker
        if task.request_id:
            found["messaging.message.conversation_id"] = task.request_id
        if task.enqueued_at:
            waited_s = (datetime.now(UTC) - task.enqueued_at).total_seconds()
            found["boilerd.queue.wait_s"] = max(0.0, waited_s)  # Redis's clock may be ahead of this one
        return found

    def _end(self, span: Span, task: Task, raised: BaseException | None, seconds: float) -> None:
        outcome, error = self._outcome(task, raised)
        if span.is_recording():
            span.set_attribute("boilerd.task.outcome", outcome)
            if error is not None:
                _tell_error(span, error)
        span.end()
        labels = _labels("process", "process", task.queue, self._types.named(task.type), error)
        self._consumed.add(1, labels)
        self._duration.record(seconds, {**labels, "boilerd.task.outcome": outcome})

    def _outcome(self, task: Task, raised: BaseException | None) -> tuple[str, BaseException | None]:
        """What becomes of the task, as far as the error decides it, and the error where that is a failure."""
        if raised is None:
            return "completed", None
        attempt = ATTEMPT.get()  # with slots, a handler gets a cancellation in place of what interrupts it
        error = (attempt and attempt.reason) or raised
        interrupt = interrupt_in(error)
        if isinstance(interrupt, ShutdownTimeoutError):
            return "put_back", None
        if isinstance(interrupt, TaskCancelledError):
            return "cancelled", None
        decision = decide(error, task, self._mux.policy(task.type) or RetryPolicy(), Hooks())
        return _OUTCOMES[decision.verdict], error if decision.counts else None


# --- Context in headers


class _Getter(DefaultGetter):
    """Headers have small letters; some propagators ask for others."""

    def get(self, carrier: Any, key: str) -> list[str] | None:
        return super().get(carrier, key.lower())


class _Setter(DefaultSetter):
    def set(self, carrier: Any, key: str, value: Any) -> None:
        super().set(carrier, key.lower(), value)


_GETTER, _SETTER = _Getter(), _Setter()


def _caller(draft: Draft) -> Context:
    """The context of an enqueue: what its own headers carry, else that in which it is made, else what it inherits."""
    running = CURRENT.get()
    given, inherited = draft.headers.get("traceparent"), running and running.headers.get("traceparent")
    if not draft.headers or (given == inherited and trace.get_current_span().get_span_context().is_valid):
        return contexts.get_current()
    return propagate.extract(draft.headers, contexts.get_current(), _GETTER)


def _hand_on(drafts: Iterable[Draft]) -> None:
    """Put the context into the headers of the drafts, as far as it fits: a trace must not keep a task out."""
    carrier: Any = {}
    propagate.inject(carrier, setter=_SETTER)
    if not carrier:
        return
    running = CURRENT.get()
    inherited = running and running.headers.get(_BAGGAGE)
    for draft in drafts:
        own = draft.headers.get(_BAGGAGE)
        handed = carrier if own in (None, inherited) else carrier | {_BAGGAGE: _joined(own, carrier.get(_BAGGAGE))}
        others = {name: value for name, value in draft.headers.items() if name not in handed}
        draft.headers = dict(inherit(others, handed, None, handed))


def _joined(own: str, context: str | None) -> str:
    """The baggage that an enqueue is given, or that other middleware gave it, and that of the context, which wins."""
    ours = context.split(",") if context else []
    names = {member.partition("=")[0].strip() for member in ours}
    return ",".join([*ours, *(member for member in own.split(",") if member.partition("=")[0].strip() not in names)])


# --- What is told


def _enqueue_attributes(drafts: Sequence[Draft]) -> Attributes:
    found: Attributes = {
        "messaging.system": "boilerd",
        "messaging.operation.name": "enqueue",
        "messaging.operation.type": "send",
    }
    queues, types = {_queue_of(draft) for draft in drafts}, {draft.type for draft in drafts}
    if len(queues) == 1:
        found["messaging.destination.name"] = queues.pop()
    if len(types) == 1:
        found["boilerd.task.type"] = types.pop()
    if len(drafts) > 1:
        found["messaging.batch.message_count"] = len(drafts)
    return found


def _tell_of_enqueue(span: Span, answers: Sequence[object], errors: Sequence[BaseException]) -> None:
    if len(answers) == 1 and isinstance(info := answers[0], TaskInfo):
        span.update_name(f"enqueue {info.queue}")  # other middleware may have changed that, and the type
        span.set_attribute("messaging.destination.name", info.queue)
        span.set_attribute("messaging.message.id", info.id)
        span.set_attribute("boilerd.task.type", info.type)
    failed = [error for error in errors if not isinstance(error, _THERE_ALREADY)]
    if failed:
        _tell_error(span, failed[0])
    elif errors:
        span.set_attribute("error.type", type(errors[0]).__qualname__)


def _tell_error(span: Span, error: BaseException) -> None:
    span.set_attribute("error.type", type(error).__qualname__)
    span.set_status(StatusCode.ERROR)
    span.record_exception(error)


def _queue_of(draft: Draft) -> str:
    return str(draft.options.get("queue") or DEFAULT_QUEUE)


def _labels(name: str, kind: str, queue: str, task_type: str, error: BaseException | None) -> Attributes:
    """The attributes of a metric."""
    found = {
        "messaging.system": "boilerd",
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
        "messaging.destination.name": queue,
        "boilerd.task.type": task_type,
    }
    if error is not None:
        found["error.type"] = type(error).__qualname__
    return found


def _durations(meter: metrics.Meter, name: str, description: str) -> metrics.Histogram:
    return meter.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=BOUNDS_S)


class _Types:
    """The types that metrics tell apart."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def named(self, task_type: str) -> str:
        if task_type not in self._known:
            if len(self._known) >= MOST_TYPES:
                return "other"
            self._known.add(task_type)
        return task_type


# --- A worker's end


def _flush(limit_s: float, *providers: Any) -> None:
    """Have the providers export what they hold; one that hangs is left behind, and its exit handler too.

    Each is asked in a thread of its own: the SDK's own limits do not hold where an exporter does not return.
    """
    ends_s = time.monotonic() + limit_s
    flushing = [
        (provider, threading.Thread(target=_export, args=[provider], name="boilerd-flush", daemon=True))
        for provider in providers
        if hasattr(provider, "force_flush")
    ]
    for _, thread in flushing:
        thread.start()
    for provider, thread in flushing:
        thread.join(max(0.0, ends_s - time.monotonic()))
        if thread.is_alive():
            atexit.unregister(provider.shutdown)
            fields = {"provider": type(provider).__name__, "limit_s": limit_s}
            logger.warning("telemetry was not exported in time, it is lost", extra=fields)


def _export(provider: Any) -> None:
    try:
        provider.force_flush()
    except Exception:
        logger.exception("telemetry was not exported, it is lost")

"""Sentry: traces, errors and check-ins of tasks, by the application's sentry_sdk; the extra ``sentry`` installs it.

An attempt is a transaction with a ``queue.process`` span, an enqueue is a ``queue.publish`` span. What fails is told
when it is decided what becomes of the task, which is after its middleware, or in another process where its worker was
lost. A payload is sent with ``send_default_pii`` or ``data_collection`` alone; so are local variables, which hold it.
"""

import functools
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, get_args

from boilerd.errors import (
    BoilerdError,
    InvalidPayloadError,
    RetryLater,
    RevokeTask,
    ShutdownTimeoutError,
    TaskCancelledError,
    TaskInterrupt,
    interrupt_in,
    shown,
)
from boilerd.tasks.cron import entry_of_tick
from boilerd.tasks.drafts import Answers, Draft, Push
from boilerd.tasks.headers import MAX_HEADER_BYTES
from boilerd.tasks.life import WorkerContext
from boilerd.tasks.mux import ServeMux
from boilerd.tasks.payload import encode_payload
from boilerd.tasks.retry import FailedAttempt, Verdict
from boilerd.tasks.task import Task
from boilerd.worker.attempt_log import ATTEMPT

try:
    import sentry_sdk
    from sentry_sdk import isolation_scope
    from sentry_sdk.consts import OP, SPANDATA
    from sentry_sdk.scope import Scope, add_global_event_processor, use_isolation_scope
    from sentry_sdk.tracing import BAGGAGE_HEADER_NAME, SENTRY_TRACE_HEADER_NAME, Span, TransactionSource
    from sentry_sdk.tracing_utils import Baggage
    from sentry_sdk.transport import make_transport
    from sentry_sdk.utils import event_from_exception

    from boilerd.contrib.sentry_monitors import Monitors
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(f"{missing}; install boilerd[sentry]", name=missing.name) from None

if TYPE_CHECKING:
    from sentry_sdk._types import Event, Hint

Report = Literal["last", "each"]

_ORIGIN = "auto.queue.boilerd"
_SYSTEM = "boilerd"
#: Attempts that failed and whose end is not decided yet; of more than these the error has no breadcrumbs.
_MOST_KEPT = 1000
#: Its line says what the event of the error says.
_OWN_LINE = ("boilerd.task", "task failed")


def instrument(mux: ServeMux, *, report: Report = "last", check_ins: bool = True, flush_s: float = 2.0) -> None:
    """Have Sentry know of the tasks of a mux, and of what clients with this mux enqueue.

    Call it before other middleware is given to the mux, so that Sentry's is outermost. Where ``sentry_sdk.init`` was
    not called, nothing is done.

    Args:
        mux: The daemon's.
        report: ``last``: an error is an event where the task is archived. ``each``: at each failed attempt.
        check_ins: Whether the periodic tasks check in, each as the monitor of its name.
        flush_s: How long a worker that ends waits for what is not sent yet.

    Raises:
        ValueError: There is no such `report`.
    """
    if report not in get_args(Report):
        raise ValueError(f"report={shown(report)}: give 'last' or 'each'")
    _prepare()
    sentry = _Sentry(report, Monitors(lambda: mux.crons if check_ins else []), flush_s)
    mux.use(sentry.process)
    mux.use_client(publish)
    mux.on_failure(sentry.tell)
    mux.on_worker_stop(sentry.flush)


def publish(drafts: list[Draft], push: Push) -> Answers:
    """Client middleware: a ``queue.publish`` span around the enqueue, and the trace in the tasks' headers."""
    if not sentry_sdk.is_initialized() or not drafts:
        return push(drafts)
    around = sentry_sdk.get_current_span()
    if around is None or around.op == OP.QUEUE_PUBLISH:  # nothing would be sent; or the mux's is around a client's
        _give_trace(drafts)
        return push(drafts)
    name = drafts[0].type if len(drafts) == 1 else f"{len(drafts)} tasks"
    with sentry_sdk.start_span(op=OP.QUEUE_PUBLISH, name=name, origin=_ORIGIN) as span:
        _give_trace(drafts)
        answers = push(drafts)
        if span.sampled:
            _tell_published(span, drafts, answers)
        return answers


@dataclass(slots=True)
class _Attempt:
    """An attempt that failed, until it is decided what becomes of its task.

    Attributes:
        scope: In which it ran, with its breadcrumbs and tags.
        span: Its span.
        error: What its handler raised.
    """

    scope: Scope
    span: Span
    error: BaseException


@dataclass(slots=True, eq=False)
class _Sentry:
    """What goes around the tasks of one mux."""

    report: Report
    monitors: Monitors
    flush_s: float
    kept: dict[tuple[str, int], _Attempt] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def process(self, task: Task) -> Iterator[None]:
        """Middleware: a transaction around the attempt, in a scope of its own."""
        if not sentry_sdk.is_initialized():
            yield
            return
        failed: BaseException | None = None
        with isolation_scope() as scope, _transaction(scope, task), _process_span(task) as span:
            self.monitors.begin(task)
            try:
                yield
            except BaseException as error:  # noqa: BLE001 - raised again below, when the spans have their status
                failed = error
                cause = _cause(error)
                _end_spans(span, _status(cause))
                if not isinstance(cause, ShutdownTimeoutError):  # the task goes back, and nothing is decided
                    self._keep(task, _Attempt(scope, span, error))
            else:
                _end_spans(span, "ok")
                self.monitors.end(task, is_ok=True)
        if failed is not None:
            try:
                raise failed
            finally:
                failed = None  # it holds this frame

    def tell(self, failed: FailedAttempt) -> None:
        """Hook: report the error where it is to be reported, now that the decision is made."""
        with self.lock:
            kept = self.kept.pop((failed.task.id, failed.task.runs), None)
        if not sentry_sdk.is_initialized():
            return
        if failed.verdict is not Verdict.RETRY:
            self.monitors.end(failed.task, is_ok=failed.verdict is Verdict.DROP)
        if self._is_wanted(failed):
            with _scope_of(failed.task, kept):
                _capture(failed, kept)

    def flush(self, worker: WorkerContext) -> None:
        """Wait for what is not sent yet, but no longer than may be."""
        sentry_sdk.flush(timeout=self.flush_s)

    def _keep(self, task: Task, attempt: _Attempt) -> None:
        with self.lock:
            if len(self.kept) >= _MOST_KEPT:
                del self.kept[next(iter(self.kept))]
            self.kept[task.id, task.runs] = attempt

    def _is_wanted(self, failed: FailedAttempt) -> bool:
        if isinstance(failed.error, TaskCancelledError) or not failed.counts:
            return False
        if failed.verdict is Verdict.ARCHIVE or self.report == "each":
            return True
        # It is archived later, by its age, which nobody here knows.
        return isinstance(failed.error, InvalidPayloadError) and failed.task.attempt == 1


# --- The attempt


def _transaction(scope: Scope, task: Task) -> AbstractContextManager[Any]:
    """The attempt's transaction, which goes on with the trace of the enqueue."""
    _describe(scope, task)
    transaction = scope.continue_trace(
        dict(task.headers), op="queue.task", name=task.type, source=TransactionSource.TASK, origin=_ORIGIN
    )
    sampling = {"id": task.id, "type": task.type, "queue": task.queue, "attempt": task.attempt}
    return sentry_sdk.start_transaction(transaction, custom_sampling_context={"boilerd_task": sampling})


def _process_span(task: Task) -> Span:
    span = sentry_sdk.start_span(op=OP.QUEUE_PROCESS, name=task.type, origin=_ORIGIN)
    if span.sampled:
        span.set_data(SPANDATA.MESSAGING_SYSTEM, _SYSTEM)
        span.set_data(SPANDATA.MESSAGING_MESSAGE_ID, task.id)
        span.set_data(SPANDATA.MESSAGING_DESTINATION_NAME, task.queue)
        span.set_data(SPANDATA.MESSAGING_MESSAGE_RETRY_COUNT, task.attempt - 1)
        _set_size(span, task.payload)
        if task.enqueued_at:
            latency_ms = (datetime.now(UTC) - task.enqueued_at).total_seconds() * 1000
            span.set_data(SPANDATA.MESSAGING_MESSAGE_RECEIVE_LATENCY, max(0.0, round(latency_ms, 3)))
    return span


def _describe(scope: Scope, task: Task) -> None:
    """Say of all that is sent from here to which task it belongs."""
    scope.clear_breadcrumbs()
    scope.set_transaction_name(task.type, source=TransactionSource.TASK)
    told = {"task_type": task.type, "queue": task.queue, "attempt": task.attempt}
    for name, value in told.items():
        scope.set_tag(name, value)
    if task.request_id:
        scope.set_tag("request_id", task.request_id)
    scope.set_context("boilerd_task", {**told, "id": task.id, "runs": task.runs, "max_retries": task.max_retries})


def _cause(error: BaseException) -> BaseException:
    """What the attempt was interrupted with, where its handler got something else for it."""
    attempt = ATTEMPT.get()
    return (attempt and attempt.reason) or interrupt_in(error) or error


def _status(cause: BaseException) -> str:
    if isinstance(cause, RetryLater | RevokeTask):
        return "aborted"
    if isinstance(cause, TaskCancelledError | ShutdownTimeoutError):
        return "cancelled"
    return "deadline_exceeded" if isinstance(cause, TaskInterrupt) else "internal_error"


def _end_spans(span: Span, status: str) -> None:
    span.set_status(status)
    if span.containing_transaction:
        span.containing_transaction.set_status(status)


# --- Its error


def _scope_of(task: Task, kept: _Attempt | None) -> AbstractContextManager[Any]:
    """The scope in which the attempt ran; where that was in another process, one that says as much as can be told."""
    with ExitStack() as stack:
        if kept:
            stack.enter_context(use_isolation_scope(kept.scope))
            sentry_sdk.get_current_scope().span = kept.span
        else:
            scope = stack.enter_context(isolation_scope())
            scope.continue_trace(dict(task.headers))
            _describe(scope, task)
        return stack.pop_all()


def _sends_payload(client: Any) -> bool:
    """Whether the application has said so, in the one way or in the other."""
    chosen = client.options.get("data_collection") or {}
    return bool(chosen.get("queues") if chosen.get("provided_by_user") else client.should_send_default_pii())


def _strip_variables(event: "Event") -> None:
    """Take the local variables out of all frames: no option of ours could keep newer versions from reading them."""
    for value in event.get("exception", {}).get("values", []):
        for frame in (value.get("stacktrace") or {}).get("frames", []):
            frame.pop("vars", None)


def _capture(failed: FailedAttempt, kept: _Attempt | None) -> None:
    """Send the error as an event, in the group that boilerd has it in."""
    client, task, error = sentry_sdk.get_client(), failed.task, failed.error
    # An interrupt may have no frames of its own: then those of what the handler raised for it say where it was.
    frames = error.__traceback__ or (kept.error.__traceback__ if kept else None)
    sends_payload = _sends_payload(client)
    event, hint = event_from_exception(
        (type(error), error, frames), client_options=client.options, mechanism={"type": "boilerd", "handled": False}
    )
    if failed.fingerprint:
        event["fingerprint"] = [failed.fingerprint]
        event.setdefault("tags", {})["failure_group"] = failed.fingerprint
    if sends_payload:
        event.setdefault("extra", {})["payload"] = task.payload
    else:
        _strip_variables(event)
    sentry_sdk.capture_event(event, hint=hint)


# --- The enqueue


def _give_trace(drafts: list[Draft]) -> None:
    """Put the trace into the headers; that of a tick begins with the task, for its scheduler has none but its own."""
    trace, baggage = sentry_sdk.get_traceparent(), sentry_sdk.get_baggage() or ""
    for draft in drafts:
        if trace and not entry_of_tick(str(draft.options.get("task_id", ""))):
            _give(draft.headers, trace, baggage)


def _give(headers: dict[str, str], trace: str, baggage: str) -> None:
    """The trace in place of an earlier one; no enqueue fails because headers have no room for it."""
    others = Baggage.strip_sentry_baggage(headers.get(BAGGAGE_HEADER_NAME, ""))
    given = {SENTRY_TRACE_HEADER_NAME: trace, BAGGAGE_HEADER_NAME: ",".join(filter(None, (others, baggage)))}
    taken = {**headers, **given}
    if sum(len(f"{name}{value}".encode(errors="replace")) for name, value in taken.items()) <= MAX_HEADER_BYTES:
        headers.update({name: value for name, value in given.items() if value})


def _tell_published(span: Span, drafts: list[Draft], answers: Answers) -> None:
    span.set_data(SPANDATA.MESSAGING_SYSTEM, _SYSTEM)
    stored = [answer for answer in answers if not isinstance(answer, BoilerdError)]
    queues = {info.queue for info in stored}
    if len(queues) == 1:
        span.set_data(SPANDATA.MESSAGING_DESTINATION_NAME, queues.pop())
    if len(answers) == len(stored) == 1:
        span.set_data(SPANDATA.MESSAGING_MESSAGE_ID, stored[0].id)
        _set_size(span, drafts[0].payload)
    else:
        span.set_data("messaging.batch.message_count", len(stored))
    span.set_status("ok" if stored else "aborted")


def _set_size(span: Span, payload: Any) -> None:
    """The size of a payload as it is sent to Redis; none where its type alone knows how it is written."""
    with suppress(BoilerdError):
        span.set_data("messaging.message.body.size", len(encode_payload(payload, sorts_sets=False)))


# --- The process


@functools.cache
def _prepare() -> None:
    """What is done once a process, and holds in those that are forked from it."""
    add_global_event_processor(_without_own_line)
    os.register_at_fork(after_in_child=_renew_transport)


def _without_own_line(event: "Event", hint: "Hint") -> "Event | None":
    """Drop what Sentry makes of boilerd's line of a failed attempt: the error itself is told where it should be."""
    record = hint.get("log_record")
    is_own = record is not None and (record.name, record.msg) == _OWN_LINE
    return None if is_own else event


def _renew_transport() -> None:
    """In a child: what the parent has not sent is the parent's, and so are its locks, thread and connection."""
    client = sentry_sdk.get_client()
    if client.is_active() and client.transport:
        client.transport = make_transport(client.options)

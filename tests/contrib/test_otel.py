"""Spans and metrics of enqueues and attempts, in one process with an SDK of the test's own."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.propagators.textmap import TextMapPropagator, default_getter, default_setter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from boilerd import (
    BoilerdError,
    Draft,
    InvalidPayloadError,
    Push,
    RetryLater,
    RevokeTask,
    ServeMux,
    SkipRetry,
    Task,
    TaskIdConflictError,
    TaskInfo,
    retry,
)
from boilerd.contrib import otel
from boilerd.tasks.headers import MAX_HEADER_BYTES
from boilerd.testing import RecordingClient
from span_files import Seen, seen
from support import run_python

#: Of a request elsewhere.
TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


class Telemetry:
    """An SDK that keeps what it gets."""

    def __init__(self) -> None:
        self._exporter, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider([self._reader], shutdown_on_exit=False)
        self.tracer = self.tracers.get_tracer("test")

    @property
    def providers(self) -> dict[str, Any]:
        return {"tracer_provider": self.tracers, "meter_provider": self.meters}

    @property
    def spans(self) -> list[Seen]:
        """In the order in which they ended."""
        return [seen(span) for span in self._exporter.get_finished_spans()]

    def named(self, name: str) -> list[Seen]:
        return [span for span in self.spans if span["name"] == name]

    def one(self, name: str) -> Seen:
        (span,) = self.named(name)
        return span

    def points(self, name: str) -> list[Any]:
        data = self._reader.get_metrics_data()
        assert data
        found = [metric for of in data.resource_metrics for scope in of.scope_metrics for metric in scope.metrics]
        return [point for metric in found if metric.name == name for point in metric.data.data_points]


@dataclass
class App:
    mux: ServeMux
    client: RecordingClient
    telemetry: Telemetry

    def run(self) -> None:
        self.client.drain(until="end", raise_errors=False)


def application(**options: Any) -> App:
    telemetry, mux = Telemetry(), ServeMux()
    otel.instrument(mux, **options, **telemetry.providers)
    return App(mux, RecordingClient(mux=mux), telemetry)


@pytest.fixture
def app() -> App:
    """One whose task order:paid enqueues an invoice:send."""
    return _with_tasks(application())


@pytest.fixture
def joined() -> App:
    """The same, with one trace for all."""
    return _with_tasks(application(one_trace=True))


def _with_tasks(app: App) -> App:
    @app.mux.handle("order:paid")
    def paid(task: Task) -> None:
        app.client.enqueue("invoice:send", task.payload, queue="mail")

    @app.mux.handle("invoice:send")
    async def send(task: Task) -> None:
        trace.get_current_span().add_event("sent")

    return app


# --- Traces


def test_an_attempt_begins_a_trace_that_has_a_link_to_its_enqueue(app: App) -> None:
    with app.telemetry.tracer.start_as_current_span("request"):
        app.client.enqueue("order:paid", 1)
    app.run()

    telemetry = app.telemetry
    request, enqueued = telemetry.one("request"), telemetry.one("enqueue default")
    paid, then, sent = (telemetry.one(name) for name in ("process default", "enqueue mail", "process mail"))
    assert (enqueued["kind"], enqueued["parent"], enqueued["trace"]) == ("PRODUCER", request["id"], request["trace"])
    assert (paid["kind"], paid["parent"], paid["links"]) == ("CONSUMER", None, [enqueued["id"]])
    assert (then["parent"], then["trace"]) == (paid["id"], paid["trace"])
    assert (sent["parent"], sent["links"], sent["events"]) == (None, [then["id"]], ["sent"])
    assert len({request["trace"], paid["trace"], sent["trace"]}) == 3


def test_with_one_trace_an_attempt_is_a_child_of_its_enqueue(joined: App) -> None:
    with joined.telemetry.tracer.start_as_current_span("request"):
        joined.client.enqueue("order:paid", 1)
    joined.run()

    spans = {span["name"]: span for span in joined.telemetry.spans}
    chain = ["request", "enqueue default", "process default", "enqueue mail", "process mail"]
    assert len({span["trace"] for span in spans.values()}) == 1
    assert [spans[name]["parent"] for name in chain[1:]] == [spans[name]["id"] for name in chain[:-1]]


def test_each_attempt_is_a_span_with_a_link_to_the_same_enqueue(app: App) -> None:
    @app.mux.handle("flaky:call")
    @retry(max_retries=2)
    def call(task: Task) -> None:
        if task.attempt < 3:
            raise ConnectionError("not yet")

    app.client.enqueue("flaky:call", task_id="f1")
    app.run()

    attempts = app.telemetry.named("process default")
    told = [(each["attributes"]["boilerd.task.attempt"], each["attributes"]["boilerd.task.outcome"], each["status"])
            for each in attempts]  # fmt: skip
    assert told == [(1, "retried", "ERROR"), (2, "retried", "ERROR"), (3, "completed", "UNSET")]
    assert {each["attributes"]["messaging.message.id"] for each in attempts} == {"f1"}
    assert [each["links"] for each in attempts] == [[app.telemetry.one("enqueue default")["id"]]] * 3


def test_typed_handlers_and_functions_are_traced(app: App) -> None:
    @app.mux.task("number:add", queue="numbers")
    def add(task: Task[int]) -> int:
        return task.payload + 1

    @app.mux.function("number:print")
    async def show(number: int) -> None:
        app.client.enqueue_message(add.task(number))

    app.client.enqueue_message(show.task(1))
    app.run()

    names = [span["name"] for span in app.telemetry.spans]
    assert names == ["enqueue default", "enqueue numbers", "process default", "process numbers"]


def test_what_the_enqueue_itself_says_of_its_trace_wins(app: App) -> None:
    with app.telemetry.tracer.start_as_current_span("request"):
        app.client.enqueue("order:paid", 1, headers={"traceparent": TRACEPARENT})

    enqueued = app.telemetry.one("enqueue default")
    (task,) = app.client.tasks
    assert (enqueued["trace"], enqueued["parent"]) == (TRACE_ID, SPAN_ID)
    assert task.options.headers["traceparent"].split("-")[1:3] == [TRACE_ID, enqueued["id"]]


def test_an_enqueue_goes_on_with_the_trace_of_a_task_whose_attempt_has_no_span(app: App) -> None:
    plain, own = ServeMux(), RecordingClient()
    own.use(otel.ClientMiddleware(**app.telemetry.providers))

    @plain.handle("order:paid")
    def paid(task: Task) -> None:
        own.enqueue("invoice:send")

    client = RecordingClient()
    client.enqueue("order:paid", headers={"traceparent": TRACEPARENT})
    list(client.run_all(plain))

    enqueued = app.telemetry.one("enqueue default")
    assert (enqueued["trace"], enqueued["parent"]) == (TRACE_ID, SPAN_ID)


def test_without_an_sdk_the_trace_goes_on_from_task_to_task() -> None:
    mux, seen_by = ServeMux(), []
    otel.instrument(mux)
    client = RecordingClient(mux=mux)

    @mux.handle("count:down")
    def down(task: Task) -> None:
        seen_by.append(task.headers["traceparent"])
        if task.payload:
            client.enqueue("count:down", task.payload - 1)

    client.enqueue("count:down", 2, headers={"traceparent": TRACEPARENT})
    list(client.run_all())

    assert seen_by == [TRACEPARENT] * 3


@pytest.mark.parametrize("one_trace", [False, True])
def test_baggage_comes_to_the_handler_and_to_what_that_enqueues(*, one_trace: bool) -> None:
    app, found = application(one_trace=one_trace), []

    @app.mux.handle("count:down")
    def down(task: Task) -> None:
        found.append(baggage.get_baggage("tenant"))
        if task.payload:
            app.client.enqueue("count:down", task.payload - 1)

    token = context.attach(baggage.set_baggage("tenant", "7"))
    app.client.enqueue("count:down", 1)
    context.detach(token)
    app.run()

    assert found == ["7", "7"]


def test_baggage_that_an_enqueue_is_given_goes_with_that_of_the_context(app: App) -> None:
    token = context.attach(baggage.set_baggage("tenant", "7"))
    with app.telemetry.tracer.start_as_current_span("request"):
        app.client.enqueue("invoice:send", headers={"baggage": "tenant=6,shop=3;public"})
    context.detach(token)

    assert app.client.tasks[0].headers["baggage"] == "tenant=7,shop=3;public"


def test_a_client_and_its_mux_together_make_one_span(app: App) -> None:
    app.client.use(otel.ClientMiddleware(**app.telemetry.providers))
    otel.instrument(app.mux, **app.telemetry.providers)

    app.client.enqueue("invoice:send")
    app.run()

    assert [span["name"] for span in app.telemetry.spans] == ["enqueue default", "process default"]


def test_nothing_of_a_span_is_left_where_a_mux_is_called(app: App) -> None:
    app.mux(Task("t1", "invoice:send"))

    assert not trace.get_current_span().get_span_context().is_valid


def test_a_trace_that_does_not_fit_into_the_headers_keeps_no_task_out(app: App) -> None:
    full = {"note": "x" * (MAX_HEADER_BYTES - len("note"))}

    info = app.client.enqueue("invoice:send", headers=full)

    assert isinstance(info, TaskInfo)
    assert dict(app.client.tasks[0].options.headers) == full


class Shouting(TextMapPropagator):
    """As some vendors' do: a header with large letters."""

    NAME = "X-Shout-Trace"

    def inject(self, carrier: Any, context: Any = None, setter: Any = default_setter) -> None:
        own = trace.get_current_span(context).get_span_context()
        setter.set(carrier, self.NAME, f"{own.trace_id:x}:{own.span_id:x}")

    def extract(self, carrier: Any, context: Any = None, getter: Any = default_getter) -> Any:
        found = getter.get(carrier, self.NAME)
        if not found:
            return context
        trace_id, span_id = (int(part, 16) for part in found[0].split(":"))
        creator = trace.SpanContext(trace_id, span_id, is_remote=True, trace_flags=trace.TraceFlags(1))
        return trace.set_span_in_context(trace.NonRecordingSpan(creator), context)

    @property
    def fields(self) -> set[str]:
        return {self.NAME}


@pytest.fixture
def shouting() -> Iterator[None]:
    kept = propagate.get_global_textmap()
    propagate.set_global_textmap(Shouting())
    yield
    propagate.set_global_textmap(kept)


@pytest.mark.usefixtures("shouting")
def test_the_applications_own_propagator_is_asked_also_one_of_large_letters(app: App) -> None:
    app.client.enqueue("invoice:send")
    app.run()

    assert app.telemetry.one("process default")["links"] == [app.telemetry.one("enqueue default")["id"]]


# --- Attributes


def test_an_enqueue_has_the_attributes_of_the_conventions(app: App) -> None:
    app.client.enqueue("invoice:send", queue="mail", task_id="i1")

    assert app.telemetry.one("enqueue mail")["attributes"] == {
        "messaging.system": "boilerd",
        "messaging.operation.name": "enqueue",
        "messaging.operation.type": "send",
        "messaging.destination.name": "mail",
        "messaging.message.id": "i1",
        "boilerd.task.type": "invoice:send",
    }


def test_an_enqueue_is_told_of_as_other_middleware_left_it(app: App) -> None:
    @app.client.use
    def bulk_goes_low(drafts: list[Draft], push: Push) -> list[TaskInfo | BoilerdError]:
        drafts[0].options["queue"], drafts[0].type = "low", "invoice:send:bulk"
        return push(drafts)

    app.client.enqueue("invoice:send")

    attributes = app.telemetry.one("enqueue low")["attributes"]
    assert (attributes["messaging.destination.name"], attributes["boilerd.task.type"]) == ("low", "invoice:send:bulk")


def test_an_attempt_has_the_attributes_of_the_conventions(app: App) -> None:
    app.client.enqueue("invoice:send", {"request_id": "r-9"}, queue="mail", task_id="i1")
    app.run()

    attributes = app.telemetry.one("process mail")["attributes"]
    assert 0 <= attributes.pop("boilerd.queue.wait_s") < 60
    assert attributes == {
        "messaging.system": "boilerd",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "mail",
        "messaging.message.id": "i1",
        "messaging.message.conversation_id": "r-9",
        "messaging.client.id": "drain",
        "boilerd.task.type": "invoice:send",
        "boilerd.task.attempt": 1,
        "boilerd.task.outcome": "completed",
    }


@pytest.mark.parametrize(
    ("error", "outcome", "status"),
    [
        (ValueError("x"), "retried", "ERROR"),
        (SkipRetry("x"), "archived", "ERROR"),
        (RetryLater(1), "retried", "UNSET"),
        (RevokeTask("x"), "dropped", "UNSET"),
        (ExceptionGroup("several", [ValueError("x"), SkipRetry("y")]), "archived", "ERROR"),
    ],
)
def test_the_outcome_of_an_attempt_is_told(app: App, error: Exception, outcome: str, status: str) -> None:
    @app.mux.handle("test:raise")
    def fail(task: Task) -> None:
        if task.runs == 1:
            raise error

    app.client.enqueue("test:raise")
    app.run()

    span = app.telemetry.named("process default")[0]
    is_error = status == "ERROR"
    assert (span["attributes"]["boilerd.task.outcome"], span["status"]) == (outcome, status)
    assert span["attributes"].get("error.type") == (type(error).__qualname__ if is_error else None)
    assert span["events"] == (["exception"] if is_error else [])


def test_a_batch_is_one_span_that_all_its_tasks_carry(app: App) -> None:
    app.client.enqueue_many([("invoice:send", 1), ("invoice:send", 2)], queue="mail")
    app.client.enqueue_many([("invoice:send", 3), ("order:paid", 4)])

    first, second = app.telemetry.spans
    assert first["attributes"]["messaging.batch.message_count"] == 2
    assert first["attributes"]["boilerd.task.type"] == "invoice:send"
    assert "boilerd.task.type" not in second["attributes"]
    carried = [task.options.headers["traceparent"].split("-")[2] for task in app.client.tasks]
    assert sorted(carried) == sorted([first["id"]] * 2 + [second["id"]] * 2)


def test_an_enqueue_that_is_refused_is_told_and_one_of_a_task_that_is_there_already_is_no_error(app: App) -> None:
    app.client.enqueue("invoice:send", task_id="i1", queue="mail")
    with pytest.raises(TaskIdConflictError):
        app.client.enqueue("invoice:send", task_id="i1", queue="again")
    with pytest.raises(InvalidPayloadError):
        app.client.enqueue("invoice:send", object(), queue="wrong")

    again, wrong = app.telemetry.one("enqueue again"), app.telemetry.one("enqueue wrong")
    assert (again["attributes"]["error.type"], again["status"]) == ("TaskIdConflictError", "UNSET")
    assert (wrong["attributes"]["error.type"], wrong["status"]) == ("InvalidPayloadError", "ERROR")


def test_no_span_and_no_metric_holds_a_payload(app: App) -> None:
    app.client.enqueue("order:paid", {"card": "4711-secret"}, headers={"tenant-id": "tenant-secret"})
    app.run()

    points = [app.telemetry.points(name) for name in METRICS]
    assert len(app.telemetry.spans) == 4
    assert "secret" not in json.dumps(app.telemetry.spans) + repr(points)


# --- Metrics

METRICS = (
    "messaging.client.sent.messages",
    "messaging.client.consumed.messages",
    "messaging.client.operation.duration",
    "messaging.process.duration",
)


def test_metrics_count_and_measure_enqueues_and_attempts(app: App) -> None:
    @app.mux.handle("test:raise")
    @retry(max_retries=1)
    def fail(task: Task) -> None:
        raise ValueError("x")

    app.client.enqueue_many([("test:raise", 1), ("test:raise", 2)])
    app.run()

    common = {"messaging.system": "boilerd", "messaging.destination.name": "default", "boilerd.task.type": "test:raise"}
    sent = {**common, "messaging.operation.name": "enqueue", "messaging.operation.type": "send"}
    consumed = {
        **common, "messaging.operation.name": "process", "messaging.operation.type": "process",
        "error.type": "ValueError",
    }  # fmt: skip
    told = {name: app.telemetry.points(name) for name in METRICS}
    assert [(point.value, point.attributes) for point in told[METRICS[0]]] == [(2, sent)]
    assert [(point.value, point.attributes) for point in told[METRICS[1]]] == [(4, consumed)]
    assert [(point.count, point.attributes) for point in told[METRICS[2]]] == [(1, sent)]
    assert [(point.count, point.attributes["boilerd.task.outcome"]) for point in told[METRICS[3]]] == [
        (2, "retried"), (2, "archived"),
    ]  # fmt: skip
    assert told[METRICS[3]][0].explicit_bounds == otel.BOUNDS_S


def test_metrics_tell_a_limited_number_of_types_apart(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otel, "MOST_TYPES", 2)

    for number in range(5):
        app.client.enqueue(f"invoice:send:{number}")

    points = app.telemetry.points("messaging.client.sent.messages")
    assert {point.attributes["boilerd.task.type"]: point.value for point in points} == {
        "invoice:send:0": 1, "invoice:send:1": 1, "other": 3,
    }  # fmt: skip


# --- What it needs


def test_boilerd_itself_does_not_import_it() -> None:
    found = run_python(
        "import sys, boilerd, boilerd.cli, boilerd.client, boilerd.worker.worker;"
        " print(int('boilerd.contrib.otel' in sys.modules))"
    )

    assert found == 0


def test_where_the_extra_is_missing_the_error_names_it() -> None:
    found = run_python(
        "import json, sys; sys.modules['opentelemetry'] = None\n"
        "try:\n    import boilerd.contrib.otel\n"
        "except ModuleNotFoundError as error: print(json.dumps(str(error)))"
    )

    assert found.endswith("install boilerd[otel]")

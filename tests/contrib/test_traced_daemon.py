"""Traces through real daemons: over forks, in slots, with retries, from a web application's request on."""

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from boilerd import AsyncClient, Client
from boilerd.contrib import otel
from span_files import FileExporter, Seen, read_spans
from support import RunningDaemon, StartDaemon, Valkey, private_directory, wait_until

#: The pool `default` has one slot, and this one many.
POOLS = '{"slotted": {"queues": {"slotted": 1}, "slots": 20}}'
APP = {"BOILERD_APP": "traced_app:mux", "BOILERD_POOLS": POOLS, "WITH_OPENTELEMETRY": "1"}
CROWD = 8


@contextmanager
def running() -> Iterator[RunningDaemon]:
    with private_directory() as directory:
        server = Valkey(directory).start()
        env = {"BOILERD_REDIS_URL": server.url, **APP}
        daemon = RunningDaemon("--concurrency", "1", directory=directory, env=env)
        yield daemon.ready()
        daemon.close()
        server.stop()


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with running() as found:
        yield found


@pytest.fixture
def provider(daemon: RunningDaemon) -> Iterator[TracerProvider]:
    """This process's, whose spans go to the file of the daemon's."""
    made = TracerProvider(shutdown_on_exit=False)
    made.add_span_processor(SimpleSpanProcessor(FileExporter(daemon.directory / "spans")))
    yield made
    made.shutdown()


def spans_of(daemon: RunningDaemon, trace: str, *, enqueues: int, attempts: int) -> list[Seen]:
    """All spans of a trace, when there are so many of these."""

    def found() -> list[Seen]:
        spans = [span for span in read_spans(daemon.directory / "spans") if span["trace"] == trace]
        return spans if len(of_kind("PRODUCER", spans)) >= enqueues and len(attempts_in(spans)) >= attempts else []

    return wait_until(found, f"{enqueues} enqueues and {attempts} attempts in trace {trace}")


def of_kind(kind: str, spans: list[Seen]) -> list[Seen]:
    return [span for span in spans if span["kind"] == kind]


def attempts_in(spans: list[Seen]) -> list[Seen]:
    return of_kind("CONSUMER", spans)


def trace_of(daemon: RunningDaemon, task_id: str) -> str:
    """The trace of the enqueue of a task."""
    (trace,) = {
        span["trace"]
        for span in read_spans(daemon.directory / "spans")
        if span["attributes"].get("messaging.message.id") == task_id and span["kind"] == "PRODUCER"
    }
    return str(trace)


def web_application(client: AsyncClient, provider: TracerProvider) -> OpenTelemetryMiddleware:
    """Enqueues a task for each request."""
    app = FastAPI()

    @app.post("/orders/{number}")
    async def order(number: int) -> str:
        return (await client.enqueue("trace:order", {"number": number})).id

    return OpenTelemetryMiddleware(app, tracer_provider=provider)


def test_one_trace_goes_from_a_request_over_its_task_to_a_task_that_this_enqueues(
    daemon: RunningDaemon, provider: TracerProvider
) -> None:
    async def request() -> str:
        async with AsyncClient.from_url(daemon.env["BOILERD_REDIS_URL"]) as client:
            client.use(otel.ClientMiddleware(tracer_provider=provider))
            transport = httpx.ASGITransport(web_application(client, provider))
            async with httpx.AsyncClient(transport=transport, base_url="http://shop.test") as browser:
                return str((await browser.post("/orders/7")).json())

    task_id = asyncio.run(request())

    spans = spans_of(daemon, trace_of(daemon, task_id), enqueues=2, attempts=2)
    by_name = {span["name"]: span for span in spans}
    chain = ["enqueue default", "process default", "enqueue slotted", "process slotted"]
    (served,) = of_kind("SERVER", spans)
    assert by_name["enqueue default"]["parent"] == served["id"]
    for above, below in itertools.pairwise(chain):
        assert by_name[below]["parent"] == by_name[above]["id"], below
    assert by_name["process slotted"]["events"] == ["mailed"]
    assert len({span["pid"] for span in spans}) == 3


def test_each_attempt_in_a_daemon_is_a_span_below_the_same_enqueue(
    daemon: RunningDaemon, provider: TracerProvider
) -> None:
    with Client.from_url(daemon.env["BOILERD_REDIS_URL"]) as client:
        client.use(otel.ClientMiddleware(tracer_provider=provider))
        task_id = client.enqueue("trace:flaky").id

    spans = spans_of(daemon, trace_of(daemon, task_id), enqueues=1, attempts=3)
    (enqueued,), attempts = of_kind("PRODUCER", spans), attempts_in(spans)
    assert [span["parent"] for span in attempts] == [enqueued["id"]] * 3
    told = [(span["attributes"]["boilerd.task.attempt"], span["attributes"].get("error.type")) for span in attempts]
    assert told == [(1, "ConnectionError"), (2, "ConnectionError"), (3, None)]
    assert {span["attributes"]["messaging.client.id"].rpartition(".")[2] for span in attempts} == {"0"}


def test_tasks_that_run_at_once_in_slots_keep_their_traces_apart(
    daemon: RunningDaemon, provider: TracerProvider
) -> None:
    with Client.from_url(daemon.env["BOILERD_REDIS_URL"]) as client:
        client.use(otel.ClientMiddleware(tracer_provider=provider))
        ids = [
            client.enqueue("trace:crowd", CROWD, task_id=f"crowd-{number}", queue="slotted").id
            for number in range(CROWD)
        ]

    for task_id in ids:
        spans = spans_of(daemon, trace_of(daemon, task_id), enqueues=2, attempts=2)
        (step,) = of_kind("INTERNAL", spans)
        attempts = {span["attributes"]["messaging.message.id"]: span["id"] for span in attempts_in(spans)}
        assert len(spans) == 5
        assert (step["name"], step["parent"]) == (f"step of {task_id}", attempts[task_id])
        assert attempts.keys() == {task_id, f"leaf-of-{task_id}"}


@pytest.mark.parametrize("queue", ["default", "slotted"])
def test_the_lines_of_a_traced_task_have_the_trace_and_the_span(
    daemon: RunningDaemon, provider: TracerProvider, queue: str
) -> None:
    with Client.from_url(daemon.env["BOILERD_REDIS_URL"]) as client:
        client.use(otel.ClientMiddleware(tracer_provider=provider))
        task_id = client.enqueue("trace:leaf", queue=queue).id
    daemon.wait_for("task completed", task_id=task_id)

    trace = trace_of(daemon, task_id)
    (attempt,) = attempts_in(spans_of(daemon, trace, enqueues=1, attempts=1))
    for message in ("leaf reached", "task completed"):
        (line,) = daemon.lines(message, task_id=task_id)
        assert (line["trace_id"], line["span_id"]) == (trace, attempt["id"])


@pytest.mark.parametrize("queue", ["default", "slotted"])
def test_what_interrupts_an_attempt_is_its_outcome(daemon: RunningDaemon, provider: TracerProvider, queue: str) -> None:
    with Client.from_url(daemon.env["BOILERD_REDIS_URL"]) as client:
        client.use(otel.ClientMiddleware(tracer_provider=provider))
        late = client.enqueue("trace:endless", queue=queue, timeout=1, max_retries=0).id
        cancelled = client.enqueue("trace:endless", queue=queue).id
        daemon.wait_for("task started", task_id=cancelled)
        client.cancel(cancelled)

    told = {}
    for task_id in (late, cancelled):
        (attempt,) = attempts_in(spans_of(daemon, trace_of(daemon, task_id), enqueues=1, attempts=1))
        told[task_id] = (attempt["attributes"]["boilerd.task.outcome"], attempt["attributes"].get("error.type"))
    assert told == {late: ("archived", "TaskTimeoutError"), cancelled: ("cancelled", None)}


def test_what_a_worker_still_holds_is_exported_at_its_end(start_daemon: StartDaemon, client: Client) -> None:
    task_id = client.enqueue("trace:leaf").id

    daemon = start_daemon("--burst", "--concurrency", "1", env=APP)

    assert daemon.wait() == 0
    exported = [span["attributes"]["messaging.message.id"] for span in read_spans(daemon.directory / "spans")]
    assert exported == [task_id]


def test_an_exporter_that_hangs_does_not_hold_the_end_of_a_worker_up(
    start_daemon: StartDaemon, client: Client, directory: Path
) -> None:
    client.enqueue("trace:leaf")
    env = {"BOILERD_APP": APP["BOILERD_APP"], "WITH_OPENTELEMETRY": "1", "HANGS": "1", "FLUSH_S": "0.2"}
    daemon = start_daemon("--concurrency", "1", directory=directory, env=env)
    wait_until((directory / "hangs").exists, "the exporter hangs")

    status = daemon.stop()

    (told,) = daemon.lines("telemetry was not exported in time, it is lost")
    assert (status, told["limit_s"], told["provider"]) == (0, 0.2, "TracerProvider")
    of_worker = daemon.lines(worker=told["worker"])
    assert [line for line in of_worker if line["level"] in {"warning", "error"}] == [told]

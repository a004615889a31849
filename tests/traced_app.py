"""An application whose tasks are traced; its workers write spans to the file `spans` of the working directory."""

import asyncio
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from boilerd import AsyncClient, Client, ServeMux, Task, WorkerContext, retry
from boilerd.contrib import otel
from span_files import FileExporter

mux = ServeMux()
otel.instrument(mux, one_trace=True, flush_s=float(os.environ.get("FLUSH_S", "5")))
client = Client.from_settings(mux=mux)


class HangingExporter(SpanExporter):
    """As one whose collector takes connections and never answers."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        Path("hangs").touch()
        threading.Event().wait()
        return SpanExportResult.FAILURE


@mux.on_worker_start
def telemetry(worker: WorkerContext) -> None:
    exporter = HangingExporter() if "HANGS" in os.environ else FileExporter(Path("spans"))
    provider = TracerProvider(shutdown_on_exit="HANGS" in os.environ)  # else `instrument` alone exports at the end
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=50))
    trace.set_tracer_provider(provider)


@dataclass
class Order:
    number: int


@mux.task("trace:order")
def order(task: Task[Order]) -> None:
    client.enqueue_message(mail.task(task.payload.number), queue="slotted")


@mux.function("trace:mail")
async def mail(number: int) -> None:
    task_span = trace.get_current_span()
    task_span.add_event("mailed")


@mux.handle("trace:flaky")
@retry(max_retries=3, base=0)
def flaky(task: Task) -> None:
    if task.attempt < 3:
        raise ConnectionError("not yet")


@mux.handle("trace:endless")
async def endless(task: Task) -> None:
    await asyncio.Event().wait()


_arrived = 0


@mux.handle("trace:crowd")
async def crowd(task: Task) -> None:
    """Waits until as many run at once as its payload says, then enqueues one more."""
    global _arrived  # noqa: PLW0603 - of this worker
    _arrived += 1
    while _arrived < task.payload:  # noqa: ASYNC110 - each turn is a switch to another one
        await asyncio.sleep(0.01)
    with trace.get_tracer("app").start_as_current_span(f"step of {task.id}"):
        await asyncio.sleep(0)
        async with AsyncClient.from_settings(mux=mux) as own:
            await own.enqueue("trace:leaf", task_id=f"leaf-of-{task.id}", queue="slotted")


@mux.handle("trace:leaf")
def leaf(task: Task) -> None:
    task.logger.info("leaf reached")

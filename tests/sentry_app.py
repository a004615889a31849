"""An application whose daemon tells Sentry of its tasks; all its processes write to the file `envelopes`."""

import asyncio
import os
import signal
import time
from pathlib import Path

import sentry_sdk

from boilerd import Client, ServeMux, Task, retry
from boilerd.contrib import sentry
from sentry_files import DSN, FileTransport

sentry_sdk.init(
    DSN, transport=FileTransport(Path("envelopes").absolute()), traces_sample_rate=1.0, auto_enabling_integrations=False
)
mux = ServeMux()
sentry.instrument(mux)
client = Client.from_settings(mux=mux)


@mux.handle("say:ok")
def ok(task: Task) -> None:
    pass


@mux.handle("say:flaky")
@retry(max_retries=1, base=0)
def flaky(task: Task) -> None:
    sentry_sdk.add_breadcrumb(message=task.id)
    task.logger.error("the application's own line")
    raise ValueError("no such page")


@mux.handle("say:die")
@retry(max_retries=0)
def die(task: Task) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@mux.handle("say:sleep")
@retry(max_retries=0)
def sleep(task: Task) -> None:
    while True:
        time.sleep(0.01)


@mux.handle("say:wait")
@retry(max_retries=0)
async def wait(task: Task) -> None:
    await asyncio.sleep(60)


_together = asyncio.Event()
_arrived: list[str] = []


@mux.handle("say:crowd")
@retry(max_retries=0)
async def crowd(task: Task) -> None:
    """Runs beside as many as its payload says, each of which leaves its mark in the scope, then fails."""
    sentry_sdk.add_breadcrumb(message=task.id)
    sentry_sdk.set_tag("own", task.id)
    _arrived.append(task.id)
    if len(_arrived) == task.payload:
        _together.set()
    await _together.wait()
    await asyncio.sleep(0)
    client.enqueue("say:ok", task_id=f"of-{task.id}")
    raise LookupError(task.id)

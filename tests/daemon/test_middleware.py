"""Middleware of all forms in a daemon: the same in a worker with one slot as in one with many."""

from pathlib import Path

import pytest

from boilerd import Client, Inspector
from support import StartDaemon, Valkey

APP = """
import asyncio, logging
from contextvars import ContextVar
from boilerd import ServeMux

mux = ServeMux()
tenant = ContextVar("tenant")

@mux.use
def timed(task):
    result = yield
    task.logger.info("timed", extra={"for": task.id})
    return {"timed": result}

@mux.use
async def within_session(task):
    await asyncio.sleep(0)
    tenant.set(f"tenant of {task.id}")
    yield
    await asyncio.sleep(0)

@mux.use
def retold(next_handler):
    def handle(task):
        try:
            return next_handler(task)
        except ValueError as error:
            return [str(error), tenant.get()]
    return handle

@mux.handle("app:async")
async def wait(task):
    await asyncio.sleep(0.01)
    return answer(task)

@mux.handle("app:plain")
def answer(task):
    if task.payload == "wrong":
        raise ValueError("no such page")
    return [task.payload, tenant.get()]
"""
POOLS = '{"slotted": {"queues": {"slotted": 1}, "slots": 10}}'


@pytest.mark.parametrize("task_type", ["app:async", "app:plain"])
def test_middleware_does_the_same_in_workers_with_one_slot_and_with_many(
    start_daemon: StartDaemon, directory: Path, client: Client, valkey: Valkey, task_type: str
) -> None:
    (directory / "app.py").write_text(APP)
    ids = [f"{queue}-{payload}" for queue in ("default", "slotted") for payload in ("page", "wrong")]
    for task_id in ids:
        queue, payload = task_id.split("-")
        client.enqueue(task_type, payload, task_id=task_id, queue=queue, retention=60)

    env = {"BOILERD_APP": "app:mux", "BOILERD_POOLS": POOLS}
    daemon = start_daemon("--burst", "--concurrency", "1", directory=directory, env=env)

    assert daemon.wait() == 0
    with Inspector.from_url(valkey.url) as inspector:
        results = {task_id: inspector.task(task_id).result for task_id in ids}
    assert results == {
        task_id: {"timed": ["page" if task_id.endswith("page") else "no such page", f"tenant of {task_id}"]}
        for task_id in ids
    }
    lines = [line for line in daemon.lines() if line["message"] in ("timed", "task completed")]
    assert sorted((line["task_id"], line.get("for", "")) for line in lines) == sorted(
        (task_id, told) for task_id in ids for told in ("", task_id)
    )

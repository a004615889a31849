"""Headers in a real daemon: what the enqueues of handlers inherit, and middleware around a periodic task."""

from pathlib import Path

from boilerd import Client, Inspector, TaskState
from support import StartDaemon, wait_until

APP = """
import asyncio
import contextvars
import threading

from boilerd import AsyncClient, Client, ServeMux

mux = ServeMux()
client = Client.from_settings(mux=mux)


@mux.use_client
def sign(drafts, push):
    for draft in drafts:
        draft.headers["signed"] = "by " + draft.type
    return push(drafts)


@mux.handle("outer:sync")
def sync(task):
    client.enqueue("inner", task_id="sync")
    client.enqueue("inner", task_id="none", inherit=False)
    for name, run in (("copied", contextvars.copy_context().run), ("bare", lambda call: call())):
        thread = threading.Thread(target=run, args=(lambda: client.enqueue("inner", task_id=name),))
        thread.start()
        thread.join()
    raise ValueError("to be told of")


@mux.error_handler
def told(task, error):
    client.enqueue("inner", task_id="told")


@mux.handle("outer:async")
async def awaits(task):
    async with AsyncClient.from_settings() as calls:
        many = calls.enqueue_many([("inner", 1)], task_id="many")
        await asyncio.gather(calls.enqueue("inner", task_id="async"), many)
    await asyncio.to_thread(client.enqueue, "inner", task_id="to-thread")


@mux.handle("tick")
@mux.handle("inner")
def inner(task):
    pass


mux.cron("@every 1s", "tick", name="tick", retention=3600, headers={"tenant-id": "of the tick"})
"""


def test_handlers_of_a_daemon_inherit_what_the_settings_name_and_its_ticks_go_through_middleware(
    start_daemon: StartDaemon, client: Client, directory: Path
) -> None:
    (directory / "heading.py").write_text(APP)
    env = {"BOILERD_APP": "heading:mux", "BOILERD_INHERIT_HEADERS": "tenant-id"}
    daemon = start_daemon("--concurrency", "2", directory=directory, env=env).ready()
    headers = {"tenant-id": "7", "traceparent": "00-1", "own": "x"}
    names = ["sync", "none", "copied", "bare", "told", "async", "many", "to-thread"]

    client.enqueue("outer:sync", {"request_id": "r-1"}, headers=headers, max_retries=0)
    client.enqueue("outer:async", headers={**headers, "request_id": "r-2"})
    for name in names:
        daemon.wait_for("task completed", task_id=name)

    requests = {line["task_id"]: line.get("request_id") for line in daemon.lines("task completed")}
    expected = dict.fromkeys(("sync", "copied", "told"), "r-1") | dict.fromkeys(("async", "many", "to-thread"), "r-2")
    assert {name: requests[name] for name in names} == expected | {"none": None, "bare": None}

    inspector = Inspector(client.connection)
    tick, *_ = wait_until(lambda: inspector.tasks("default", TaskState.COMPLETED), "a tick completed")
    assert tick.headers == {"tenant-id": "of the tick", "signed": "by tick"}

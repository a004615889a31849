"""What workers share with all their tasks, over thousands of these: one loop, and what lifespans made on it."""

import json
from pathlib import Path

import pytest

from boilerd import Client, Inspector
from boilerd.broker.views import Day
from support import StartDaemon, Valkey, wait_until

TASKS = 3000
APP = """
import asyncio, contextlib, os
from boilerd import ServeMux
mux = ServeMux()

@mux.lifespan
@contextlib.asynccontextmanager
async def connections(worker):
    free = asyncio.Queue()
    for _ in range(5):
        free.put_nowait(await asyncio.open_unix_connection(os.environ["SHARED"]))
    with open("made", "a") as file:
        file.write(f"{os.getpid()}\\n")
    yield {"free": free}
    while not free.empty():
        free.get_nowait()[1].close()

@mux.handle("app:ping")
async def ping(task):
    reader, writer = connection = await task.state["free"].get()
    writer.write(b"ECHO " + task.id.encode() + b"\\r\\n")
    await reader.readline()
    assert await reader.readline() == task.id.encode() + b"\\r\\n"
    task.state["free"].put_nowait(connection)
"""


@pytest.mark.parametrize("slots", [1, 50])
def test_a_pool_of_connections_made_in_a_lifespan_serves_thousands_of_tasks_on_one_loop(
    start_daemon: StartDaemon, client: Client, valkey: Valkey, directory: Path, slots: int
) -> None:
    (directory / "pingapp.py").write_text(APP)
    pools = json.dumps({"default": {"queues": {"default": 1}, "slots": slots}})
    env = {
        "BOILERD_APP": "pingapp:mux",
        "BOILERD_POOLS": pools,
        "SHARED": str(valkey.socket),
        "BOILERD_LOG_LEVEL": "warning",
    }
    client.enqueue_many([("app:ping", None)] * TASKS)

    daemon = start_daemon("--concurrency", "1", directory=directory, env=env)

    def days() -> list[Day]:
        return Inspector(client.connection).history("default", 2)  # it may go on beyond midnight

    wait_until(lambda: sum(day.processed for day in days()) == TASKS, "all have ended", deadline_s=60)
    assert [day.failed for day in days()] == [0, 0]
    assert len((directory / "made").read_text().split()) == 1
    assert not daemon.lines("task failed")
    assert daemon.stop() == 0

"""Write the records of a release: tasks of every kind, as its own client and workers leave them in Redis.

Run it when a release is made, in its tree: ``.venv/bin/python tests/records/write.py > tests/records/VERSION.json``.
The daemon is killed while it holds tasks, so that what a host leaves which lost its power is among them.
"""

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from rq import Queue
from rq.serializers import JSONSerializer

from boilerd import Client, Inspector

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

from support import RunningDaemon, Valkey, wait_until  # noqa: E402 - this is a program

#: Seconds until a retry, so that whoever reads the records finds it waiting.
LATE_S = 1_000_000_000
YEAR_S = 365 * 24 * 3600
SETTINGS = f"""
concurrency = 2
[queues]
default = 2
low = 1
[retry]
base = {LATE_S}
max_delay = {LATE_S}
[[cron]]
name = "tick"
spec = "* * * * * *"
type = "test:echo"
payload = {{ n = 9 }}
queue = "low"
retention = {YEAR_S}
"""


def write_ended(client: Client) -> None:
    """Tasks that the release's workers run to an end, or to a retry."""
    client.enqueue("test:echo", {"n": "completed"}, task_id="completed", retention=YEAR_S)
    client.enqueue("test:echo", None, task_id="completed-empty", retention=YEAR_S)
    client.enqueue("test:request", "skip", task_id="archived")
    client.enqueue("test:mail", {"to": "no list"}, task_id="archived-misfit")
    client.enqueue("test:fail", "x", task_id="archived-unique", max_retries=0, unique=YEAR_S, unique_until="end")
    client.enqueue("test:fail", {"n": 1}, task_id="retry")
    client.enqueue("test:fail", 1, task_id="retry-own-number", max_retries=3)


def write_waiting(client: Client) -> None:
    """Tasks that no worker of the release comes to any more."""
    client.enqueue("test:echo", {"n": 1, "request_id": "request-1"}, task_id="pending", retention=YEAR_S)
    client.enqueue("test:echo", {"n": 2}, task_id="pending-none")
    client.enqueue("test:mail", {"to": ["ada"]}, task_id="pending-typed", retention=YEAR_S, timeout=60, max_retries=2)
    client.enqueue("test:echo", {"a": [1, None]}, task_id="pending-unique", retention=YEAR_S, unique=YEAR_S)
    client.enqueue("test:echo", 3, task_id="pending-lasting", retention=YEAR_S, unique=YEAR_S, unique_until="ttl")
    client.enqueue("test:echo", 4, task_id="scheduled", retention=YEAR_S, process_in=LATE_S)
    client.enqueue("test:echo", 6, task_id="keyed-late", retention=YEAR_S, concurrency_key="account", process_in=LATE_S)


def write_of_plain_rq(connection: redis.Redis) -> None:
    """Jobs of RQ's own client: of a function, and of a task."""
    queue = Queue("default", connection=connection, serializer=JSONSerializer)
    queue.enqueue("rq_jobs.add", 2, second=3, job_id="rq-function", result_ttl=YEAR_S)
    queue.enqueue("boilerd.entry_point.run", "test:echo", {"n": 7}, job_id="rq-task", result_ttl=YEAR_S)


def record() -> dict[str, Any]:
    """What the release leaves in Redis."""
    with tempfile.TemporaryDirectory(prefix="boilerd-") as name:
        directory = Path(name)
        valkey = Valkey(directory).start()
        try:
            return written(valkey, directory)
        finally:
            valkey.stop()


def written(valkey: Valkey, directory: Path) -> dict[str, Any]:
    settings = directory / "boilerd.toml"
    settings.write_text(SETTINGS)
    connection = redis.Redis(unix_socket_path=str(valkey.socket))
    with Client.from_url(valkey.url) as client:
        write_ended(client)
        Inspector(connection).pause("low")
        daemon = RunningDaemon("--config", str(settings), directory=directory, env={"BOILERD_REDIS_URL": valkey.url})
        try:
            daemon.ready()
            wait_until(lambda: len(daemon.lines("task completed")) == 2, "the good tasks completed")
            wait_until(lambda: connection.zcard("rq:scheduled:default") == 2, "the failed tasks wait")
            wait_until(lambda: connection.zcard("rq:failed:default") == 3, "the others are in the archive")
            client.enqueue("test:brief", 1000, task_id="active", retention=YEAR_S, concurrency_key="account")
            wait_until(lambda: connection.zcard("rq:wip:default") == 1, "the first task runs")
            client.enqueue("test:echo", 8, task_id="keyed", retention=YEAR_S, concurrency_key="account")
            client.enqueue("test:brief", 1000, task_id="active-too", retention=YEAR_S)
            wait_until(lambda: connection.zcard("rq:wip:default") == 2, "the second task runs")
            wait_until(lambda: connection.zcard("boilerd:waiting:account") == 1, "the other one of its key waits")
            wait_until(lambda: connection.llen("rq:queue:low"), "the periodic task was enqueued")
            kill(daemon)
        finally:
            daemon.close()
        write_waiting(client)
        write_of_plain_rq(connection)
    return {"written_at": time.time(), "keys": read(connection)}


def kill(daemon: RunningDaemon) -> None:
    """End all its processes at one moment."""
    for process in [*daemon.processes(), {"pid": daemon.pid}]:
        if process["pid"]:
            os.kill(int(process["pid"]), signal.SIGKILL)


def read(connection: Any) -> dict[str, Any]:
    """Key → its type, its value, and for how many seconds it has yet to live."""
    found = {}
    for key in sorted(connection.scan_iter()):
        kind, ttl_s = text(connection.type(key)), connection.ttl(key)
        found[text(key)] = [kind, plain(READERS[kind](connection, key)), ttl_s if ttl_s >= 0 else None]
    return found


#: Type of a key → what reads it, whose answers redis-py cannot type.
READERS: dict[str, Callable[[Any, bytes], Any]] = {
    "string": lambda connection, key: connection.get(key),
    "hash": lambda connection, key: sorted(connection.hgetall(key).items()),
    "list": lambda connection, key: connection.lrange(key, 0, -1),
    "set": lambda connection, key: sorted(connection.smembers(key)),
    "zset": lambda connection, key: connection.zrange(key, 0, -1, withscores=True),
    "stream": lambda connection, key: [(place, sorted(fields.items())) for place, fields in connection.xrange(key)],
}


def as_json(found: dict[str, Any]) -> str:
    """One key a line, for whoever compares two releases."""
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in found.pop("keys").items())
    return json.dumps(found)[:-1] + f', "keys": {{\n{lines}\n}}}}'


def plain(value: Any) -> Any:
    """The value with texts for bytes."""
    if isinstance(value, bytes):
        return text(value)
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def text(value: bytes) -> str:
    """As text, also what is none."""
    return value.decode(errors="surrogateescape")


if __name__ == "__main__":
    sys.stdout.write(as_json(record()) + "\n")

"""Taskiq."""

import asyncio
import os

import waits
import work
from taskiq_redis import ListQueueBroker, RedisStreamBroker

# With redis-py 8's own limit of five seconds a worker that waits so long for a task ends, and all that run in it.
_OPTIONS = {"queue_name": "taskiq", "socket_timeout": None}
if "BENCH_STREAM" in os.environ:
    broker = RedisStreamBroker(os.environ["BENCH_URL"], xread_count=int(os.environ["BENCH_STREAM"]), **_OPTIONS)
else:
    broker = ListQueueBroker(os.environ["BENCH_URL"], **_OPTIONS)


def _register(kind, function):
    async def run(payload):
        return function(payload)

    run.__module__, run.__name__ = __name__, kind
    return broker.register_task(run, task_name=kind)


tasks = {kind: _register(kind, function) for kind, function in work.KINDS.items() if kind not in waits.PLAIN}
# These run as they are: coroutines on the loop, plain functions in threads.
tasks |= {
    kind: broker.register_task(function, task_name=kind) for kind, function in (waits.ASYNC | waits.PLAIN).items()
}
_loop = asyncio.new_event_loop()
_started = []


def enqueue(kind, payload):
    if not _started:
        _started.append(True)
        _loop.run_until_complete(broker.startup())
    _loop.run_until_complete(tasks[kind].kiq(payload))


async def _fill(kind, payloads):
    for first in range(0, len(payloads), 50):
        await asyncio.gather(*(tasks[kind].kiq(payload) for payload in payloads[first : first + 50]))


def fill(kind, payloads):
    if not _started:
        _started.append(True)
        _loop.run_until_complete(broker.startup())
    _loop.run_until_complete(_fill(kind, payloads))

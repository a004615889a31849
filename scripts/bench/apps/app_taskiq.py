"""Taskiq."""

import asyncio
import os

import work
from taskiq_redis import ListQueueBroker

broker = ListQueueBroker(os.environ["BENCH_URL"], queue_name="taskiq")


def _register(kind, function):
    async def run(payload):
        return function(payload)

    run.__module__, run.__name__ = __name__, kind
    return broker.register_task(run, task_name=kind)


tasks = {kind: _register(kind, function) for kind, function in work.KINDS.items()}
_loop = asyncio.new_event_loop()
_started = []


def enqueue(kind, payload):
    if not _started:
        _started.append(True)
        _loop.run_until_complete(broker.startup())
    _loop.run_until_complete(tasks[kind].kiq(payload))

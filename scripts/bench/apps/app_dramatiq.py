"""Dramatiq."""

import os

import dramatiq
import waits
import work
from dramatiq.brokers.redis import RedisBroker

broker = RedisBroker(url=os.environ["BENCH_URL"])
kinds = dict(work.KINDS)
if "BENCH_ASYNC" in os.environ:
    import asyncio

    import uvloop
    from dramatiq.middleware import AsyncIO

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    broker.add_middleware(AsyncIO())
    kinds |= waits.ASYNC
dramatiq.set_broker(broker)
tasks = {kind: dramatiq.actor(function, actor_name=kind) for kind, function in kinds.items()}


def enqueue(kind, payload):
    tasks[kind].send(payload)

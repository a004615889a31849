"""Dramatiq."""

import os

import dramatiq
import work
from dramatiq.brokers.redis import RedisBroker

broker = RedisBroker(url=os.environ["BENCH_URL"])
dramatiq.set_broker(broker)
tasks = {kind: dramatiq.actor(function, actor_name=kind) for kind, function in work.KINDS.items()}


def enqueue(kind, payload):
    tasks[kind].send(payload)

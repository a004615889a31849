"""Huey."""

import os

import work
from huey import RedisHuey
from redis import ConnectionPool

huey = RedisHuey("bench", results=False, utc=True, connection_pool=ConnectionPool.from_url(os.environ["BENCH_URL"]))
tasks = {kind: huey.task(name=kind)(function) for kind, function in work.KINDS.items()}


def enqueue(kind, payload):
    tasks[kind](payload)

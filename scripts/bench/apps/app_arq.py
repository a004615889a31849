"""arq."""

import asyncio
import os
from typing import ClassVar

import uvloop
import waits
from arq import create_pool, func
from arq.connections import RedisSettings

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
LOGGING = {"version": 1, "disable_existing_loggers": False, "loggers": {"arq": {"level": "ERROR"}}}


def _function(kind, function):
    async def run(ctx, payload):
        await function(payload)

    return func(run, name=kind)


class WorkerSettings:
    """What the command `arq` reads."""

    functions: ClassVar = [_function(kind, function) for kind, function in waits.ASYNC.items()]
    redis_settings = RedisSettings.from_dsn(os.environ["BENCH_URL"])
    max_jobs = int(os.environ.get("BENCH_SLOTS", "10"))
    poll_delay = float(os.environ.get("BENCH_POLL_S", "0.5"))
    keep_result = 0
    log_results = False


async def _fill(kind, payloads):
    pool = await create_pool(WorkerSettings.redis_settings)
    for first in range(0, len(payloads), 50):
        await asyncio.gather(*(pool.enqueue_job(kind, payload) for payload in payloads[first : first + 50]))


def fill(kind, payloads):
    asyncio.run(_fill(kind, payloads))

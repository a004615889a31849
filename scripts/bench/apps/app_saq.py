"""saq."""

import asyncio
import os

import uvloop
import waits
from saq import Job
from saq.queue.redis import RedisQueue

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
SLOTS = int(os.environ.get("BENCH_SLOTS", "10"))
#: As many of its own calls at once as tasks; 20 without it.
queue = RedisQueue.from_url(os.environ["BENCH_URL"], name="bench", max_concurrent_ops=SLOTS)


def _function(function):
    async def run(ctx, payload):
        await function(payload)

    return run


settings = {
    "queue": queue,
    "functions": [(kind, _function(function)) for kind, function in waits.ASYNC.items()],
    "concurrency": SLOTS,
}


async def _fill(kind, payloads):
    await queue.connect()
    for first in range(0, len(payloads), 50):
        jobs = [Job(function=kind, kwargs={"payload": payload}, ttl=-1) for payload in payloads[first : first + 50]]
        await asyncio.gather(*map(queue.enqueue, jobs))


def fill(kind, payloads):
    asyncio.run(_fill(kind, payloads))

"""RQ."""

import os

import redis
from rq import Queue
from rq.serializers import JSONSerializer

queue = Queue("default", connection=redis.Redis.from_url(os.environ["BENCH_URL"]), serializer=JSONSerializer)


def enqueue(kind, payload):
    queue.enqueue(f"work.{kind}", payload, result_ttl=0)


def enqueue_many(kind, payloads):
    for first in range(0, len(payloads), 1000):
        part = payloads[first : first + 1000]
        queue.enqueue_many([Queue.prepare_data(f"work.{kind}", (payload,), result_ttl=0) for payload in part])

"""Celery."""

import os

import work
from celery import Celery

app = Celery("bench", broker="redis+socket://" + os.environ["BENCH_URL"].removeprefix("unix://"))
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=4,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)
if "BENCH_SLOTS" in os.environ:
    # Green threads acknowledge at once; with 10 connections, its own setting, acknowledgements are lost.
    app.conf.broker_transport_options = {"max_connections": 2 * int(os.environ["BENCH_SLOTS"])}
tasks = {kind: app.task(function, name=kind) for kind, function in work.KINDS.items()}


def enqueue(kind, payload):
    tasks[kind].delay(payload)

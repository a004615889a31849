"""boilerd."""

import os

import waits
import work

from boilerd import Client, ServeMux

if "BENCH_SAMPLES" in os.environ:
    import samples  # noqa: F401 - starts in each child

mux = ServeMux()
for kind, function in work.KINDS.items():
    mux.handle(f"bench:{kind}", lambda task, function=function: function(task.payload))


def _handle(kind, function):
    # A lambda would do in a worker of one slot; one with more looks whether a handler is an `async def`.
    async def run(task):
        await function(task.payload)

    mux.handle(f"bench:{kind}", run)


for kind, function in waits.ASYNC.items():
    _handle(kind, function)

client = Client.from_url(os.environ["BENCH_URL"])


def enqueue(kind, payload, **options):
    client.enqueue(f"bench:{kind}", payload, **options)


def enqueue_many(kind, payloads, **options):
    client.enqueue_many([(f"bench:{kind}", payload) for payload in payloads], **options)

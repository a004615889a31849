"""boilerd."""

import os

import work

from boilerd import Client, ServeMux

if "BENCH_SAMPLES" in os.environ:
    import samples  # noqa: F401 - starts in each child

mux = ServeMux()
for kind, function in work.KINDS.items():
    mux.handle(f"bench:{kind}", lambda task, function=function: function(task.payload))

client = Client.from_url(os.environ["BENCH_URL"])


def enqueue(kind, payload, **options):
    client.enqueue(f"bench:{kind}", payload, **options)


def enqueue_many(kind, payloads, **options):
    client.enqueue_many([(f"bench:{kind}", payload) for payload in payloads], **options)

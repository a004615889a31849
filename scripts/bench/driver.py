"""A client of one peer, in that peer's environment: ``driver.py APP WORD ARGUMENT…``.

    fill KIND COUNT [QUEUE]   enqueue so many tasks, as fast as it can: in bulk or many at once where there is a way
    single COUNT              enqueue no-ops one by one; prints how many a second
    bulk COUNT                enqueue no-ops in bulk; prints how many a second, nothing where the peer has no way
    serve                     for each line on stdin, KIND [QUEUE], enqueue a task; prints the seconds that it took

and, of boilerd alone:

    mixed COUNT QUEUE         no-ops, and a task of a second after each fifth of them
    scheduled COUNT QUEUE     no-ops that come due together, in three seconds
    large COUNT QUEUE         no-ops with a megabyte of payload, one by one
"""

import importlib
import sys
import time

#: 60 bytes of JSON.
PAYLOAD = {"message": "x" * 46}


def payload(kind):
    return {"at": time.monotonic_ns()} if kind == "probe" else PAYLOAD


def fill(app, kind, count, *queue):
    options = {"queue": queue[0]} if queue else {}
    if hasattr(app, "fill"):
        app.fill(kind, [payload(kind) for _ in range(count)])
    elif hasattr(app, "enqueue_many"):
        for first in range(0, count, 10_000):
            app.enqueue_many(kind, [payload(kind) for _ in range(min(count - first, 10_000))], **options)
    else:
        for _ in range(count):
            app.enqueue(kind, payload(kind), **options)


def rate(action, count):
    began_s = time.perf_counter()
    action()
    return count / (time.perf_counter() - began_s)


def serve(app):
    app.enqueue("noop", PAYLOAD)  # connects
    for line in sys.stdin:
        kind, *queue = line.split()
        options = {"queue": queue[0]} if queue else {}
        began_s = time.perf_counter()
        app.enqueue(kind, payload(kind), **options)
        print(time.perf_counter() - began_s, flush=True)


def neighbour(app, word, count, queue):
    if word == "mixed":
        for _ in range(5):
            app.enqueue_many("noop", [PAYLOAD] * (count // 5), queue=queue)
            app.enqueue("second", PAYLOAD, queue=queue)
    elif word == "scheduled":
        app.enqueue_many("noop", [PAYLOAD] * count, queue=queue, process_in=3)
        time.sleep(3)
    else:
        for _ in range(count):
            app.enqueue("noop", "x" * 1_000_000, queue=queue)


def main(app_name, word, *arguments):
    app = importlib.import_module(app_name)
    if word == "fill":
        fill(app, arguments[0], int(arguments[1]), *arguments[2:])
    elif word == "single":
        app.enqueue("noop", PAYLOAD)
        count = int(arguments[0])
        print(rate(lambda: [app.enqueue("noop", PAYLOAD) for _ in range(count)], count))
    elif word == "bulk":
        if hasattr(app, "enqueue_many"):
            app.enqueue("noop", PAYLOAD)
            count = int(arguments[0])
            print(rate(lambda: app.enqueue_many("noop", [PAYLOAD] * count), count))
    elif word == "serve":
        serve(app)
    else:
        neighbour(app, word, int(arguments[0]), arguments[1])


if __name__ == "__main__":
    main(*sys.argv[1:])

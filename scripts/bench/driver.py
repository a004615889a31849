"""A client of one peer, in that peer's environment: ``driver.py APP WORD ARGUMENT…``.

fill KIND COUNT   enqueue so many tasks, as fast as it can
single COUNT      enqueue no-ops one by one; prints how many a second
bulk COUNT        enqueue no-ops in bulk; prints how many a second, nothing where the peer has no way
serve             for each line on stdin, a kind, enqueue one task; prints the seconds that it took
"""

import importlib
import sys
import time

#: 60 bytes of JSON.
PAYLOAD = {"message": "x" * 46}


def payload(kind):
    return {"at": time.monotonic_ns()} if kind == "probe" else PAYLOAD


def fill(app, kind, count):
    if hasattr(app, "enqueue_many"):
        app.enqueue_many(kind, [payload(kind) for _ in range(count)])
    else:
        for _ in range(count):
            app.enqueue(kind, payload(kind))


def rate(action, count):
    began_s = time.perf_counter()
    action()
    return count / (time.perf_counter() - began_s)


def main(app_name, word, *arguments):
    app = importlib.import_module(app_name)
    if word == "fill":
        fill(app, arguments[0], int(arguments[1]))
    elif word == "single":
        app.enqueue("noop", PAYLOAD)  # connects
        count = int(arguments[0])
        print(rate(lambda: [app.enqueue("noop", PAYLOAD) for _ in range(count)], count))
    elif word == "bulk":
        if hasattr(app, "enqueue_many"):
            app.enqueue("noop", PAYLOAD)
            count = int(arguments[0])
            print(rate(lambda: app.enqueue_many("noop", [PAYLOAD] * count), count))
    elif word == "serve":
        app.enqueue("noop", PAYLOAD)
        for line in sys.stdin:
            kind = line.strip()
            began_s = time.perf_counter()
            app.enqueue(kind, payload(kind))
            print(time.perf_counter() - began_s, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Peers that run many tasks at once in each of two processes: on a loop, in green threads or in threads.

Each has the fastest of the settings that were tried, all of them with uvloop where they run on a loop:

    taskiq    prefetch 0, which is its own: 500 is slower; of its streams 100 tasks a call, which is its own: 500 and
              2,000 are slower; no limit for an answer of Redis, or idle workers end
    saq       as many calls to Redis at once as tasks; its own is 20
    arq       looks for tasks every 10 ms: 1 and 100 ms are alike within the noise; with 0.5 s, its own, slots stand
              empty
    Dramatiq  AsyncIO lets a thread wait for each coroutine, so it has as many threads as others have slots; its green
              threads, left out here, end fewer tasks a second
    Celery    prefetches one round of its slots in green threads, where four are slower; twice as many connections as
              tasks, for with 10, its own, acknowledgements are lost
"""

import json
from collections.abc import Mapping
from typing import Any

from peers import PEERS, Peer

PROCESSES = 2
#: Tasks at once in each process.
SLOTS, THREADS = 500, 8

_BOILERD = "boilerd run --redis-url {url} --state-dir {directory} --app {app}:mux --log-level error"
_TASKIQ = "taskiq worker {app}:broker --workers 2 --log-level ERROR --no-parse --max-async-tasks"
_DRAMATIQ = "dramatiq {app} -p 2 --skip-logging"
_CELERY = (
    "celery -A {app} worker -n bench{copy}@%h --loglevel=ERROR --without-gossip --without-mingle --without-heartbeat"
)


def boilerd(loop: str, notes: str, *, slots: int = SLOTS, **options: Any) -> Peer:
    """A daemon with one pool; its table is that of boilerd.toml, as a variable."""
    pool = {"queues": {"default": 1}, "processes": PROCESSES, "slots": slots, "loop": loop}
    return _peer(
        "boilerd", _BOILERD, "at least once", notes, env={"BOILERD_POOLS": json.dumps({"default": pool})}, **options
    )


def _peer(environment: str, command: str, delivery: str, notes: str, **options: Any) -> Peer:
    package = environment.partition("-")[0]
    return Peer(
        environment, f"app_{package}", command, (), (), (0, 0, 0), delivery, notes, package,
        **{"group": "slots", **options},
    )  # fmt: skip


_IN_THREADS: Mapping[str, Any] = {"group": "threads", "form": "plain"}
SLOT_PEERS: Mapping[str, Peer] = {
    "boilerd-uvloop": boilerd("uvloop", "2 processes of 500 slots, uvloop"),
    "boilerd-asyncio": boilerd("asyncio", "2 processes of 500 slots, asyncio's own loop"),
    "taskiq-list": _peer(
        "taskiq", f"{_TASKIQ} {SLOTS}", "at most once", "2 processes of 500 tasks, list broker, uvloop"
    ),
    "taskiq-stream": _peer(
        "taskiq", f"{_TASKIQ} {SLOTS}", "at least once",
        "2 processes of 500 tasks, stream broker, 100 tasks a call, uvloop", env={"BENCH_STREAM": "100"},
    ),
    "saq": _peer(
        "saq", "saq {app}.settings --workers 2", "at least once", "2 processes, concurrency 500, uvloop",
        env={"BENCH_SLOTS": str(SLOTS)},
    ),
    "arq": _peer(
        "arq", "arq {app}.WorkerSettings --custom-log-dict {app}.LOGGING", "at least once",
        "2 programs, max_jobs 500, poll_delay 10 ms, uvloop",
        copies=PROCESSES, env={"BENCH_SLOTS": str(SLOTS), "BENCH_POLL_S": "0.01"},
    ),
    "dramatiq-async": _peer(
        "dramatiq", f"{_DRAMATIQ} -t {SLOTS}", "at least once",
        "2 processes of 500 threads that wait for AsyncIO's loop, uvloop", env={"BENCH_ASYNC": "1"},
    ),
    "celery-gevent": _peer(
        "celery-gevent", f"{_CELERY} -P gevent -c {SLOTS} --prefetch-multiplier 1", "at least once (acks_late)",
        "2 programs of 500 green threads, plain handlers, prefetch multiplier 1",
        form="plain", copies=PROCESSES, env={"BENCH_SLOTS": str(SLOTS)},
    ),
    "boilerd-threads": boilerd("auto", "2 processes of 8 slots, plain handlers", slots=THREADS, **_IN_THREADS),
    "dramatiq-threads": _peer(
        "dramatiq", f"{_DRAMATIQ} -t {THREADS}", "at least once", "2 processes of 8 threads", **_IN_THREADS
    ),
    "taskiq-threads": _peer(
        "taskiq", f"{_TASKIQ} {THREADS} --max-threadpool-threads {THREADS}", "at most once",
        "2 processes of 8 threads, list broker, uvloop", **_IN_THREADS,
    ),
    "huey-threads": _peer(
        "huey", f"huey_consumer {{app}}.huey -w {THREADS} -k thread -q -n", "at most once",
        "2 programs of 8 threads", copies=PROCESSES, **_IN_THREADS,
    ),
    "celery-threads": _peer(
        "celery", f"{_CELERY} -P threads -c {THREADS} --prefetch-multiplier 4", "at least once (acks_late)",
        "2 programs of 8 threads, prefetch multiplier 4", copies=PROCESSES, **_IN_THREADS,
    ),
}  # fmt: skip

ALL_PEERS: Mapping[str, Peer] = {**PEERS, **SLOT_PEERS}

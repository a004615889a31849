"""What is measured of peers that run many tasks at once in each process.

Of each work the steady part of a drain is measured: from when a fifth of its tasks have ended until nine tenths have.
Before that processes start and tasks run in step, and after it slots stand empty. Both ends are whole rounds of all
slots, because tasks that sleep alike end in waves.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from peers import Bench, Peer
from server import wait_until
from slot_peers import PROCESSES, SLOTS, THREADS, boilerd
from trees import Tree, cpu_s, pss_mb

#: Tasks of a drain: so many, or as many as last so long where a peer is slow or fast.
TASKS, AT_MOST_S, AT_LEAST_S = 25_000, 15.0, 5.0
#: The steady part of a drain.
STEADY = (0.2, 0.9)
#: All slots that often at least, for a steady part of some rounds.
ROUNDS = 6

#: Tasks that wait at once, how long they are watched, and how long a lease is, which they outlive.
WAITING, WATCHED_S, LEASE_S = 10_000, 30.0, 30.0
#: RQ's scores of claims end here; boilerd's are above.
LEASE_BASE = 10_000_000_000


@dataclass(frozen=True)
class _Moment:
    at_s: float
    ended: int
    workers_s: float
    server_s: float


def _work(kind: str, slots: int, bench: Bench, peer: Peer, scale: float) -> dict[str, float]:
    """Tasks a second; µs of CPU a task, of workers and server; MB of the workers while all slots are in use."""
    together, handler = PROCESSES * slots, f"{peer.form}_{kind}"
    first, last = _drain(bench, peer, handler, ROUNDS * together, together)[:2]
    rate = (last.ended - first.ended) / (last.at_s - first.at_s)
    first, last, memory_mb = _drain(bench, peer, handler, _tasks(rate, together, scale), together)
    ended = last.ended - first.ended
    return {
        f"{kind} rate": ended / (last.at_s - first.at_s),
        f"{kind} worker us": (last.workers_s - first.workers_s) / ended * 1e6,
        f"{kind} server us": (last.server_s - first.server_s) / ended * 1e6,
        f"{kind} pss": memory_mb,
    }


def _tasks(rate: float, together: int, scale: float) -> int:
    tasks = max(min(TASKS, rate * AT_MOST_S), rate * AT_LEAST_S)
    return max(int(tasks * scale), ROUNDS * together)


def _drain(bench: Bench, peer: Peer, handler: str, tasks: int, together: int) -> tuple[_Moment, _Moment, float]:
    """Begin and end of the steady part, and MB at its end. The queue is full before the workers start.

    Nobody is held by a signal while it is filled, as those are that run one task at a time: a client of Redis that was
    held for five seconds gives up its call, and who delivers at most once loses a task by that.
    """
    bench.fresh()
    bench.drive(peer, "fill", handler, tasks)
    tree = bench.start(peer)
    try:
        first = _when(bench, tree, _rounds(tasks * STEADY[0], together))
        last = _when(bench, tree, _rounds(tasks * STEADY[1], together))
        return first, last, tree.pss_mb()
    finally:
        tree.end()


def _rounds(tasks: float, together: int) -> int:
    return round(tasks / together) * together


def _when(bench: Bench, tree: Tree, ended: int) -> _Moment:
    _wait_ended(bench, tree, ended)
    return _Moment(time.perf_counter(), bench.count(), tree.cpu_s(), cpu_s(bench.server.process.pid))


def _wait_ended(bench: Bench, tree: Tree, ended: int) -> None:
    wait_until(lambda: tree.is_up() and bench.count() >= ended, f"{ended} tasks have ended", every_s=0.005)


def waiting(bench: Bench) -> dict[str, dict[str, float]]:
    """What boilerd and the server use while 10,000 tasks wait, longer than a lease; by loop."""
    return {
        loop: held(bench, boilerd(loop, "", slots=WAITING // PROCESSES)) for loop in ("asyncio", "uvloop")
    }  # fmt: skip


def held(bench: Bench, peer: Peer, tasks: int = WAITING) -> dict[str, float]:
    """Let so many tasks of a peer wait at once, and look at it for half a minute; then each must have run once."""
    bench.fresh()
    tree = bench.start(peer)
    try:
        began_s = time.perf_counter()
        bench.drive(peer, "fill", "async_hold", tasks)
        wait_until(lambda: tree.is_up() and bench.count("began") >= tasks, "all of them wait", every_s=0.05)
        found = {"all wait after": time.perf_counter() - began_s, **_watched(bench, tree)}
        if bench.count():
            raise SystemExit(f"bench: some of {tasks} tasks ended before the last began, or while they were watched")
        _wait_ended(bench, tree, tasks)
        wait_until(lambda: not bench.connection.zcard("rq:wip:default"), "all of them are acknowledged")
        return {**found, "lost": bench.count("began") - tasks}
    finally:
        tree.end()


def _watched(bench: Bench, tree: Tree) -> dict[str, float]:
    server = bench.server.process.pid
    began_s, server_s, workers_s = time.perf_counter(), cpu_s(server), tree.cpu_s()
    least_s = LEASE_S
    while time.perf_counter() - began_s < WATCHED_S:
        least_s = min(least_s, _least_lease_s(bench))
        time.sleep(0.5)
    took_s = time.perf_counter() - began_s
    return {
        "daemon cpu": 100 * (tree.cpu_s() - workers_s) / took_s,
        "server cpu": 100 * (cpu_s(server) - server_s) / took_s,
        "daemon pss": tree.pss_mb(),
        "server pss": pss_mb(server),
        "least lease": least_s,
    }


def _least_lease_s(bench: Bench) -> float:
    """Seconds that are left of the claim that ends first."""
    first = bench.connection.zrange("rq:wip:default", 0, 0, withscores=True)
    seconds, microseconds = bench.connection.time()
    return float(first[0][1]) - LEASE_BASE - seconds - microseconds / 1e6 if first else LEASE_S


#: Group of peers → measure → what does it; the names are those of `--only`.
MEASURES: Mapping[str, Mapping[str, Callable[[Bench, Peer, float], dict[str, float]]]] = {
    "slots": {
        "slots-200ms": partial(_work, "200ms", SLOTS),
        "slots-20ms": partial(_work, "20ms", SLOTS),
        "slots-noop": partial(_work, "noop", SLOTS),
    },
    "threads": {"threads-20ms": partial(_work, "20ms", THREADS), "threads-noop": partial(_work, "noop", THREADS)},
}

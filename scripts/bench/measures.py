"""What is measured of every peer. Each measure starts its workers anew, on an empty server."""

import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from peers import WORKERS, Bench, Peer
from server import wait_until
from trees import Tree, cpu_s

#: Kind of work → how long a drain of it shall take; its tasks are counted by the peer's rate. At the end
#: some workers have nothing to do while the last tasks sleep: that shall be a small part of it.
DRAINS_S = {"noop": 2.0, "cpu": 2.0, "sleep": 6.0}
#: Samples of latency, and the most that passes between two of them.
PROBES, GAP_S = 200, 0.05
IDLE_S = 10.0


def cores() -> int:
    """Cores that this program may use."""
    return len(os.sched_getaffinity(0))


@contextmanager
def running(bench: Bench, peer: Peer, workers: int = WORKERS, *flags: str) -> Iterator[Tree]:
    """Its workers, up and warm, on an empty queue."""
    bench.fresh()
    tree = bench.start(peer, workers, *flags)
    try:
        bench.warm(peer, workers)
        yield tree
    finally:
        tree.end()


def drain(bench: Bench, peer: Peer, scale: float) -> dict[str, float]:
    """Tasks a second of each kind; of no-ops what they cost as well.

    The workers are up and warm, and stopped while the queue is filled. The clock runs from
    the signal that lets them go on until the queue is empty.
    """
    found = {}
    with running(bench, peer) as tree:
        for (kind, drain_s), rate in zip(DRAINS_S.items(), peer.rates, strict=True):
            if kind != "noop" and peer.is_variant:
                continue
            tasks = max(int(rate * drain_s * scale), 3 * WORKERS)
            rate_found, costs = drain_once(bench, peer, tree, kind, tasks)
            found[f"drain {kind}"] = rate_found
            if kind == "noop":
                found |= costs
                found["pss loaded"] = tree.pss_mb()
    return found


def drain_once(bench: Bench, peer: Peer, tree: Tree, kind: str, tasks: int) -> tuple[float, dict[str, float]]:
    """Tasks a second, and what one costs: µs of workers and server, commands."""
    tree.hold()
    bench.drive(peer, "fill", kind, tasks)
    bench.connection.config_resetstat()
    server = bench.server
    worker_s, server_s, commands = tree.cpu_s(), cpu_s(server.process.pid), server.commands()
    began_s = time.perf_counter()
    tree.go()
    bench.wait_drained(peer)
    took_s = time.perf_counter() - began_s
    costs = {
        "worker us": (tree.cpu_s() - worker_s) / tasks * 1e6,
        "server us": (cpu_s(server.process.pid) - server_s) / tasks * 1e6,
        "commands": (server.commands() - commands) / tasks,
    }
    return tasks / took_s, costs


def enqueue(bench: Bench, peer: Peer, scale: float) -> dict[str, float]:
    """Enqueued tasks a second, by one client: one by one, and in bulk where there is a way."""
    bench.fresh()
    found = {"enqueue": float(bench.drive(peer, "single", int(3000 * scale)))}
    bench.fresh()
    bulk = bench.drive(peer, "bulk", int(20_000 * scale))
    return found | ({"enqueue many": float(bulk)} if bulk else {})


def latency(bench: Bench, peer: Peer, scale: float) -> dict[str, float]:
    """Milliseconds from the call of enqueue to the start of the handler, one task at a time."""
    with running(bench, peer):
        enqueue_one = bench.driver(peer)
        for _ in range(int(PROBES * scale) + 5):
            probe(bench, enqueue_one)
            time.sleep(GAP_S * (0.2 + 0.8 * random.random()))
        enqueue_one("")
        found = sorted(probes(bench)[5:])
    return {"latency p50": statistics.median(found), "latency p99": found[int(0.99 * (len(found) - 1))]}


def probe(bench: Bench, enqueue_one: Callable[[str], float], words: str = "probe") -> float:
    """Enqueue a task that tells when it starts, and wait until it did; seconds that the enqueue took."""
    size = bench.probes.stat().st_size
    took_s = enqueue_one(words)
    wait_until(lambda: bench.probes.stat().st_size > size, "the probe started", every_s=0.001)
    return took_s


def probes(bench: Bench) -> list[float]:
    """Milliseconds from enqueue to start of each probe."""
    lines = bench.probes.read_text("ascii").split()
    return [(int(line.partition(",")[2]) - int(line.partition(",")[0])) / 1e6 for line in lines]


def start(bench: Bench, peer: Peer, scale: float) -> dict[str, float]:
    """Seconds from the start of the program to the start of its first task."""
    found = []
    for _ in range(max(int(3 * scale), 1)):
        bench.fresh()
        bench.drive(peer, "fill", "probe", 1)
        began_ns = time.monotonic_ns()
        tree = bench.start(peer)
        try:
            wait_until(lambda: bench.probes.stat().st_size, "the first task started")
        finally:
            tree.end()
        found.append((int(bench.probes.read_text("ascii").partition(",")[2]) - began_ns) / 1e9)
    return {"first task": statistics.median(found)}


def idle(bench: Bench, peer: Peer, scale: float) -> dict[str, float]:
    """What it uses while there is nothing to do: MB, per cent of a core, commands a second."""
    with running(bench, peer) as tree:
        time.sleep(1)
        cpu_s, began_s = tree.cpu_s(), time.perf_counter()
        requests, commands = bench.server.totals()
        time.sleep(IDLE_S * max(scale, 0.2))
        requests_now, commands_now = bench.server.totals()
        took_s = time.perf_counter() - began_s
        return {
            "idle requests": (requests_now - requests - 1) / took_s,
            "idle cpu": 100 * (tree.cpu_s() - cpu_s) / took_s,
            "idle commands": (commands_now - commands - 1) / took_s,
            "pss idle": tree.pss_mb(),
        }


MEASURES: Mapping[str, Callable[[Bench, Peer, float], dict[str, float]]] = {
    "drain": drain, "enqueue": enqueue, "latency": latency, "start": start, "idle": idle,
}  # fmt: skip

"""What is measured of boilerd alone: many workers, long queues, and neighbours that ask for much."""

import statistics
import threading
import time
from collections.abc import Callable

from measures import drain_once, probe, probes, running
from peers import PEERS, Bench
from server import wait_until

BOILERD = PEERS["boilerd"]
SAMPLES = 60


def scaling(bench: Bench) -> dict[str, dict[str, float]]:
    """No-ops a second by the number of workers, and by the number of tasks that wait; medians of 3."""
    by_workers = {}
    for workers in (1, 2, 5, 10, 20, 50):
        with running(bench, BOILERD, workers) as tree:
            by_workers[str(workers)] = statistics.median(
                drain_once(bench, BOILERD, tree, "noop", 15_000)[0] for _ in range(3)
            )
    by_length = {str(10**power): _rate_at(bench, 10**power) for power in (3, 4, 5, 6)}
    return {"workers": by_workers, "waiting": by_length}


def _rate_at(bench: Bench, waiting: int) -> float:
    """No-ops a second while about so many wait: at most 20,000 of them are counted."""
    counted = min(waiting, 20_000)
    rates = []
    with running(bench, BOILERD) as tree:
        for _ in range(3):
            tree.hold()
            bench.drive(BOILERD, "fill", "noop", waiting - bench.connection.llen("rq:queue:default"))
            target = waiting - counted
            began_s = time.perf_counter()
            tree.go()
            wait_until(lambda target=target: bench.connection.llen("rq:queue:default") <= target, "they were claimed")
            rates.append(counted / (time.perf_counter() - began_s))
    return statistics.median(rates)


def stalls(bench: Bench) -> dict[str, dict[str, float]]:
    """Milliseconds that a lone critical task waits for its enqueue and for its start, beside various neighbours."""
    neighbours: dict[str, Callable[[], object]] = {
        "nothing else": lambda: None,
        "1 ms tasks fill low": lambda: bench.drive(BOILERD, "fill", "cpu", 20_000, "low"),
        "five tasks of 1 s among 3,000 no-ops": lambda: bench.drive(BOILERD, "mixed", 3000, "low"),
        "10⁶ no-ops in low": lambda: bench.drive(BOILERD, "fill", "noop", 1_000_000, "low"),
        "10⁵ scheduled tasks come due together": lambda: bench.drive(BOILERD, "scheduled", 100_000, "low"),
        "payloads of 1 MB": lambda: bench.drive(BOILERD, "large", 300, "low"),
    }
    found = {}
    for name, begin in neighbours.items():
        with running(bench, BOILERD):
            found[name] = _beside(bench, begin)
    with running(bench, BOILERD, 50):
        found["50 workers, no-ops"] = _beside(bench, lambda: bench.drive(BOILERD, "fill", "noop", 200_000, "low"))
    return found


def _beside(bench: Bench, begin: Callable[[], object]) -> dict[str, float]:
    enqueue_one = bench.driver(BOILERD)
    neighbour = threading.Thread(target=begin)
    enqueued_ms: list[float] = []
    enqueue_one("probe critical")
    wait_until(lambda: bench.probes.stat().st_size, "the first probe started")
    neighbour.start()
    while len(enqueued_ms) < SAMPLES or neighbour.is_alive():
        enqueued_ms.append(1000 * probe(bench, enqueue_one, "probe critical"))
        time.sleep(0.02)
    neighbour.join()
    enqueue_one("")
    started_ms = sorted(probes(bench)[1:])
    return {
        "enqueue p50": statistics.median(enqueued_ms), "enqueue worst": max(enqueued_ms),
        "start p50": statistics.median(started_ms), "start worst": started_ms[-1], "samples": len(started_ms),
    }  # fmt: skip

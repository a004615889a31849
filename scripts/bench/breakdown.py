"""Where the microseconds of a no-op go, in boilerd's workers and in the server."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from measures import drain_once, running
from peers import PEERS, Bench

TASKS = 60_000
#: Drains; the samples of all of them are counted together.
DRAINS = 3


def breakdown(bench: Bench) -> dict[str, dict[str, float]]:
    """Variant → part → µs a task."""
    return {name: _breakdown(bench, name) for name in ("boilerd", "boilerd-logs")}


def _breakdown(bench: Bench, name: str) -> dict[str, float]:
    samples = bench.directory / f"samples-{name}"
    peer = replace(PEERS[name], env={"BENCH_SAMPLES": str(samples)})
    workers_us, server_us, share = 0.0, 0.0, 0.0
    with running(bench, peer) as tree:
        for _ in range(DRAINS):
            _, costs = drain_once(bench, peer, tree, "noop", TASKS)
            workers_us += costs["worker us"] / DRAINS
            server_us += costs["server us"] / DRAINS
            share += _commands_share(bench) / DRAINS
    counts = _counts(samples)
    return {
        **{f"workers: {part}": workers_us * count / counts.total() for part, count in counts.most_common()},
        "server: connections, Lua of the scripts": server_us * (1 - share),
        "server: commands of the scripts": server_us * share,
    }


def _commands_share(bench: Bench) -> float:
    """How much of the scripts' time is in the commands that they call; by the wall clock, as the server counts."""
    stats = bench.connection.info("commandstats")
    outside = {"evalsha", "eval", "blpop", "type", "config|resetstat", "info"}
    inside = sum(row["usec"] for key, row in stats.items() if key.removeprefix("cmdstat_") not in outside)
    return float(inside / stats["cmdstat_evalsha"]["usec"])


def _counts(samples: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    for path in samples.parent.glob(f"{samples.name}.*"):
        for line in path.read_text("utf-8").splitlines():
            count, _, part = line.partition(" ")
            counts[part] += int(count)
    return counts

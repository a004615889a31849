"""Results as JSON, as Markdown tables, and as plots."""

import json
import statistics
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from peers import HERE, prepare
from slot_peers import ALL_PEERS

#: Figure → heading, decimals, whether more is better.
FIGURES: Mapping[str, tuple[str, int, bool]] = {
    "drain noop": ("no-op tasks/s", 0, True),
    "drain cpu": ("1 ms CPU tasks/s", 0, True),
    "drain sleep": ("20 ms sleep tasks/s", 0, True),
    "enqueue": ("enqueue/s", 0, True),
    "enqueue many": ("enqueue in bulk/s", 0, True),
    "latency p50": ("idle latency p50, ms", 2, False),
    "latency p99": ("idle latency p99, ms", 2, False),
    "first task": ("start to first task, s", 3, False),
    "pss idle": ("PSS idle, MB", 0, False),
    "pss loaded": ("PSS after a drain, MB", 0, False),
    "idle cpu": ("idle CPU, % of a core", 2, False),
    "idle requests": ("idle requests/s", 1, False),
    "idle commands": ("idle commands/s, in scripts too", 1, False),
    "worker us": ("workers' CPU a no-op, µs", 0, False),
    "server us": ("server's CPU a no-op, µs", 0, False),
    "commands": ("commands a no-op, in scripts too", 1, False),
}
#: Work of peers that run many tasks at once → what it is called.
WORKS: Mapping[str, str] = {"200ms": "200 ms sleep", "20ms": "20 ms sleep", "noop": "no-op"}
FIGURES_OF_SLOTS: Mapping[str, tuple[str, int, bool]] = {
    f"{kind} {figure}": (f"{work}: {heading}", 0, is_more_better)
    for kind, work in WORKS.items()
    for figure, heading, is_more_better in (
        ("rate", "tasks/s", True),
        ("worker us", "workers' CPU a task, µs", False),
        ("server us", "server's CPU a task, µs", False),
        ("pss", "PSS, MB", False),
    )
}
#: Group of peers → heading, its figures.
GROUPS: Mapping[str, tuple[str, Mapping[str, tuple[str, int, bool]]]] = {
    "processes": ("10 workers, one task at a time", FIGURES),
    "slots": ("Two processes, 500 tasks at once in each", FIGURES_OF_SLOTS),
    "threads": ("Two processes, 8 threads each", FIGURES_OF_SLOTS),
}
WAITING: Mapping[str, tuple[str, int]] = {
    "all wait after": ("all wait, s after the first enqueue", 1),
    "daemon pss": ("PSS of the daemon, MB", 0),
    "server pss": ("PSS of the server, MB", 0),
    "daemon cpu": ("daemon's CPU, % of a core", 1),
    "server cpu": ("server's CPU, % of a core", 1),
    "least lease": ("least that was left of a lease, s", 1),
    "lost": ("attempts lost", 0),
}
Rounds = list[dict[str, dict[str, float]]]


def write(results: Mapping[str, Any], out: Path) -> None:
    """Write bench.json, bench.md and the plots."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "bench.json").write_text(json.dumps(results, indent=1), "utf-8")
    (out / "bench.md").write_text("\n".join(_markdown(results)) + "\n", "utf-8")
    subprocess.run([prepare("plots") / "python", HERE / "plots.py", out], check=True)


def _markdown(results: Mapping[str, Any]) -> Iterable[str]:
    machine, rounds = results["machine"], results["rounds"]
    peers = [name for name in ALL_PEERS if rounds and name in rounds[0]]
    yield f"{machine['cores']} cores, Python {machine['python']}, {machine['server']} on a Unix socket, without a disk;"
    if peers:
        yield f"payloads of 60 bytes, no results kept; medians of {machine['rounds']} interleaved rounds."
    if machine["is_apart"]:
        yield "Server and workers are scheduled as groups, as services are."
    for group, (heading, figures) in GROUPS.items():
        if members := [name for name in peers if ALL_PEERS[name].group == group]:
            yield from ("", f"{heading}:")
            yield from _tables(rounds, members, machine["versions"], figures)
    yield from _alone(results["alone"])


def _tables(
    rounds: Rounds, peers: list[str], versions: Mapping[str, str], figures: Mapping[str, tuple[str, int, bool]]
) -> Iterable[str]:
    yield from ("", "| | version | delivery | remarks |", "|---|---|---|---|")
    for name in peers:
        peer = ALL_PEERS[name]
        yield f"| {name} | {versions[name]} | {peer.delivery} | {peer.notes} |"
    yield from ("", "Median (least to most):", "", "| | " + " | ".join(peers) + " |", "|---" * (len(peers) + 1) + "|")
    for figure, (heading, decimals, _) in figures.items():
        cells = [_spread(rounds, name, figure, decimals) for name in peers]
        if any(cells):
            yield f"| {heading} | " + " | ".join(cells) + " |"
    first, *others = peers
    if first.startswith("boilerd") and others:
        yield from (
            "",
            f"How many times better {first} is, pair by pair within each round, median (least to most):",
            "",
        )
        yield from ("| | " + " | ".join(others) + " |", "|---" * (len(others) + 1) + "|")
        for figure, (heading, _, is_more_better) in figures.items():
            cells = [_ratio(rounds, first, name, figure, is_more_better=is_more_better) for name in others]
            if any(cells):
                yield f"| {heading} | " + " | ".join(cells) + " |"


def _alone(alone: Mapping[str, Any]) -> Iterable[str]:
    for by, rates in alone.get("scaling", {}).items():
        yield from ("", f"No-ops/s of boilerd by {by}:", "", "| " + " | ".join(rates) + " |", "|---" * len(rates) + "|")
        yield "| " + " | ".join(f"{rate:,.0f}" for rate in rates.values()) + " |"
    if parts := alone.get("breakdown"):
        yield from ("", "Microseconds of CPU that a no-op takes of boilerd, and where they go:", "")
        yield from ("| | " + " | ".join(parts) + " |", "|---" * (len(parts) + 1) + "|")
        for part in next(iter(parts.values())):
            yield f"| {part} | " + " | ".join(f"{row.get(part, 0):.1f}" for row in parts.values()) + " |"
        yield "| in all | " + " | ".join(f"{sum(row.values()):.1f}" for row in parts.values()) + " |"
    if waiting := alone.get("waiting"):
        yield from ("", "10,000 tasks of boilerd that wait at once in two processes, by loop:", "")
        yield from ("| | " + " | ".join(waiting) + " |", "|---" * (len(waiting) + 1) + "|")
        for figure, (heading, decimals) in WAITING.items():
            cells = [f"{row[figure]:,.{decimals}f}" for row in waiting.values()]
            yield f"| {heading} | " + " | ".join(cells) + " |"
    if stalls := alone.get("stalls"):
        heads = list(next(iter(stalls.values())))
        yield from ("", "A lone critical task of boilerd beside others, ms from the call of enqueue:", "")
        yield from ("| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|")
        for name, row in stalls.items():
            yield f"| {name} | " + " | ".join(f"{row[head]:,.1f}" for head in heads) + " |"


def _values(rounds: Rounds, name: str, figure: str) -> list[float]:
    return [row[name][figure] for row in rounds if figure in row[name]]


def _spread(rounds: Rounds, name: str, figure: str, decimals: int) -> str:
    values = _values(rounds, name, figure)
    if not values:
        return ""
    return f"{statistics.median(values):,.{decimals}f} ({min(values):,.{decimals}f} to {max(values):,.{decimals}f})"


def _ratio(rounds: Rounds, first: str, name: str, figure: str, *, is_more_better: bool) -> str:
    pairs = zip(_values(rounds, first, figure), _values(rounds, name, figure), strict=False)
    ratios = [a / b if is_more_better else b / a for a, b in pairs if a and b]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""

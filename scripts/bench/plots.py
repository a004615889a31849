"""Plots of bench.json as SVG, in the environment of requirements/plots.txt: ``plots.py DIRECTORY``."""

import json
import statistics
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

BARS = {
    "drain noop": "no-op tasks/s", "drain cpu": "1 ms CPU tasks/s", "drain sleep": "20 ms sleep tasks/s",
    "latency p50": "idle latency p50, ms", "first task": "start to first task, s", "pss idle": "PSS idle, MB",
}  # fmt: skip


def bars(rounds, out):
    """One panel a figure, one bar a peer; lines from the least to the most of all rounds."""
    figure, panels = plt.subplots(2, 3, figsize=(13, 7), layout="constrained")
    for (key, title), panel in zip(BARS.items(), panels.flat, strict=True):
        names = [name for name in rounds[0] if key in rounds[0][name]]
        values = [[row[name][key] for row in rounds] for name in names]
        middles = [statistics.median(row) for row in values]
        errors = [
            [middle - min(row) for middle, row in zip(middles, values, strict=True)],
            [max(row) - middle for middle, row in zip(middles, values, strict=True)],
        ]
        colours = ["#c0392b" if name.startswith("boilerd") else "#7f8c8d" for name in names]
        panel.barh(names, middles, xerr=errors, color=colours)
        panel.invert_yaxis()
        panel.set_title(title)
    figure.savefig(out / "peers.svg", metadata={"Date": None})


def lines(scaling, out):
    """No-ops a second over the number of workers, and over the number of waiting tasks."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for (by, rates), panel in zip(scaling.items(), panels, strict=True):
        panel.semilogx(list(map(int, rates)), list(rates.values()), marker="o", color="#c0392b")
        panel.set_ylim(bottom=0)
        panel.set_title(f"no-op tasks/s by {by}")
    figure.savefig(out / "scaling.svg", metadata={"Date": None})


def main(directory):
    """Draw what was measured."""
    out = Path(directory)
    mpl.rcParams["svg.hashsalt"] = "boilerd"
    results = json.loads((out / "bench.json").read_text("utf-8"))
    if results["rounds"] and any("drain noop" in row for row in results["rounds"][0].values()):
        bars(results["rounds"], out)
    if scaling := results["alone"].get("scaling"):
        lines(scaling, out)


if __name__ == "__main__":
    main(sys.argv[1])

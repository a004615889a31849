"""Measure boilerd and its peers side by side on this machine, and print ratios.

Each round measures every peer once, in turns, on a private Valkey behind a Unix socket; the next one begins with
another peer, because who comes first does up to a tenth less. Machines are noisy: the medians of several rounds in
one run can be compared, figures of two runs cannot.

    make bench                                          five rounds, about half an hour
    make bench ARGS='--rounds 1 --peers boilerd,huey --only drain'
    make bench ARGS='--rounds 1 --only scaling,stalls'  boilerd alone: many workers, long queues, neighbours
    make bench ARGS='--rounds 0 --only breakdown'       boilerd alone: where the microseconds of a task go
    make bench ARGS='--only slots,threads,waiting'      many tasks at once in each process; about an hour
    make bench ARGS='--rounds 1 --only slots-20ms --peers boilerd-uvloop,taskiq-list'
    make bench ARGS='--before ../old --only drain,enqueue,start,idle'   this tree and another checkout of it
"""

import argparse
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import breakdown
import measures
import report
import slots
import stress
from peers import BEFORE, Bench, prepare
from server import Server
from slot_peers import ALL_PEERS
from trees import adopt_orphans

OUT = Path("build/bench/results")
#: What is measured of boilerd alone, once a run. Long queues come last: the server frees them for seconds.
ALONE = {"stalls": stress.stalls, "breakdown": breakdown.breakdown, "scaling": stress.scaling}
ALONE_SLOTS = {"waiting": slots.waiting}
#: Group of peers → measure → what does it.
GROUPS = {"processes": measures.MEASURES, **slots.MEASURES}
#: What `--only` knows; the name of a group is short for all its measures.
KNOWN = {name: [name] for names in (*GROUPS.values(), ALONE, ALONE_SLOTS) for name in names} | {
    group: list(names) for group, names in slots.MEASURES.items()
}


def main() -> None:
    """Run the rounds, then write the results."""
    chosen = _arguments()
    environments = {
        name: prepare(name)
        for name in sorted({"boilerd", *(ALL_PEERS[name].environment for name in chosen.peers)} - {BEFORE})
    }
    if chosen.before:
        environments[BEFORE] = (chosen.before / ".venv" / "bin").absolute()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        server = Server(Path(directory), is_apart=chosen.apart)
        adopt_orphans()
        try:
            bench = Bench(server, Path(directory), environments)
            rounds = [_round(bench, chosen, number) for number in range(chosen.rounds)]
            alone = {name: measure(bench) for name, measure in {**ALONE, **ALONE_SLOTS}.items() if name in chosen.only}
            machine = {
                "cores": measures.cores(), "python": platform.python_version(), "server": server.version(),
                "machine": platform.machine(), "rounds": len(rounds), "is_apart": chosen.apart,
                "versions": {name: bench.version(ALL_PEERS[name]) for name in chosen.peers},
            }  # fmt: skip
        finally:
            server.stop()
    report.write({"machine": machine, "rounds": rounds, "alone": alone}, chosen.out)
    print((chosen.out / "bench.md").read_text("utf-8"))


def _round(bench: Bench, chosen: argparse.Namespace, number: int) -> dict[str, dict[str, Any]]:
    """Peer → figure → value."""
    found: dict[str, dict[str, Any]] = {name: {} for name in chosen.peers}
    for group, known in GROUPS.items():
        names = [name for name in chosen.peers if ALL_PEERS[name].group == group]
        first = number % len(names) if names else 0
        for name in [*names[first:], *names[:first]]:
            for only in chosen.only:
                if only in known and (only == "drain" or not ALL_PEERS[name].is_variant):
                    print(f"{name}: {only}", file=sys.stderr, flush=True)
                    found[name] |= known[only](bench, ALL_PEERS[name], chosen.scale)
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--peers",
        type=_names(ALL_PEERS),
        default=[name for name in ALL_PEERS if name != BEFORE],
        help=f"some of {', '.join(ALL_PEERS)}; those that none of --only is about are left out",
    )
    parser.add_argument(
        "--only", type=_names(KNOWN), default=[*measures.MEASURES, *ALONE], help=f"some of {', '.join(KNOWN)}"
    )
    parser.add_argument("--quick", dest="scale", action="store_const", const=0.1, default=1.0, help="a tenth of it")
    parser.add_argument("--apart", action="store_true", help="schedule server and workers as groups, as services are")
    parser.add_argument("--out", type=Path, default=OUT, help=f"directory for the results, {OUT} without it")
    parser.add_argument("--before", type=Path, help="a checkout that `make setup` made ready; measured beside this one")
    chosen = parser.parse_args()
    if chosen.before:
        if not (chosen.before / ".venv" / "bin" / "boilerd").exists():
            parser.error(f"--before {chosen.before}: no boilerd in its .venv; run make setup there")
        chosen.peers = ["boilerd", BEFORE]
    chosen.only = [measure for name in chosen.only for measure in KNOWN[name]]
    measured = {group for group, known in GROUPS.items() if set(chosen.only) & set(known)}
    chosen.peers = [name for name in chosen.peers if ALL_PEERS[name].group in measured]
    return chosen


def _names(known: Any) -> Any:
    def names(text: str) -> list[str]:
        chosen = text.split(",")
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
        return chosen

    return names


if __name__ == "__main__":
    main()

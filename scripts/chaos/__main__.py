#!/usr/bin/env python3
"""Kill, stop and cut at random while tasks are enqueued and run, then compare what went in with what came out.

Several daemons, each with a pool of each kind, share one Valkey that writes each change to the disk (appendfsync
always). Every task that the clients' calls accepted must end completed or archived, none twice in the registries; those
that were cancelled may also be gone. Handlers note each run in files of their own, outside of Redis, so that repeated
runs are found; each must have a cause among the faults that were done. No queue, key, lock or process may run more
tasks at once than it has room for. Prints a JSON object; status 1 where a promise was broken.
"""

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from daemons import Daemon, Server, environment, pause, signal_all
from judging import is_settled, judge, read_runs
from producer import Producer
from wrecker import Wrecker

from boilerd.broker.connection import connect


def play(options: argparse.Namespace, directory: Path) -> dict[str, object]:
    """The whole run, in a directory of its own."""
    (directory / "runs").mkdir()
    shutil.copy(Path(__file__).with_name("application.py"), directory / "chaosapp.py")
    server = Server(directory / "broker")
    server.start()
    daemons = [
        Daemon(directory / f"d{number}", environment(directory, number, server.url, options.workers))
        for number in range(options.daemons)
    ]
    is_over = threading.Event()
    producers = [Producer(number, server.url, options.seed, is_over) for number in range(3)]
    wrecker = Wrecker(daemons, server, random.Random(options.seed))
    try:
        for thing in [*daemons, *producers]:
            thing.start()
        wait_until_all_serve(daemons)
        wrecker.run(options.seconds)
        is_over.set()
        for producer in producers:
            producer.join()
        accepted = {task_id: kind for producer in producers for task_id, kind in producer.accepted.items()}
        with connect(server.url) as client:
            stopped = time.monotonic()
            while not is_settled(client) and time.monotonic() < stopped + 180:
                for daemon in daemons:
                    if not daemon.is_up():
                        daemon.start()
                    daemon.ask("resume")
                pause(0.2)
            waits = {task_id: wait for producer in producers for task_id, wait in producer.waits.items()}
            waited = {task_id: wait.result() for task_id, wait in waits.items()}
            runs, children = read_runs(directory / "runs")
            answer = judge(client, accepted | dict.fromkeys(children, "child"), waited, runs, wrecker)
        return {
            "seconds": options.seconds,
            "seed": options.seed,
            **answer,
            "settled_in_s": round(time.monotonic() - stopped, 1),
        }
    finally:
        is_over.set()
        for daemon in daemons:
            signal_all(pids := daemon.everybody(), signal.SIGCONT)
            daemon.end(signal.SIGTERM)
            signal_all(pids, signal.SIGKILL)
        server.end(signal.SIGKILL)


def wait_until_all_serve(daemons: list[Daemon]) -> None:
    """Wait for the first start of all; a daemon that does not come breaks the run off."""
    end = time.monotonic() + 60
    while not all(daemon.workers() for daemon in daemons):
        if time.monotonic() > end or not all(daemon.is_up() for daemon in daemons):
            raise SystemExit("a daemon does not start: " + (daemons[0].directory / "log").read_text()[-500:])
        pause(0.1)


def arguments() -> argparse.Namespace:
    """What can be chosen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="how long faults are done (%(default)s)")
    parser.add_argument("--daemons", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--workers", type=int, default=4, help="of each daemon (%(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the plan; a random one without")
    return parser.parse_args()


def main() -> int:
    """Run, print, and keep the directory where something went wrong."""
    options = arguments()
    directory = Path(tempfile.mkdtemp(prefix="boilerd-chaos-"))
    answer = play(options, directory)
    sys.stderr.write("\n")
    print(json.dumps(answer, indent=2))
    if answer["troubles"]:
        print(f"logs and data are in {directory}", file=sys.stderr)
        return 1
    shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Ends what a run of the tests has started and left behind, such as one that was killed: run beside it, by its ID.

A process of a run has the variable `MARK` in its environment, whoever its parent is by now.
"""

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

MARK = "RUN_OF_TESTS"


def watch_over_this_run() -> None:
    """Mark the programs that this process starts, and have those end that outlive it."""
    os.environ[MARK] = str(os.getpid())
    words = ["/bin/sh", "-c", 'exec "$@" &', "sh", sys.executable, "-IS", __file__, str(os.getpid())]
    unmarked = {name: value for name, value in os.environ.items() if name != MARK}
    # In no group that anybody kills, and no child of the tests.
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, env=unmarked, start_new_session=True)


def main() -> None:
    """Wait until the run is over, then end its processes, and those that they start meanwhile."""
    run = sys.argv[1]
    with suppress(ProcessLookupError):
        select.select([os.pidfd_open(int(run))], [], [])
    mark = f"{MARK}={run}".encode()
    while found := [entry for entry in Path("/proc").glob("[0-9]*") if _has(entry, mark)]:
        for entry in found:
            with suppress(ProcessLookupError):
                os.kill(int(entry.name), signal.SIGKILL)
        select.select([], [], [], 0.1)


def _has(entry: Path, mark: bytes) -> bool:
    """Whether a process was started with this in its environment; a zombie has none."""
    with suppress(OSError):
        return mark in (entry / "environ").read_bytes().split(b"\0")
    return False


if __name__ == "__main__":
    main()

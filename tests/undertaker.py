"""Ends what a run of the tests has started and left behind, such as one that was killed: run beside it, by its name.

What a run starts has a limit of its own, of a kind that nobody uses: the real time of real-time processes. Whoever is
forked or executed inherits it, as the environment, which a daemon writes its title over. No two runs have the same one,
whatever process IDs and namespaces they have; one that a test of another has started has the mark of that one, too.
"""

import os
import random
import resource
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

#: How long it tries to end what the kernel does not let go, and its looks that have to find nothing.
PATIENCE_S, LOOKS = 60.0, 2
#: Microseconds of a limit that nobody reaches.
MOST = 1 << 62


def watch_over_this_run() -> None:
    """Mark this process, and so all that it starts, and have those end that outlive it."""
    if not hasattr(resource, "RLIMIT_RTTIME"):  # not Linux
        return
    _, before = resource.getrlimit(resource.RLIMIT_RTTIME)
    is_first = before == resource.RLIM_INFINITY
    most = MOST if is_first else before  # that a test has started, whose run ends this one with all else
    mark = random.SystemRandom().randrange(most // 2, most)
    run = os.pidfd_open(os.getpid())
    words = ["/bin/sh", "-c", 'exec "$@" &', "sh", sys.executable, "-IS", __file__, str(run), str(mark)]
    # In no group that anybody kills, and no child of the tests.
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, pass_fds=[run], start_new_session=True)
    os.close(run)
    resource.setrlimit(resource.RLIMIT_RTTIME, (mark, mark if is_first else before))


def main() -> None:
    """Wait until the run is over, then end its processes, and those that they start meanwhile."""
    run, mark = int(sys.argv[1]), sys.argv[2]
    if Path("/proc/self").readlink().name != str(os.getpid()):
        sys.exit(f"{__file__}: /proc has the process IDs of others; what a killed run leaves behind will stay")
    select.select([run], [], [])
    deadline, nothing = time.monotonic() + PATIENCE_S, 0
    while nothing < LOOKS and time.monotonic() < deadline:
        nothing = 0 if _end_all(mark) else nothing + 1
        select.select([], [], [], 0.1)


def _end_all(mark: str) -> bool:
    """Kill all that have this mark; whether there were any."""
    return sum(_end(entry, mark) for entry in Path("/proc").glob("[0-9]*")) > 0


def _end(entry: Path, mark: str) -> bool:
    """Kill a process if it has this mark and lives; whether it does."""
    with suppress(OSError):  # it is gone, or not ours to kill
        process = os.pidfd_open(int(entry.name))  # whoever gets its number meanwhile is not killed
        try:
            if mark in (entry / "limits").read_text().split() and not select.select([process], [], [], 0)[0]:
                signal.pidfd_send_signal(process, signal.SIGKILL)
                return True
        finally:
            os.close(process)
    return False


if __name__ == "__main__":
    main()

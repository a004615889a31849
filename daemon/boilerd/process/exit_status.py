"""Exit statuses, each with what it tells the one who waits for the process."""

import signal

#: Done. For a worker: told to stop.
OK = 0
#: It was tried and did not work.
FAILED = 1
#: The command line cannot be understood (click's own).
USAGE = 2
#: The daemon could not start; starting it again without a change will not help (a broker that is away: FAILED).
BOOT = 3
#: Ended on purpose, to be replaced by a fresh one (sysexits' EX_TEMPFAIL).
RECYCLED = 75
#: A worker in a burst: nothing is left to do.
DONE = 74
#: Put its task back because the shutdown timeout was over.
TIMED_OUT = 76

#: No status of a process, but how one ended that had been told to: whatever it left, the daemon had cut it.
STOPPED_BY_DAEMON = 256


def describe_exit(status: int) -> str:
    """``exit status 1``, or ``signal 9 (SIGKILL)``."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {-status} ({signal.Signals(-status).name})"
    except ValueError:
        return f"signal {-status}"

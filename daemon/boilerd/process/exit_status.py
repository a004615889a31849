"""Exit statuses of the command and the daemon's processes, and what each tells the parent."""

import signal

#: Done; of a worker: it stopped because it was asked to.
OK = 0
#: It was tried and failed.
FAILED = 1
#: The command line cannot be understood (click's own).
USAGE = 2
#: The daemon could not start, and cannot until something is changed (if the broker is away: FAILED).
BOOT = 3
#: Ended on purpose, to be replaced by a fresh one (sysexits' EX_TEMPFAIL).
RECYCLED = 75
#: Of a worker in a burst: nothing is left to do.
DONE = 74
#: Of a worker: it released its task because the shutdown timeout was over.
TIMED_OUT = 76

#: Not a real status: noted for a process that the daemon had stopped itself, so that its attempts do not count.
STOPPED_BY_DAEMON = 256


def describe_exit(status: int) -> str:
    """``exit status 1``, or ``signal 9 (SIGKILL)``."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {-status} ({signal.Signals(-status).name})"
    except ValueError:
        return f"signal {-status}"

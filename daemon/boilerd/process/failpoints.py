"""Named points where a test can have a process killed or stopped.

A failpoint does nothing, unless the environment names a directory when the program starts. There a test arms
one with a file of the failpoint's name that holds the name of a signal. The first process that
comes by takes the file and sends the signal to itself: one file, one death.
"""

import os
import signal
from pathlib import Path

#: The variable that names the directory; not one of ours to users, so it lacks their prefix.
VARIABLE = "FAILPOINTS_DIRECTORY"

_directory = os.environ.get(VARIABLE)


def _do_nothing(name: str) -> None:
    """Here a process can be killed, in a test."""


def _strike(name: str) -> None:
    """Send this process the signal that stands in the file, if there is one."""
    path = Path(_directory or "", name)
    taken = path.with_name(f"{name}.{os.getpid()}")
    try:
        path.rename(taken)
    except FileNotFoundError:
        return
    signum = signal.Signals[taken.read_text("ascii")]
    os.kill(os.getpid(), signum)


failpoint = _strike if _directory else _do_nothing

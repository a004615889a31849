"""Named points where a test can have a process killed or stopped.

A failpoint does nothing, unless the environment names a directory when the program starts. There a test arms
a failpoint with a file of its name that holds the name of a signal. The first process that
reaches the failpoint takes the file and sends the signal to itself: one file, one death.
"""

import os
import signal
from pathlib import Path

#: The variable that names the directory; it is not for users, so it lacks the prefix of theirs.
VARIABLE = "FAILPOINTS_DIRECTORY"

_directory = os.environ.get(VARIABLE)


def _do_nothing(name: str) -> None:
    """Mark a point where a test can kill the process."""


def _strike(name: str) -> None:
    """Send this process the signal that the failpoint's file names, if there is one."""
    path = Path(_directory or "", name)
    taken = path.with_name(f"{name}.{os.getpid()}")
    try:
        path.rename(taken)
    except FileNotFoundError:
        return
    signum = signal.Signals[taken.read_text("ascii")]
    os.kill(os.getpid(), signum)


failpoint = _strike if _directory else _do_nothing

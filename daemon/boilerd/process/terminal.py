"""The terminal that a program was started on: whether it is still there, and what it may do to us."""

import os
import select
import signal
import stat
from contextlib import suppress

from boilerd.process.signals import STOP_SIGNALS, ignore_in_programs_too

#: A terminal stops a background program that writes to it (after `stty tostop`) or reads from it.
_BACKGROUND_STOPS = (signal.SIGTTOU, signal.SIGTTIN)


def is_stop(signum: int) -> bool:
    """True if this signal ends the daemon: HUP does where it says that the terminal was closed."""
    return signum in STOP_SIGNALS or (signum == signal.SIGHUP and has_hung_up())


def has_hung_up() -> bool:
    """True if a terminal that this process was given as stdin, stdout or stderr was closed."""
    return any(_has_hung_up(fd) for fd in (0, 1, 2))


def is_in_foreground() -> bool:
    """True if people who type at the terminal type for this program."""
    with suppress(OSError):
        return os.tcgetpgrp(0) == os.getpgrp()
    return False


def ignore_background_stops() -> None:
    """In a forked child, which never is in the foreground: write to the terminal all the same, and read nothing."""
    ignore_in_programs_too(_BACKGROUND_STOPS)


def leave_stops_to_parent() -> None:
    """In a forked child that stays in the foreground: Ctrl-Z and a closed terminal are the parent's to act on."""
    for signum in (signal.SIGTSTP, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)


def _has_hung_up(fd: int) -> bool:
    # It is no terminal any more where isatty asks; the device is one that has hung up.
    with suppress(OSError):
        poll = select.poll()
        poll.register(fd, 0)
        return stat.S_ISCHR(os.fstat(fd).st_mode) and any(seen & select.POLLHUP for _, seen in poll.poll(0))
    return False

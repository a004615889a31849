"""Liveness, identity (PID reuse) and memory of processes on this machine.

On Linux, /proc has the answers. Elsewhere a process that exists is taken for the one that was meant,
and there are no birthmarks.

psutil has all this, but a worker that asks it copies more of the memory that it shares with the supervisor: 280 KB for
a process's start instead of 116 KB, 332 KB for its own size instead of 68 KB (psutil 7.2.2, Private_Dirty of a child).
"""

import ctypes
import os
import resource
import signal
import sys
from contextlib import suppress
from typing import NamedTuple

from boilerd.process.exit_status import OK

#: Looked up before the fork, so that the children share the memory that it takes.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
#: The units of /proc/PID/stat.
_PAGE_BYTES, _TICKS_A_SECOND = resource.getpagesize(), os.sysconf("SC_CLK_TCK")
#: See prctl(2).
_PR_SET_PDEATHSIG = 1


def is_alive(pid: int) -> bool:
    """True if a process with this ID exists; 0 stands for none."""
    if not pid:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # a number that is not ours may be larger than any
        return False
    except PermissionError:
        return True
    return True


def send(pid: int, signum: signal.Signals) -> None:
    """Signal a process, which may have ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, signum)


class Load(NamedTuple):
    """What a process takes of its host."""

    rss_bytes: int
    cpu_ms: int


class Look(NamedTuple):
    """A process, as one look at it shows it.

    Attributes:
        is_stopped: See `is_stopped`.
        load: None where it is not known.
    """

    is_stopped: bool
    load: Load | None


def look_at(pid: int) -> Look:
    """Look whether a process is stopped, and what it takes: its resident bytes, and its CPU since its start."""
    fields = _stat(pid)
    try:
        # Fields 14, 15 and 24 of /proc/PID/stat, see proc(5), counted from the state.
        user, system, pages = (int(fields[place]) for place in (11, 12, 21))
    except (IndexError, ValueError):
        return Look(fields[:1] == ["T"], None)
    return Look(fields[0] == "T", Load(pages * _PAGE_BYTES, (user + system) * 1000 // _TICKS_A_SECOND))


def is_stopped(pid: int) -> bool:
    """True if it was stopped by a signal (not by a debugger): it does nothing until it gets a SIGCONT."""
    return _stat(pid)[:1] == ["T"]


def is_traced(pid: int) -> bool:
    """True if a debugger holds it."""
    return _stat(pid)[:1] == ["t"]


def birthmark(pid: int | None = None) -> str:
    """Tell a process from all others by host, boot, PID namespace, ID and start time; empty where not known.

    Args:
        pid: A process in our namespace; None: this one.
    """
    fields = _stat(pid or os.getpid())
    # Field 22 of /proc/PID/stat, see proc(5), counted from the state; in ticks since the boot.
    return f"{home()}/{pid or os.getpid()}/{fields[19]}" if fields and home() else ""


def home() -> str:
    """This host, boot and PID namespace: where process IDs mean the same; empty where that is not known.

    The host's name tells machines apart that were resumed from one snapshot, in the middle of one boot.
    """
    try:
        boot = _read("/proc/sys/kernel/random/boot_id").strip()
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - as in _read
    except OSError:
        return ""
    return f"{os.uname().nodename}/{boot}/{namespace}"


def is_dead(mark: str) -> bool:
    """True if the process with this birthmark is known to have ended; False where nothing is known."""
    place, _, rest = mark.rpartition("/")[0].rpartition("/")
    if not place or place != home() or not rest.isdecimal():
        return False
    if not is_alive(int(rest)):
        return True
    # There are no fields of another user's process where /proc is mounted to hide those.
    fields = _stat(int(rest))
    return bool(fields) and (fields[0] in {"Z", "X"} or birthmark(int(rest)) != mark)


def end_with_parent(parent: int) -> None:
    """In a child: get a TERM when the parent dies, however it dies (Linux; elsewhere children look)."""
    if _prctl:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(OK)  # it died before the kernel was asked


def resident_bytes() -> int:
    """Resident set size of this process; where /proc is missing, its peak."""
    try:
        return int(_read("/proc/self/statm").split()[1]) * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; none where there is no such process."""
    try:
        # The program's name, in brackets before the state, may hold anything.
        return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    except OSError:
        return []


def _read(path: str) -> str:
    """Read a small file of /proc by system calls alone: each worker does this, and pathlib touches much memory."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096).decode("utf-8", "replace")
    finally:
        os.close(fd)

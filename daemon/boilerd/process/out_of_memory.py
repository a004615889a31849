"""Whether the kernel kills processes because memory is short: its counts of that, where it tells them.

Nothing tells of one process that the kernel killed it for that: a count that has moved at the time makes it likely.
"""

import functools
import os
from pathlib import Path

#: Where version 2 of control groups is; with version 1, or in a container's own root, the machine's count is left.
CGROUPS = Path("/sys/fs/cgroup")
MACHINE = Path("/proc/vmstat")


def oom_kills() -> int | None:
    """How many processes of this control group, else of this machine, the kernel has killed; None: it does not tell."""
    path = _counts()
    return _read(path) if path else None


@functools.cache
def _counts() -> Path | None:
    """The file that has the count."""
    found = (_of_group(), MACHINE)
    return next((path for path in found if path and _read(path) is not None), None)


def _of_group() -> Path | None:
    try:
        lines = Path("/proc/self/cgroup").read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    place = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    return None if place is None else CGROUPS / place / "memory.events"


def _read(path: Path) -> int | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        words = os.read(fd, 1 << 16).split()
    except OSError:
        return None
    finally:
        os.close(fd)
    counts = dict(zip(words[::2], words[1::2], strict=False))
    found = counts.get(b"oom_kill", b"")
    return int(found) if found.isdigit() else None

"""A small table in memory that the parent and its forked children share.

It answers, without asking Redis, which process serves a slot at this moment. The parent
writes (it is the one that forks and reaps), the scheduler reads: it extends the leases of
live workers only. Shared anonymous memory survives any crash of a child, and needs no lock
because each cell is one aligned machine word with one writer.
"""

import mmap

#: More slots than a host will ever run; 4 bytes each.
SLOTS = 1024
#: The cells of the scheduler and the embedded broker; workers have the ones from 0 on.
SCHEDULER_SLOT = SLOTS - 1
VALKEY_SLOT = SLOTS - 2


class Board:
    """Of each slot: the process ID, whether it has booted, its last exit status. Create it before forking."""

    def __init__(self) -> None:
        cells = memoryview(mmap.mmap(-1, 3 * 4 * SLOTS)).cast("i")
        self._pids, self._booted, self._exits = (cells[i * SLOTS : (i + 1) * SLOTS] for i in range(3))

    def put(self, slot: int, pid: int) -> None:
        """Say which process serves `slot`."""
        self._pids[slot] = pid

    def mark_booted(self, slot: int) -> None:
        """Said by the process itself, when it has begun to serve."""
        self._booted[slot] = 1

    def clear(self, slot: int, exit_status: int) -> bool:
        """Say that the process of `slot` ended (a negative status is a signal's number); whether it had booted."""
        had_booted = bool(self._booted[slot])
        self._pids[slot] = self._booted[slot] = 0
        self._exits[slot] = exit_status
        return had_booted

    def pid(self, slot: int) -> int:
        """The process that serves `slot`, or 0."""
        return self._pids[slot]

    def last_exit(self, slot: int) -> int:
        """How the last process of `slot` ended; 0 also when there was none."""
        return self._exits[slot]

    def live(self) -> dict[int, int]:
        """Slot → process ID, of all slots that have a process."""
        return {slot: pid for slot, pid in enumerate(self._pids) if pid}

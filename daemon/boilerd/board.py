"""A small table in memory that the parent and its forked children share.

It answers, without asking Redis, which process serves a slot at this moment. The parent
writes (it is the one that forks and reaps), the scheduler reads: it extends the leases of
live workers only. Shared anonymous memory survives any crash of a child, and needs no lock
because each cell is one aligned machine word with one writer.
"""

import mmap

#: More slots than a host will ever run; 4 bytes each.
SLOTS = 1024
#: The cell of the scheduler; workers have the ones from 0 on.
SCHEDULER_SLOT = SLOTS - 1


class Board:
    """Process ID and last exit status by slot. Create it before forking."""

    def __init__(self) -> None:
        cells = memoryview(mmap.mmap(-1, 2 * 4 * SLOTS)).cast("i")
        self._pids, self._exits = cells[:SLOTS], cells[SLOTS:]

    def put(self, slot: int, pid: int) -> None:
        """Say which process serves `slot`."""
        self._pids[slot] = pid

    def clear(self, slot: int, exit_status: int) -> None:
        """Say that the process of `slot` ended; a negative status is a signal's number."""
        self._pids[slot] = 0
        self._exits[slot] = exit_status

    def pid(self, slot: int) -> int:
        """The process that serves `slot`, or 0."""
        return self._pids[slot]

    def last_exit(self, slot: int) -> int:
        """How the last process of `slot` ended; 0 also when there was none."""
        return self._exits[slot]

    def live(self) -> dict[int, int]:
        """Slot → process ID, of all slots that have a process."""
        return {slot: pid for slot, pid in enumerate(self._pids) if pid}

"""A small table in memory that the parent and its forked children share.

It answers, without asking Redis, which process serves a slot at this moment, and what the
daemon is about. The parent writes (it is the one that forks and reaps), the scheduler reads:
it extends the leases of live workers only. Shared anonymous memory survives any crash of a
child, and needs no lock because each cell is one aligned machine word with one writer.
"""

import mmap

#: More slots than a host will ever run; 4 bytes each.
SLOTS = 1024
#: The cells of the scheduler and the embedded broker; workers have the ones from 0 on.
SCHEDULER_SLOT = SLOTS - 1
VALKEY_SLOT = SLOTS - 2


class Board:
    """Of each slot: process ID, whether it has booted and is busy, last exit status. Create it before forking."""

    def __init__(self) -> None:
        cells = memoryview(mmap.mmap(-1, 5 * 4 * SLOTS)).cast("i")
        self._pids, self._booted, self._busy, self._exits, self._daemon = (
            cells[i * SLOTS : (i + 1) * SLOTS] for i in range(5)
        )

    def put(self, slot: int, pid: int) -> None:
        """Say which process serves `slot`."""
        self._pids[slot] = pid

    def mark_booted(self, slot: int) -> None:
        """Said by the process itself, when it has begun to serve."""
        self._booted[slot] = 1

    def has_booted(self, slot: int) -> bool:
        """Whether the process of `slot` has begun to serve."""
        return bool(self._booted[slot])

    def mark_busy(self, slot: int, *, is_busy: bool) -> None:
        """Said by a worker, before and after each task."""
        self._busy[slot] = is_busy

    def busy(self) -> int:
        """How many workers run a task."""
        return sum(self._busy)

    def clear(self, slot: int, exit_status: int) -> bool:
        """Say that the process of `slot` ended (a negative status is a signal's number); whether it had booted."""
        had_booted = bool(self._booted[slot])
        self._pids[slot] = self._booted[slot] = self._busy[slot] = 0
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

    @property
    def slots(self) -> int:
        """How many workers there ever were at one time; the parent counts them."""
        return self._daemon[3]

    @slots.setter
    def slots(self, value: int) -> None:
        self._daemon[3] = value

    @property
    def is_quiet(self) -> bool:
        """Whether the workers shall claim nothing; the parent says it."""
        return bool(self._daemon[0])

    @is_quiet.setter
    def is_quiet(self, value: bool) -> None:
        self._daemon[0] = value

    @property
    def is_broker_away(self) -> bool:
        """Whether the scheduler waits for the broker; it says it."""
        return bool(self._daemon[1])

    @is_broker_away.setter
    def is_broker_away(self, value: bool) -> None:
        self._daemon[1] = value

    @property
    def pending(self) -> int:
        """Tasks that waited in the daemon's queues a moment ago; the scheduler counts them."""
        return self._daemon[2]

    @pending.setter
    def pending(self, value: int) -> None:
        self._daemon[2] = min(value, 2**31 - 1)

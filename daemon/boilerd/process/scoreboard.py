"""A small table in memory that the parent and its forked children share.

It answers, without asking Redis, which process serves a slot at this moment, how far a worker is
in its batch, and what the daemon is about. The parent, which forks and reaps, writes of each slot
its process; the process itself what it does; the scheduler which batches it ended. Shared anonymous
memory survives any crash of a child, and needs no lock: each cell is one aligned machine word, and
where two write the same one, they do so one after the other.
"""

import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

#: More slots than a host will ever run; 44 bytes each.
SLOTS = 1024
#: The cells of the scheduler and the embedded broker; workers have the ones from 0 on.
SCHEDULER_SLOT = SLOTS - 1
VALKEY_SLOT = SLOTS - 2
#: A heartbeat that is older is missed: there is one every 5 s, and an outage's pauses are 3 s at most.
LATE_HEARTBEAT_S = 20.0
#: Cells are signed: numbers and the clock start again from 0.
_CLOCK = 2**31


@dataclass(frozen=True, slots=True)
class Batch:
    """Tasks that a worker claimed together and runs one after the other.

    Attributes:
        number: Tells it from others; see `claims.batch_place`.
        size: How many tasks; 0: no batch.
        finished: How many of them have ended well.
        is_running: Whether the next one has begun.
        since_ms: When it did, on this module's clock.
    """

    number: int
    size: int
    finished: int
    is_running: bool
    since_ms: int

    @property
    def running_ms(self) -> int:
        """For how long the task has run that runs now."""
        return (_now_ms() - self.since_ms) % _CLOCK if self.is_running else 0


class Scoreboard:
    """Of each slot: process ID, whether it has booted and is busy, last exit status, its batch of tasks.

    Create it before forking.

    Attributes:
        alarm_fds: A pipe, to read from and to write to: a worker's timers write there, whatever its code is doing.
    """

    def __init__(self) -> None:
        cells = memoryview(mmap.mmap(-1, 11 * 4 * SLOTS)).cast("i")
        self._pids, self._booted, self._busy, self._judging, self._exits, self._daemon, *batches = (
            cells[i * SLOTS : (i + 1) * SLOTS] for i in range(11)
        )
        self._batches, self._sizes, self._progress, self._since, self._revoked = batches
        self._waiting = memoryview(mmap.mmap(-1, 4 * SLOTS)).cast("i")
        self.beat()  # the first may take its time
        self.alarm_fds = os.pipe()
        for fd in self.alarm_fds:
            os.set_blocking(fd, False)

    def put(self, slot: int, pid: int) -> None:
        """Say which process serves `slot`."""
        self._pids[slot] = pid

    def mark_booted(self, slot: int, *, has_booted: bool = True) -> None:
        """Said by the process itself, when it has begun to serve; taken back when it crashes by itself."""
        self._booted[slot] = has_booted

    def has_booted(self, slot: int) -> bool:
        """Whether the process of `slot` has begun to serve."""
        return bool(self._booted[slot])

    def mark_busy(self, slot: int, *, is_busy: bool) -> None:
        """Said by a worker, before and after each task."""
        self._busy[slot] = is_busy

    def busy(self) -> int:
        """How many workers run a task."""
        return sum(self._busy)

    def is_busy(self, slot: int) -> bool:
        """Whether the worker of `slot` runs a task."""
        return bool(self._busy[slot])

    @contextmanager
    def running_hooks(self, slot: int) -> Iterator[None]:
        """Said by a process while it asks the application's hooks, which may end it."""
        self._judging[slot] = _now_ms() or 1
        try:
            yield
        finally:
            self._judging[slot] = 0

    def in_hooks_s(self, slot: int) -> float:
        """For how long the process has been asking the hooks; 0: it does not."""
        since_ms = self._judging[slot]
        return (_now_ms() - since_ms) % _CLOCK / 1000 if since_ms else 0.0

    def died_in_hooks(self, slot: int) -> bool:
        """Whether the last process of `slot` ended in one of the application's hooks; tells it once."""
        has_died, self._judging[slot] = bool(self._judging[slot]), 0
        return has_died

    def is_revoked(self, slot: int) -> bool:
        """Whether the scheduler has ended what it could of the worker's batch, because one of its tasks is slow."""
        return self._revoked[slot] == self._batches[slot]

    def open_batch(self, slot: int, number: int, size: int) -> None:
        """Said by a worker that has claimed so many tasks, before it begins the first."""
        self._sizes[slot] = 0  # nobody may take the old progress for that of the new batch
        self._progress[slot] = 0
        self._batches[slot] = number
        self._sizes[slot] = size

    def begin(self, slot: int) -> bool:
        """Said by a worker before each task of its batch; False: it may not, the rest was taken from it."""
        self._since[slot] = _now_ms()
        self._progress[slot] |= 1
        if self._revoked[slot] != self._batches[slot]:
            return True
        self._progress[slot] -= 1
        return False

    def finish(self, slot: int) -> None:
        """Said by a worker after each task that ended well, or whose failure is written."""
        self._progress[slot] += 1

    def batch(self, slot: int) -> Batch:
        """How far the worker is; also of one that died."""
        finished, is_running = divmod(self._progress[slot], 2)
        return Batch(self._batches[slot], self._sizes[slot], finished, bool(is_running), self._since[slot])

    def revoke(self, slot: int, number: int) -> Batch:
        """Have the worker begin no further task of the batch; how far it is by now, maybe in another batch.

        The worker writes its progress, then looks whether the batch was revoked; this writes
        that, then looks at the progress: at least one of the two sees the other. One writer: the scheduler.
        """
        self._revoked[slot] = number
        return self.batch(slot)

    def clear(self, slot: int, exit_status: int) -> bool:
        """Say that the process of `slot` ended, and how (see `exitcodes`); whether it had booted."""
        had_booted = bool(self._booted[slot])
        self._pids[slot] = self._booted[slot] = self._busy[slot] = self._waiting[slot] = 0
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

    def mark_waiting(self, slot: int, *, is_waiting: bool) -> None:
        """Said by a worker, before and after each pause that it makes because the broker does not let it through."""
        self._waiting[slot] = is_waiting

    @property
    def is_broker_away(self) -> bool:
        """Whether the scheduler, which sets it, or a worker waits for the broker to let it through."""
        return bool(self._daemon[1]) or any(self._waiting)

    @is_broker_away.setter
    def is_broker_away(self, value: bool) -> None:
        self._daemon[1] = value

    def beat(self) -> None:
        """Said by the scheduler at each heartbeat."""
        self._daemon[4] = _now_ms()

    @property
    def heartbeat_age_s(self) -> float:
        """How long ago the scheduler renewed the leases; at first, how long ago the daemon was started."""
        return (_now_ms() - self._daemon[4]) % _CLOCK / 1000

    @property
    def pending(self) -> int:
        """Tasks that waited in the daemon's queues a moment ago; the scheduler counts them."""
        return self._daemon[2]

    @pending.setter
    def pending(self, value: int) -> None:
        self._daemon[2] = min(value, 2**31 - 1)


def _now_ms() -> int:
    """The clock that all processes of the host share, to the millisecond."""
    return time.monotonic_ns() // 1_000_000 % _CLOCK

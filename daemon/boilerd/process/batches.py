"""The batches of workers on the scoreboard: how far each is, and how the scheduler takes the rest of one away.

Worker and scheduler agree on that without a lock, see `Batches.revoke`.
"""

import os
import select
import time
from collections.abc import Iterator
from contextlib import suppress

import msgspec

#: Cells are signed: clock and numbers start again from 0 here.
CELL_RANGE = 2**31
#: Longer than any processor keeps a write from the others, by orders of magnitude; see `Batches.revoke`.
_SETTLE_S = 0.005


class Batch(msgspec.Struct, frozen=True):
    """Tasks that a worker claimed together and runs one after the other.

    Attributes:
        number: Tells it from others; see `batch_place`.
        size: Number of tasks; 0: no batch.
        finished: Number of tasks that have ended well.
        is_running: True if the next task has begun.
        since_ms: When that one began, on this module's clock.
    """

    number: int
    size: int
    finished: int
    is_running: bool
    since_ms: int

    @property
    def running_ms(self) -> int:
        """Milliseconds for which the current task has run; 0 without one."""
        return (now_ms() - self.since_ms) % CELL_RANGE if self.is_running else 0


class Batches:
    """Of each row: the batch of its worker, and its progress.

    Args:
        arrays: Of the scoreboard, each with a cell for each row; it takes the first ones.

    Attributes:
        alarm_fds: A pipe, to read from and to write to: a worker's timers write there, whatever its code is doing,
            and so does `open_batch` where nobody watches the batches.
    """

    def __init__(self, arrays: Iterator[memoryview]) -> None:
        self._batches = next(arrays)  # the batch's number
        self._sizes = next(arrays)
        self._progress = next(arrays)  # 2 for each finished task, 1 for the running one
        self._since_ms = next(arrays)
        self._revoked = next(arrays)  # number of the batch that the scheduler ended last
        self._watched = next(arrays)  # in the first cell, for all
        self.alarm_fds = os.pipe()
        for fd in self.alarm_fds:
            os.set_blocking(fd, False)

    def open_batch(self, row: int, number: int, size: int) -> None:
        """Note that the worker has claimed `size` tasks; it calls this before it begins the first."""
        self._sizes[row] = 0  # nobody may take the old progress for that of the new batch
        self._progress[row] = 0
        self._batches[row] = number
        self._sizes[row] = size
        if size > 1 and not self._watched[0]:
            with suppress(BlockingIOError):  # full: it wakes whoever reads all the same
                os.write(self.alarm_fds[1], b"\0")

    def note_claimed(self, row: int) -> None:
        """Note that the worker has claimed a task; one that opens no batches calls this, once in its life."""
        self._batches[row] = self._batches[row] or 1

    def has_claimed(self, row: int) -> bool:
        """True if the worker of `row`, or the last one there, has claimed a task."""
        return bool(self._batches[row])

    def shorten_batch(self, row: int) -> None:
        """Note that the tasks of the worker's batch that have not begun went back to their queue; it calls this."""
        self._sizes[row] = self._progress[row] // 2

    def begin(self, row: int) -> bool:
        """Note that the worker begins the next task of its batch; False: it must not, the rest was taken from it."""
        self._since_ms[row] = now_ms()
        self._progress[row] |= 1
        if self._revoked[row] != self._batches[row]:
            return True
        self._progress[row] -= 1
        return False

    def finish(self, row: int) -> None:
        """Note that a task ended well, or that its failure is written."""
        self._progress[row] += 1

    def batch(self, row: int) -> Batch:
        """The worker's batch and its progress; also of a worker that died."""
        finished, is_running = divmod(self._progress[row], 2)
        return Batch(self._batches[row], self._sizes[row], finished, bool(is_running), self._since_ms[row])

    def revoke(self, row: int, number: int) -> Batch:
        """Keep the worker from beginning another task of this batch; returns its batch now, which may be another.

        The worker writes its progress, then looks whether the batch was revoked (`begin`). This writes that, waits, and
        looks at the progress then: one of the two sees the other. A processor may let a read overtake a write before
        it, by less than a microsecond, so that without the wait both might miss the other, and a task run twice. With
        it, a worker that missed the revocation had written its progress before, and that is here by now. A fence on
        both sides would do it too; Python has none, and the worker's would be paid for each task. Only the scheduler
        calls this.
        """
        self._revoked[row] = number
        _let_writes_settle()
        return self.batch(row)

    def is_revoked(self, row: int) -> bool:
        """True if the scheduler has taken back the rest of the worker's batch, because one of its tasks is slow."""
        return self._revoked[row] == self._batches[row]

    def has_open_batch(self, row: int) -> bool:
        """True if the worker claimed several tasks at once, and not all of them have ended or gone back."""
        return self._sizes[row] > max(1, self._progress[row] // 2)

    def watch_batches(self, *, is_watching: bool) -> None:
        """Note whether the reclaimer looks at the batches by itself; a worker that opens one wakes it otherwise.

        The worker may miss this for a moment, as in `revoke`: whoever stops watching has to look once more, later.
        """
        self._watched[0] = is_watching


def _let_writes_settle() -> None:
    select.select([], [], [], _SETTLE_S)


def now_ms() -> int:
    """The clock that all processes of the host share, to the millisecond."""
    return time.monotonic_ns() // 1_000_000 % CELL_RANGE

"""Which of the tasks that a worker with slots has claimed ahead have not begun, for whoever settles them if it dies.

They stand in memory that outlives the process, beside the scoreboard. A cell has one writer at a time, and so needs no
lock: who holds an attempt gives it a cell, and the thread that begins it empties that one.
"""

import zlib

#: Cells of a worker, four bytes each: more than it holds at one time, so that the cell that comes next is not in use.
CELLS = 64


class HeldMarks:
    """Those of one worker; of a claim stands there what its execution ID makes, by which nobody takes it for another.

    Args:
        cells: Of its row, `CELLS` of them.
    """

    def __init__(self, cells: memoryview) -> None:
        self._cells = cells
        self._next = 0

    def add(self, execution_id: str) -> int:
        """Note that the claim has not begun; its cell. What was given back and never began is written over in time."""
        cell, self._next = self._next, (self._next + 1) % CELLS
        self._cells[cell] = _mark_of(execution_id)
        return cell

    def remove(self, cell: int) -> None:
        """Note that the claim of this cell begins."""
        self._cells[cell] = 0

    def clear(self) -> None:
        """Forget all; the worker's successor calls this when it has settled them."""
        for cell in range(CELLS):
            self._cells[cell] = 0

    def __contains__(self, execution_id: object) -> bool:
        """Whether it is known that the claim has not begun."""
        return isinstance(execution_id, str) and _mark_of(execution_id) in self._cells


def _mark_of(execution_id: str) -> int:
    return zlib.crc32(execution_id.encode("utf-8", "surrogateescape")) or 1

"""How far a running task is, as its handler tells it."""

import msgspec

from boilerd.errors import shown

#: Characters of a note; the record of a task is read again and again while somebody waits for it.
MAX_NOTE = 500


class TaskProgress(msgspec.Struct, frozen=True):
    """How far the running attempt of a task is.

    Attributes:
        done: How much is done, in the handler's unit.
        total: How much there is to do; None: nobody knows.
        note: What is being done; may be empty.
    """

    done: int | float
    total: int | float | None = None
    note: str = ""

    def __str__(self) -> str:
        """As people read it: ``340 of 1000 (34 %), sending``."""
        told = f"{self.done:g}" if isinstance(self.done, float) else str(self.done)
        if self.total is not None:
            told += f" of {self.total:g}" if isinstance(self.total, float) else f" of {self.total}"
        if self.total:
            told += f" ({100 * self.done / self.total:.0f} %)"
        return ", ".join(filter(None, (told, self.note)))

    @classmethod
    def of(cls, done: float, total: float | None, note: str) -> "TaskProgress":
        """Check what a handler tells; raises TypeError or ValueError."""
        for name, value in {"done": done, "total": 0 if total is None else total}.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"progress: {name}={shown(value)} is no number")
            if not -(2**63) <= value < 2**63:  # nor nan
                raise ValueError(f"progress: {name}={shown(value)} is not a finite number of 64 bits")
        return cls(done, total, str(note)[:MAX_NOTE].encode("utf-8", "backslashreplace").decode())

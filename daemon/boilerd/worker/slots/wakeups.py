"""The wakeup fd of a process with a loop: the keeper's pipe gets every signal, whatever the loop wants.

C code of Python writes the number of each signal to one descriptor (see `process.signals`). uvloop puts its own there
whenever it runs, and asyncio's loop when the application adds a signal handler to it. So ours is put back, and whoever
reads it hands on what came: uvloop runs Python's handlers only when it wakes.
"""

import os
import signal
from collections.abc import Callable
from contextlib import suppress


class Wakeups:
    """Keeps this process's wakeup fd; made, and kept, in the main thread.

    Args:
        wake: Wakes the loop, where it has no descriptor of its own for signals.
    """

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self._loops_fd = -1
        self._fd = signal.set_wakeup_fd(-1)
        self.keep()

    def keep(self) -> None:
        """Put ours back, if there is one."""
        if self._fd < 0:
            return
        found = signal.set_wakeup_fd(self._fd, warn_on_full_buffer=False)
        if found not in {self._fd, -1}:
            self._loops_fd = found

    def hand_on(self, signals: bytes) -> None:
        """Let the loop, and through it Python, handle signals whose numbers came; from any thread."""
        if self._loops_fd < 0:
            self._wake()
            return
        with suppress(OSError):  # full: it wakes anyway; or closed with the loop
            os.write(self._loops_fd, signals)

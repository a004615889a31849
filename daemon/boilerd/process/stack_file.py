"""The stacks of a process that cannot tell them itself: code that holds the interpreter's lock stops all its threads.

`faulthandler` writes them from C, in the handler of a signal, to a file. That file has no name: it is made before the
processes are forked, and all of them have it open. The scheduler asks one process at a time.
"""

import faulthandler
import os
import select
import signal
import time
from contextlib import suppress

#: The signal that asks for the stacks; None where the system has no such signals. glibc uses the first two, and Python
#: applications as a rule none.
ASKS: int | None = signal.SIGRTMIN + 3 if hasattr(signal, "SIGRTMIN") else None
#: C code answers in milliseconds, unless the machine is very busy.
ANSWERS_WITHIN_S = 2.0
#: An answer that has not grown for so long is a whole one.
PAUSE_S = 0.1
#: Of a stack, in a log line.
MOST_BYTES = 8192


class StackFile:
    """Where a process writes its stacks when it is asked; make it before the fork."""

    def __init__(self) -> None:
        self._fd = _nameless_file()

    def answer(self) -> bool:
        """Have this process write its stacks whenever it is asked, from now on; False where that cannot be."""
        if ASKS is None:
            return False
        faulthandler.register(ASKS, self._fd, all_threads=True)
        return True

    def ask(self, pid: int) -> str:
        """The stacks of a process, its main thread's first; empty if it does not answer."""
        if ASKS is None:
            return ""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)  # the processes share the place, too
        with suppress(ProcessLookupError):
            os.kill(pid, ASKS)
        return _main_thread_first(self._read())

    def _read(self) -> str:
        """What is written within the time: all of it, as soon as it does not grow any more."""
        end_s, size = time.monotonic() + ANSWERS_WITHIN_S, -1
        while time.monotonic() < end_s and (size < 1 or os.fstat(self._fd).st_size > size):
            size = os.fstat(self._fd).st_size
            select.select([], [], [], PAUSE_S)
        return os.pread(self._fd, MOST_BYTES * 16, 0).decode("utf-8", "replace")


def _nameless_file() -> int:
    """The descriptor of a file in memory, or where there is no such thing in the directory for temporary ones."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("boilerd-stacks")
    import tempfile  # noqa: PLC0415 - few need it

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _main_thread_first(stacks: str) -> str:
    """Threads stand there with the newest first."""
    return "\n\n".join(reversed(stacks.strip().split("\n\n")))[:MOST_BYTES]

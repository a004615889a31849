"""What wakes the keeper: signals, and other threads of its process."""

import os
import signal
from contextlib import suppress

_WAKE = b"\0"


class Inbox:
    """A pipe to which Python's C code writes each signal's number, whatever the main thread does, and others a zero."""

    def __init__(self) -> None:
        self.read_fd, self._write_fd = os.pipe()
        os.set_blocking(self.read_fd, False)
        os.set_blocking(self._write_fd, False)
        self._has_wake = False

    def take_signals(self) -> None:
        """Have the signals of this process come here; in the main thread. A task's code may have set its own place."""
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)

    def wake(self) -> None:
        """End the keeper's wait, from any thread; one byte at a time is enough."""
        if not self._has_wake:
            self._has_wake = True
            with suppress(BlockingIOError):  # full: it wakes anyway
                os.write(self._write_fd, _WAKE)

    def read(self) -> bytes:
        """The signals since the last call; look at what others have handed over only after it."""
        found = b""
        with suppress(BlockingIOError):
            found = os.read(self.read_fd, 4096)
        # Only now: a byte that was read must not leave the mark. Who saw the mark had handed over before.
        self._has_wake = False
        return found.replace(_WAKE, b"")

"""What wakes the keeper: signals, and other threads of its process."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress

from boilerd.process.signals import STOP_SIGNALS

_WAKE = b"\0"


class Inbox:
    """A pipe to which C code of Python writes each signal's number, whatever the main thread does, and others a zero."""

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
        """The signals since the last call."""
        self._has_wake = False  # before what woke it is looked at, or the next would be missed
        with suppress(BlockingIOError):
            return os.read(self.read_fd, 4096).replace(_WAKE, b"")
        return b""


class Stopping:
    """When the worker was told to stop, as far as the keeper knows: also while the main thread runs no Python code.

    Args:
        age_s: Seconds since the main thread noted it; 0: it has not.
        clock: Of the keeper.
    """

    #: A second signal that comes so soon is none: a terminal and a supervisor may send one each.
    SECOND_SIGNAL_S = 1.0

    def __init__(self, age_s: Callable[[], float], clock: Callable[[], float]) -> None:
        self._age_s = age_s
        self._clock = clock
        self._at_s: float | None = None
        self.is_hurried = False

    def __bool__(self) -> bool:
        """True if it was told."""
        return self._at_s is not None

    def note(self, signals: bytes) -> None:
        """Note these signals, and whether the main thread has noted one that did not come here."""
        for _ in filter(STOP_SIGNALS.__contains__, signals):
            if self._at_s is None:
                self._at_s = self._clock()
            elif self.age_s() >= self.SECOND_SIGNAL_S:
                self.is_hurried = True
        if self._at_s is None and (age_s := self._age_s()):
            self._at_s = self._clock() - age_s

    def age_s(self) -> float:
        """Seconds since then; 0: it was not told."""
        return 0.0 if self._at_s is None else self._clock() - self._at_s

"""Turn Unix signals into requests that a main loop reads when it is safe to act.

The handler that Python runs does nothing; the number of the signal arrives through a pipe that
the C-level handler writes to, so a wait ends at once (PEP 475 would restart it otherwise).
"""

import contextlib
import os
import select
import signal
from collections.abc import Iterable

#: Signals that boilerd gives a meaning; every forked child starts with their defaults.
HANDLED = (
    signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD,
    signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip


class SignalInbox:
    """A main loop's wait that ends early when one of the signals arrives.

    One per process, made on the main thread; ``close`` before a fork's child makes its own.
    """

    def __init__(self, signums: Iterable[signal.Signals]) -> None:
        self.read_fd, self._write_fd = os.pipe()
        os.set_blocking(self.read_fd, False)
        os.set_blocking(self._write_fd, False)
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for signum in signums:
            signal.signal(signum, _do_nothing)

    def wait(self, timeout_s: float) -> signal.Signals | None:
        """The next signal, or None when none came within `timeout_s` seconds."""
        readable, _, _ = select.select([self.read_fd], [], [], timeout_s)
        return signal.Signals(os.read(self.read_fd, 1)[0]) if readable else None

    def wake(self) -> None:
        """End the wait that is going on, or the next one."""
        with contextlib.suppress(BlockingIOError):  # full: the wait ends anyway
            os.write(self._write_fd, bytes([signal.SIGCHLD]))

    def drain(self) -> None:
        """Forget what arrived."""
        while select.select([self.read_fd], [], [], 0)[0]:
            os.read(self.read_fd, 4096)

    def close(self) -> None:
        """Stop receiving; the handlers stay."""
        signal.set_wakeup_fd(-1)
        os.close(self.read_fd)
        os.close(self._write_fd)


def restore_defaults() -> None:
    """Undo every handler that was inherited through a fork."""
    signal.set_wakeup_fd(-1)
    signal.setitimer(signal.ITIMER_REAL, 0)
    for signum in HANDLED:
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)


def _do_nothing(signum: int, frame: object) -> None:
    """Let the wakeup fd carry the news."""

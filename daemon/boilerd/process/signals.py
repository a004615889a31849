"""Turn Unix signals into requests that a main loop reads when it is safe to act.

The handler that Python runs does nothing; the number of the signal arrives through a pipe that
the C-level handler writes to, so a wait ends at once (PEP 475 would restart it otherwise).
"""

import contextlib
import os
import select
import signal
import time
from _signal import getsignal  # type: ignore[import-not-found] # that of `signal` takes 50 times as long
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

#: Signals that boilerd gives a meaning; every forked child starts with their defaults.
HANDLED = (
    signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD,
    signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP, signal.SIGCONT, signal.SIGTTIN, signal.SIGTTOU,
)  # fmt: skip
#: Those of them that end the daemon.
STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})


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


class Stopped(BaseException):
    """Raised by a signal handler to end an interruptible wait."""


class StopRequest:
    """TERM and INT as a child process takes them: noted at once, acted on when it is safe.

    A wait inside `interruptibly` ends at once; anything else runs on.

    Args:
        on_request: Called in the signal handler, at the first signal only.
        listens: False before a fork; the child calls `listen`.
    """

    def __init__(self, on_request: Callable[[], None] = lambda: None, *, listens: bool = True) -> None:
        self._on_request = on_request
        self._is_interruptible = False
        self._at_s: float | None = None
        if listens:
            self.listen()

    def listen(self) -> None:
        """Take the signals of this process from now on."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            listen(signum, self._note)

    def __bool__(self) -> bool:
        """Whether it was made."""
        return self._at_s is not None

    def make(self) -> None:
        """Stop without a signal; nothing is waiting that had to be ended."""
        if not self:
            self._at_s = time.monotonic()
            self._on_request()

    def age_s(self) -> float:
        """Seconds since it was made; 0 when it was not."""
        return time.monotonic() - self._at_s if self._at_s is not None else 0.0

    def interruptibly(self, wait: Callable[[], object]) -> bool:
        """Wait, but not when or after a request was made, whatever the wait is inside of.

        Returns:
            Whether the wait came to its own end; False: what it was using, such as a
            connection, may have been left in the middle of something.
        """
        was_interruptible = self._is_interruptible
        try:
            self._is_interruptible = True
            if not self:
                wait()
            self._is_interruptible = was_interruptible
        except Stopped:
            self._is_interruptible = False
            return False
        except BaseException:
            self._is_interruptible = was_interruptible
            raise
        return True

    def pause(self, seconds: float) -> None:
        """Sleep, until the request at most."""
        self.interruptibly(lambda: select.select([], [], [], seconds))

    def _note(self, signum: int, frame: object) -> None:
        if self:
            return
        self.make()
        if self._is_interruptible:
            raise Stopped


#: What this process listens to: signal → its handler.
_listeners: dict[signal.Signals, Callable[[int, Any], None]] = {}


def listen(signum: signal.Signals, handler: Callable[[int, Any], None]) -> None:
    """Have the handler called at that signal, also when foreign code took its place: see `listen_again`."""
    _listeners[signum] = handler
    signal.signal(signum, handler)


def listen_again() -> None:
    """Undo what a task's code may have done: hold our signals back, or handle them in its own way."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _listeners)
    for signum, handler in _listeners.items():
        if getsignal(signum) is not handler:
            signal.signal(signum, handler)


@contextmanager
def time_limit(seconds: float, error: BaseException) -> Iterator[None]:
    """Raise the error in the block's Python code when it takes longer; in the main thread, with no timer under way."""
    is_inside = True

    def cut(*_: object) -> None:
        if is_inside:
            raise error

    before = signal.signal(signal.SIGALRM, cut)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            is_inside = False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def restore_defaults() -> None:
    """Undo every handler that was inherited through a fork."""
    _listeners.clear()
    signal.set_wakeup_fd(-1)
    signal.setitimer(signal.ITIMER_REAL, 0)
    for signum in HANDLED:
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)


def _do_nothing(signum: int, frame: object) -> None:
    """Let the wakeup fd carry the news."""

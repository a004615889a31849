"""Signals of the daemon's processes: hold them back, take them as requests, and limit a block's time.

A handler only notes a request, and the loop acts on it: Python calls handlers in the middle of any code of the main
thread. These handlers do more, because the code that they interrupt may not return to the loop:

- TERM and INT in a worker or scheduler (`StopRequest`) raise `Stopped` in a wait that allows it. In a worker they also
  set the timer for the end of the drain, end a lifespan that is being entered, and call the application's `on_drain`.
- ALRM in a worker (`AttemptRunner`) raises the timeout, the deadline or the end of the drain in the task's code;
  USR1 asks Redis whether the task was cancelled, and raises that. A task runs between two commands of
  the worker; where the task's own code is in one, the pool gives another connection.
- ALRM in a worker with slots (`SlotRunner`) raises the interrupt in code that blocks the event loop, where that belongs
  to a task that is interrupted; its keeper sends it.
- ALRM in a hook of the application (`time_limit`), or in its lifespans (`GuardedLife`), raises the limit's error.
- QUIT and USR2 in a worker or scheduler log the stacks, and open the log file again.

C code of Python also writes each signal's number to one pipe (`signal.set_wakeup_fd`), whatever the Python code does.
In the supervisor, `SignalInbox` waits at the pipe's other end: another wait would go on after the signal (PEP 475).
`restore_defaults` disconnects a forked child from that pipe. A worker with a batch sets the scoreboard's pipe, so that
its ALRM wakes the scheduler's reclaimer.

Children that the application forks from a worker or the scheduler have none of it: see `forks`.
"""

# Those of `signal` make enums of all that they return: 50 times as long, and 0.2 MB of a forked child.
import _signal  # type: ignore[import-not-found]
import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from boilerd.process import debugging

#: Signals that boilerd gives a meaning; every forked child starts with their defaults, but see `terminal`.
HANDLED = (
    signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD,
    signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP, signal.SIGCONT, signal.SIGTTIN, signal.SIGTTOU,
)  # fmt: skip
#: Those of them that end the daemon.
STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})
#: Those of them that only the supervisor obeys: whoever signals all processes of the daemon (`systemctl kill`, a
#: terminal that is closed) means that one.
SUPERVISORS_OWN = (signal.SIGHUP, signal.SIGTSTP)
#: So these are blocked in the embedded broker, which would end at them; and it ends at this one as at a TERM.
HELD_FROM_BROKER = (*SUPERVISORS_OWN, signal.SIGTERM, signal.SIGQUIT, signal.SIGTTIN, signal.SIGTTOU)
ENDS_BROKER = signal.SIGINT
#: Those that the supervisor passes on to its forked children: they stay blocked there until they have handlers.
PASSED_ON = (signal.SIGQUIT, signal.SIGUSR2)


class SignalInbox:
    """A main loop's wait that ends early when a signal arrives that has a handler.

    One per process, made on the main thread; ``close`` before a fork's child makes its own.

    Args:
        signums: Signals to receive here; their handlers do nothing.
    """

    def __init__(self, signums: Iterable[signal.Signals]) -> None:
        self.read_fd, self._write_fd = os.pipe()
        os.set_blocking(self.read_fd, False)
        os.set_blocking(self._write_fd, False)
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for signum in signums:
            _signal.signal(signum, _do_nothing)

    def wait(self, timeout_s: float) -> signal.Signals | None:
        """Wait for the next signal; None when none came within `timeout_s` seconds."""
        readable, _, _ = select.select([self.read_fd], [], [], timeout_s)
        return signal.Signals(os.read(self.read_fd, 1)[0]) if readable else None

    def wake(self) -> None:
        """End the current wait, or else the next one."""
        with contextlib.suppress(BlockingIOError):  # full: the wait ends anyway
            os.write(self._write_fd, bytes([signal.SIGCHLD]))

    def drain(self) -> None:
        """Forget the signals that have arrived."""
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
    """A request to stop, made by TERM or INT in a child process; its loop acts on it when that is safe.

    A wait inside `interruptibly` ends at once; all other code runs on.

    Args:
        on_request: Called in the signal handler, at the first signal only.
        listens: False before a fork; the child calls `listen`.
        accepts: Asked at each signal whether it is meant; one that is not does nothing.
    """

    def __init__(
        self,
        on_request: Callable[[], None] = lambda: None,
        *,
        listens: bool = True,
        accepts: Callable[[], bool] = lambda: True,
    ) -> None:
        self._on_request = on_request
        self._accepts = accepts
        self._is_interruptible = False
        self._at_s: float | None = None
        if listens:
            self.listen()

    def listen(self) -> None:
        """Take the signals of this process from now on."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            install_handler(signum, self._note)

    def __bool__(self) -> bool:
        """True if it was made."""
        return self._at_s is not None

    def make(self) -> None:
        """Make the request without a signal; call it outside of waits, as it ends none."""
        if not self:
            self._at_s = time.monotonic()
            self._on_request()

    def age_s(self) -> float:
        """Seconds since it was made; 0 when it was not."""
        return time.monotonic() - self._at_s if self._at_s is not None else 0.0

    def interruptibly(self, wait: Callable[[], object]) -> bool:
        """Call `wait`, unless the request was made before, and end it when the request is made.

        Returns:
            True if the wait ended by itself, or was not called. False: a connection that it used may have been left
            in the middle of an answer.
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
        """Sleep, but not longer than until the request."""
        self.interruptibly(lambda: select.select([], [], [], seconds))

    def _note(self, signum: int, frame: object) -> None:
        if self or not self._accepts():
            return
        self.make()
        if self._is_interruptible:
            raise Stopped


_UNBLOCK = int(signal.SIG_UNBLOCK)
#: Signal → the handler that it must have in this process. Global, because so are the process's handlers: objects that
#: know nothing of each other install them, and after each attempt all are installed again together. Plain numbers,
#: because enums take three times as long there.
_handlers: dict[int, Callable[[int, Any], None]] = {}


def ignore_in_programs_too(signums: Iterable[signal.Signals]) -> None:
    """Have the kernel ignore these signals, also in programs that are executed."""
    for signum in signums:
        _signal.signal(signum, _signal.SIG_IGN)


def install_handler(signum: signal.Signals, handler: Callable[[int, Any], None]) -> None:
    """Have `handler` called at that signal, and remember it for `reinstall_handlers`."""
    _handlers[int(signum)] = handler
    _signal.signal(signum, handler)


def reinstall_handlers() -> None:
    """Undo what a task's code may have done: block our signals, or put its own handlers in the place of ours."""
    _signal.pthread_sigmask(_UNBLOCK, _handlers)
    for signum, handler in _handlers.items():
        if _signal.getsignal(signum) is not handler:
            _signal.signal(signum, handler)


def handled_signals() -> set[int]:
    """The signals for which this process has a handler of ours."""
    return set(_handlers)


def drop_handlers() -> None:
    """In a child that the application forked: be as Python starts, but for what the application has set itself."""
    signal.set_wakeup_fd(-1)
    for signum, handler in _handlers.items():
        if _signal.getsignal(signum) is handler:
            _signal.signal(signum, _signal.default_int_handler if signum == signal.SIGINT else _signal.SIG_DFL)
    _handlers.clear()


@contextmanager
def time_limit(seconds: float, error: BaseException) -> Iterator[None]:
    """Raise `error` in the block's Python code after `seconds`; only in the main thread, while no other timer runs."""
    if debugging.is_on():
        yield
        return
    is_inside = True

    def interrupt(*_: object) -> None:
        if is_inside:
            raise error

    before = _signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            is_inside = False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        _signal.signal(signal.SIGALRM, before)


def hold_signals() -> None:
    """Block our signals: they stay pending, also in a program that is executed, until `release_signals`."""
    _signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)


def release_signals(*, held: Collection[signal.Signals] = ()) -> None:
    """Unblock our signals, but for those that are still held; handle those that are pending."""
    _signal.pthread_sigmask(signal.SIG_UNBLOCK, set(HANDLED) - set(held))


def ignore(signums: Iterable[signal.Signals]) -> None:
    """Let these signals do nothing here, but in programs that are executed what they do anywhere."""
    for signum in signums:
        install_handler(signum, _do_nothing)


def restore_defaults(held: Collection[signal.Signals] = ()) -> None:
    """In a forked child: drop the parent's handlers, timer and wakeup pipe, then release the signals.

    Args:
        held: Signals that stay blocked, in a program that is executed, too.
    """
    _handlers.clear()
    signal.set_wakeup_fd(-1)
    signal.setitimer(signal.ITIMER_REAL, 0)
    for signum in HANDLED:
        _signal.signal(signum, _signal.SIG_DFL)
    _signal.pthread_sigmask(signal.SIG_UNBLOCK, set(HANDLED) - set(held))


def _do_nothing(signum: int, frame: object) -> None:
    """In a process with an inbox, the signal's number is in the wakeup pipe."""

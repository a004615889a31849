"""A process of its own that writes log lines to a file, so that the supervisor goes on while the disk hangs.

The supervisor must obey whatever happens. A thread would be one more whenever it forks. For a worker this would cost
more than the rest of a log line; a worker that hangs is killed at the end of a drain.
"""

import contextlib
import errno
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import NoReturn

from setproctitle import setproctitle

from boilerd.process.outlets import FileOutlet, Outlet, StreamOutlet
from boilerd.process.signals import HANDLED

#: How long the supervisor's end waits for lines that are on their way to a file.
FLUSH_S = 1.0
#: Of a message to the process that writes; lines are shorter.
_LONGEST_MESSAGE = 1024 * 1024
#: Tells that process to open its file again.
_REOPEN = b"\n"


class DetachedOutlet:
    """Has a process of its own write to another outlet, so that this one goes on while that hangs.

    That process answers each line with a character, and ends when all is written after the end of this one.

    Args:
        outlet: A forked child of this process takes it back, to write itself.
        on_loss: Called for each line that is lost later.

    Raises:
        OSError: There is no process or descriptor to spare, or the system has no such sockets.
    """

    def __init__(self, outlet: Outlet, on_loss: Callable[[], None]) -> None:
        self.outlet = outlet
        self.errno = 0
        self._on_loss = on_loss
        self._start()

    def write(self, line: bytes) -> bool:
        """Have the line written; False: it is lost."""
        self._take_answers()
        if not self._is_open and not self._restart():
            return False
        if not self._lines.write(line):
            self.errno = self._lines.errno
            return False
        self._waiting += 1
        return True

    def is_ready(self) -> bool:
        """True if all is written, or known to be lost."""
        self._take_answers()
        return not self._waiting

    def flush(self) -> None:
        """Wait until all is written, but not for long."""
        until_s = time.monotonic() + FLUSH_S
        while not self.is_ready() and (rest_s := until_s - time.monotonic()) > 0:
            select.select([self._socket], [], [], rest_s)

    def reopen(self) -> None:
        """Have a file that was moved opened again."""
        self.write(_REOPEN)

    def close(self) -> None:
        """Give up the process, which ends when it has written all."""
        self._lines.close()
        self._socket.close()
        self._is_open = False

    def _start(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # They stay blocked in the child: whoever ends all processes of the daemon at once ends this one last.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
            try:
                if os.fork() == 0:
                    _write_for_parent(self.outlet, self._socket, theirs)  # comes not back
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._lines = StreamOutlet(self._socket.fileno())
        self._socket.setblocking(False)
        self._waiting, self._is_open = 0, True
        if isinstance(self.outlet, FileOutlet):
            self.outlet.close()  # or this process would hold a file that was moved; who writes opens it

    def _restart(self) -> bool:
        """Fork another process in the place of one that was killed."""
        try:
            self._start()
        except OSError as error:
            self.errno = error.errno or errno.EIO
            return False
        return True

    def _take_answers(self) -> None:
        """Count what is written, and what is lost."""
        answers = b"?"
        while self._is_open and answers:
            try:
                answers = self._socket.recv(1)
            except BlockingIOError:
                return
            except OSError:
                answers = b""
            if answers:
                self._take_answer(answers[0])
        if self._is_open:  # it was killed
            self.close()
            while self._waiting:
                self._take_answer(errno.EPIPE)

    def _take_answer(self, code: int) -> None:
        self._waiting -= 1
        self.errno = code
        if code:
            self._on_loss()


def _write_for_parent(outlet: Outlet, parents: socket.socket, lines: socket.socket) -> NoReturn:
    """In the child: write what comes, until its parent has ended. No lock is taken here: a thread may have held it."""
    try:
        parents.close()
        setproctitle("boilerd: log")
        while line := _next_line(lines):
            answer = bytes([_write(outlet, line)])
            with contextlib.suppress(OSError):  # the parent has ended, and the rest is to be written all the same
                lines.send(answer)
    finally:
        os._exit(0)


def _next_line(lines: socket.socket) -> bytes:
    """Wait for it; empty: there are no more."""
    try:
        return lines.recv(_LONGEST_MESSAGE)
    except ConnectionResetError:  # told once, where the parent has ended and left answers unread
        return lines.recv(_LONGEST_MESSAGE)


def _write(outlet: Outlet, line: bytes) -> int:
    """Write a line; why it was lost, 0: it was not."""
    if line != _REOPEN:
        outlet.write(line)
        return outlet.errno
    with contextlib.suppress(OSError):
        outlet.reopen()
    return 0

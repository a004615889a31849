"""How to write to a pipe, socket or terminal without waiting for its reader.

The open file may be shared with the shell and its other programs, so it is not made non-blocking. On Linux /proc opens
a pipe or terminal once more, and only that is. A socket has a flag for each call.
"""

import contextlib
import errno
import functools
import os
import select
import signal
import socket
import stat
from collections.abc import Callable

#: Stands for the terminal of whoever opens it.
SESSION_TERMINAL = "/dev/tty"

#: Writes some of these bytes, or raises BlockingIOError where there is no room; how many.
Send = Callable[[bytes], int]


def way_to(fd: int, opened: contextlib.ExitStack) -> Send:
    """How to write there without waiting; `opened` closes what was opened for it."""
    with contextlib.suppress(OSError):
        mode = os.fstat(fd).st_mode
        if stat.S_ISSOCK(mode):
            return functools.partial(_send, opened.enter_context(socket.socket(fileno=os.dup(fd))))
        if stat.S_ISFIFO(mode):
            own = _open_again(opened, f"/proc/self/fd/{fd}")
            return functools.partial(os.write, own) if own else _way_into(fd, opened)
        if os.isatty(fd):
            own = _open_again(opened, f"/proc/self/fd/{fd}", *_names_of_session(fd))
            return functools.partial(_write_from_background, own) if own else functools.partial(_poll, fd)
    return functools.partial(os.write, fd)


def _open_again(opened: contextlib.ExitStack, *paths: str) -> int:
    """The same file, not shared with other programs and non-blocking; 0: it is another user's, or this is no Linux."""
    for path in paths:
        with contextlib.suppress(OSError):
            own = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            opened.callback(os.close, own)
            return own
    return 0


def _names_of_session(fd: int) -> list[str]:
    """A name that any user may open, if this is the terminal of our session."""
    try:
        os.tcgetpgrp(fd)
    except OSError:
        return []
    return [SESSION_TERMINAL]


def _send(connection: socket.socket, line: bytes) -> int:
    return connection.send(line, socket.MSG_DONTWAIT)


def _write_from_background(fd: int, line: bytes) -> int:
    """Write to a terminal, also from the background: after `stty tostop` that would stop the program (TTOU)."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
    try:
        return os.write(fd, line)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _poll(fd: int, line: bytes) -> int:
    """Write as much as fits where there is room; another process may be faster, then it waits."""
    room = select.poll()
    room.register(fd, select.POLLOUT)
    if not room.poll(0):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return _write_from_background(fd, line[: select.PIPE_BUF])


def _way_into(fd: int, opened: contextlib.ExitStack) -> Send:
    """How to write to a pipe of another user."""
    return Splice(fd, opened) if hasattr(os, "splice") else functools.partial(_poll, fd)


class Splice:
    """Writes to a pipe of another user by way of one of ours: to move bytes between two pipes has a flag for each call.

    Args:
        fd: The other user's pipe.
        opened: Closes what was opened here.
    """

    def __init__(self, fd: int, opened: contextlib.ExitStack) -> None:
        self._fd = fd
        self._pid = 0
        self._opened = opened.enter_context(contextlib.ExitStack())

    def __call__(self, line: bytes) -> int:
        """Write some of it; raises BlockingIOError where there is no room."""
        if self._pid != os.getpid():
            self._open()
        given, moved = os.write(self._write_fd, line), 0
        try:
            moved = os.splice(self._read_fd, self._fd, given, flags=os.SPLICE_F_NONBLOCK)
        finally:
            if moved != given:  # ours is empty after each call
                os.read(self._read_fd, given)
        return moved

    def _open(self) -> None:
        """Open a pipe of this process alone: a forked child's lines must not mix with its parent's."""
        self._opened.close()
        self._read_fd, self._write_fd = os.pipe()
        for end in (self._read_fd, self._write_fd):
            self._opened.callback(os.close, end)
            os.set_blocking(end, False)
        self._pid = os.getpid()

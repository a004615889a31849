"""Where log lines go: ways to write that keep nobody waiting for ever.

Whoever reads the daemon's output may stop reading: a pager, a terminal after Ctrl-S, a collector that hangs. Then a
plain `write` waits without an end. `StreamOutlet` waits a little, then gives the line up.

For a file nothing makes `write` return while its disk hangs: see `detached_outlet`.
"""

import contextlib
import errno
import os
import select
import stat
import time
import weakref
from pathlib import Path
from typing import Protocol

from boilerd import ground
from boilerd.process.ways import way_to

#: How long a process waits in all for a reader that has stalled, until lines are lost. Below the half second that
#: a worker has to give its task back at the end of a drain.
ALLOWANCE_S = 0.3
#: What each written line gives back of it: a reader that takes 50 lines a second from a process costs no line.
ALLOWANCE_PER_LINE_S = 0.02


class Outlet(Protocol):
    """A place where lines are written.

    Attributes:
        errno: Why the last line was lost; 0: it was not.
    """

    errno: int

    def write(self, line: bytes) -> bool:
        """Write a line; False: it is lost."""

    def is_ready(self) -> bool:
        """True if the next line would not have to wait."""

    def flush(self) -> None:
        """Wait a little for lines that are still to be written."""

    def reopen(self) -> None:
        """Open a file that was moved again."""

    def close(self) -> None:
        """Close what was opened here."""


class StreamOutlet:
    """Writes to an open file, each line with one system call where there is room for it.

    Args:
        fd: A descriptor of it, which may be closed or become that of another file later.
    """

    errno = 0

    def __init__(self, fd: int) -> None:
        opened = contextlib.ExitStack()
        with contextlib.suppress(OSError):  # it is closed: each line finds that out
            fd = os.dup(fd)
            opened.callback(os.close, fd)
        self._send = way_to(fd, opened)
        self._close = weakref.finalize(self, opened.close)
        self._close.atexit = False
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._allowance_s = ALLOWANCE_S
        self._rest = b""  # what is still to be written before the next line

    def write(self, line: bytes) -> bool:
        """Write a line; False: it is lost, because nobody reads, or because the write failed."""
        if self._rest and not self._write_rest():
            return False
        try:
            sent = self._send(line)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            return self._lose(error)
        if sent == len(line):
            if self._allowance_s < ALLOWANCE_S:
                self._allowance_s += ALLOWANCE_PER_LINE_S
            self.errno = 0
            return True
        return self._insist(line, sent)

    def is_ready(self) -> bool:
        """True if there is room, also for what is left of the last line."""
        return bool(self._poll.poll(0)) and (not self._rest or self._write_rest())

    def flush(self) -> None:
        """Do nothing: all lines are written, or lost."""

    def reopen(self) -> None:
        """Do nothing: a stream has no name."""

    def close(self) -> None:
        """Close what was opened here."""
        self._close()

    def _insist(self, line: bytes, sent: int) -> bool:
        """Write the rest of a line for which there was no room."""
        self._rest = line[sent:]
        if self._write_rest():
            self._allowance_s += ALLOWANCE_PER_LINE_S
            self.errno = 0
            return True
        # Where it was begun, others may write before there is room again: it only ends, so that the next line is whole.
        self._rest = b"\n" if len(self._rest) < len(line) else b""
        return False

    def _write_rest(self) -> bool:
        """Write what is left to be written, and wait where there is no room; False: something is still left."""
        while self._rest:
            try:
                self._rest = self._rest[self._send(self._rest) :]
            except BlockingIOError:
                if not self._wait():
                    self.errno = errno.EAGAIN
                    return False
            except OSError as error:
                return self._lose(error)
        return True

    def _lose(self, error: OSError) -> bool:
        self.errno = error.errno or errno.EIO
        return False

    def _wait(self) -> bool:
        """Wait for room, as long as there is allowance; True if there is some."""
        if self._allowance_s <= 0:
            return False
        began_s = time.monotonic()
        is_ready = bool(self._poll.poll(self._allowance_s * 1000))
        self._allowance_s -= time.monotonic() - began_s
        return is_ready


class FileOutlet:
    """Appends to a file, and opens it again when it was renamed or removed.

    Raises:
        OSError: It cannot be opened.
    """

    errno = 0

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._identity = (-1, -1)
        self.reopen()

    def write(self, line: bytes) -> bool:
        """Write a line; False: it is lost."""
        written = 0
        try:
            self.reopen()
            while written < len(line):
                written += os.write(self._fd, line[written:])
        except OSError as error:
            self.errno = error.errno or errno.EIO
            if written:
                self._take_back(written)
            return False
        self.errno = 0
        return True

    def is_ready(self) -> bool:
        """True: a file has no end that could stall, but its disk, which nobody can ask."""
        return True

    def flush(self) -> None:
        """Do nothing: all lines are written, or lost."""

    def reopen(self) -> None:
        """Open the file, unless the one that is open has that name still."""
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(self._path)  # noqa: PTH116 - pathlib takes 1 µs longer, for each line
            if (found.st_dev, found.st_ino) == self._identity:
                return
        self.close()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY | os.O_CLOEXEC
        # Only if it is root's or ours: lines would be written to whatever a link leads to.
        self._fd = ground.open_file(Path(self._path), flags, 0o644, takes_devices=True)
        found = os.fstat(self._fd)
        self._identity = found.st_dev, found.st_ino

    def _take_back(self, written: int) -> None:
        """Cut off the beginning of a line that found no more room, or the next one would be joined to it.

        Nobody has written behind it, for there was no room.
        """
        with contextlib.suppress(OSError):
            end = os.lseek(self._fd, 0, os.SEEK_CUR)
            if end == os.fstat(self._fd).st_size:
                os.ftruncate(self._fd, end - written)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._identity = -1, (-1, -1)


def is_journal(fd: int) -> bool:
    """True if systemd's journal reads what is written to this descriptor; see systemd.exec(5)."""
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def is_file(fd: int) -> bool:
    """True if writes to this descriptor wait for a disk."""
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:
        return False

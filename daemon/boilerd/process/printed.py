"""What application code prints: shown as it is, at once, or as log lines with the fields of the task.

A text between lines of JSON breaks whatever reads them, so `sys.stdout` and `sys.stderr` may lead to log lines.
Programs that a task starts, and C code, write to the descriptors, past them.
"""

import io
import logging
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, TextIO

#: What is printed without an end of line becomes a line at this length, or when the task ends.
LONGEST_REST = 16 * 1024
#: sys's name of a stream → its descriptor, and the level of its lines.
_STREAMS = {"stdout": (1, logging.INFO), "stderr": (2, logging.WARNING)}

#: Writes a record where the daemon's lines go; None: what is printed stays as it is.
_write: Callable[[logging.LogRecord], None] | None = None
#: True if a line may have been begun that no end of line has ended yet.
_has_rest = False
#: True in a child that the application forked: nobody tells of its end, so what it flushes is a line.
_is_child = False
#: Whose text it is, where several write in turns in one thread or side by side; None: its thread's.
_writer: ContextVar[object] = ContextVar("boilerd_writer", default=None)


def write_as(writer: object) -> None:
    """From now on, what this context prints is this one's: no line has text of two."""
    _writer.set(writer)


class _Lines(io.RawIOBase):
    """Makes a log line of each line."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._fd, self._level = _STREAMS[name]
        self.rests: dict[object, bytes] = {}  # writer or thread → what it has printed since the last end of line
        self._writing: set[int] = set()

    def fileno(self) -> int:
        return self._fd

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        """Stay open: an application may put a stream of its own around this one, and let go of ours."""

    def flush(self) -> None:
        if _is_child:
            self.end_lines()

    def write(self, data: Any) -> int:
        global _has_rest  # noqa: PLW0603 - to look at it costs next to nothing
        writer = _writer.get() or threading.get_ident()
        *lines, rest = (self.rests.pop(writer, b"") + bytes(data)).split(b"\n")
        for line in lines:
            self._log(line)
        if len(rest) > LONGEST_REST:
            self._log(rest)
        elif rest:
            self.rests[writer] = rest
            _has_rest = True
        return len(data)

    def end_lines(self) -> None:
        """Write what is left of this context's writer; or of all threads, also those that have ended or wait."""
        writer = _writer.get()
        for found in list(self.rests):
            if found is writer or (writer is None and isinstance(found, int)):
                self._log(self.rests.pop(found, b""))

    def _log(self, line: bytes) -> None:
        text, thread = line.decode("utf-8", "backslashreplace").rstrip(), threading.get_ident()
        if not text or _write is None or thread in self._writing:  # printed by what writes it
            return
        self._writing.add(thread)
        try:
            _write(logging.LogRecord(self._name, self._level, "", 0, text, None, None))
        finally:
            self._writing.discard(thread)


_LINES = {name: _Lines(name) for name in _STREAMS}


class _Wrapped(io.TextIOWrapper):
    """A text stream of which log lines are made."""


def wrap(write: Callable[[logging.LogRecord], None]) -> None:
    """From now on make log records of what is printed; what the application has put in the place of a stream stays."""
    global _write  # noqa: PLW0603 - as sys.stdout, it is the process's
    _write = write
    for name in _STREAMS:
        if getattr(sys, name) is getattr(sys, f"__{name}__") is not None:
            setattr(sys, name, _wrapped(name))


def unwrap() -> None:
    """Undo it."""
    for name in _STREAMS:
        if is_wrapped(getattr(sys, name)):
            setattr(sys, name, getattr(sys, f"__{name}__"))


def is_wrapped(stream: object) -> bool:
    """True if log lines are made of what is written there."""
    with suppress(ValueError):  # it was detached
        return isinstance(stream, _Wrapped) or (
            isinstance(stream, io.TextIOWrapper) and isinstance(stream.buffer, _Lines)
        )
    return False


def is_closed(stream: object) -> bool:
    """True if nothing can be written there any more."""
    try:
        return bool(getattr(stream, "closed", False))
    except ValueError:  # it was detached: the application has put another one around its descriptor
        return True


def reopened(stream: TextIO, fd: int) -> TextIO:
    """A stream like this one, which may be closed; each line is written at once."""
    if is_wrapped(stream):
        return _wrapped("stdout" if fd == _STREAMS["stdout"][0] else "stderr")
    encoding, errors = getattr(stream, "encoding", None), getattr(stream, "errors", None)
    return open(fd, "w", buffering=1, encoding=encoding, errors=errors, closefd=False)


def end_lines() -> None:
    """Make lines of what was printed without an end of line; for the end of a task."""
    global _has_rest  # noqa: PLW0603
    if _has_rest:
        for lines in _LINES.values():
            lines.end_lines()
        _has_rest = any(lines.rests for lines in _LINES.values())


def leave_line_to_parent() -> None:
    """In a child that the application forked: the line that was begun before is its parent's."""
    global _is_child  # noqa: PLW0603
    _is_child = True
    for lines in _LINES.values():
        lines.rests.clear()


def flush() -> None:
    """Write what stands in buffers, for the end of a process that does not end as Python's do; never raises."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    with suppress(Exception):
        end_lines()


def _wrapped(name: str) -> TextIO:
    return _Wrapped(_LINES[name], "utf-8", "backslashreplace", line_buffering=True, write_through=True)  # type: ignore[arg-type]

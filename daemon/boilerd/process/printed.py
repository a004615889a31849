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
from typing import Any, TextIO

#: What is printed without an end of line becomes a line at this length, or when the task ends.
LONGEST_REST = 16 * 1024
#: sys's name of a stream → its descriptor, and the level of its lines.
_STREAMS = {"stdout": (1, logging.INFO), "stderr": (2, logging.WARNING)}

#: Writes a record where the daemon's lines go; None: what is printed stays as it is.
_write: Callable[[logging.LogRecord], None] | None = None
_wrappers: dict[str, TextIO] = {}
#: True if a line may have been begun that no end of line has ended yet.
_has_rest = False


class _Rest(threading.local):
    """What a thread has printed since the last end of line."""

    text = b""
    is_writing = False


class _Lines(io.RawIOBase):
    """Makes a log line of each line."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._fd, self._level = _STREAMS[name]
        self._rest = _Rest()

    def fileno(self) -> int:
        return self._fd

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        global _has_rest  # noqa: PLW0603 - to look at it costs next to nothing
        *lines, rest = (self._rest.text + bytes(data)).split(b"\n")
        self._rest.text = rest
        _has_rest = True
        for line in lines:
            self._log(line)
        if len(rest) > LONGEST_REST:
            self.end_line()
        return len(data)

    def end_line(self) -> None:
        """Write what is left."""
        if rest := self._rest.text:
            self._rest.text = b""
            self._log(rest)

    def _log(self, line: bytes) -> None:
        text = line.decode("utf-8", "backslashreplace").rstrip()
        if not text or _write is None or self._rest.is_writing:  # printed by what writes it
            return
        self._rest.is_writing = True
        try:
            _write(logging.LogRecord(self._name, self._level, "", 0, text, None, None))
        finally:
            self._rest.is_writing = False


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
    return isinstance(stream, io.TextIOWrapper) and isinstance(stream.buffer, _Lines)


def reopened(stream: TextIO, fd: int) -> TextIO:
    """A stream like this one, which may be closed; each line is written at once."""
    if is_wrapped(stream):
        return _wrapped("stdout" if fd == _STREAMS["stdout"][0] else "stderr")
    return open(fd, "w", buffering=1, encoding=stream.encoding, errors=stream.errors, closefd=False)


def end_lines() -> None:
    """Make lines of what this thread has printed without an end of line; for the end of a task."""
    global _has_rest  # noqa: PLW0603
    if not _has_rest:
        return
    _has_rest = False
    for stream in (sys.stdout, sys.stderr):
        if is_wrapped(stream):
            stream.buffer.end_line()  # type: ignore[union-attr]


def flush() -> None:
    """Write what stands in buffers, for the end of a process that does not end as Python's do; never raises."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    with suppress(Exception):
        end_lines()


def _wrapped(name: str) -> TextIO:
    """The stream that makes lines; one for a process and the children that it forks, so that they share its memory."""
    if name not in _wrappers or _wrappers[name].closed:
        _wrappers[name] = io.TextIOWrapper(  # type: ignore[type-var]
            _Lines(name), "utf-8", "backslashreplace", line_buffering=True, write_through=True
        )
    return _wrappers[name]

"""Log lines: one JSON object a line for machines, one readable line for people.

Lines go to stdout with a single write each, so that lines of several processes on one pipe
do not mix; `outlets` writes them. Each line that an attempt logs, in whatever module, carries the fields of its task.
"""

import contextlib
import errno
import io
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from boilerd.process import printed as printed_output
from boilerd.process.line_handler import LineHandler
from boilerd.process.log_guard import Guard
from boilerd.process.log_lines import JournalFormatter, JsonFormatter, TextFormatter
from boilerd.process.outlets import is_journal

logger = logging.getLogger("boilerd.logs")

#: Fields of the attempt that this process runs.
_context: ContextVar[Mapping[str, Any]] = ContextVar("boilerd_log_context", default=MappingProxyType({}))


class log_context:  # noqa: N801 - used like a function
    """Add `fields` to every line that is logged inside the block; a class, because every attempt has one."""

    __slots__ = ("_fields", "_token")

    def __init__(self, **fields: Any) -> None:
        self._fields = fields

    def __enter__(self) -> None:
        self._token = _context.set({**_context.get(), **self._fields})

    def __exit__(self, *exc_info: object) -> None:
        _context.reset(self._token)


def add_log_fields(**fields: Any) -> None:
    """Add fields to every line that is logged until the end of the `log_context` around the caller."""
    _context.set({**_context.get(), **fields})


def forget_context() -> None:
    """In a child that a task forked, and that may outlive it: log without the task's fields."""
    _context.set(MappingProxyType({}))


def configure(
    *, level: str, output: str = "stdout", file: str | None = None, style: str = "auto", printed: str = "auto"
) -> None:
    """Send the root logger's lines where the settings say; handlers that others put there stay.

    Where there is no handler but boilerd's, records are made without caller, thread and process name.

    Args:
        level: Name of the lowest level to log.
        output: ``stdout``, ``file`` or ``both``.
        file: Path of the log file; it is opened again when it was renamed or removed.
        style: ``json``, ``text``, or ``auto``: text where stdout is a terminal. Files get JSON.
        printed: What `printed_wrapped` does: ``raw``: nothing; ``wrap``; ``auto``: wrap where stdout gets JSON lines.

    Raises:
        OSError: The log file cannot be opened.
    """
    handlers: list[LineHandler] = []
    if output in {"stdout", "both"}:
        handlers.append(_stream_handler(1, style))
    if output in {"file", "both"} and file:
        handlers.append(LineHandler(file))
        handlers[-1].setFormatter(JsonFormatter())
    _take_over(handlers)
    root = logging.getLogger()
    root.setLevel(level.upper())
    # RQ logs the call with its arguments, but payloads are never logged.
    for name in ("rq", "rq.worker"):  # that one sets a level of its own when it is imported (3.0)
        logging.getLogger(name).setLevel(logging.WARNING)
    is_json = output in {"stdout", "both"} and not _is_text(1, style)
    _now.style, _now.wraps = style, printed == "wrap" or (printed == "auto" and is_json)
    _now.guard = Guard(handlers, lambda found: any(handler.writes_to(found) for handler in handlers))


class _Setup:
    """The set-up of this process's logging."""

    def __init__(self) -> None:
        self.handlers: list[LineHandler] = []
        self.guard: Guard | None = None
        self.style = "auto"
        self.wraps = False


_now = _Setup()


def put_back() -> None:
    """Undo what a task did to the daemon's logging, and end the line that it was printing."""
    printed_output.end_lines()
    if _now.guard:
        _now.guard.put_back()


@contextlib.contextmanager
def printed_wrapped() -> Iterator[None]:
    """For the time of a block make log lines of what is printed, if the settings say so; else show it at once.

    Forked children go on with it: what they need not call copies nothing of the memory that they share.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    if _now.wraps:
        printed_output.wrap(_write_printed)
    try:
        yield
    finally:
        printed_output.end_lines()
        printed_output.unwrap()


def _write_printed(record: logging.LogRecord) -> None:
    """Whatever the level: what to print is for the application to say. Its own handlers get nothing: they may print."""
    for handler in own_handlers():
        handler.handle(record)


def _is_text(fd: int, style: str) -> bool:
    return style == "text" or (style == "auto" and os.isatty(fd))


def _stream_handler(fd: int, style: str) -> LineHandler:
    handler = LineHandler(fd)
    formatter = TextFormatter() if _is_text(fd, style) else JsonFormatter()
    handler.setFormatter(JournalFormatter(formatter) if is_journal(fd) else formatter)
    return handler


def _take_over(handlers: list[LineHandler]) -> None:
    """Replace our handlers by these."""
    root = logging.getLogger()
    for old in own_handlers():
        root.removeHandler(old)
        old.shut()
    for handler in handlers:
        handler.addFilter(_AddFields())
    root.handlers[:0] = _now.handlers = handlers


def name_process(worker: str, count_loss: Callable[[], None] | None = None) -> None:
    """In a child of the daemon: go on with the parent's handlers, but without the process that writes for it.

    Args:
        worker: The field ``worker`` of each line.
        count_loss: Called for each line of this process that is lost.
    """
    for handler in own_handlers():
        handler.attach()
        handler.on_loss = count_loss or handler.on_loss
        for added in handler.filters:
            if isinstance(added, _AddFields):
                added.worker = worker


def count_losses(count: Callable[[], None]) -> None:
    """From now on, call `count` for each line of this process that is lost."""
    for handler in own_handlers():
        handler.on_loss = count


def detach_files() -> None:
    """Have a process write to files, for the supervisor: it must go on while a disk hangs."""
    for handler in own_handlers():
        handler.detach()


def are_ready() -> bool:
    """True if a line that is logged now would be written at once, as far as one can tell."""
    return all(handler.outlet.is_ready() for handler in own_handlers())


def flush() -> None:
    """Wait a little for lines that are still to be written; call it before the program is replaced."""
    for handler in own_handlers():
        handler.flush()


def reopen() -> None:
    """Open renamed or removed log files again; each line does it too, but a silent process would hold the old one."""
    for handler in own_handlers():
        with contextlib.suppress(OSError):
            handler.outlet.reopen()


def losing() -> list[LineHandler]:
    """The handlers of this process whose last line was lost."""
    return [handler for handler in own_handlers() if handler.outlet.errno]


def cry_of_losses() -> bool:
    """Tell on stderr which log cannot be written, and why; False: this process has lost none."""
    if not (handlers := losing()):
        return False
    spare = _stream_handler(2, _now.style)
    for handler in handlers:
        why = "nobody reads it" if handler.outlet.errno == errno.EAGAIN else os.strerror(handler.outlet.errno)
        fields = {"log": handler.name_of_log, "error": why}
        write_to([spare], logger, logging.ERROR, "log cannot be written, its lines are lost", **fields)
    spare.shut()
    return True


def write_to(
    handlers: Iterable[LineHandler], logger: logging.Logger, level: int, message: str, **fields: object
) -> None:
    """Write a line to some of the handlers alone."""
    record = logger.makeRecord(logger.name, level, "", 0, message, (), None, extra=fields)
    for handler in handlers:
        handler.handle(record)


def own_handlers() -> list[LineHandler]:
    """The daemon's handlers; an application may have taken them from the root logger for the moment."""
    return _now.handlers


def log_stacks() -> None:
    """Log the stack of each thread of this process."""
    frames = sys._current_frames()  # noqa: SLF001 - documented, see the sys module
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    stacks = [
        f"{names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}" for ident, frame in frames.items()
    ]
    logger.warning("stack dump", extra={"stacks": "\n".join(stacks)})


class _AddFields(logging.Filter):
    """Puts the attempt's fields and the process's name on every record."""

    worker: str | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        if self.worker:
            record.worker = self.worker
        for name, value in _context.get().items():
            record.__dict__.setdefault(name, value)
        return True

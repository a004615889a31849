"""Log lines: one JSON object a line for machines, one readable line for people.

Lines go to stdout with a single write each, so that lines of several processes on one pipe
do not mix; `outlets` writes them. Each line that an attempt logs, in whatever module, carries the fields of its task.
"""

import contextlib
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from boilerd.process.log_lines import JsonFormatter, TextFormatter
from boilerd.process.outlets import DetachedOutlet, FileOutlet, Outlet, StreamOutlet, is_file

logger = logging.getLogger("boilerd.logs")

#: Fields of the attempt that this process runs.
_context: ContextVar[Mapping[str, Any]] = ContextVar("boilerd_log_context", default=MappingProxyType({}))

#: Tells `logging` which frames to pass over in search of the caller; None: do not search.
_LOGGING_FILE = logging._srcfile  # noqa: SLF001


class log_context:  # noqa: N801 - used like a function
    """Add `fields` to every line that is logged inside the block; a class, because every attempt has one."""

    __slots__ = ("_fields", "_token")

    def __init__(self, **fields: Any) -> None:
        self._fields = fields

    def __enter__(self) -> None:
        self._token = _context.set({**_context.get(), **self._fields})

    def __exit__(self, *exc_info: object) -> None:
        _context.reset(self._token)


def configure(*, level: str, output: str = "stdout", file: str | None = None, style: str = "auto") -> None:
    """Send the root logger's lines where the settings say; handlers that others put there stay.

    Where it finds no handler but boilerd's, records are made without caller, thread and process name (``%(lineno)d``,
    ``%(threadName)s``, ``%(processName)s``). An application whose handlers show these must add them when
    it is imported, not later.

    Args:
        level: Name of the lowest level to log.
        output: ``stdout``, ``file`` or ``both``.
        file: Path of the log file; it is opened again when it was renamed or removed.
        style: ``json``, ``text``, or ``auto``: text where stdout is a terminal. Files get JSON.

    Raises:
        OSError: The log file cannot be opened.
    """
    if style == "auto":
        style = "text" if os.isatty(1) else "json"
    handlers: list[logging.Handler] = []
    if output in {"stdout", "both"}:
        handlers.append(LineHandler(1))
        handlers[-1].setFormatter(TextFormatter() if style == "text" else JsonFormatter())
    if output in {"file", "both"} and file:
        handlers.append(LineHandler(file))
        handlers[-1].setFormatter(JsonFormatter())
    for handler in handlers:
        handler.addFilter(_AddFields())
    _take_over(handlers)
    logging.getLogger().setLevel(level.upper())
    # RQ logs the call with its arguments, but payloads are never logged.
    for name in ("rq", "rq.worker"):  # that one sets a level of its own when it is imported (3.0)
        logging.getLogger(name).setLevel(logging.WARNING)
    # A full disk or a closed pipe must never reach a handler's code, nor fill stderr.
    logging.raiseExceptions = False
    _make_records(is_complete=_has_foreign_handler())


def _make_records(*, is_complete: bool) -> None:
    """Have records made with caller, thread and process name, or without: no line of ours shows them.

    They cost 1 µs of the 7 µs of a line. Source: "Optimization" in Python's logging HOWTO.
    """
    logging._srcfile = _LOGGING_FILE if is_complete else None  # noqa: SLF001
    logging.logThreads = logging.logMultiprocessing = is_complete


def _has_foreign_handler() -> bool:
    """True if a logger has a handler that is not boilerd's."""
    root = logging.getLogger()
    loggers = [root, *(known for known in root.manager.loggerDict.values() if isinstance(known, logging.Logger))]
    ours = LineHandler | logging.NullHandler
    return not all(isinstance(handler, ours) for logger in loggers for handler in logger.handlers)


def _take_over(handlers: list[logging.Handler]) -> None:
    """Replace our handlers by these, and enable boilerd's loggers: dictConfig disables all that it does not mention."""
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old, LineHandler):
            root.removeHandler(old)
            old.close()
    root.handlers[:0] = handlers
    for name, known in root.manager.loggerDict.items():
        if name.partition(".")[0] == "boilerd" and isinstance(known, logging.Logger):
            known.disabled = False


def name_process(worker: str, count_loss: Callable[[], None] | None = None) -> None:
    """In a child of the daemon: go on with the parent's handlers, but without the process that writes for it.

    Args:
        worker: The field ``worker`` of each line.
        count_loss: Called for each line of this process that is lost.
    """
    for handler in _own_handlers():
        handler.attach()
        handler.on_loss = count_loss or handler.on_loss
        for added in handler.filters:
            if isinstance(added, _AddFields):
                added.worker = worker


def count_losses(count: Callable[[], None]) -> None:
    """From now on, call `count` for each line of this process that is lost."""
    for handler in _own_handlers():
        handler.on_loss = count


def detach_files() -> None:
    """Have a process write to files, for the supervisor: it must go on while a disk hangs."""
    for handler in _own_handlers():
        handler.detach()


def are_ready() -> bool:
    """True if a line that is logged now would be written at once, as far as one can tell."""
    return all(handler.outlet.is_ready() for handler in _own_handlers())


def flush() -> None:
    """Wait a little for lines that are still to be written; call it before the program is replaced."""
    for handler in _own_handlers():
        handler.flush()


def reopen() -> None:
    """Open renamed or removed log files again; each line does it too, but a silent process would hold the old one."""
    for handler in _own_handlers():
        with contextlib.suppress(OSError):
            handler.outlet.reopen()


def _own_handlers() -> list["LineHandler"]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, LineHandler)]


def log_stacks() -> None:
    """Log the stack of each thread of this process."""
    frames = sys._current_frames()  # noqa: SLF001 - documented, see the sys module
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    stacks = [
        f"{names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}" for ident, frame in frames.items()
    ]
    logger.warning("stack dump", extra={"stacks": "\n".join(stacks)})


class LineHandler(logging.Handler):
    """Writes each record as a line, or gives it up: never makes its caller wait for long.

    Args:
        where: A file descriptor, or the path of a file.

    Attributes:
        outlet: Writes the lines.
        on_loss: Called for each line that is lost.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(self, where: int | str) -> None:
        super().__init__()
        self.outlet: Outlet = StreamOutlet(where) if isinstance(where, int) else FileOutlet(where)
        self.on_loss: Callable[[], None] = _ignore
        self._is_file = isinstance(where, str) or is_file(where)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line; if that fails, only this line is lost."""
        try:
            line = self.format(record).encode("utf-8", "backslashreplace") + b"\n"
            if not self.outlet.write(line):
                self.on_loss()
        except Exception:  # noqa: BLE001 - logging never raises into tasks
            self.handleError(record)

    def detach(self) -> None:
        """Have a process write, if it goes to a file; `on_loss` stays as it is from now on."""
        if self._is_file and not isinstance(self.outlet, DetachedOutlet):
            with contextlib.suppress(OSError):  # elsewhere than on Linux; or nothing is to spare, which others will say
                self.outlet = DetachedOutlet(self.outlet, self.on_loss)

    def attach(self) -> None:
        """Write without that process, which is the parent's."""
        if isinstance(self.outlet, DetachedOutlet):
            self.outlet.close()
            self.outlet = self.outlet.outlet

    def flush(self) -> None:
        """Wait a little for lines that are still to be written."""
        self.outlet.flush()

    def close(self) -> None:
        """Close what was opened for this handler."""
        super().close()
        self.outlet.close()


def _ignore() -> None:
    """Nobody counts."""


class _AddFields(logging.Filter):
    """Puts the attempt's fields and the process's name on every record."""

    worker: str | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        if self.worker:
            record.worker = self.worker
        for name, value in _context.get().items():
            record.__dict__.setdefault(name, value)
        return True

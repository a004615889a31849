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
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from pythonjsonlogger.msgspec import MsgspecFormatter

from boilerd.process.outlets import DetachedOutlet, FileOutlet, Outlet, StreamOutlet, is_file

logger = logging.getLogger("boilerd.logs")

#: Fields that come first in a line, in this order, if they have a value.
FIELDS = (
    "time", "level", "message", "logger", "pid", "worker", "task_id", "task_type", "queue", "attempt",
    "duration_ms", "error", "request_id",
)  # fmt: skip

#: Those of them that no record has by itself.
_GIVEN_FIELDS = FIELDS[5:]
#: Fields of the attempt that this process runs.
_context: ContextVar[Mapping[str, Any]] = ContextVar("boilerd_log_context", default=MappingProxyType({}))

#: Attributes that the `logging` module gives every record; all others came in through ``extra``.
_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", None, None))) | {"message", "asctime", "taskName"}
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


def name_process(worker: str) -> None:
    """In a child of the daemon: put this name in the field ``worker`` of each line; the handlers are the parent's."""
    for handler in _own_handlers():
        for added in handler.filters:
            if isinstance(added, _AddFields):
                added.worker = worker


def count_losses(count: Callable[[], None]) -> None:
    """From now on, call `count` for each line of this process that is lost."""
    for handler in _own_handlers():
        handler.on_loss = count


def detach_files() -> None:
    """Have a thread write to files, in the supervisor: it must go on while a disk hangs."""
    for handler in _own_handlers():
        handler.detach()


def attach_files() -> None:
    """In a child of the process that called `detach_files`: write without the thread, which only the parent has."""
    for handler in _own_handlers():
        handler.attach()


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
        """Have a thread write, if it goes to a file; `on_loss` stays as it is from now on."""
        if self._is_file and not isinstance(self.outlet, DetachedOutlet):
            self.outlet = DetachedOutlet(self.outlet, self.on_loss)

    def attach(self) -> None:
        """Write without the thread."""
        if isinstance(self.outlet, DetachedOutlet):
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


class TextFormatter(logging.Formatter):
    """``12:00:00.123 INFO  task started  task_id=… queue=default``."""

    def format(self, record: logging.LogRecord) -> str:
        """Time, level, message, then the fields in the order they were given."""
        try:
            return self._format(record)
        except Exception:  # noqa: BLE001 - the line is written, whatever the caller gave
            return self._format(_plain(record))

    def _format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f")[:-3]
        given = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        ordered = {name: given.pop(name) for name in FIELDS if name in given} | given
        fields = {name: value for name, value in ordered.items() if value is not None}
        line = f"{time} {record.levelname:<7} {_harmless(record.getMessage())}"
        if fields:
            line += "  " + " ".join(f"{name}={_shown(value)}" for name, value in fields.items())
        if record.exc_info:
            line += "\n" + _harmless(self.formatException(record.exc_info))
        return line


class JsonFormatter(MsgspecFormatter):
    """``time level message logger pid worker``, then the fields from ``extra`` and the context.

    The library's own means (`rename_fields`, `process_log_record` and logging's time formats) take 4.4 µs for a line
    of an attempt, and this 3.2 µs; there a field of the caller's could also replace one of the line's own.
    """

    def __init__(self) -> None:
        super().__init__(["asctime"])
        self._second, self._shown_second = -1, ""

    def format(self, record: logging.LogRecord) -> str:
        """The line; if a value has no JSON form, all values are plain text."""
        try:
            return super().format(record)
        except Exception:  # noqa: BLE001 - the line is written, whatever the caller gave
            return super().format(_plain(record))

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Add the fields in a steady order, but none without a value.

        The parent's goes through them three times, and keeps those without a value. Here a field of the
        caller's never takes the place of the line's own.
        """
        given = {name: value for name, value in vars(record).items() if name not in _STANDARD and value is not None}
        given |= message_dict
        log_data["time"] = record.asctime
        log_data["level"] = record.levelname.lower()
        log_data["message"] = given.pop("message", record.message)
        log_data["logger"] = record.name
        log_data["pid"] = record.process
        for name in _GIVEN_FIELDS:
            if name in given:
                log_data[name] = given.pop(name)
        if "exc_info" in given:
            given["traceback"] = given.pop("exc_info")
        log_data |= {name: value for name, value in given.items() if name not in log_data}

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """UTC, ISO 8601, milliseconds; logging's own formats each line's second anew, which takes 0.6 µs longer."""
        second, micros = divmod(round(record.created * 1_000_000), 1_000_000)
        if second != self._second:
            self._second = second
            self._shown_second = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._shown_second}.{micros // 1000:03d}Z"


class _AddFields(logging.Filter):
    """Puts the attempt's fields and the process's name on every record."""

    worker: str | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        if self.worker:
            record.worker = self.worker
        for name, value in _context.get().items():
            record.__dict__.setdefault(name, value)
        return True


def _plain(record: logging.LogRecord) -> logging.LogRecord:
    """Copy the record with text for the values that the caller gave, in characters that any output takes."""
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001 - wrong arguments, or a value whose str() raises
        message = _text(record.msg)
    extra = {name: _text(value) for name, value in vars(record).items() if name not in _STANDARD and value is not None}
    return logging.makeLogRecord({**vars(record), "msg": _text(message), "args": (), **extra})


def _text(value: object) -> str:
    try:
        return str(value).encode("utf-8", "backslashreplace").decode()
    except Exception:  # noqa: BLE001 - it is the application's code
        return f"<{type(value).__name__}>"


def _shown(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return repr(text) if not text or " " in text or not text.isprintable() else text


def _harmless(text: str) -> str:
    """Escape control characters, which would move a terminal's cursor; lines and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)

"""The form of a log line: one JSON object for machines, readable text for people."""

import logging
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from pythonjsonlogger.msgspec import MsgspecFormatter

#: Fields that come first in a line, in this order, if they have a value.
FIELDS = (
    "time", "level", "message", "logger", "pid", "worker", "task_id", "task_type", "queue", "attempt",
    "duration_ms", "error", "request_id",
)  # fmt: skip

#: Those of them that no record has by itself.
_GIVEN_FIELDS = FIELDS[5:]
#: Attributes that the `logging` module gives every record; all others came in through ``extra``.
_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", None, None))) | {"message", "asctime", "taskName"}

#: A longer line is cut: journald splits at 48 KiB what one program says, and a pipe mixes long lines of several.
LONGEST = 32 * 1024
#: From which level on → what the journal shows as its priority: crit, err, warning, info, debug.
_PRIORITIES = ((50, "<2>"), (40, "<3>"), (30, "<4>"), (20, "<6>"), (-math.inf, "<7>"))
#: In characters, of which each may be four bytes.
_SURELY_SHORT = LONGEST // 4
#: How many characters of each value a line that is too long keeps; the next where it still is.
_KEPT = (4096, 512, 64)
#: What a terminal obeys or a reader mistakes, and JSON leaves as it is: DEL and C1, line ends, marks of direction.
_ODD = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class TextFormatter(logging.Formatter):
    """``12:00:00.123 INFO  task started  task_id=… queue=default``."""

    def format(self, record: logging.LogRecord) -> str:
        """Time, level, message, then the fields in the order they were given; below them a traceback as it is."""
        line = self._form(record)
        return line if len(line) < _SURELY_SHORT else _shortened(self._form, record, line)

    def _form(self, record: logging.LogRecord) -> str:
        try:
            return self._format(record)
        except Exception:  # noqa: BLE001 - the line is written, whatever the caller gave
            return self._format(_plain(record))

    def _format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f")[:-3]
        given = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        ordered = {name: given.pop(name) for name in FIELDS if name in given} | given
        fields = {name: value for name, value in ordered.items() if value is not None}
        traceback = fields.pop("traceback", None)
        line = f"{time} {record.levelname:<7} {_harmless(record.getMessage())}"
        if fields:
            line += "  " + " ".join(f"{_shown(name)}={_shown(value)}" for name, value in fields.items())
        if traceback is not None:
            line += "\n" + _harmless(str(traceback))
        if record.exc_info:
            line += "\n" + _harmless(self.formatException(record.exc_info))
        elif record.exc_text:
            line += "\n" + _harmless(record.exc_text)
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
        line = self._form(record)
        if len(line) < _SURELY_SHORT and line.isascii() and "\x7f" not in line:
            return line
        return _shortened(self._escaped, record, self._escaped(record))

    def _escaped(self, record: logging.LogRecord) -> str:
        return _ODD.sub(_as_escape, self._form(record))

    def _form(self, record: logging.LogRecord) -> str:
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


class JournalFormatter(logging.Formatter):
    """Puts the level before each line, where the journal takes it from; see sd-daemon(3)."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self._formatter = formatter

    def format(self, record: logging.LogRecord) -> str:
        """A text of several lines is as many entries, each with the level."""
        prefix = next(prefix for level, prefix in _PRIORITIES if record.levelno >= level)
        return prefix + self._formatter.format(record).replace("\n", f"\n{prefix}")


def _shortened(form: Callable[[logging.LogRecord], str], record: logging.LogRecord, line: str) -> str:
    """The line, with its long values cut if all of it is too long."""
    for kept in _KEPT:
        if len(line.encode("utf-8", "backslashreplace")) < LONGEST:
            return line
        line = form(_cut(record, kept))
    if len(line.encode("utf-8", "backslashreplace")) < LONGEST:
        return line
    # Thousands of fields, or names without an end: nobody wrote these for readers.
    own = {name: value for name, value in vars(record).items() if name in _STANDARD or name in _GIVEN_FIELDS}
    return form(_cut(logging.makeLogRecord(own), _KEPT[-1]))


def _cut(record: logging.LogRecord, kept: int) -> logging.LogRecord:
    """Copy the record; of a value that is longer in text only the two ends are left."""
    copy = _plain(record)
    if copy.exc_info:
        copy.exc_text, copy.exc_info = logging.Formatter().formatException(copy.exc_info), None
    for name, value in vars(copy).items():
        if isinstance(value, str) and len(value) > kept:
            half = kept // 2
            setattr(copy, name, f"{value[:half]} … {len(value) - 2 * half:,} characters cut … {value[-half:]}")
        elif isinstance(before := vars(record).get(name), int | float):
            setattr(copy, name, before)
    return copy


def _as_escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


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

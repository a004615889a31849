"""The form of a log line: one JSON object for machines, readable text for people."""

import logging
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

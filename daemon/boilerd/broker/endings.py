"""How a task ended, and how far it is, for whoever waits for it: read from its record and its results stream."""

import base64
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec

from boilerd.broker import keys
from boilerd.broker.connection import raw, text
from boilerd.broker.job_hash import name_in, read_progress, read_retention_s
from boilerd.broker.view_reader import to_attempt
from boilerd.broker.views import Attempt
from boilerd.errors import BoilerdError, TaskFailedError
from boilerd.tasks.progress import TaskProgress

#: What is read of a record while somebody waits.
_FIELDS = (
    "status", "result_ttl", "task_type", "description", "last_error", "runs", "started_at", "progress",
)  # fmt: skip
NAMES = tuple(name.encode() for name in _FIELDS)
#: RQ's words for what is no end of a task; a status that is none of its words cannot change by itself either.
_GOES_ON = frozenset({b"created", b"queued", b"started", b"scheduled", b"deferred"})
#: RQ's words for an end that somebody asked for; only its tools write them.
_CANCELLED = frozenset({b"canceled", b"stopped"})


class Record:
    """A task's record, as far as whoever waits has to know it."""

    def __init__(self, values: Sequence[bytes | None]) -> None:
        self.fields = {name: value for name, value in zip(NAMES, values, strict=True) if value is not None}

    @staticmethod
    def command(task_id: str) -> Sequence[str | bytes]:
        """The command that reads it."""
        return ["HMGET", raw(keys.job(task_id)), *_FIELDS]

    @property
    def has_ended(self) -> bool:
        """True if nothing more happens to the task by itself."""
        return bool(self.fields) and self.fields.get(b"status") not in _GOES_ON

    @property
    def is_kept(self) -> bool:
        """True if something is left of the task when it has completed."""
        with suppress(ValueError):  # damaged: the worker refuses it, and archives it
            return read_retention_s(self.fields) != 0
        return True

    @property
    def progress(self) -> TaskProgress | None:
        """How far its last attempt came; None: it did not tell."""
        return read_progress(self.fields)


class Ending:
    """How a task ended: its record, and its last entry in the results stream."""

    def __init__(self, task_id: str, answers: Sequence[Any]) -> None:
        entries, length, values = answers
        self._task_id = task_id
        self._record = Record(values)
        self._fields = self._record.fields
        flat = entries[0][1] if entries else ()
        self._entry = dict(zip(flat[::2], flat[1::2], strict=True))
        self._length = int(length)

    @staticmethod
    def commands(task_id: str) -> Sequence[Sequence[str | bytes]]:
        """The commands whose answers `__init__` takes.

        The record comes last: where that is still there, so was the stream, whatever happens between two commands.
        """
        stream = raw(keys.results(task_id))
        return [["XREVRANGE", stream, "+", "-", "COUNT", "1"], ["XLEN", stream], Record.command(task_id)]

    @property
    def is_whole(self) -> bool:
        """False if the task was deleted, or runs again, since it had ended."""
        return self._record.has_ended

    def result(self) -> Any:
        """What the handler returned.

        Raises:
            TaskFailedError: It did not complete.
            BoilerdError: What is kept is no JSON, as a plain RQ worker may write it; or nothing is kept any more.
        """
        if self._fields.get(b"status") != b"finished":
            raise self._failure()
        if not self._entry:
            raise BoilerdError(
                f"task {self._task_id} completed, but its result is gone: key {keys.results(self._task_id)} was deleted"
                ", or evicted; set maxmemory-policy to noeviction"
            )
        encoded = self._entry.get(b"return_value", b"")
        try:
            return msgspec.json.decode(base64.b64decode(encoded)) if encoded else None
        except (ValueError, RecursionError) as error:
            raise BoilerdError(
                f"task {self._task_id} completed, but its result is no JSON that can be read; a plain RQ worker writes"
                f" it with RQ's JSONSerializer ({type(error).__name__})"
            ) from None

    def _failure(self) -> TaskFailedError:
        attempt = to_attempt(self._entry) if self._entry else Attempt(None, None, "", is_success=False)
        line = self._text(b"last_error") or (attempt.error.strip().splitlines() or [""])[-1]
        kind, colon, message = line.partition(": ")
        if not colon or not kind.replace(".", "_").isidentifier():
            kind, message = "", line
        runs = self._text(b"runs")
        return TaskFailedError(
            self._task_id,
            self._text(b"task_type") or name_in(self._text(b"description")),
            error_type=kind,
            message=message,
            traceback=attempt.error,
            attempts=int(runs) if runs.isdecimal() and len(runs) < 20 else self._length,
            is_cancelled=kind == "TaskCancelledError" or self._fields.get(b"status") in _CANCELLED,
        )

    def _text(self, name: bytes) -> str:
        return text(self._fields.get(name, b""))

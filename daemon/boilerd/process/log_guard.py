"""The daemon's set-up of `logging`, beside all that an application does to it.

An application may set logging up as it likes, also in a task. What it has changed of the daemon's is put back after the
task; its own handlers get what they show, but not a second time what the daemon writes to the same stream.
"""

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from boilerd.process import printed
from boilerd.process.copied_locks import all_handlers

#: Tells `logging` which frames to pass over in search of the caller; None: do not search.
_LOGGING_FILE = logging._srcfile  # noqa: SLF001
_task, _boilerd = logging.getLogger("boilerd.task"), logging.getLogger("boilerd")
_add_handler = logging.Logger.addHandler
_lock: contextlib.AbstractContextManager[bool] = logging._lock  # type: ignore[attr-defined] # noqa: SLF001


class Guard:
    """Keeps the root logger, and boilerd's own, as they are now.

    Args:
        handlers: The daemon's, on the root logger.
        is_theirs: Whether one of them writes to this file (the result of `os.stat`).
    """

    def __init__(self, handlers: Sequence[logging.Handler], is_theirs: Callable[[os.stat_result], bool]) -> None:
        self._handlers = list(handlers)
        self._is_theirs = is_theirs
        self._root = logging.getLogger()
        self._enable()
        self._levels = {logger.name: (logger.level, logger.propagate) for logger in self._own_loggers()}
        # A full disk or a closed pipe must never reach a handler's code, nor fill stderr.
        logging.raiseExceptions = False
        self._count, self._level = len(self._handlers), self._root.level
        self._state = self._look()
        is_complete = False
        for handler in all_handlers():
            is_complete |= self._is_foreign(handler)
            self._keep_apart(handler)
        _make_records(is_complete=is_complete)
        self._watch()

    def put_back(self) -> None:
        """Undo what was changed since; next to nothing where nothing was."""
        if self._look() != self._state:
            with _lock:  # threads may come here together, and make loggers meanwhile
                self._put_back()

    def _look(self) -> tuple[object, ...]:
        root = self._root
        return (
            root.level, root.manager.disable, root.handlers[: self._count], logging.raiseExceptions,
            _task.level, _task.disabled, _boilerd.level, _boilerd.disabled, _boilerd.propagate,
        )  # fmt: skip

    def _put_back(self) -> None:
        root = self._root
        root.handlers[:] = [*self._handlers, *(other for other in root.handlers if other not in self._handlers)]
        root.setLevel(self._level)
        logging.disable(logging.NOTSET)
        logging.raiseExceptions = False
        self._enable()
        for logger in self._own_loggers():
            level, logger.propagate = self._levels.get(logger.name, (logging.NOTSET, True))
            logger.setLevel(level)

    def _enable(self) -> None:
        """Enable boilerd's loggers: dictConfig disables all that it does not mention."""
        for logger in self._own_loggers():
            logger.disabled = False

    def _own_loggers(self) -> list[logging.Logger]:
        loggers = self._root.manager.loggerDict
        return [
            known for name, known in loggers.items()
            if name.partition(".")[0] == "boilerd" and isinstance(known, logging.Logger)
        ]  # fmt: skip

    def _is_foreign(self, handler: logging.Handler) -> bool:
        return handler not in self._handlers and not isinstance(handler, logging.NullHandler)

    def _keep_apart(self, handler: logging.Handler) -> None:
        """Keep a foreign handler from writing once more what the daemon writes to the same stream."""
        for old in [added for added in handler.filters if isinstance(added, _NotTwice)]:
            handler.removeFilter(old)
        if isinstance(handler, logging.StreamHandler) and self._is_same(handler.stream):
            handler.addFilter(_NotTwice())

    def _is_same(self, stream: Any) -> bool:
        if printed.is_wrapped(stream):
            return True
        with suppress(Exception):  # it is the application's
            return self._is_theirs(os.fstat(stream.fileno()))
        return False

    def _watch(self) -> None:
        """Look at each handler that is added from now on: `logging` has no hook for that."""

        @functools.wraps(_add_handler)
        def add_handler(logger: logging.Logger, handler: logging.Handler) -> None:
            _add_handler(logger, handler)
            if self._is_foreign(handler):
                _make_records(is_complete=True)
                self._keep_apart(handler)

        logging.Logger.addHandler = add_handler  # type: ignore[method-assign, assignment]


class _NotTwice(logging.Filter):
    """Passes the records that do not come to the root logger, where the daemon's handlers are."""

    def filter(self, record: logging.LogRecord) -> bool:
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger and logger.propagate:
            logger = logger.parent
        return logger is not None


def _make_records(*, is_complete: bool) -> None:
    """Have records made with caller, thread and process name, or without: no line of ours shows them.

    They cost 1 µs of the 7 µs of a line. Source: "Optimization" in Python's logging HOWTO.
    """
    logging._srcfile = _LOGGING_FILE if is_complete else None  # noqa: SLF001
    logging.logThreads = logging.logMultiprocessing = is_complete

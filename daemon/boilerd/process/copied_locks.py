"""What a forked child makes anew: what a thread of its parent may have held at the fork, and nobody gives back.

`logging` and `threading` see to their own locks. Those of a stream's buffer and of a module that is being imported stay
locked for ever, and the child would wait for them in its first `print` or `import`.
"""

import importlib
import io
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, TextIO

from boilerd.process import printed

#: Streams of the parent: to free one would write what it holds, which is the parent's, and wait for its lock.
_parents: list[TextIO] = []


def may_be_held() -> bool:
    """True if there is another thread, which may hold a lock at the moment of a fork; ask before it."""
    return len(sys._current_frames()) > 1  # noqa: SLF001 - threading knows only its own


def renew_locks() -> None:
    """Call it in the child before all else. It costs 0.8 MB of the memory that the child shares."""
    _renew_streams()
    _forget_imports()


def all_handlers() -> Iterator[logging.Handler]:
    """Handlers of all loggers; one that several have comes as often."""
    root = logging.getLogger()
    known = (logger for logger in root.manager.loggerDict.values() if isinstance(logger, logging.Logger))
    for logger in (root, *known):
        yield from logger.handlers


def _renew_streams() -> None:
    """Open sys.stdout, sys.stderr and the streams of the application's log handlers once more."""
    renewed: dict[int, TextIO] = {}

    def renew(stream: Any) -> Any:
        if not _is_of_descriptor(stream):
            return stream
        if id(stream) not in renewed:
            _parents.append(stream)
            renewed[id(stream)] = printed.reopened(stream, stream.fileno())
        return renewed[id(stream)]

    for name in ("stdout", "stderr", "__stdout__", "__stderr__"):
        setattr(sys, name, renew(getattr(sys, name)))
    for handler in all_handlers():
        if isinstance(handler, logging.StreamHandler):
            with suppress(AttributeError):  # it has none, or one that nobody may set
                handler.stream = renew(handler.stream)  # its setStream would flush


def _is_of_descriptor(stream: object) -> bool:
    """True for a text stream that buffers for a descriptor; others, as to memory or a compressed file, stay."""
    if not isinstance(stream, io.TextIOWrapper) or printed.is_wrapped(stream) or printed.is_closed(stream):
        return False
    return isinstance(getattr(stream.buffer, "raw", stream.buffer), io.FileIO)


def _forget_imports() -> None:
    """Forget modules that a thread was importing: whoever wants one imports it anew."""
    locks = importlib._bootstrap._module_locks  # type: ignore[attr-defined] # noqa: SLF001 - no other way
    for name, reference in list(locks.items()):
        lock = reference()
        if lock is not None and lock.owner not in {None, threading.get_ident()}:
            sys.modules.pop(name, None)
            del locks[name]

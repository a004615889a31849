"""Strikes: an interrupt that is raised in code which another thread runs, between two of its bytecodes.

Code that does not return to Python is not struck before it does.
"""

import ctypes
import functools
import threading
from collections.abc import Callable

from boilerd.errors import TaskInterrupt

# Two objects for one function: an exception is given as an object, none as a null pointer. Both hold the GIL.
_raise_in = ctypes.pythonapi["PyThreadState_SetAsyncExc"]
_raise_in.argtypes = (ctypes.c_ulong, ctypes.py_object)
_clear = ctypes.pythonapi["PyThreadState_SetAsyncExc"]
_clear.argtypes = (ctypes.c_ulong, ctypes.c_void_p)


def struck_with(reason: TaskInterrupt) -> type[TaskInterrupt]:
    """A class whose objects are what `reason` is: Python raises a class in another thread, and calls it there.

    Each strike raises an object of its own, as one reason may interrupt many attempts.
    """
    return _copy_of(type(reason), tuple(map(str, reason.args)))  # type: ignore[arg-type]


@functools.lru_cache(256)
def _copy_of(kind: type[TaskInterrupt], args: tuple[str, ...]) -> type[TaskInterrupt]:
    class Struck(kind):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__(*args)

        def __reduce__(self) -> tuple[type[TaskInterrupt], tuple[str, ...]]:
            return kind, args

    Struck.__name__, Struck.__qualname__, Struck.__module__ = kind.__name__, kind.__qualname__, kind.__module__
    return Struck


class Strikable:
    """The thread that runs an attempt, until the attempt has ended.

    A strike is delivered under the lock while the attempt runs; its end takes back, under the same lock, one that the
    thread has not noticed. So none reaches what the thread does next.

    Attributes:
        thread: It.
        cancel: Ends what the thread waits for; it notices no strike before that has ended. None: it does not wait.
    """

    __slots__ = ("_is_open", "_is_struck", "_lock", "cancel", "thread")

    def __init__(self) -> None:
        self.thread = threading.current_thread()
        self.cancel: Callable[[TaskInterrupt], None] | None = None
        self._lock = threading.Lock()
        self._is_open = True
        self._is_struck = False

    def strike(self, reason: TaskInterrupt) -> None:
        """Have the attempt end with `reason`; nothing if it has ended."""
        with self._lock:
            if not self._is_open:
                return
            if self.cancel:
                self.cancel(reason)
            else:
                self._is_struck = True
                _raise_in(self.thread.ident, struck_with(reason))

    def wait_by(self, cancel: Callable[[TaskInterrupt], None] | None) -> None:
        """Note what ends the thread's wait; the thread calls this, before and after it."""
        with self._lock:
            self.cancel = cancel

    def close(self) -> None:
        """End it, in the thread itself: no strike comes from now on."""
        while self._is_open or self._is_struck:
            try:
                with self._lock:
                    self._is_open = False
                    if self._is_struck:
                        _clear(self.thread.ident, None)
                    self._is_struck = False
            except TaskInterrupt:  # it came after the handler had returned
                continue

"""Children that the application forks: they must not have what a process of the daemon has set up for itself.

A handler may fork: with multiprocessing, `os.fork`, or a program's `preexec_fn`. Such a child starts with the signal
handlers, the mask and the wakeup pipe of a program of its own. What else it must leave, its parent says in
`leave_to_parent`. Timers, locks of files and the signal for a dead parent are not inherited anyway.

Python calls these hooks in processes that asked for them, and in their children. The supervisor does not ask.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import NoReturn

from boilerd.process import printed
from boilerd.process.signals import drop_handlers, handled_signals

#: Called in a child.
_actions: list[Callable[[], object]] = []
#: Of the thread that forks: its signal mask before.
_kept = threading.local()


def disown_children() -> None:
    """From now on, the children that this process forks are the application's, and start as programs of their own."""
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_leave)


def leave_to_parent(action: Callable[[], object]) -> None:
    """Have `action` called in each child that is forked from now on; it leaves something to this process."""
    _actions.append(action)


def end_child() -> NoReturn:
    """End a child that code of the application forked and that returned from it: the rest is its parent's."""
    error = sys.exception()
    status = 0 if error is None else 1
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        traceback.print_exception(error)
    printed.flush()
    os._exit(status)


def _hold() -> None:
    """Hold signals back: one that came before the child had dropped our handlers, it would never see.

    The timer's is none of them: no child gets it, and what the parent's handler raises for it would be lost in a hook.
    """
    _kept.mask = signal.pthread_sigmask(signal.SIG_BLOCK, handled_signals() - {signal.SIGALRM})


def _release() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _kept.mask)


def _leave() -> None:
    """In the child: have its own children inherit what it sets up itself."""
    try:
        drop_handlers()
        for action in _actions:
            action()
    finally:
        _actions.clear()
        _release()

"""The end of a forked child: what Python does when a program ends, but within a limit.

`sys.exit` would not do: the child stands inside of its parent's call, and Python waits without an end for threads.
"""

import atexit
import logging
import os
import signal
import sys
import threading
import weakref

from boilerd.process import printed
from boilerd.process.signals import install_handler, reinstall_handlers

logger = logging.getLogger("boilerd.ending")

#: How long exit handlers may take together: other processes wait for the end of this one.
EXIT_LIMIT_S = 3.0


#: The number of the first finalizer that this process makes, not its parent.
_first_own = 0


def note_fork() -> None:
    """In a forked child: note what was made before, for the end of this process."""
    global _first_own  # noqa: PLW0603 - the finalizers are global, too
    _first_own = next(weakref.finalize._index_iter)  # type: ignore[attr-defined] # noqa: SLF001


def _leave_clean_up_to_parent() -> None:
    """This end must not remove the temporary directories of its parent, nor end its processes.

    Python cleans up after objects that are alive when a program ends, also those that it made before the fork.
    """
    for finalizer, info in list(weakref.finalize._registry.items()):  # type: ignore[attr-defined] # noqa: SLF001
        if info.index < _first_own:
            finalizer.atexit = False
    processes = sys.modules.get("multiprocessing.process")
    if processes:
        children = processes._children  # noqa: SLF001
        children -= {child for child in children if child._parent_pid != os.getpid()}  # noqa: SLF001


def run_exit_handlers(limit_s: float, status: int) -> None:
    """Call the exit handlers; where they take longer than `limit_s`, end the process with `status`."""

    def give_up(*_: object) -> None:
        logger.warning("exit handlers take too long, ending without them", extra={"limit_s": round(limit_s, 3)})
        printed.flush()
        os._exit(status)

    _leave_clean_up_to_parent()
    install_handler(signal.SIGALRM, give_up)
    reinstall_handlers()
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    _shut_executors_down()
    atexit._run_exitfuncs()  # noqa: SLF001 - it logs what they raise
    signal.setitimer(signal.ITIMER_REAL, 0)


def _shut_executors_down() -> None:
    """Let executors end their threads and processes, as Python does before the exit handlers, which wait for these."""
    for shut_down in reversed(threading._threading_atexits):  # type: ignore[attr-defined] # noqa: SLF001
        try:
            shut_down()
        except Exception:
            logger.exception("an executor could not be shut down")

"""The application's hooks in the daemon itself, before it forks."""

import logging
import threading
import time
import traceback
from collections.abc import Sequence

from boilerd.errors import HookError, describe
from boilerd.tasks.callables import name_of
from boilerd.tasks.life import BEFORE_FORK, DAEMON_START, DaemonHook, Life

logger = logging.getLogger("boilerd.daemon")

#: The daemon does nothing else meanwhile; one that takes longer is told of.
QUICK_S = 0.1


def start_daemon(life: Life) -> None:
    """Call the hooks of `on_daemon_start`, and warn of threads that they left, which no worker will have.

    Raises:
        HookError: One of them did.
    """
    before = set(threading.enumerate())
    _call(DAEMON_START, life.daemon_starts)
    if left := [thread.name for thread in threading.enumerate() if thread not in before]:
        hint = (
            "no worker has them after the fork, and what they hold is held there for ever: start them in mux.lifespan"
        )
        logger.warning("threads are alive after on_daemon_start", extra={"threads": left, "hint": hint})


def before_fork(life: Life) -> None:
    """Call the hooks of `before_fork`.

    Raises:
        HookError: One of them did.
    """
    began_s = time.monotonic()
    _call(BEFORE_FORK, life.before_forks)
    if (took_s := time.monotonic() - began_s) > QUICK_S:
        hint = "the daemon does nothing else meanwhile; on_daemon_start is for what takes long"
        logger.warning("before_fork is slow", extra={"seconds": round(took_s, 3), "hint": hint})


def _call(kind: str, hooks: Sequence[DaemonHook]) -> None:
    for hook in hooks:
        try:
            hook()
        except (Exception, SystemExit) as error:
            trace = "".join(traceback.format_exception(error))
            raise HookError(f"{kind} {name_of(hook)} failed: {describe(error)}", trace) from error

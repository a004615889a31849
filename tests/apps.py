"""Applications for the tests; daemons of the tests import this module as theirs."""

import os
import signal
import time
from typing import Any

from boilerd import ServeMux, Task

mux = ServeMux()


@mux.handle("test:echo")
def echo(task: Task) -> Any:
    return task.payload


@mux.handle("test:sleep")
def sleep(task: Task) -> None:
    time.sleep(task.payload)


@mux.handle("test:fail")
def fail(task: Task) -> None:
    raise RuntimeError(f"failed as told: {task.payload}")


@mux.handle("test:swallow")
def swallow(task: Task) -> None:
    """A handler that catches every Exception and goes on."""
    while True:
        try:
            time.sleep(60)
        except Exception:
            task.logger.warning("swallowed")


@mux.handle("test:stubborn")
def stubborn(task: Task) -> None:
    """A handler that cannot be interrupted in Python, as C code that never returns."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM, signal.SIGTERM])
    task.logger.info("stubborn now")
    time.sleep(60)


@mux.handle("test:die")
def die(task: Task) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@mux.handle("test:exit")
def leave(task: Task) -> None:
    raise SystemExit(task.payload)


@mux.handle("test:grow")
def grow(task: Task) -> None:
    _kept.append(bytearray(task.payload))


@mux.handle("test:whoami")
def whoami(task: Task) -> int:
    task.logger.info("i am", extra={"handler_pid": os.getpid()})
    return os.getpid()


_kept: list[bytearray] = []

"""An application for the tests of log lines; what it does is what applications do to logging and to stdout."""

import os
import time
from typing import Any

from boilerd import ServeMux, Task

mux = ServeMux()


@mux.handle("log:fail")
def fail(task: Task) -> None:
    raise RuntimeError("failed as told")


@mux.handle("log:sleep")
def sleep(task: Task) -> None:
    time.sleep(60)


@mux.handle("log:die")
def die(task: Task) -> None:
    os._exit(9)


@mux.handle("log:ok")
def ok(task: Task) -> Any:
    return "ok"

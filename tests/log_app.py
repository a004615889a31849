"""An application for the tests of log lines; what it does is what applications do to logging and to stdout."""
# ruff: noqa: T201 - applications print

import importlib
import logging
import logging.config
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from boilerd import ServeMux, Task

mux = ServeMux()
logger = logging.getLogger("app")
FORMAT = "APP %(levelname)s %(message)s %(filename)s"

#: A configuration for `fileConfig`, as Alembic's env.py reads it.
INI = """[loggers]
keys=root
[handlers]
keys=
[formatters]
keys=
[logger_root]
level=CRITICAL
handlers=
"""


def from_file() -> None:
    Path("logging.ini").write_text(INI)
    logging.config.fileConfig("logging.ini")


#: How an application silences the daemon.
SILENCERS: dict[str, Callable[[], object]] = {
    "dictConfig": lambda: logging.config.dictConfig({"version": 1}),
    "dictConfig of root": lambda: logging.config.dictConfig({"version": 1, "root": {"level": "CRITICAL"}}),
    "dictConfig of boilerd": lambda: logging.config.dictConfig(
        {"version": 1, "loggers": {"boilerd": {"level": "CRITICAL", "propagate": False}, "boilerd.task": {}}}
    ),
    "fileConfig": from_file,
    "basicConfig": lambda: logging.basicConfig(force=True, level="CRITICAL", filename=os.devnull),
    "disable": lambda: logging.disable(logging.CRITICAL),
    "level": lambda: logging.getLogger("boilerd.task").setLevel(logging.CRITICAL),
    "shutdown": logging.shutdown,
    "clear": logging.getLogger().handlers.clear,
}


@mux.handle("log:silence")
def silence(task: Task) -> None:
    SILENCERS[task.payload]()


@mux.handle("log:fail")
def fail(task: Task) -> None:
    raise RuntimeError("failed as told")


@mux.handle("log:ok")
def ok(task: Task) -> None:
    """Do nothing."""


@mux.handle("log:sleep")
def sleep(task: Task) -> None:
    time.sleep(60)


@mux.handle("log:die")
def die(task: Task) -> None:
    os._exit(9)


@mux.handle("log:print")
def show(task: Task) -> None:
    print("from", task.payload, "100%")
    print("a warning", file=sys.stderr)
    sys.stdout.buffer.write(b"bytes\n")
    print("without an end", end="")


@mux.handle("log:show")
def show_and_sleep(task: Task) -> None:
    print("shown at once")
    time.sleep(60)


@mux.handle("log:log")
def log(task: Task) -> None:
    logger.info("of the application")
    task.logger.info("of the task")


@mux.handle("log:handler")
def add_handler(task: Task) -> None:
    handler = logging.FileHandler(task.payload)
    handler.setFormatter(logging.Formatter(FORMAT))
    logger.addHandler(handler)
    logger.info("with its caller")


# --- Locks that a thread holds at each fork

reader, writer = os.pipe()


@mux.handle("log:use")
def use(task: Task) -> Any:
    """Use what a thread of the supervisor holds."""
    os.set_blocking(reader, False)
    with suppress(BlockingIOError):
        while os.read(reader, 65536):
            pass
    logging.getLogger("held").warning("there is room")
    return importlib.import_module("held_module").VALUE


def hold_locks() -> None:
    """Have a thread hold the lock of a stream for which there is no room, and one that of a module's import."""
    Path("held_module.py").write_text(
        f"import os, threading\nif os.getpid() == {os.getpid()}:\n    threading.Event().wait()\nVALUE = 'imported'\n"
    )
    held = logging.getLogger("held")
    held.addHandler(logging.StreamHandler(os.fdopen(writer, "w")))
    held.propagate = False
    for action in (lambda: held.warning("x" * 100_000), lambda: importlib.import_module("held_module")):
        threading.Thread(target=action, daemon=True).start()


match os.environ.get("LOG_APP"):
    case "holds locks":
        hold_locks()
    case "prints":
        print("printed at the import")
    case "has a console":
        console = {"class": "logging.StreamHandler", "formatter": "own", "stream": "ext://sys.stdout"}
        logging.config.dictConfig({
            "version": 1, "disable_existing_loggers": False, "formatters": {"own": {"format": FORMAT}},
            "handlers": {"console": console}, "root": {"handlers": ["console"], "level": "INFO"},
            "loggers": {"app.own": {"handlers": ["console"], "propagate": False}},
        })  # fmt: skip
        logging.getLogger("app.own").warning("of its own")

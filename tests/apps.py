"""Applications for the tests; daemons of the tests import this module as theirs."""

import asyncio
import ctypes
import decimal
import hashlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boilerd import RetryLater, RevokeTask, ServeMux, SkipRetry, Task, retry

mux = ServeMux()


@dataclass
class Mail:
    to: list[str]


@mux.handle("test:echo")
def echo(task: Task) -> Any:
    return task.payload


@mux.handle("test:ignored_signals")
def ignored_signals(task: Task) -> str:
    """The signals that a program which it starts ignores, as /proc shows them."""
    return subprocess.check_output(["grep", "SigIgn", "/proc/self/status"], text=True).split()[1]


@mux.handle("test:sleep")
def sleep(task: Task) -> None:
    time.sleep(task.payload)


@mux.handle("test:fail")
def fail(task: Task) -> None:
    raise RuntimeError(f"failed as told: {task.payload}")


@mux.handle("test:late")
def late(task: Task) -> None:
    time.sleep(task.payload)
    raise RuntimeError("too late")


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


@mux.handle("test:flaky")
def flaky(task: Task) -> str:
    """Fails as often as its payload says."""
    if task.attempt <= task.payload:
        raise OSError(f"attempt {task.attempt} failed as told")
    return "at last"


@mux.handle("test:spin")
def spin(task: Task) -> None:
    """Uses the CPU and never sleeps."""
    while True:
        sum(range(1000))


@mux.handle("test:native")
def native(task: Task) -> None:
    """Is in C code for some seconds, where no signal handler of Python's runs."""
    hashlib.pbkdf2_hmac("sha256", b"", b"", task.payload)


@mux.handle("test:defuse")
def defuse(task: Task) -> None:
    """Takes away what its process uses to hear of time, and is slow."""
    match task.payload:
        case "alarm":
            signal.alarm(0)
        case "wakeup fd":
            signal.set_wakeup_fd(-1)
        case "mask":
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(60)


@mux.handle("test:defuse-async")
async def defuse_async(task: Task) -> None:
    """Has an event loop that takes the process's signals for itself, as uvloop's does."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGWINCH, lambda: None)
    await asyncio.sleep(60)


@mux.handle("test:quick")
@retry(max_retries=2, base=0.05, factor=1.0)
def quick(task: Task) -> None:
    raise ValueError(f"attempt {task.attempt}")


@mux.handle("test:request")
def request(task: Task) -> None:
    """Asks for what its payload says."""
    if task.payload == "skip":
        raise SkipRetry("not worth it")
    if task.payload == "revoke":
        raise RevokeTask("not wanted")
    if task.payload == "later" and not _asked:
        _asked.append(task.id)
        raise RetryLater(0.2)


@mux.handle("test:async")
async def sleep_async(task: Task) -> str:
    await asyncio.sleep(task.payload)
    return "slept"


@mux.handle("test:mail", payload=Mail, on_misfit="archive")
def mail(task: Task) -> int:
    assert isinstance(task.payload, Mail)
    return len(task.payload.to)


@mux.handle("test:transform")
def transform(task: Task) -> None:
    """A handler that turns whatever interrupts it into an error of its own."""
    try:
        time.sleep(60)
    except BaseException as error:
        raise RuntimeError("transformed") from error


@mux.handle("test:progress")
def progress(task: Task) -> None:
    task.logger.info("progress", extra={"kept": task.write_result({"done": 1}), "left_s": task.remaining()})
    time.sleep(task.payload)


@mux.handle("test:steps")
def steps(task: Task) -> str:
    """Tells each step of very many, which take no time; fails if told to."""
    for step in range(1, task.payload + 1):
        task.progress(step, task.payload)
    if task.type.endswith(":failing"):
        raise RuntimeError("failed as told")
    return "all"


@mux.handle("test:mess")
def mess(task: Task) -> None:
    """Leaves the process in another state, and fails if told to."""
    _make_mess()
    if task.payload:
        raise RuntimeError("failed as told")


@mux.handle("test:state")
def state(task: Task) -> list[str]:
    sys.stderr.write("still open\n")
    sys.stderr.flush()
    umask = os.umask(0)
    os.umask(umask)
    context = [mess_variable.get(), str(decimal.getcontext().prec)]
    return [str(Path.cwd()), f"{umask:o}", os.environ.get("MESS", ""), time.tzname[0], *context]


mess_variable: ContextVar[str] = ContextVar("mess", default="")


def _make_mess() -> None:
    mess_variable.set("left")
    decimal.getcontext().prec = 5
    os.chdir(tempfile.mkdtemp())
    Path.cwd().rmdir()
    os.umask(0o777)
    os.environ |= {"MESS": "left", "TZ": "MESS-7"}
    time.tzset()
    sys.stderr.close()


@mux.handle("test:breakpoint")
def stop_in_debugger(task: Task) -> None:
    breakpoint()  # noqa: T100


@mux.handle("test:breakpoint_in_hook")
def fail_for_debugger(task: Task) -> None:
    raise RuntimeError("failed as told")


@mux.error_handler
def note(task: Task, error: BaseException) -> None:
    if task.type == "test:breakpoint_in_hook":
        breakpoint()  # noqa: T100
    if task.type == "test:mess":
        _make_mess()
    task.logger.info("error handler", extra={"noted": type(error).__name__})


_asked: list[str] = []


@mux.handle("test:brief")
def brief(task: Task) -> None:
    """Takes as long as its payload says (3 s) in its first attempt, and no time in others."""
    time.sleep((task.payload or 3) if task.attempt == 1 else 0)


@mux.handle("test:parent")
def parent(task: Task) -> None:
    """Starts a program, and dies."""
    child = subprocess.Popen(["sleep", "600"])
    task.logger.info("i am a parent", extra={"child_pid": child.pid})
    os.kill(os.getpid(), signal.SIGKILL)


@mux.handle("test:size")
def size(task: Task) -> int:
    return len(task.payload)


@mux.handle("test:segfault")
def segfault(task: Task) -> None:
    ctypes.string_at(0)


@mux.handle("test:_exit")
def leave_at_once(task: Task) -> None:
    os._exit(task.payload)


@mux.handle("test:hog")
def hog(task: Task) -> None:
    """Uses more memory than it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, hard))
    try:
        bytearray(4 << 30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@mux.handle("test:recurse")
def recurse(task: Task) -> None:
    recurse(task)


@mux.handle("test:files")
def open_files(task: Task) -> None:
    """Opens files until there are no more, and does not close them."""
    while True:
        _files.append(os.open(os.devnull, os.O_RDONLY))


_files: list[int] = []

"""An application whose tasks run in slots; they note their runs in files of the working directory."""

import asyncio
import ctypes
import os
import signal
import time
from pathlib import Path

from boilerd import ServeMux, Task

mux = ServeMux()


def _note(task: Task, file: str = "runs") -> None:
    with Path(file).open("a", buffering=1) as lines:
        lines.write(f"{task.id}\n")


@mux.handle("slot:hold")
async def hold(task: Task) -> None:
    """Runs until the file `open` is there."""
    _note(task)
    while not Path("open").exists():  # noqa: ASYNC110, ASYNC240 - another process makes it
        await asyncio.sleep(0.05)


@mux.handle("slot:cancelled")
async def cancelled(task: Task) -> None:
    """Like slot:hold; notes that it was cancelled."""
    try:
        await hold(task)
    except asyncio.CancelledError:
        _note(task, "cancelled")
        raise


@mux.handle("slot:good")
async def good(task: Task) -> None:
    await asyncio.sleep(0.01)


@mux.handle("slot:die")
async def die(task: Task) -> None:
    _note(task, "deaths")
    await asyncio.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)


@mux.handle("slot:keep-the-lock")
async def keep_the_lock(task: Task) -> None:
    """Until something is written into `fifo`, no other thread of the process runs, as while `re` backtracks."""
    _note(task)
    await asyncio.sleep(0.5)  # the others have begun
    fifo = os.open("fifo", os.O_RDWR)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # one would end the read
    ctypes.PyDLL(None).read(fifo, ctypes.create_string_buffer(1), 1)  # keeps the interpreter's lock
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@mux.handle("slot:block")
async def block(task: Task) -> None:
    """Keeps the loop from everybody, between bytecodes."""
    _note(task)
    while not Path("open").exists():  # noqa: ASYNC240 - it is what is tested
        time.sleep(0.05)  # noqa: ASYNC251


@mux.handle("slot:plain")
def plain(task: Task) -> None:
    """Like slot:hold, in a thread."""
    _note(task)
    while not Path("open").exists():
        time.sleep(0.05)


@mux.handle("slot:deaf")
async def deaf(task: Task) -> None:
    """Swallows each cancellation of its first attempt."""
    _note(task)
    while task.attempt == 1:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            continue


@mux.handle("slot:never-ends")
def never_ends(task: Task) -> None:
    """Waits in C, where nothing reaches a thread."""
    _note(task)
    if task.attempt == 1:
        time.sleep(600)

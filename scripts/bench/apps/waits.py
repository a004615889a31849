"""The work of processes that run many tasks at once, as plain functions and as coroutines.

Each task is counted where it ends, so that one measure serves all peers: in a file of eight bytes for each process,
which costs a task half a microsecond, and asks nothing of the server.
"""

import asyncio
import mmap
import os
import threading
import time
from pathlib import Path

#: Longer than a lease, and than what `waiting` looks at.
HOLD_S = 60.0

_lock = threading.Lock()
_counters = {}


def count(what):
    with _lock:  # threads end tasks too
        if what not in _counters:
            _counters[what] = _counter(what)
        _counters[what][0] += 1


def _counter(what):
    path = Path(f"{os.environ['BENCH_COUNTS']}.{what}.{os.getpid()}")
    path.write_bytes(bytes(8))
    with path.open("r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 8)).cast("Q")


async def async_noop(payload):
    """Nothing."""
    count("ended")


async def async_20ms(payload):
    """Twenty milliseconds of waiting."""
    await asyncio.sleep(0.02)
    count("ended")


async def async_200ms(payload):
    """Two hundred milliseconds of waiting."""
    await asyncio.sleep(0.2)
    count("ended")


async def async_hold(payload):
    """A minute of waiting, whose begin is counted as well."""
    count("began")
    await asyncio.sleep(HOLD_S)
    count("ended")


def plain_noop(payload):
    """Nothing."""
    count("ended")


def plain_20ms(payload):
    """Twenty milliseconds of waiting."""
    time.sleep(0.02)
    count("ended")


def plain_200ms(payload):
    """Two hundred milliseconds of waiting."""
    time.sleep(0.2)
    count("ended")


ASYNC = {function.__name__: function for function in (async_noop, async_20ms, async_200ms, async_hold)}
PLAIN = {function.__name__: function for function in (plain_noop, plain_20ms, plain_200ms)}

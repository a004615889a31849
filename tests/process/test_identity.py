"""What /proc tells of a process."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from boilerd.process.identity import Look, look_at, resident_bytes
from support import wait_until


@pytest.fixture
def child() -> Iterator[int]:
    """A process that waits to be killed."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    yield pid
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_one_look_tells_what_a_process_takes_of_its_host() -> None:
    times = os.times()

    look = look_at(os.getpid())

    assert not look.is_stopped
    assert look.load is not None
    assert resident_bytes() / 2 < look.load.rss_bytes < resident_bytes() * 2
    assert abs(look.load.cpu_ms - 1000 * (times.user + times.system)) < 2000


def test_it_tells_whether_the_process_is_stopped(child: int) -> None:
    os.kill(child, signal.SIGSTOP)

    wait_until(lambda: look_at(child).is_stopped, "it is stopped")

    load = look_at(child).load
    assert load is not None
    assert load.rss_bytes > 0


def test_nothing_is_known_of_one_that_is_gone(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)

    assert look_at(child) == Look(is_stopped=False, load=None)

"""A run of the tests that is killed leaves nothing behind."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from support import TESTS, is_running, wait_until

#: A run that starts something, and tells its process ID.
RUN = """
import os, signal, subprocess, sys, undertaker
undertaker.watch_over_this_run()
print({how}, flush=True)
sys.stdin.read()
"""
PROGRAM = 'subprocess.Popen(["sleep", "600"], start_new_session=True, stdout=-3).pid'
TITLED = [
    sys.executable, "-c", "import setproctitle, signal; setproctitle.setproctitle('x'); print(); signal.pause()"
]  # fmt: skip
#: What a run starts: in a session of its own, as tests do with tmux and a systemd; a daemon, which writes a title over
#: its environment; and a fork of the run itself, which has that of before the run.
HOWS = {
    "a program": PROGRAM,
    "a daemon": f"(p := subprocess.Popen({TITLED}, stdout=-1), p.stdout.read(1))[0].pid",
    "a fork": "os.fork() or signal.pause()",
}

StartRun = Callable[[str], tuple[subprocess.Popen[str], int]]


@pytest.fixture
def start_run() -> Iterator[StartRun]:
    """Start a run of tests that has started something in this way: the run, and the process ID of that."""
    with ExitStack() as stack:

        def start(how: str) -> tuple[subprocess.Popen[str], int]:
            words = [sys.executable, "-c", RUN.format(how=how)]
            environment = os.environ | {"PYTHONPATH": str(TESTS)}
            run = stack.enter_context(subprocess.Popen(words, env=environment, stdin=-1, stdout=-1, text=True))
            stack.callback(run.kill)
            assert run.stdout
            return run, int(run.stdout.readline())

        yield start


@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
def test_what_a_run_has_started_ends_with_it_though_nobody_could_clean_up(how: str, start_run: StartRun) -> None:
    run, started = start_run(how)
    assert is_running(started)

    run.kill()

    wait_until(lambda: not is_running(started), "what it started has ended")


def test_what_another_run_has_started_goes_on(start_run: StartRun) -> None:
    run, started = start_run(PROGRAM)
    _, of_other = start_run(PROGRAM)

    run.kill()
    wait_until(lambda: not is_running(started), "what it started has ended")

    assert is_running(of_other)


def test_what_a_run_within_this_one_has_started_ends_with_this_one_too(start_run: StartRun) -> None:
    _, mark = resource.getrlimit(resource.RLIMIT_RTTIME)

    run, started = start_run(PROGRAM)

    assert [resource.prlimit(each, resource.RLIMIT_RTTIME)[1] for each in (run.pid, started)] == [mark] * 2

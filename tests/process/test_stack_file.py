"""A process tells its stacks although its code holds the interpreter's lock."""

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from boilerd.process.scoreboard import Scoreboard
from support import wait_until

#: Backtracks in C for longer than any test takes, and lets no other thread run.
ENDLESS_REGEX = "import re; re.match(r'(a+)+$', 'a' * 60 + 'b')"


@pytest.fixture
def scoreboard() -> Scoreboard:
    return Scoreboard()


@pytest.fixture
def fork() -> Iterator[Callable[[Callable[[], None]], int]]:
    """Start a process that runs a function."""
    pids = []

    def start(run: Callable[[], None]) -> int:
        pid = os.fork()
        if not pid:
            try:
                run()
            finally:
                os._exit(1)
        pids.append(pid)
        return pid

    yield start
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def wait_to_be_killed() -> None:
    while True:
        signal.pause()


def test_a_process_tells_where_code_holds_the_interpreter_s_lock(
    scoreboard: Scoreboard, fork: Callable[[Callable[[], None]], int]
) -> None:
    def hold_the_lock() -> None:
        scoreboard.tell_stacks(0)
        scoreboard.mark_booted(0)
        exec(ENDLESS_REGEX)

    scoreboard.put(0, fork(hold_the_lock))
    wait_until(lambda: scoreboard.has_booted(0), "it has begun")

    def told() -> str:
        return stack if "in match" in (stack := scoreboard.stacks_of(0)) else ""

    assert "hold_the_lock" in wait_until(told, "its stack names what it does")


def test_each_answer_is_of_the_process_that_was_asked(
    scoreboard: Scoreboard, fork: Callable[[Callable[[], None]], int]
) -> None:
    def first_waits(depth: int = 9) -> None:  # its answer is longer
        if depth:
            first_waits(depth - 1)
        scoreboard.tell_stacks(0)
        wait_to_be_killed()

    def second_waits() -> None:
        scoreboard.tell_stacks(1)
        wait_to_be_killed()

    for row, run in enumerate((first_waits, second_waits)):
        scoreboard.put(row, fork(run))

    stacks = [wait_until(lambda row=row: scoreboard.stacks_of(row), "it answers") for row in (1, 0, 1)]  # type: ignore[misc]

    assert ["first_waits" in stack for stack in stacks] == [False, True, False]
    assert ["second_waits" in stack for stack in stacks] == [True, False, True]
    assert stacks[0] == stacks[2]


def test_a_process_that_does_not_listen_is_not_asked(
    scoreboard: Scoreboard, fork: Callable[[Callable[[], None]], int]
) -> None:
    pid = fork(wait_to_be_killed)
    scoreboard.put(0, pid)

    assert scoreboard.stacks_of(0) == ""
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)

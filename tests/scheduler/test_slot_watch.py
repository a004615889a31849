"""Workers with several slots are killed for a task past its limit, and told of for a loop that is blocked."""

import logging
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from boilerd.process.scoreboard import KillReason, Scoreboard
from boilerd.scheduler.slot_watch import IDLE_LOOK_EVERY_S, LONGEST_PAUSE_S, LOOK_EVERY_S, SEEN_S, SlotWatch
from support import wait_until


class TimedWatch(SlotWatch):
    """A watch of one worker, whose time passes when a test says so; it has looked once.

    Attributes:
        now_s: Its time.
    """

    def __init__(self, scoreboard: Scoreboard) -> None:
        self.now_s = 1000.0
        super().__init__(scoreboard, 1, clock=lambda: self.now_s)

    def go_on(self, seconds: float) -> None:
        """Look once a second."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s += 1.0
            self.look()


@pytest.fixture
def child() -> Iterator[int]:
    """A process that waits to be killed."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.fixture
def scoreboard(child: int) -> Scoreboard:
    """Of a worker with 100 slots that runs 99 tasks."""
    made = Scoreboard()
    made.put(0, child)
    made.note_slots(0, 100)
    made.note_running(0, 99)
    return made


@pytest.fixture
def watch(scoreboard: Scoreboard, caplog: pytest.LogCaptureFixture) -> TimedWatch:
    caplog.set_level(logging.INFO)
    return TimedWatch(scoreboard)


def was_killed(pid: int) -> bool:
    """Whether a SIGKILL is what the process ends with; it stays for the fixture to be reaped."""
    ended = wait_until(lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT), "it has ended")
    return ended is not None and ended.si_status == signal.SIGKILL


def lives(scoreboard: Scoreboard) -> bool:
    """Whether nothing has killed the worker; a SIGKILL takes a moment, and this does not."""
    return scoreboard.last_kill(0)[0] is KillReason.NONE


def put_limit(scoreboard: Scoreboard, late_s: float) -> None:
    """A task of the worker is so much past its limit, and stays that."""
    scoreboard.note_limit(0, -late_s)


@pytest.mark.fault(47)
def test_a_worker_whose_task_is_five_seconds_past_its_limit_is_killed(
    watch: TimedWatch, scoreboard: Scoreboard, child: int, caplog: pytest.LogCaptureFixture
) -> None:
    put_limit(scoreboard, 6.0)

    watch.go_on(SEEN_S + 1)

    assert was_killed(child)
    (line,) = [line for line in caplog.records if line.message == "worker killed, its task ignores the timeout"]
    assert (line.child, line.running) == ("worker:0", 99)  # type: ignore[attr-defined]
    assert 6.0 <= line.late_s < 20.0  # type: ignore[attr-defined]
    assert scoreboard.last_kill(0)[0] is KillReason.LIMIT


@pytest.mark.parametrize("late_s", [-10.0, 2.0])
def test_a_worker_is_left_alone_until_then(
    watch: TimedWatch, scoreboard: Scoreboard, child: int, late_s: float
) -> None:
    put_limit(scoreboard, late_s)

    watch.go_on(SEEN_S + 1)

    assert lives(scoreboard)


def test_a_worker_whose_interrupted_task_ended_in_time_is_left_alone(
    watch: TimedWatch, scoreboard: Scoreboard, child: int
) -> None:
    put_limit(scoreboard, 6.0)
    watch.go_on(1)
    scoreboard.note_limit(0, None)

    watch.go_on(60)

    assert lives(scoreboard)


def test_a_worker_that_was_held_up_together_with_its_scheduler_gets_time_to_end_its_task(
    watch: TimedWatch, scoreboard: Scoreboard, child: int
) -> None:
    put_limit(scoreboard, 4.0)
    watch.go_on(1)
    watch.now_s += LONGEST_PAUSE_S + 60
    put_limit(scoreboard, 64.0)

    watch.go_on(SEEN_S)
    assert lives(scoreboard)

    watch.go_on(2)
    assert was_killed(child)


def test_a_worker_that_a_signal_has_stopped_is_not_killed_for_its_limit(
    watch: TimedWatch, scoreboard: Scoreboard, child: int
) -> None:
    os.kill(child, signal.SIGSTOP)
    os.waitid(os.P_PID, child, os.WSTOPPED)
    put_limit(scoreboard, 60.0)

    watch.go_on(60)
    assert lives(scoreboard)

    os.kill(child, signal.SIGCONT)
    watch.go_on(1)
    assert lives(scoreboard)
    watch.go_on(SEEN_S + 1)
    assert was_killed(child)


def test_nobody_is_killed_while_somebody_debugs(
    watch: TimedWatch, scoreboard: Scoreboard, child: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boilerd.process.debugging._is_on", True)
    put_limit(scoreboard, 60.0)

    watch.go_on(60)

    assert lives(scoreboard)


def test_a_worker_with_one_slot_is_none_of_its_business(watch: TimedWatch, scoreboard: Scoreboard, child: int) -> None:
    scoreboard.note_slots(0, 1)
    put_limit(scoreboard, 60.0)

    watch.go_on(60)

    assert lives(scoreboard)


def test_it_looks_each_second_while_such_a_worker_runs_something(watch: TimedWatch, scoreboard: Scoreboard) -> None:
    busy_s = watch.look()
    scoreboard.note_running(0, 0)
    idle_s = watch.look()

    assert (busy_s, idle_s) == (LOOK_EVERY_S, IDLE_LOOK_EVERY_S)


# A blocked loop.


@pytest.fixture
def block(scoreboard: Scoreboard, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Have the loop's last beat be so long ago."""
    ages = [0.0]
    monkeypatch.setattr(scoreboard, "loop_age_s", lambda _: ages[-1])
    return ages.append


def told(caplog: pytest.LogCaptureFixture) -> int:
    return sum(line.message == "event loop blocked" for line in caplog.records)


@pytest.mark.fault(48)
def test_a_loop_that_is_blocked_with_the_whole_worker_is_told_once_a_block(
    watch: TimedWatch, block: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    block(2.5)
    watch.go_on(10)
    assert told(caplog) == 1

    block(0.1)
    watch.go_on(1)
    block(2.5)
    watch.go_on(10)
    assert told(caplog) == 2


def test_a_loop_is_not_told_of_while_the_worker_can_tell_it_by_itself(
    watch: TimedWatch, scoreboard: Scoreboard, block: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    block(2.5)

    for _ in range(10):
        scoreboard.show_life(0)
        watch.go_on(1)

    assert not told(caplog)


def test_a_loop_that_is_blocked_for_a_moment_is_not_told_of(
    watch: TimedWatch, block: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    block(1.9)

    watch.go_on(10)

    assert not told(caplog)

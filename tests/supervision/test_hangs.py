"""Processes that neither run a task nor get on are found, told, killed and replaced."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from boilerd import Client
from boilerd.cli.rpc_client import read_status
from boilerd.process.identity import is_stopped
from boilerd.process.scoreboard import SCHEDULER_ROW, KillReason, Scoreboard
from boilerd.supervision.hangs import (
    AWAY_S,
    HOOKS_S,
    KILLED_AFTER_S,
    LONGEST_PAUSE_S,
    SCHEDULER_S,
    STOPPED_S,
    TOLD_AFTER_S,
    HangWatch,
)
from support import StartDaemon, python_path, wait_until


class TimedWatch(HangWatch):
    """A watch whose time passes when a test says so.

    Attributes:
        now_s: Its time.
    """

    def __init__(self, scoreboard: Scoreboard) -> None:
        self.now_s = 1000.0
        super().__init__(scoreboard, lambda: self.now_s)

    def go_on(self, seconds: float) -> None:
        """Look once a second, as the supervisor's loop does."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s += 1.0
            self.look()


@pytest.fixture
def scoreboard() -> Scoreboard:
    found = Scoreboard()
    found.rows = 2
    return found


@pytest.fixture
def watch(scoreboard: Scoreboard) -> TimedWatch:
    return TimedWatch(scoreboard)


@pytest.fixture
def fork() -> Iterator[Callable[[], int]]:
    """Start processes that do nothing."""
    pids = []

    def start() -> int:
        pid = os.fork()
        if not pid:
            try:
                signal.pause()
            finally:
                os._exit(1)
        pids.append(pid)
        return pid

    yield start
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def was_killed(pid: int) -> bool:
    """Whether a SIGKILL is what the process ends with; it stays for the fixture to be reaped."""
    found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return found is not None and found.si_status == signal.SIGKILL


def test_a_worker_without_a_sign_of_life_is_told_then_killed(
    scoreboard: Scoreboard, watch: TimedWatch, fork: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    pid = fork()
    scoreboard.put(1, pid)

    watch.go_on(TOLD_AFTER_S)
    before = list(watch.hanging)
    watch.go_on(2)
    told = list(watch.hanging)
    watch.go_on(KILLED_AFTER_S - TOLD_AFTER_S)

    assert (before, told) == ([], ["worker:1"])
    wait_until(lambda: was_killed(pid), "it is killed")
    assert scoreboard.last_kill(1) == (KillReason.HUNG, 0)
    assert caplog.messages.count("process killed, it hangs") == 1


@pytest.mark.parametrize("sign", ["waits", "begins", "waits for the broker"])
def test_a_worker_that_gets_on_is_left_alone(
    scoreboard: Scoreboard, watch: TimedWatch, fork: Callable[[], int], sign: str
) -> None:
    pid = fork()
    scoreboard.put(0, pid)
    scoreboard.open_batch(0, 7, 20)
    shows: dict[str, Callable[[], object]] = {
        "waits": lambda: scoreboard.show_life(0),
        "begins": lambda: (scoreboard.begin(0), scoreboard.finish(0)),  # type: ignore[func-returns-value]
        "waits for the broker": lambda: scoreboard.mark_waiting(0, is_waiting=False),
    }

    for _ in range(10):
        watch.go_on(TOLD_AFTER_S - 1)
        shows[sign]()
        assert watch.hanging == []

    assert not was_killed(pid)


def test_a_worker_in_its_lifespans_may_be_silent_as_long_as_they_may_take(
    scoreboard: Scoreboard, watch: TimedWatch, fork: Callable[[], int]
) -> None:
    pid = fork()
    scoreboard.put(0, pid)
    scoreboard.begin_start(0, 60.0)

    watch.go_on(60 + KILLED_AFTER_S - 1)
    was_left_alone = not was_killed(pid)
    watch.go_on(2)

    assert was_left_alone
    wait_until(lambda: was_killed(pid), "it is killed")


def test_a_worker_that_runs_a_task_is_left_to_the_limits_of_that(
    scoreboard: Scoreboard, watch: TimedWatch, fork: Callable[[], int]
) -> None:
    pid = fork()
    scoreboard.put(0, pid)
    scoreboard.mark_busy(0, is_busy=True)

    watch.go_on(3600)

    assert (watch.hanging, was_killed(pid)) == ([], False)


def slotted(scoreboard: Scoreboard, pid: int, *, running: int) -> None:
    """A worker with 100 slots that runs so many tasks and whose keeper leaves no sign of life."""
    scoreboard.put(0, pid)
    scoreboard.note_slots(0, 100)
    scoreboard.note_running(0, running)


@pytest.mark.parametrize("loop_age_s", [0.0, 2.0])  # its tasks run in threads alone; or something blocks its loop
def test_a_worker_with_slots_is_left_to_the_limits_of_its_tasks_while_they_may_keep_its_keeper_from_going_on(
    scoreboard: Scoreboard,
    watch: TimedWatch,
    fork: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
    loop_age_s: float,
) -> None:
    pid = fork()
    slotted(scoreboard, pid, running=99)
    monkeypatch.setattr(scoreboard, "loop_age_s", lambda _: loop_age_s)

    watch.go_on(3600)

    assert (watch.hanging, was_killed(pid)) == ([], False)


@pytest.mark.parametrize("running", [0, 99])
def test_a_worker_with_slots_hangs_whose_loop_goes_on_and_whose_keeper_does_not(
    scoreboard: Scoreboard,
    watch: TimedWatch,
    fork: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
    running: int,
) -> None:
    pid = fork()
    slotted(scoreboard, pid, running=running)
    monkeypatch.setattr(scoreboard, "loop_age_s", lambda _: 0.1 if running else 0.0)

    watch.go_on(TOLD_AFTER_S + 2)
    told = list(watch.hanging)
    watch.go_on(KILLED_AFTER_S - TOLD_AFTER_S)

    assert told == ["worker:0"]
    wait_until(lambda: was_killed(pid), "it is killed")


def test_a_keeper_has_the_whole_time_again_when_the_loop_was_blocked_before(
    scoreboard: Scoreboard, watch: TimedWatch, fork: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = fork()
    slotted(scoreboard, pid, running=99)
    monkeypatch.setattr(scoreboard, "loop_age_s", lambda _: 60.0)
    watch.go_on(60)

    monkeypatch.setattr(scoreboard, "loop_age_s", lambda _: 0.1)
    watch.go_on(TOLD_AFTER_S - 1)

    assert (watch.hanging, was_killed(pid)) == ([], False)


@pytest.mark.parametrize(
    ("what", "more_s"), [("in hooks", HOOKS_S), ("broker away", AWAY_S), ("the scheduler", SCHEDULER_S)]
)
def test_what_may_take_longer_has_longer(
    scoreboard: Scoreboard, watch: TimedWatch, fork: Callable[[], int], what: str, more_s: float
) -> None:
    pid, row = fork(), SCHEDULER_ROW if what == "the scheduler" else 0
    scoreboard.put(row, pid)
    scoreboard.is_broker_away = what == "broker away"

    with scoreboard.running_hooks(row) if what == "in hooks" else nullcontext():
        watch.go_on(TOLD_AFTER_S + more_s)
        before = list(watch.hanging), was_killed(pid)
        watch.go_on(KILLED_AFTER_S - TOLD_AFTER_S + 2)

    assert before == ([], False)
    wait_until(lambda: was_killed(pid), "it is killed")


def test_processes_that_were_held_up_together_with_the_supervisor_get_the_whole_time_again(
    scoreboard: Scoreboard, watch: TimedWatch, fork: Callable[[], int]
) -> None:
    pid = fork()
    scoreboard.put(0, pid)
    watch.go_on(TOLD_AFTER_S)

    watch.now_s += 10 * LONGEST_PAUSE_S  # the machine was frozen
    watch.look()
    watch.go_on(TOLD_AFTER_S - 1)

    assert (watch.hanging, was_killed(pid)) == ([], False)


@pytest.mark.parametrize("is_busy", [False, True])
def test_a_worker_that_a_signal_has_stopped_is_replaced_after_a_minute(
    scoreboard: Scoreboard, watch: TimedWatch, fork: Callable[[], int], is_busy: bool
) -> None:
    pid = fork()
    scoreboard.put(0, pid)
    scoreboard.mark_busy(0, is_busy=is_busy)
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: is_stopped(pid), "it is stopped")
    scoreboard.mark_halted(0, is_halted=True)

    watch.go_on(KILLED_AFTER_S + STOPPED_S)
    before = was_killed(pid)
    watch.go_on(2)

    assert (before, watch.hanging) == (False, [])  # `halted` tells of it
    wait_until(lambda: was_killed(pid), "it is killed")
    assert scoreboard.last_kill(0)[0] is KillReason.STOPPED


# --- The daemon

#: A handler of the application's for log lines that takes a lock which nobody releases, as one that was locked when a
#: fork copied it. It does so once at each of these lines, in whichever process comes by first.
HANGING_LOG = """
import logging, os, threading
from pathlib import Path
from apps import mux

lock = threading.Lock()
lock.acquire()

class Handler(logging.Handler):
    def emit(self, record):
        if record.getMessage() not in ("task started", "task completed", "worker recycled"):
            return
        try:
            Path(os.environ["HUNG_AT"], record.getMessage()).touch(exist_ok=False)
        except FileExistsError:
            return
        lock.acquire()

logging.getLogger().addHandler(Handler())
"""


@pytest.mark.fault(43)
@pytest.mark.long(20)
def test_workers_that_hang_around_their_tasks_turn_health_red_and_are_replaced(
    start_daemon: StartDaemon, client: Client, directory: Path
) -> None:
    (directory / "hanging.py").write_text(HANGING_LOG)
    env = {"BOILERD_APP": "hanging:mux", "PYTHONPATH": python_path(directory), "HUNG_AT": str(directory)}
    daemon = start_daemon("--concurrency", "3", "--max-tasks", "1", env=env).ready()
    names = [f"worker:{row}" for row in range(3)]
    before = {name: daemon.pid_of(name) for name in names}

    for moment in ("task started", "task completed", "worker recycled"):
        client.enqueue("test:echo", task_id=moment.replace(" ", "-"), max_retries=0)
        wait_until((directory / moment).exists, f"a worker hangs at {moment!r}")
    lines = {f"{name}: hangs, it neither works nor waits; it is replaced in some seconds" for name in names}
    told: set[str] = set()

    def all_are_told() -> bool:
        told.update(read_status(daemon.socket).problems())
        return lines <= told

    wait_until(all_are_told, "health tells of them")
    killed = [daemon.wait_for("process killed, it hangs", child=name)["child_pid"] for name in names]

    assert killed == list(before.values())
    failed = daemon.wait_for("task failed", task_id="task-started")
    assert failed["error"].endswith("signal 9 (SIGKILL), because it hung, and neither ran the handler nor got on")
    client.enqueue_many([("test:echo", None)] * 3)
    daemon.wait_for("task completed", 5)
    wait_until(lambda: daemon.cli("health").returncode == 0, "health is green again")

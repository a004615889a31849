"""The pool of workers, on real children; the tests do by themselves what Supervisor's loop does in one round."""

import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from supervisor.options import ProcessGroupConfig
from supervisor.states import ProcessStates

from boilerd.process.scoreboard import KillReason, Scoreboard
from boilerd.process.signals import SignalInbox
from boilerd.supervision.children import ForkedConfig, forked_config
from boilerd.supervision.options import Options
from boilerd.supervision.pool import Pool
from support import wait_until


class Crew:
    """Two workers that do nothing, and their pool."""

    def __init__(self, directory: Path) -> None:
        self.options = Options(directory / "control.sock")
        self.options.inbox = self.inbox = SignalInbox([])
        self.scoreboard = Scoreboard()
        self.group = ProcessGroupConfig(self.options, "worker", 1, [self._make(row) for row in (0, 1)]).make_group()
        self.pool = Pool(self.group, self._make, self.scoreboard, lambda: None)

    def __getitem__(self, name: str) -> Any:
        return self.group.processes[name]

    @property
    def names(self) -> list[str]:
        return list(self.group.processes)

    def state_of(self, name: str) -> int:
        return int(self[name].state)

    def go_round(self) -> None:
        self.group.transition()
        for pid in list(self.options.pidhistory):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                self._finish(pid, status)
        self.pool.reconcile()

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Rounds, until it is so."""

        def is_so() -> bool:
            self.go_round()
            return condition()

        wait_until(is_so, what)

    def kill(self, name: str, *, has_booted: bool) -> None:
        """End a worker, which has served before or not; Supervisor has heard of it."""
        pid = self[name].pid
        self.scoreboard.mark_booted(int(name), has_booted=has_booted)
        os.kill(pid, signal.SIGKILL)
        self._finish(*os.waitpid(pid, 0))

    def end_by_itself(self, name: str) -> None:
        """Have a worker end that has served; Supervisor hears of it in its next round."""
        self.scoreboard.mark_booted(int(name))
        os.kill(self[name].pid, signal.SIGKILL)

    def fail_start(self, name: str, error: str = "", reason: KillReason = KillReason.NONE) -> None:
        """End a worker in its lifespans, with the error that it has told, and fork it anew."""
        pid, row = self[name].pid, int(name)
        self.scoreboard.begin_start(row, 60)
        self.scoreboard.note_start_error(row, error)
        self.scoreboard.note_kill(row, reason)
        os.kill(pid, signal.SIGKILL)
        self._finish(*os.waitpid(pid, 0))
        self[name].spawn()

    def close(self) -> None:
        for pid in self.options.pidhistory:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.inbox.close()

    def _make(self, row: int) -> ForkedConfig:
        config = forked_config(
            self.options, str(row), _idle, priority=1, scoreboard=self.scoreboard, row=row, stop_wait_s=30.0
        )  # fmt: skip
        config.startsecs = 60  # until then it stays STARTING, however busy this machine is
        return config

    def _finish(self, pid: int, status: int) -> None:
        self.options.pidhistory.pop(pid).finish(pid, status)


def _idle() -> int:
    signal.pause()
    return 0


@pytest.fixture
def crew(directory: Path) -> Iterator[Crew]:
    """Two workers that were forked."""
    made = Crew(directory)
    made.go_round()
    yield made
    made.close()


def test_a_worker_that_ended_has_supervisor_look_at_once_what_to_start(crew: Crew) -> None:
    crew.inbox.drain()

    crew.kill("1", has_booted=True)

    assert crew.inbox.wait(0)


def test_a_worker_that_had_just_ended_when_it_was_to_go_does_not_come_back_for_good(crew: Crew) -> None:
    crew.kill("1", has_booted=True)
    crew.pool.scale(1)
    crew.go_round()  # Supervisor forks it anew, before the pool has seen to it

    crew.until(lambda: crew.names == ["0"], "it is gone")


def test_a_worker_that_was_seen_to_go_as_it_ended_does_not_come_back_for_good(crew: Crew) -> None:
    crew.kill("1", has_booted=True)
    crew.pool.scale(1)
    crew.pool.reconcile()

    crew.until(lambda: crew.names == ["0"], "it is gone")


def test_a_row_that_is_wanted_again_is_served_for_good(crew: Crew) -> None:
    crew.pool.scale(1)
    crew.until(lambda: crew.names == ["0"], "it is gone")

    crew.pool.scale(2)
    crew.until(lambda: crew.state_of("1") == ProcessStates.STARTING, "it is STARTING")
    crew.go_round()

    assert crew.state_of("1") == ProcessStates.STARTING


@pytest.mark.parametrize("has_ended", [False, True])
def test_a_worker_that_was_restarted_stays_stopped_when_it_is_stopped_later(crew: Crew, *, has_ended: bool) -> None:
    before = crew["0"].pid
    if has_ended:
        crew.kill("0", has_booted=True)

    crew.pool.restart(["worker:0"])
    crew.until(lambda: crew["0"].pid not in {0, before}, "it was replaced")
    crew["0"].stop()
    crew.until(lambda: crew.state_of("0") == ProcessStates.STOPPED, "it is STOPPED")
    crew.go_round()

    assert crew.state_of("0") == ProcessStates.STOPPED


def test_a_worker_that_waits_for_its_next_try_can_go_and_be_restarted(
    crew: Crew, caplog: pytest.LogCaptureFixture
) -> None:
    crew.kill("0", has_booted=False)
    crew.kill("1", has_booted=False)
    assert [crew.state_of("0"), crew.state_of("1")] == [ProcessStates.BACKOFF, ProcessStates.BACKOFF]

    crew.pool.restart(["worker:0"])
    crew.pool.scale(1)
    crew.go_round()

    assert crew.names == ["0"]
    assert crew.state_of("0") == ProcessStates.STARTING
    assert "process crashed too often" not in caplog.text


def test_a_worker_that_crashed_too_often_is_tried_again_with_a_growing_pause(
    crew: Crew, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boilerd.supervision.children.LONGEST_PAUSE_S", 0.2)
    monkeypatch.setattr(crew["1"], "_pause_s", 0.1)
    crew["1"].config.startretries = 0

    for _ in range(3):
        crew.kill("1", has_booted=False)
        crew.until(lambda: crew.state_of("1") == ProcessStates.FATAL, "it is FATAL")
        crew.until(lambda: crew.state_of("1") == ProcessStates.STARTING, "it is tried again")

    lines = [record.__dict__ for record in caplog.records if "crashed too often" in record.message]
    assert [(line["child"], line["delay_s"]) for line in lines] == [("worker:1", pause) for pause in (0.1, 0.2, 0.2)]


def test_a_worker_that_has_not_served_for_a_while_is_missing(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boilerd.supervision.pool.MISSING_AFTER_S", 0.0)
    crew.scoreboard.mark_booted(0)
    assert crew.pool.missing() == ["worker:1"]

    crew.scoreboard.mark_booted(1)
    assert crew.pool.missing() == []

    monkeypatch.setattr("boilerd.supervision.pool.MISSING_AFTER_S", 60.0)
    crew.kill("1", has_booted=True)
    assert crew.pool.missing() == []  # it is replaced in time


def test_a_worker_that_crashed_too_often_is_given_up_until_it_is_restarted(
    crew: Crew, caplog: pytest.LogCaptureFixture
) -> None:
    crew["1"].config.startretries = 0
    crew.kill("1", has_booted=False)

    crew.until(lambda: crew.state_of("1") == ProcessStates.FATAL, "it is FATAL")

    assert [record.__dict__["child"] for record in caplog.records if "crashed too often" in record.message] == [
        "worker:1"
    ]
    assert crew.pool.given_up() == 1
    crew.pool.restart()
    crew.until(lambda: crew.state_of("1") == ProcessStates.STARTING, "it is STARTING")
    assert crew.pool.given_up() == 0


def test_a_pool_of_which_the_system_lets_one_worker_start_is_ready(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew = Crew(directory)
    pids: list[int] = []

    def fork_one() -> int:
        if pids:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        pids.append(pid := os.fork())
        return pid

    monkeypatch.setattr(crew.options, "fork", fork_one)

    crew.go_round()
    is_ready_before = crew.pool.is_ready()
    crew.scoreboard.mark_booted(0)
    is_ready = crew.pool.is_ready()
    crew.close()

    assert (is_ready_before, is_ready) == (False, True)


def test_no_worker_has_started_once_the_lifespans_of_each_failed_three_times(crew: Crew) -> None:
    told = []

    for _ in range(3):
        for name in ("0", "1"):
            crew.fail_start(name, "ValueError: no")
            told.append(crew.pool.why_none_starts(60))

    assert told == [*[""] * 5, "no worker has started: ValueError: no, 3 times"]


def test_no_worker_has_started_once_each_failed_and_the_time_is_over(crew: Crew) -> None:
    crew.fail_start("1", "ValueError: no")
    is_one_told = bool(crew.pool.why_none_starts(0))
    crew.fail_start("0", "KeyError: 'no'")

    assert not is_one_told
    assert crew.pool.why_none_starts(60) == ""
    assert crew.pool.why_none_starts(0) == "no worker has started: KeyError: 'no', 1 time"


@pytest.mark.parametrize("is_seen", [True, False], ids=["seen", "ended-unseen"])
def test_a_pool_in_which_a_worker_has_served_is_never_said_not_to_start(crew: Crew, *, is_seen: bool) -> None:
    if is_seen:
        crew.scoreboard.mark_booted(0)
        crew.pool.why_none_starts(0)
        crew.scoreboard.mark_booted(0, has_booted=False)
    else:
        crew.kill("0", has_booted=True)
        crew["0"].spawn()

    for _ in range(3):
        crew.fail_start("0", "ValueError: no")
        crew.fail_start("1", "ValueError: no")

    assert crew.pool.why_none_starts(0) == ""
    assert crew.pool.failed_starts() == dict.fromkeys(["worker:0", "worker:1"], "ValueError: no, 3 times")


def test_a_worker_that_serves_has_no_failed_starts_and_begins_to_count_anew_after_it(crew: Crew) -> None:
    crew.fail_start("0", "ValueError: no")
    crew.scoreboard.mark_booted(0)
    while_it_serves = crew.pool.failed_starts()
    crew.kill("0", has_booted=True)
    crew["0"].spawn()

    crew.fail_start("0", "ValueError: no")

    assert while_it_serves == {}
    assert crew.pool.failed_starts() == {"worker:0": "ValueError: no, 1 time"}


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        (KillReason.HUNG, "killed, its lifespans hang in code that does not return to Python"),
        (KillReason.NONE, "signal 9 (SIGKILL)"),
    ],
)
def test_a_start_whose_process_told_nothing_is_told_with_how_it_ended(
    crew: Crew, reason: KillReason, error: str
) -> None:
    crew.fail_start("0", reason=reason)

    assert crew.pool.failed_starts() == {"worker:0": f"{error}, 1 time"}


# --- Workers that retire


def test_a_worker_that_retires_is_accompanied_at_once_by_another_that_stays(crew: Crew) -> None:
    retiring = crew["0"].pid

    crew.scoreboard.retire(0)
    crew.go_round()
    crew.go_round()
    names_while_it_retires, is_running = crew.names, crew["0"].pid == retiring
    crew.end_by_itself("0")
    crew.until(lambda: "0" not in crew.names, "it is gone")
    crew.go_round()

    assert (names_while_it_retires, is_running) == (["0", "1", "2"], True)
    assert crew.names == ["1", "2"]
    assert crew.state_of("2") == ProcessStates.STARTING


def test_a_retiring_worker_that_supervisor_forked_anew_before_it_was_seen_to_end_makes_another_leave(
    crew: Crew,
) -> None:
    crew.scoreboard.retire(0)
    crew.go_round()
    crew.kill("0", has_booted=True)
    crew["0"].spawn()

    crew.until(lambda: crew.names == ["0", "1"], "there are two again")

    assert crew["0"].pid


def test_a_pool_that_shrinks_while_a_worker_retires_ends_with_the_number_that_is_wanted(crew: Crew) -> None:
    crew.scoreboard.retire(1)
    crew.go_round()

    crew.pool.scale(1)
    crew.end_by_itself("1")

    crew.until(lambda: crew.names == ["0"], "one is left")


def test_the_row_of_a_worker_that_retired_is_used_again(crew: Crew) -> None:
    crew.scoreboard.retire(0)
    crew.go_round()
    crew.end_by_itself("0")
    crew.until(lambda: crew.names == ["1", "2"], "it is gone")

    crew.pool.scale(3)

    assert sorted(crew.names) == ["0", "1", "2"]
    assert crew.scoreboard.rows == 3

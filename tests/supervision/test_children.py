"""Forked children, between the fork and their first step."""

import os
import signal
from pathlib import Path

import pytest
from supervisor.options import ProcessGroupConfig

from boilerd.process.exit_status import OK
from boilerd.process.identity import end_with_parent
from boilerd.process.scoreboard import Scoreboard
from boilerd.supervision.children import Child, forked_config
from boilerd.supervision.options import Options


def fork_and_send(signum: signal.Signals) -> int:
    """A fork whose child gets the signal before it has done anything."""
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), signum)
    return pid


def make_child(directory: Path, monkeypatch: pytest.MonkeyPatch, signum: signal.Signals) -> Child:
    """A child that exits with 7, unless the signal that comes at its fork ends it."""
    options = Options(directory / "control.sock")
    config = forked_config(options, "0", lambda: 7, priority=1, scoreboard=Scoreboard(), row=0, stop_wait_s=1.0)
    (child,) = ProcessGroupConfig(options, "worker", 1, [config]).make_group().processes.values()
    assert isinstance(child, Child)
    monkeypatch.setattr(options, "fork", lambda: fork_and_send(signum))
    return child


def test_a_term_that_comes_before_a_child_has_its_own_handlers_ends_it(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = make_child(directory, monkeypatch, signal.SIGTERM)
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # the parent's, which notes a request
    try:
        pid = child.spawn()
    finally:
        signal.signal(signal.SIGTERM, before)

    assert pid
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_what_means_a_task_of_its_predecessor_does_not_end_a_child_that_has_no_handlers_yet(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = make_child(directory, monkeypatch, signal.SIGUSR1)

    pid = child.spawn()

    assert pid
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_a_child_whose_parent_died_before_it_looked_ends() -> None:
    pid = os.fork()
    if pid == 0:
        end_with_parent(os.getppid() + 1)
        os._exit(1)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == OK

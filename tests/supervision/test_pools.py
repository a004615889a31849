"""Several pools together, on real children; the tests do by themselves what Supervisor's loop does in one round."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from supervisor.options import ProcessGroupConfig
from supervisor.states import ProcessStates

from boilerd.errors import RefusedError
from boilerd.process.exit_status import DONE
from boilerd.process.scoreboard import Scoreboard
from boilerd.process.signals import SignalInbox
from boilerd.supervision.children import ForkedConfig, forked_config
from boilerd.supervision.options import Options
from boilerd.supervision.pool import PoolPlan
from boilerd.supervision.pools import Pools
from support import wait_until


class Crews:
    """The pools `default`, with the rows 0 and 1, and `web`, with the row 2 and 5 slots; their workers do nothing."""

    def __init__(self, directory: Path, *, quiet: str = "", is_burst: bool = False) -> None:
        self.options = Options(directory / "control.sock")
        self.options.inbox = self.inbox = SignalInbox([])
        self.scoreboard = Scoreboard()
        self.growths = 0
        self._is_burst = is_burst
        plans = [self._plan("default", "worker", (0, 1), 1, quiet), self._plan("web", "web", (2,), 5, quiet)]
        self.groups = {plan.group.name: plan.group.make_group() for plan in plans}
        self.pools = Pools(plans, self.groups, self.scoreboard, self._grow)

    @property
    def names(self) -> list[str]:
        return [f"{name}:{row}" for name, group in self.groups.items() for row in group.processes]

    def pid(self, name: str) -> int:
        group, _, row = name.partition(":")
        return int(self.groups[group].processes[row].pid)

    def go_round(self) -> None:
        for group in self.groups.values():
            group.transition()
        for pid in list(self.options.pidhistory):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                self.options.pidhistory.pop(pid).finish(pid, status)
        self.pools.reconcile()

    def until(self, condition: Callable[[], bool], what: str) -> None:
        def is_so() -> bool:
            self.go_round()
            return condition()

        wait_until(is_so, what)

    def end(self, *names: str) -> None:
        """Have workers of a burst find their queues empty."""
        for name in names:
            self.scoreboard.mark_booted(int(name.partition(":")[2]))

        def have_ended() -> bool:
            for pid in filter(None, map(self.pid, names)):
                os.kill(pid, signal.SIGURG)  # does nothing to one that is not there yet
            return not any(map(self.pid, names))

        self.until(have_ended, "they have ended")

    def close(self) -> None:
        for pid in self.options.pidhistory:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.inbox.close()

    def _grow(self) -> None:
        self.growths += 1

    def _plan(self, name: str, group: str, rows: tuple[int, ...], slots: int, quiet: str) -> PoolPlan:
        config = ProcessGroupConfig(self.options, group, 1, [self._make(row) for row in rows])
        return PoolPlan(name, config, self._make, slots, is_quiet=name == quiet)

    def _make(self, row: int) -> ForkedConfig:
        return forked_config(
            self.options, str(row), _idle, priority=1, scoreboard=self.scoreboard, row=row, stop_wait_s=30.0,
            restarts_always=not self._is_burst,
        )  # fmt: skip


def _idle() -> int:
    signal.signal(signal.SIGURG, lambda *_: os._exit(DONE))
    while True:
        signal.pause()


@pytest.fixture
def make(directory: Path) -> Iterator[Callable[..., Crews]]:
    made: list[Crews] = []

    def start(**options: Any) -> Crews:
        made.append(crews := Crews(directory, **options))
        crews.go_round()
        return crews

    yield start
    for crews in made:
        crews.close()


def test_each_pool_grows_into_the_lowest_rows_that_no_pool_has(make: Callable[..., Crews]) -> None:
    crews = make()

    crews.pools.scale(3)
    crews.pools.scale(2, "web")
    crews.pools.grow(1)

    assert crews.names == ["worker:0", "worker:1", "worker:3", "worker:5", "web:2", "web:4"]
    assert crews.pools.size == 6


def test_the_names_of_workers_are_told_as_they_are(make: Callable[..., Crews]) -> None:
    crews = make()
    crews.pools.scale(3)
    crews.pools.scale(3, "web")

    with pytest.raises(RefusedError, match="worker:0 to worker:1, worker:3, web:2, web:4 to web:5, and the pools"):
        crews.pools.restart(["web:3"])


def test_a_pool_shrinks_by_its_own_highest_rows(make: Callable[..., Crews]) -> None:
    crews = make()
    crews.pools.scale(3)
    crews.go_round()

    crews.pools.scale(1)
    crews.until(lambda: crews.names == ["worker:0", "web:2"], "two have gone")


def test_the_scheduler_is_forked_anew_for_rows_that_it_does_not_know_but_not_for_the_first_that_retires(
    make: Callable[..., Crews],
) -> None:
    crews = make()

    crews.scoreboard.retire(2)
    crews.go_round()
    growths_for_one_that_retires = crews.growths
    crews.pools.scale(3)

    assert crews.names == ["worker:0", "worker:1", "worker:4", "web:2", "web:3"]
    assert (growths_for_one_that_retires, crews.growths) == (0, 1)


def test_quiet_of_one_pool_reaches_its_rows_alone_and_those_that_it_gets_later(make: Callable[..., Crews]) -> None:
    crews = make()

    crews.pools.set_quiet("web", is_quiet=True)
    crews.pools.scale(2, "web")
    crews.pools.scale(3)

    assert [row for row in range(8) if crews.scoreboard.is_quiet_at(row)] == [2, 3]
    assert (crews.scoreboard.is_quiet, crews.pools.quiet_names) == (False, ["web"])


def test_the_daemon_is_quiet_when_each_pool_is(make: Callable[..., Crews]) -> None:
    crews = make(quiet="web")
    is_quiet_before = crews.scoreboard.is_quiet

    crews.pools.set_quiet("default", is_quiet=True)
    is_quiet = crews.scoreboard.is_quiet
    crews.pools.set_quiet(is_quiet=False)

    assert (is_quiet_before, is_quiet, crews.scoreboard.is_quiet) == (False, True, False)
    assert not any(map(crews.scoreboard.is_quiet_at, range(8)))


@pytest.mark.parametrize(
    ("names", "renewed"),
    [
        ([], ["worker:0", "worker:1", "web:2"]),
        (["web"], ["web:2"]),
        (["default"], ["worker:0", "worker:1"]),
        (["worker:1", "web:2"], ["worker:1", "web:2"]),
        (["1"], ["worker:1"]),
    ],
)
def test_a_restart_takes_workers_and_pools_by_their_names(
    make: Callable[..., Crews], names: list[str], renewed: list[str]
) -> None:
    crews = make()
    before = {name: crews.pid(name) for name in crews.names}

    crews.pools.restart(names)
    crews.until(lambda: all(crews.pid(name) not in {0, before[name]} for name in renewed), "they were replaced")

    assert [name for name in crews.names if crews.pid(name) != before[name]] == renewed


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (lambda pools: pools.scale(1, "wbe"), "no pool 'wbe'; there are default, web"),
        (lambda pools: pools.set_quiet(7, is_quiet=True), "no pool 7; there are default, web"),
        (
            lambda pools: pools.restart(["web:2", "web:1"]),
            "no worker 'web:1'; there are worker:0 to worker:1, web:2, and the pools default, web",
        ),
        (
            lambda pools: pools.scale(0, "web"),
            "0 workers: give a number from 1 to 1000; `quiet` stops them from claiming",
        ),
        (
            lambda pools: pools.scale(999, "web"),
            "999 workers: the other pools have 2, and all together may have 1000",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_with_what_there_is_and_nothing_changes(
    make: Callable[..., Crews], ask: Callable[[Pools], None], error: str
) -> None:
    crews = make()
    before = {name: crews.pid(name) for name in crews.names}

    with pytest.raises(RefusedError) as raised:
        ask(crews.pools)
    crews.go_round()

    assert str(raised.value) == error
    assert {name: crews.pid(name) for name in crews.names} == before


def test_the_daemon_is_ready_when_each_pool_is(make: Callable[..., Crews]) -> None:
    crews = make()
    told = []

    for row in range(3):
        crews.scoreboard.mark_booted(row)
        told.append(crews.pools.is_ready())

    assert told == [False, False, True]


def test_workers_of_all_pools_are_missing_by_their_names(
    make: Callable[..., Crews], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boilerd.supervision.pool.MISSING_AFTER_S", 0.0)
    crews = make()

    crews.scoreboard.mark_booted(0)

    assert crews.pools.missing() == ["worker:1", "web:2"]


def test_a_burst_goes_on_while_a_pool_has_claimed_since_all_looked(make: Callable[..., Crews]) -> None:
    crews = make(is_burst=True)
    crews.scoreboard.open_batch(0, 7, 1)
    crews.end("worker:0", "worker:1", "web:2")
    is_done_at_first = crews.pools.is_done()
    crews.scoreboard.open_batch(0, 0, 0)  # as a worker does at its start

    crews.end("worker:0", "worker:1", "web:2")

    assert (is_done_at_first, crews.pools.is_done()) == (False, True)


def test_a_burst_does_not_go_on_for_a_worker_that_was_given_up(make: Callable[..., Crews]) -> None:
    crews = make(is_burst=True)
    crews.scoreboard.open_batch(2, 7, 1)
    crews.groups["web"].processes["2"].config.startretries = 0
    os.kill(crews.pid("web:2"), signal.SIGKILL)
    crews.until(lambda: crews.groups["web"].processes["2"].state == ProcessStates.FATAL, "fatal")

    crews.end("worker:0", "worker:1")

    assert crews.pools.is_done()

"""What guards the lifespans of a worker, where a daemon would show it too late or by chance only."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from boilerd import ServeMux, WorkerContext
from boilerd.process.exit_status import OK
from boilerd.process.scoreboard import Scoreboard
from boilerd.process.signals import StopRequest
from boilerd.worker.guarded_life import GuardedLife
from boilerd.worker.limits import Limits

#: pytest-timeout's own way would be the signal that the guard uses.
pytestmark = pytest.mark.timeout(method="thread")


def test_the_watch_for_hangs_knows_for_how_long_lifespans_may_be_silent() -> None:
    mux, scoreboard = ServeMux(), Scoreboard()
    allowed_s = []

    @mux.lifespan
    @contextmanager
    def lifespan(worker: WorkerContext) -> Iterator[None]:
        allowed_s.append(scoreboard.silence_s(worker.number))
        yield
        allowed_s.append(scoreboard.silence_s(worker.number))

    limits = Limits(start_s=600.0, stop_s=30.0)
    life = GuardedLife(mux.life, WorkerContext("host.run.0", 0), limits, StopRequest(listens=False), scoreboard)

    life.enter()
    scoreboard.mark_booted(0)
    life.leave(OK)

    assert allowed_s == [630, 31]


def test_a_stop_that_comes_before_the_guard_of_a_start_is_there_keeps_it_from_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mux, scoreboard, stop = ServeMux(), Scoreboard(), StopRequest(listens=False)
    entered = []
    begin = scoreboard.begin_start

    @mux.lifespan
    @contextmanager
    def lifespan(worker: WorkerContext) -> Iterator[None]:
        entered.append(worker.number)
        yield

    def begin_and_stop(row: int, seconds: float) -> None:
        begin(row, seconds)
        stop.make()

    monkeypatch.setattr(scoreboard, "begin_start", begin_and_stop)
    life = GuardedLife(mux.life, WorkerContext("host.run.0", 0), Limits(), stop, scoreboard)

    has_entered = life.enter()

    assert not has_entered
    assert entered == []

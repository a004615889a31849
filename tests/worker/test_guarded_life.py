"""A stop that comes just as a worker begins to enter its lifespans."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from boilerd import ServeMux, WorkerContext
from boilerd.process.scoreboard import Scoreboard
from boilerd.process.signals import StopRequest
from boilerd.worker.guarded_life import GuardedLife
from boilerd.worker.limits import Limits


def test_a_stop_that_comes_before_the_guard_of_a_start_is_there_keeps_it_from_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mux, scoreboard, stop = ServeMux(), Scoreboard(), StopRequest(listens=False)
    entered = []
    begin = scoreboard.begin_start

    @mux.lifespan
    @contextmanager
    def lifespan(worker: WorkerContext) -> Iterator[None]:
        entered.append(worker.slot)
        yield

    def begin_and_stop(slot: int, seconds: float) -> None:
        begin(slot, seconds)
        stop.make()

    monkeypatch.setattr(scoreboard, "begin_start", begin_and_stop)
    life = GuardedLife(mux.life, WorkerContext("host.run.0", 0), Limits(), stop, scoreboard)

    has_entered = life.enter()

    assert not has_entered
    assert entered == []

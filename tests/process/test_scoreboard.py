"""The scoreboard: shared memory of the supervisor and its children."""

import math

import pytest

from boilerd.process.scoreboard import ROWS, SCHEDULER_ROW, SUPERVISOR_ROW, Scoreboard
from support import run_python


@pytest.fixture
def scoreboard() -> Scoreboard:
    return Scoreboard()


def test_a_new_board_is_empty(scoreboard: Scoreboard) -> None:
    assert scoreboard.live() == {}
    assert (scoreboard.pid(0), scoreboard.last_exit(0), scoreboard.pid(SCHEDULER_ROW)) == (0, 0, 0)


def test_a_board_tells_which_process_serves_a_row(scoreboard: Scoreboard) -> None:
    scoreboard.put(0, 100)
    scoreboard.put(SCHEDULER_ROW, 200)

    assert scoreboard.pid(0) == 100
    assert scoreboard.live() == {0: 100, SCHEDULER_ROW: 200}


def test_a_board_tells_how_the_last_process_of_a_row_ended(scoreboard: Scoreboard) -> None:
    scoreboard.put(2, 100)
    scoreboard.clear(2, -9)
    scoreboard.put(2, 101)

    assert (scoreboard.pid(2), scoreboard.last_exit(2)) == (101, -9)
    assert (scoreboard.pid(1), scoreboard.last_exit(1), scoreboard.last_exit(3)) == (0, 0, 0)


def test_a_row_that_was_cleared_has_no_process(scoreboard: Scoreboard) -> None:
    scoreboard.put(2, 100)
    scoreboard.clear(2, 75)

    assert (scoreboard.pid(2), scoreboard.live(), scoreboard.last_exit(2)) == (0, {}, 75)


def test_a_process_that_ended_neither_waits_nor_works_any_more(scoreboard: Scoreboard) -> None:
    scoreboard.mark_waiting(2, is_waiting=True)
    scoreboard.mark_busy(2, is_busy=True)
    assert (scoreboard.is_broker_away, scoreboard.busy()) == (True, 1)

    scoreboard.clear(2, -9)

    assert (scoreboard.is_broker_away, scoreboard.busy()) == (False, 0)


def test_more_waiting_tasks_than_a_cell_can_tell_are_told_as_many(scoreboard: Scoreboard) -> None:
    scoreboard.pending = 2**31

    assert scoreboard.pending == 2**31 - 1


def test_a_death_while_it_judged_is_told_once(scoreboard: Scoreboard) -> None:
    with scoreboard.running_hooks(2):  # the process ends here
        answers = [scoreboard.died_in_hooks(2), scoreboard.died_in_hooks(2)]

    assert answers == [True, False]


def test_the_cells_of_a_board_do_not_overlap(scoreboard: Scoreboard) -> None:
    for row in range(ROWS):
        scoreboard.put(row, row + 1)
    exits_before = {scoreboard.last_exit(row) for row in range(ROWS)}
    for row in range(0, ROWS, 2):
        scoreboard.clear(row, -row)

    assert exits_before == {0}
    assert scoreboard.live() == {row: row + 1 for row in range(1, ROWS, 2)}
    assert [scoreboard.last_exit(row) for row in range(0, ROWS, 2)] == [-row for row in range(0, ROWS, 2)]


def test_no_field_of_a_board_overlaps_another(scoreboard: Scoreboard) -> None:
    everything = (0, 1, ROWS - 1)
    for row in everything:
        scoreboard.put(row, 100 + row)
        scoreboard.mark_booted(row)
        scoreboard.mark_busy(row, is_busy=True)
        scoreboard.mark_waiting(row, is_waiting=True)
        scoreboard.revoke(row, 200 + row)
        scoreboard.open_batch(row, 300 + row, 3)
        scoreboard.begin(row)
        scoreboard.finish(row)
    scoreboard.rows, scoreboard.pending, scoreboard.is_quiet = 4, 5, True

    for row in everything:
        batch = scoreboard.batch(row)
        assert (batch.number, batch.size, batch.finished, batch.is_running) == (300 + row, 3, 1, False)
        assert (scoreboard.pid(row), scoreboard.has_booted(row), scoreboard.is_busy(row)) == (100 + row, True, True)
        assert (scoreboard.last_exit(row), scoreboard.in_hooks_s(row)) == (0, 0.0)
        assert not scoreboard.is_revoked(row)
    assert (scoreboard.rows, scoreboard.pending, scoreboard.is_quiet) == (4, 5, True)
    assert scoreboard.live().keys() == set(everything)


def test_lost_log_lines_are_counted_over_all_processes_until_they_are_told(scoreboard: Scoreboard) -> None:
    for row in (0, 0, 3, SCHEDULER_ROW, SUPERVISOR_ROW):
        scoreboard.note_lost_line(row)
    before = scoreboard.untold_lines
    scoreboard.clear(0, -9)

    scoreboard.note_told_lines(4)

    assert (before, scoreboard.untold_lines) == (5, 1)


def test_a_row_beyond_the_board_is_an_error(scoreboard: Scoreboard) -> None:
    with pytest.raises(IndexError):
        scoreboard.put(ROWS, 1)


def test_a_board_is_shared_with_forked_children_both_ways() -> None:
    found = run_python("""
import json, os
from boilerd.process.scoreboard import Scoreboard

scoreboard = Scoreboard()
scoreboard.put(0, 100)
read_fd, write_fd = os.pipe()
child = os.fork()
if child == 0:
    os.read(read_fd, 1)  # until the parent has written to the scoreboard
    scoreboard.put(2, scoreboard.pid(0) + scoreboard.pid(1))
    scoreboard.clear(0, -9)
    os._exit(0)
scoreboard.put(1, 11)
os.write(write_fd, b"x")
os.waitpid(child, 0)
print(json.dumps([scoreboard.pid(0), scoreboard.last_exit(0), scoreboard.pid(1), scoreboard.pid(2)]))
""")

    assert found == [0, -9, 11, 111]


def test_a_board_outlives_a_child_that_was_killed() -> None:
    found = run_python("""
import json, os, signal
from boilerd.process.scoreboard import Scoreboard

scoreboard = Scoreboard()
child = os.fork()
if child == 0:
    scoreboard.put(7, os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(child, 0)
print(json.dumps(scoreboard.live() == {7: child}))
""")

    assert found is True


def test_a_board_tells_of_the_tasks_that_a_worker_with_slots_runs() -> None:
    board = Scoreboard()

    board.note_slots(3, 500)
    board.note_running(3, 7)
    board.note_stuck(3, 2)
    board.retire(3)

    assert (board.slots(3), board.running(3), board.stuck(3), board.is_retiring(3)) == (500, 7, 2, True)
    assert board.busy() == 7
    assert (board.slots(4), board.running(4), board.stuck(4), board.is_retiring(4)) == (1, 0, 0, False)


def test_a_board_forgets_the_tasks_of_a_worker_that_ended_but_not_its_slots() -> None:
    board = Scoreboard()
    board.note_slots(3, 500)
    board.note_running(3, 7)
    board.note_stuck(3, 2)
    board.retire(3)
    board.beat_loop(3)
    board.note_limit(3, -1)

    board.clear(3, 0)

    assert (board.slots(3), board.running(3), board.stuck(3), board.is_retiring(3)) == (500, 0, 0, False)
    assert (board.loop_age_s(3), board.overdue_s(3)) == (0, -math.inf)


@pytest.mark.parametrize("in_s", [-100, -5, 5, 100_000])
def test_a_board_tells_how_late_the_first_limit_of_a_worker_is(in_s: float) -> None:
    board = Scoreboard()

    board.note_limit(3, in_s)

    assert board.overdue_s(3) == pytest.approx(-in_s, abs=2)


@pytest.mark.parametrize("in_s", [None, math.inf, 1e9])
def test_a_board_knows_no_limit_that_is_weeks_away(in_s: float | None) -> None:
    board = Scoreboard()

    board.note_limit(3, in_s)

    assert board.overdue_s(3) == -math.inf


def test_a_loop_on_which_nothing_runs_is_never_late() -> None:
    board = Scoreboard()
    board.beat_loop(3)
    assert board.loop_age_s(3) < 60

    board.beat_loop(3, is_needed=False)

    assert board.loop_age_s(3) == 0

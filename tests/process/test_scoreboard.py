"""The scoreboard: shared memory of the supervisor and its children."""

import pytest

from boilerd.process.scoreboard import SCHEDULER_SLOT, SLOTS, SUPERVISOR_SLOT, Scoreboard
from support import run_python


@pytest.fixture
def scoreboard() -> Scoreboard:
    return Scoreboard()


def test_a_new_board_is_empty(scoreboard: Scoreboard) -> None:
    assert scoreboard.live() == {}
    assert (scoreboard.pid(0), scoreboard.last_exit(0), scoreboard.pid(SCHEDULER_SLOT)) == (0, 0, 0)


def test_a_board_tells_which_process_serves_a_slot(scoreboard: Scoreboard) -> None:
    scoreboard.put(0, 100)
    scoreboard.put(SCHEDULER_SLOT, 200)

    assert scoreboard.pid(0) == 100
    assert scoreboard.live() == {0: 100, SCHEDULER_SLOT: 200}


def test_a_board_tells_how_the_last_process_of_a_slot_ended(scoreboard: Scoreboard) -> None:
    scoreboard.put(2, 100)
    scoreboard.clear(2, -9)
    scoreboard.put(2, 101)

    assert (scoreboard.pid(2), scoreboard.last_exit(2)) == (101, -9)
    assert (scoreboard.pid(1), scoreboard.last_exit(1), scoreboard.last_exit(3)) == (0, 0, 0)


def test_a_slot_that_was_cleared_has_no_process(scoreboard: Scoreboard) -> None:
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
    for slot in range(SLOTS):
        scoreboard.put(slot, slot + 1)
    exits_before = {scoreboard.last_exit(slot) for slot in range(SLOTS)}
    for slot in range(0, SLOTS, 2):
        scoreboard.clear(slot, -slot)

    assert exits_before == {0}
    assert scoreboard.live() == {slot: slot + 1 for slot in range(1, SLOTS, 2)}
    assert [scoreboard.last_exit(slot) for slot in range(0, SLOTS, 2)] == [-slot for slot in range(0, SLOTS, 2)]


def test_no_field_of_a_board_overlaps_another(scoreboard: Scoreboard) -> None:
    everything = (0, 1, SLOTS - 1)
    for slot in everything:
        scoreboard.put(slot, 100 + slot)
        scoreboard.mark_booted(slot)
        scoreboard.mark_busy(slot, is_busy=True)
        scoreboard.mark_waiting(slot, is_waiting=True)
        scoreboard.revoke(slot, 200 + slot)
        scoreboard.open_batch(slot, 300 + slot, 3)
        scoreboard.begin(slot)
        scoreboard.finish(slot)
    scoreboard.slots, scoreboard.pending, scoreboard.is_quiet = 4, 5, True

    for slot in everything:
        batch = scoreboard.batch(slot)
        assert (batch.number, batch.size, batch.finished, batch.is_running) == (300 + slot, 3, 1, False)
        assert (scoreboard.pid(slot), scoreboard.has_booted(slot), scoreboard.is_busy(slot)) == (100 + slot, True, True)
        assert (scoreboard.last_exit(slot), scoreboard.in_hooks_s(slot)) == (0, 0.0)
        assert not scoreboard.is_revoked(slot)
    assert (scoreboard.slots, scoreboard.pending, scoreboard.is_quiet) == (4, 5, True)
    assert scoreboard.live().keys() == set(everything)


def test_lost_log_lines_are_counted_over_all_processes_until_they_are_told(scoreboard: Scoreboard) -> None:
    for slot in (0, 0, 3, SCHEDULER_SLOT, SUPERVISOR_SLOT):
        scoreboard.note_lost_line(slot)
    before = scoreboard.untold_lines
    scoreboard.clear(0, -9)

    scoreboard.note_told_lines(4)

    assert (before, scoreboard.untold_lines) == (5, 1)


def test_a_slot_beyond_the_board_is_an_error(scoreboard: Scoreboard) -> None:
    with pytest.raises(IndexError):
        scoreboard.put(SLOTS, 1)


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

"""How many tasks a worker with slots claims ahead of its threads."""

import pytest

from boilerd import Task
from boilerd.broker.claims import Claim
from boilerd.worker.prefetch import MOST
from boilerd.worker.slots.ahead import REST_S, Ahead
from boilerd.worker.slots.attempt import SlotAttempt


def ended(ran_s: float | None, *, is_on_loop: bool = False) -> SlotAttempt:
    task = Task(id="a", type="t", payload=None)
    attempt = SlotAttempt(Claim("a", "execution", "default", "1.0", 0, task), task)
    attempt.ran_s, attempt.is_on_loop = ran_s, is_on_loop
    return attempt


def learned(*ran_s: float, slots: int = 8, is_on: bool = True) -> Ahead:
    ahead = Ahead(slots, is_on=is_on)
    for each in ran_s:
        ahead.note(ended(each), 0.0)
    ahead.look(0.0)
    return ahead


@pytest.mark.parametrize(
    ("ran_s", "slots", "limit"),
    [
        ([], 8, 0),
        ([0.0201] * 50, 8, 7),
        ([0.0201] * 50, 4, 3),
        ([0.039] * 50, 8, 4),
        ([0.051] * 50, 8, 0),
        ([0.0001] * 50, 8, MOST),
        ([0.0001] * 50 + [0.06], 8, 0),
    ],
    ids=["nothing known", "20 ms", "four slots", "40 ms", "too long", "no-ops", "one is long"],
)
def test_as_many_are_held_as_are_expected_to_begin_soon(ran_s: list[float], slots: int, limit: int) -> None:
    assert learned(*ran_s, slots=slots).limit == limit


def test_nothing_is_held_where_that_is_turned_off() -> None:
    assert learned(*[0.001] * 50, is_on=False).limit == 0


def test_a_task_on_the_loop_has_nothing_held_for_a_while() -> None:
    ahead = learned(*[0.001] * 50)

    ahead.note(ended(0.001, is_on_loop=True), 5.0)

    assert ahead.limit == 0
    ahead.look(5.0 + REST_S / 2)
    assert ahead.limit == 0
    ahead.look(5.0 + REST_S)
    assert ahead.limit > 0


def test_what_went_back_has_nothing_held_until_another_short_task_has_ended() -> None:
    ahead = learned(*[0.001] * 50)

    ahead.note_late(5.0)

    ahead.look(5.0 + 10 * REST_S)
    assert ahead.limit == 0
    ahead.note(ended(0.001), 20.0)
    ahead.look(20.0)
    assert ahead.limit > 0


def test_an_attempt_that_never_began_says_nothing() -> None:
    ahead = learned(*[0.02] * 50)
    before = ahead.limit

    ahead.note(ended(None), 0.0)
    ahead.look(0.0)

    assert ahead.limit == before

"""When a worker with slots calls the broker, and for how much."""

import math
import select
from collections.abc import Sequence
from typing import cast

import pytest

from boilerd.broker.bell import Bell
from boilerd.broker.claims import Claim, Completion
from boilerd.tasks.queues import ClaimOrder
from boilerd.worker.slots.ahead import Ahead
from boilerd.worker.slots.hand import SlotHand
from boilerd.worker.slots.intake import LONGEST_PACE_S, SHORTEST_PACE_S, Intake

SLOTS = 500


class Hand:
    """Takes what it is given, and claims as much as it may."""

    def __init__(self) -> None:
        self.completions: list[Completion] = []
        self.limits: list[int] = []
        self.ahead: list[int] = []
        self.there_are = 1000

    def serve(self, queues: Sequence[str], limit: int, suspects: Sequence[int] = (), *, ahead: int = 0) -> list[Claim]:
        self.completions.clear()
        self.limits.append(limit)
        self.ahead.append(ahead)
        return [claim()] * min(limit, self.there_are)


def claim(retention_s: int = 0) -> Claim:
    return Claim("id", "execution", "default", "1.0", retention_s, None)


@pytest.fixture
def hand() -> Hand:
    return Hand()


def make_intake(hand: Hand, slots: int = SLOTS, ahead: Ahead | None = None) -> Intake:
    return Intake(
        cast("SlotHand", hand), cast("Bell", None), select.poll(),
        order=ClaimOrder({"default": 1}, is_strict=False), slots=slots, idle_s=1.0,
        ahead=ahead or Ahead(slots, is_on=False),
    )  # fmt: skip


@pytest.fixture
def intake(hand: Hand) -> Intake:
    made = make_intake(hand)
    made.serve(0.0, SLOTS, [])  # the first call is at once; from now on there is a pace
    return made


def test_a_few_free_slots_wait_for_the_pace(intake: Intake, hand: Hand) -> None:
    answers = [intake.serve(now_s, 3, []) for now_s in (0.001, LONGEST_PACE_S - 0.001)]

    assert answers == [None, None]
    assert intake.due_s(0.001, 3) == LONGEST_PACE_S
    assert intake.serve(LONGEST_PACE_S, 3, [])
    assert hand.limits[1:] == [3]


def test_many_free_slots_wait_for_nothing(intake: Intake) -> None:
    due_s = intake.due_s(0.001, 32)

    assert due_s == 0.001
    assert intake.serve(0.001, 32, [])


def test_what_ends_after_a_pause_is_acknowledged_at_once(intake: Intake) -> None:
    intake.complete(Completion(claim()))

    assert intake.due_s(1.0, 0) <= 1.0
    assert intake.serve(1.0, 0, []) is not None
    assert intake.due_s(1.0, 0) == math.inf


def test_a_result_that_somebody_may_wait_for_waits_for_nothing(intake: Intake) -> None:
    intake.complete(Completion(claim(retention_s=60)))

    assert intake.due_s(0.001, 0) == 0.001
    assert intake.serve(0.001, 0, []) is not None


def test_a_worker_of_few_slots_leaves_none_empty_for_long(hand: Hand) -> None:
    intake = make_intake(hand, slots=8)
    intake.serve(0.0, 8, [])

    assert intake.due_s(0.0, 1) == SHORTEST_PACE_S
    assert intake.due_s(0.0, 2) == 0.0


@pytest.mark.parametrize(
    ("free", "missing"), [(0, 31), (30, 1), (31, math.inf)], ids=["all taken", "one too few", "enough"]
)
def test_it_knows_how_many_more_ends_make_a_call_at_once(*, intake: Intake, free: int, missing: float) -> None:
    assert intake.missing(free) == missing


def test_completions_alone_make_a_call_at_once(intake: Intake) -> None:
    intake.wants = False
    for _ in range(30):
        intake.complete(Completion(claim()))

    assert intake.missing(500) == 2


@pytest.fixture
def ahead() -> Ahead:
    made = Ahead(8, is_on=True)
    made.limit = 8
    return made


def test_with_tasks_that_are_held_a_few_ends_wait_for_the_pace_of_large_workers(hand: Hand, ahead: Ahead) -> None:
    intake = make_intake(hand, 8, ahead)
    intake.serve(0.0, 8, [], 8)
    intake.complete(Completion(claim()))

    due_s = intake.due_s(0.001, 0, 1)

    assert due_s == LONGEST_PACE_S
    assert intake.serve(0.001, 0, [], 1) is None
    assert (hand.limits, hand.ahead) == ([16], [8])


def test_when_half_of_what_may_be_held_is_missing_nothing_is_waited_for(hand: Hand, ahead: Ahead) -> None:
    intake = make_intake(hand, 8, ahead)
    intake.serve(0.0, 8, [], 8)

    assert (intake.missing(0, 1, 7), intake.missing(0, 0, 1)) == (3, 3)
    assert intake.due_s(0.001, 0, 4) == 0.001
    assert intake.serve(0.001, 0, [], 4)
    assert hand.ahead == [8, 4]


def test_where_nothing_may_be_claimed_ahead_it_is_not_asked_for_again_at_once(hand: Hand, ahead: Ahead) -> None:
    """And it does not count as a look at the queues, which may have tasks for a slot that is free."""
    intake = make_intake(hand, 8, ahead)
    hand.there_are = 0

    intake.serve(0.0, 0, [], 8)

    assert ahead.limit == 0
    assert intake.wants
    assert not intake.has_found_nothing


def test_there_is_more_only_after_a_claim_that_got_all(hand: Hand, ahead: Ahead) -> None:
    intake = make_intake(hand, 8, ahead)
    found = [intake.has_more]
    for hand.there_are in (8, 7):
        intake.serve(1.0, 8, [])
        found.append(intake.has_more)

    assert found == [False, True, False]

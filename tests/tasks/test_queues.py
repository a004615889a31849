"""Queue names, and the order in which a claim looks at the queues."""

import random
from collections import Counter
from itertools import permutations
from typing import Any, NoReturn

import pytest

from boilerd import InvalidTaskError
from boilerd.tasks.queues import DEFAULT_QUEUE, DEFAULT_WEIGHTS, ClaimOrder, check_queue

DRAWS = 20_000


def never() -> NoReturn:
    raise AssertionError("nothing is drawn here")


def weighted(weights: dict[str, int], seed: int) -> ClaimOrder:
    return ClaimOrder(weights, is_strict=False, uniform=random.Random(seed).random)


def test_the_default_queues_are_the_originals() -> None:
    assert dict(DEFAULT_WEIGHTS) == {"critical": 6, "default": 3, "low": 1}
    assert DEFAULT_QUEUE == "default"


def test_a_strict_order_is_by_weight_and_draws_nothing() -> None:
    order = ClaimOrder({"low": 1, "critical": 6, "default": 3}, is_strict=True, uniform=never)

    assert [list(order.draw()) for _ in range(3)] == [["critical", "default", "low"]] * 3


def test_queues_of_the_same_weight_keep_the_order_they_were_given_in() -> None:
    order = ClaimOrder({"b": 1, "a": 1, "c": 2}, is_strict=True)

    assert list(order.draw()) == ["c", "b", "a"]


def test_a_single_queue_needs_no_draw() -> None:
    order = ClaimOrder({"only": 3}, is_strict=False, uniform=never)

    assert list(order.draw()) == ["only"]


def test_the_names_are_known_heaviest_first_whatever_is_drawn() -> None:
    order = weighted({"low": 1, "critical": 6, "default": 3}, seed=1)
    order.draw()

    assert list(order.names) == ["critical", "default", "low"]


def test_a_weighted_order_puts_a_queue_first_in_proportion_to_its_weight() -> None:
    order = weighted(dict(DEFAULT_WEIGHTS), seed=1)

    first = Counter(order.draw()[0] for _ in range(DRAWS))

    # Four standard deviations of 20,000 draws are 1.4 % at most.
    assert {name: first[name] / DRAWS for name in DEFAULT_WEIGHTS} == pytest.approx(
        {"critical": 0.6, "default": 0.3, "low": 0.1}, abs=0.014
    )


def test_the_further_places_of_a_weighted_order_are_drawn_by_weight_among_the_rest() -> None:
    order = weighted(dict(DEFAULT_WEIGHTS), seed=2)

    seen = Counter(tuple(order.draw()) for _ in range(DRAWS))

    expected = {}
    for names in permutations(DEFAULT_WEIGHTS):
        weights = [DEFAULT_WEIGHTS[name] for name in names]
        expected[names] = weights[0] / sum(weights) * weights[1] / sum(weights[1:])
    assert {names: seen[names] / DRAWS for names in expected} == pytest.approx(expected, abs=0.014)


def test_every_weighted_draw_holds_every_queue_once() -> None:
    order = weighted({"a": 1, "b": 1000, "c": 1_000_000}, seed=3)

    draws = [list(order.draw()) for _ in range(1000)]

    assert [draw for draw in draws if sorted(draw) != ["a", "b", "c"]] == []


def test_equal_weights_share_the_first_place_in_a_weighted_order() -> None:
    order = weighted({"a": 5, "b": 5}, seed=4)

    first = Counter(order.draw()[0] for _ in range(DRAWS))

    assert first["a"] / DRAWS == pytest.approx(0.5, abs=0.014)


def test_a_weighted_order_bears_the_extremes_of_the_draw() -> None:
    order = ClaimOrder(dict(DEFAULT_WEIGHTS), is_strict=False, uniform=lambda: 0.0)

    assert sorted(order.draw()) == sorted(DEFAULT_WEIGHTS)


def test_the_order_is_not_changed_by_a_change_of_the_weights_it_was_made_from() -> None:
    weights = {"a": 2, "b": 1}
    order = ClaimOrder(weights, is_strict=False, uniform=random.Random(5).random)

    weights.clear()

    assert sorted(order.draw()) == ["a", "b"]


@pytest.mark.parametrize("name", ["default", "a", "9", "Mail_2.high-prio", "x" * 128])
def test_a_queue_name_may_hold_letters_digits_and_some_marks(name: str) -> None:
    assert check_queue(name) == name


@pytest.mark.parametrize("name", ["", " ", "a b", "a:b", "-a", ".a", "_a", "ü", "a\n", "a*", "{a}", "x" * 129])
def test_a_queue_name_of_another_form_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(InvalidTaskError) as raised:
        check_queue(name)

    rule = "use letters, digits, '_', '-' and '.', at most 128, a letter or digit first"
    assert str(raised.value) == f"queue {name!r}: {rule}"


@pytest.mark.parametrize("name", [None, 5, True, b"default"])
def test_what_is_no_text_is_no_queue_name(name: Any) -> None:
    with pytest.raises(InvalidTaskError, match="queue"):
        check_queue(name)

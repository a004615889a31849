"""The rules that the options of an enqueue follow."""

import inspect
from enum import Enum
from typing import Any
from uuid import UUID

import pytest

from boilerd import EnqueueOptions, InvalidTaskError
from boilerd.tasks.options import TaskOptions, check_number, task_options

ID_RULE = "use letters, digits, '_' and '-', at most 128"


@pytest.mark.parametrize("value", [2, 2.0, 2.5, 2**31 - 1])
def test_a_number_of_at_least_so_much_passes(value: float) -> None:
    check_number("timeout", value, at_least=2)


@pytest.mark.parametrize("value", [1, 1.99, -5, 2**31, float("nan"), float("inf"), "5", True, None, 5j])
def test_what_is_no_number_in_the_range_is_refused_with_the_range(value: object) -> None:
    with pytest.raises(InvalidTaskError) as raised:
        check_number("timeout", value, at_least=2)

    assert str(raised.value) == f"timeout: {value!r} is not a number from 2 to 2147483647"


def test_without_options_the_defaults_are_asynqs() -> None:
    assert task_options() == TaskOptions(queue="default", timeout_s=1800, max_retries=None, retention_s=0, task_id=None)


def test_options_are_taken_over() -> None:
    options = task_options(queue="critical", timeout=300, max_retries=5, retention=60, task_id="mine")

    assert options == TaskOptions(queue="critical", timeout_s=300, max_retries=5, retention_s=60, task_id="mine")


@pytest.mark.parametrize(("seconds", "whole"), [(0.001, 1), (1, 1), (1.0, 1), (1.001, 2), (59.5, 60), (300.0, 300)])
def test_times_are_rounded_up_to_whole_seconds(seconds: float, whole: int) -> None:
    options = task_options(timeout=seconds, retention=seconds)

    assert (options.timeout_s, options.retention_s) == (whole, whole)
    assert (type(options.timeout_s), type(options.retention_s)) == (int, int)


def test_no_retries_and_no_retention_are_not_the_same_as_none_given() -> None:
    options = task_options(max_retries=0, retention=0)

    assert (options.max_retries, options.retention_s) == (0, 0)


def test_a_whole_number_of_retries_may_be_written_as_a_float() -> None:
    retries = task_options(max_retries=3.0).max_retries  # type: ignore[arg-type]

    assert (retries, type(retries)) == (3, int)


class Name(str, Enum):  # noqa: UP042 - what f-strings make of such a one is its name in the program
    LOW = "low"


def test_texts_of_a_subclass_are_taken_as_plain_text() -> None:
    options = task_options(queue=Name.LOW, task_id=Name.LOW, concurrency_key=Name.LOW)

    assert [type(text) for text in (options.queue, options.task_id, options.concurrency_key)] == [str] * 3
    assert (options.queue, options.task_id, options.concurrency_key) == ("low", "low", "low")


@pytest.mark.parametrize(("key", "text"), [(42, "42"), (UUID(int=1), "00000000-0000-0000-0000-000000000001")])
def test_a_concurrency_key_may_be_what_has_a_text_of_its_own(key: Any, text: str) -> None:
    assert task_options(concurrency_key=key).concurrency_key == text


RANGE = "is not a number from 0 to 2147483647"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"timeout": -1}, f"timeout: -1 {RANGE}"),
        ({"timeout": "5m"}, f"timeout: '5m' {RANGE}"),
        ({"timeout": True}, f"timeout: True {RANGE}"),
        ({"timeout": float("nan")}, f"timeout: nan {RANGE}"),
        ({"timeout": float("inf")}, f"timeout: inf {RANGE}"),
        ({"timeout": 2**31}, f"timeout: 2147483648 {RANGE}"),
        ({"timeout": 0}, "timeout: 0 would end every attempt at once; leave it out for 30 minutes"),
        ({"max_retries": -1}, f"max_retries: -1 {RANGE}"),
        ({"max_retries": "3"}, f"max_retries: '3' {RANGE}"),
        ({"max_retries": False}, f"max_retries: False {RANGE}"),
        ({"max_retries": 1.5}, "max_retries: 1.5 is not a whole number"),
        ({"retention": -0.5}, f"retention: -0.5 {RANGE}"),
        ({"retention": None}, f"retention: None {RANGE}"),
        (
            {"concurrency_limit": 1},
            "concurrency_limit: limits nothing without concurrency_key; give both, or none",
        ),
        ({"unique_until": "end"}, "unique_until: there is no lock without unique; give both, or none"),
        ({"task_id": ""}, f"task ID '': {ID_RULE}"),
        ({"task_id": "a b"}, f"task ID 'a b': {ID_RULE}"),
        (
            {"queue": "a b"},
            "queue 'a b': use letters, digits, '_', '-' and '.', at most 128, a letter or digit first",
        ),
    ],
)
def test_an_option_that_will_not_do_is_refused_with_its_name_and_value(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidTaskError) as raised:
        task_options(**options)

    assert str(raised.value) == told


def test_no_option_comes_back_out_of_range() -> None:
    assert task_options(timeout=2**31 - 1).timeout_s == 2**31 - 1
    with pytest.raises(InvalidTaskError, match="timeout"):
        task_options(timeout=2**31 - 0.5)


def test_the_options_that_type_checkers_know_are_those_that_there_are() -> None:
    taken = inspect.signature(task_options).parameters

    assert list(EnqueueOptions.__annotations__) == [name for name in taken if name != "unknown"]

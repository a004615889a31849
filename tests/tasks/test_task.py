"""The rules that task types, IDs, options and payloads follow."""

import inspect
import logging
import math
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from boilerd import EnqueueOptions, InvalidPayloadError, InvalidTaskError, Task, TaskInfo, TaskState
from boilerd.tasks.payload import encode_payload
from boilerd.tasks.task import TaskOptions, check_number, check_task_id, check_type, task_options
from builders import endless_list

TYPE_RULE = "use letters, digits and any of '_ . : / -', at most 256, as in 'email:deliver'"
ID_RULE = "use letters, digits, '_' and '-', at most 128"


@pytest.mark.parametrize("task_type", ["worker:ping", "a", "A.b_c/d-e:9", ":", "x" * 256])
def test_a_task_type_may_hold_letters_digits_and_some_marks(task_type: str) -> None:
    assert check_type(task_type) == task_type


@pytest.mark.parametrize("task_type", ["", " ", "email deliver", "email:deliver\n", "ü", "a*", "a\0", "x" * 257])
def test_a_task_type_of_another_form_is_refused_with_the_rule(task_type: str) -> None:
    with pytest.raises(InvalidTaskError) as raised:
        check_type(task_type)

    assert str(raised.value) == f"task type {task_type!r}: {TYPE_RULE}"


@pytest.mark.parametrize("task_id", ["a", "0b9c-77_X", "x" * 128])
def test_a_task_id_may_hold_letters_digits_and_two_marks(task_id: str) -> None:
    assert check_task_id(task_id) == task_id


@pytest.mark.parametrize("task_id", ["", "a b", "a:b", "a.b", "a\n", "ü", "x" * 129])
def test_a_task_id_of_another_form_is_refused_with_the_rule(task_id: str) -> None:
    with pytest.raises(InvalidTaskError) as raised:
        check_task_id(task_id)

    assert str(raised.value) == f"task ID {task_id!r}: {ID_RULE}"


@pytest.mark.parametrize("value", [None, 5, True, b"worker:ping", ["worker:ping"]])
def test_what_is_no_text_is_neither_task_type_nor_task_id(value: Any) -> None:
    with pytest.raises(InvalidTaskError, match="task type"):
        check_type(value)
    with pytest.raises(InvalidTaskError, match="task ID"):
        check_task_id(value)


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


@pytest.mark.parametrize(
    ("payload", "encoded"),
    [
        (None, b"null"),
        ({"to": "ü", "n": [1, 2.5, True]}, b'{"to":"\xc3\xbc","n":[1,2.5,true]}'),
        ("line\n", b'"line\\n"'),
        (2**70, b"1180591620717411303424"),
    ],
)
def test_a_payload_is_written_as_compact_json(payload: Any, encoded: bytes) -> None:
    assert encode_payload(payload) == encoded


@pytest.mark.parametrize("payload", [object(), {1j: 2}, [{"deep": {"in": print}}], "\udcff"])
def test_what_has_no_json_form_is_no_payload(payload: Any) -> None:
    with pytest.raises(InvalidPayloadError, match=r"^payload: .+; use what JSON can hold$"):
        encode_payload(payload)


def test_a_payload_that_never_ends_is_refused() -> None:
    with pytest.raises(InvalidPayloadError, match="payload: is nested too deep"):
        encode_payload(endless_list())


@dataclass
class Point:
    x: float
    note: str | None = None


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (math.nan, "$ is nan"),
        ({"a": [1.5, None, {"b": math.inf}]}, "$.a[2].b is inf"),
        ((0.0, -math.inf), "$[1] is -inf"),
        ([Point(1.0), Point(math.nan)], "$[1].x is nan"),
        ({5: math.nan}, "$.5 is nan"),
    ],
)
def test_a_number_that_json_does_not_have_is_refused_with_its_path(payload: Any, told: str) -> None:
    with pytest.raises(InvalidPayloadError) as raised:
        encode_payload(payload)

    assert str(raised.value) == f"payload: {told}, and JSON has neither NaN nor Infinity; use what JSON can hold"


@pytest.mark.parametrize("raw", [b'{"a": [1, null]}', b"null", b'"NaN"', b" 5 "])
def test_json_that_is_written_already_is_taken_over(raw: bytes) -> None:
    assert encode_payload(msgspec.Raw(raw)) == raw


@pytest.mark.parametrize("raw", [b"", b"{bad", b"NaN", b"1 2", b"1],[2", b'"\xff"', b'{"a":1}}', b"1e999"])
def test_what_is_no_json_although_it_says_so_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidPayloadError, match=r"^payload: .+; use what JSON can hold$"):
        encode_payload(msgspec.Raw(raw))


def test_an_invalid_task_is_a_value_error_too() -> None:
    with pytest.raises(ValueError, match="task type"):
        check_type("")
    with pytest.raises(ValueError, match="payload"):
        encode_payload(object())


def test_states_are_asynqs_words() -> None:
    assert [str(state) for state in TaskState] == [
        "pending", "active", "scheduled", "retry", "completed", "archived",
    ]  # fmt: skip


def test_a_task_cannot_be_changed() -> None:
    task = Task(id="a", type="worker:ping")

    with pytest.raises(AttributeError):
        task.type = "email:deliver"  # type: ignore[misc]


def test_a_tasks_logger_is_the_one_of_all_attempts() -> None:
    assert Task(id="a", type="worker:ping").logger is logging.getLogger("boilerd.task")


def test_the_payload_is_not_shown_where_a_task_is_printed() -> None:
    info = TaskInfo("a", "t:x", "default", TaskState.PENDING, 25, 1800, 0, payload="geheim")

    assert "geheim" not in repr(info)
    assert "geheim" not in repr(Task(id="a", type="t:x", payload="geheim"))


def test_the_options_that_type_checkers_know_are_those_that_there_are() -> None:
    taken = inspect.signature(task_options).parameters

    assert list(EnqueueOptions.__annotations__) == [name for name in taken if name != "unknown"]

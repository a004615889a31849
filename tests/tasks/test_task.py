"""The rules that task types and IDs follow, and what a task shows of itself."""

import logging
from typing import Any

import pytest

from boilerd import InvalidTaskError, Task, TaskInfo, TaskState
from boilerd.tasks.payload import encode_payload
from boilerd.tasks.task import check_task_id, check_type

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


def test_a_payload_in_the_place_of_the_type_is_not_shown() -> None:
    with pytest.raises(InvalidTaskError) as raised:
        check_type({"to": "geheim"})

    assert str(raised.value) == "task type: a dict is none; give a text, as in 'email:deliver'"


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

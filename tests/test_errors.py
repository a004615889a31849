"""The errors: their lines, and that they survive a pickle."""

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from boilerd import (
    BoilerdError,
    BrokerUnavailableError,
    DuplicateTaskError,
    HandlerNotFoundError,
    QueueFullError,
    QueueInUseError,
    QueueNotFoundError,
    RetryLater,
    ServeMux,
    TaskFailedError,
    TaskIdConflictError,
    TaskNotFoundError,
    TaskStateError,
    UniqueLockError,
)
from boilerd.errors import (
    MAX_ERROR_LENGTH,
    MAX_QUOTED,
    AppImportError,
    BrokerLoadingError,
    MisplacedKeyError,
    OperationStateError,
    describe,
    shown,
)
from boilerd.tasks.options import check_key, task_options
from boilerd.tasks.queues import check_queue
from boilerd.tasks.retry import RetryPolicy
from boilerd.tasks.task import check_task_id, check_type
from boilerd.units import Duration
from boilerd.web.refusal import Refusal


def family(kind: type[BoilerdError]) -> Iterator[type[BoilerdError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from family(child)


#: Errors that are made of something other than a message.
SAMPLES: dict[type[BoilerdError], BoilerdError] = {
    AppImportError: AppImportError("no such app", "Traceback …"),
    BrokerLoadingError: BrokerLoadingError("reads its file", was_sent=False),
    BrokerUnavailableError: BrokerUnavailableError("away", was_sent=False),
    DuplicateTaskError: DuplicateTaskError("t1"),
    HandlerNotFoundError: HandlerNotFoundError("email:deliver"),
    MisplacedKeyError: MisplacedKeyError("rq:queues", "set"),
    QueueFullError: QueueFullError("low"),
    UniqueLockError: UniqueLockError("test:echo", "low", "task", "lives queued"),
    QueueInUseError: QueueInUseError("low", "it holds tasks"),
    QueueNotFoundError: QueueNotFoundError("low", ["default"]),
    RetryLater: RetryLater(7.5, "not yet"),
    TaskFailedError: TaskFailedError(
        "t1", "test:echo", error_type="ValueError", message="bad", traceback="…", attempts=2
    ),
    TaskIdConflictError: TaskIdConflictError("t1"),
    TaskNotFoundError: TaskNotFoundError("t1"),
    OperationStateError: OperationStateError("1-a", "done", "stop"),
    Refusal: Refusal(404, "no such page"),
    TaskStateError: TaskStateError("task t1", "active", "run", ["scheduled", "archived"]),
}


@pytest.mark.parametrize("kind", set(family(BoilerdError)), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
def test_every_error_survives_a_pickle(kind: type[BoilerdError], protocol: int) -> None:
    error = SAMPLES.get(kind) or kind("what went wrong")
    error.add_note("and where")

    for again in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error)):
        assert type(again) is kind
        assert (str(again), again.args) == (str(error), error.args)
        assert vars(again) == vars(error)


@pytest.mark.parametrize(("letter", "length"), [("x", 200_000_000), ("ü", 3000), ("x", MAX_ERROR_LENGTH)])
def test_a_long_message_is_cut_where_it_is_told(letter: str, length: int) -> None:
    message = letter * length

    line = describe(ValueError(message))

    assert len(line) == MAX_ERROR_LENGTH
    assert line.startswith("ValueError: " + message[:100])
    assert line.endswith("…")


def test_a_message_that_just_fits_is_told_whole() -> None:
    message = "x" * (MAX_ERROR_LENGTH - len("ValueError: "))

    assert describe(ValueError(message)) == f"ValueError: {message}"


def test_a_group_is_told_with_what_it_holds() -> None:
    inner = ExceptionGroup("inner", [KeyError("name")])
    group = ExceptionGroup("unhandled errors", [ValueError("bad"), inner])

    assert describe(group) == "ExceptionGroup: unhandled errors (2 sub-exceptions): ValueError: bad; KeyError: 'name'"


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


HUGE = 100_000


@pytest.mark.parametrize(
    "refuse",
    [
        check_type,
        check_task_id,
        check_queue,
        check_key,
        lambda value: task_options(timeout=value),
        lambda value: task_options(max_retries=value),
        lambda value: task_options(process_at=value),
        lambda value: task_options(unique=1, unique_until=value),
        RetryLater,
        lambda value: RetryPolicy(max_retries=value),
        lambda value: RetryPolicy(retry_on=value),
        Duration.parse,
        lambda value: ServeMux().not_found(value),
        lambda value: ServeMux().cron(value, "a:b"),
        lambda value: ServeMux().cron("@daily", "a:b", timezone=value),
        lambda value: ServeMux().cron("@daily", "a:b", name=value),
    ],
)
@pytest.mark.parametrize("value", ["x" * HUGE, [0] * HUGE], ids=["text", "list"])
def test_no_error_quotes_a_huge_value_whole(refuse: Callable[[Any], object], value: Any) -> None:
    with pytest.raises((TypeError, ValueError, BoilerdError)) as raised:
        refuse(value)

    assert len(str(raised.value)) < 3 * MAX_QUOTED


def test_a_huge_name_of_an_option_is_refused_short() -> None:
    with pytest.raises(TypeError) as raised:
        task_options(**{"x" * HUGE: 1})  # type: ignore[arg-type]

    assert len(str(raised.value)) < 3 * MAX_QUOTED


def test_the_longest_name_of_ours_is_quoted_whole() -> None:
    assert shown("x" * 256) == repr("x" * 256)
    assert shown({"queue": "low"}) == "{'queue': 'low'}"


@pytest.mark.parametrize("value", [7**20_000, Unshowable()], ids=["number", "object"])
def test_a_value_without_a_text_is_quoted_all_the_same(value: object) -> None:
    assert type(value).__name__ in shown(value)

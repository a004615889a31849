"""The errors: their lines, and that they survive a pickle."""

import copy
import pickle
from collections.abc import Iterator

import pytest

from boilerd import (
    BoilerdError,
    BrokerUnavailableError,
    DuplicateTaskError,
    HandlerNotFoundError,
    QueueFullError,
    QueueNotFoundError,
    RetryLater,
    TaskIdConflictError,
    TaskNotFoundError,
    TaskStateError,
)
from boilerd.errors import MAX_ERROR_LENGTH, AppImportError, BrokerLoadingError, MisplacedKeyError, describe
from boilerd.tasks.rq_functions import _AskedAgain


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
    QueueNotFoundError: QueueNotFoundError("low", ["default"]),
    RetryLater: RetryLater(7.5, "not yet"),
    _AskedAgain: _AskedAgain(7.5, "not yet"),
    TaskIdConflictError: TaskIdConflictError("t1"),
    TaskNotFoundError: TaskNotFoundError("t1"),
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


@pytest.mark.parametrize("message", ["x" * 200_000_000, "ü" * 3000, "x" * MAX_ERROR_LENGTH])
def test_a_long_message_is_cut_where_it_is_told(message: str) -> None:
    line = describe(ValueError(message))

    assert len(line) == MAX_ERROR_LENGTH
    assert line.startswith("ValueError: " + message[:100])
    assert line.endswith("…")


def test_a_message_that_just_fits_is_told_whole() -> None:
    message = "x" * (MAX_ERROR_LENGTH - len("ValueError: "))

    assert describe(ValueError(message)) == f"ValueError: {message}"

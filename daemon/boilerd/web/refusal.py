"""Why a request gets no page, as an error with its HTTP status."""

from boilerd.errors import (
    BoilerdError,
    BrokerError,
    ConfigError,
    CronNotFoundError,
    DuplicateTaskError,
    FailureNotFoundError,
    InvalidTaskError,
    OperationNotFoundError,
    OperationStateError,
    QueueFullError,
    QueueInUseError,
    QueueNotFoundError,
    RefusedError,
    TaskIdConflictError,
    TaskNotFoundError,
    TaskStateError,
    UniqueLockError,
)
from boilerd.web.visit import NotThereError, QueryError


class Refusal(BoilerdError):  # noqa: N818 - an answer, not a failure of the program
    """A request that is not answered, and what would do.

    Attributes:
        status: Of HTTP.
        heading: Of the page that says so to people; empty: the status has one.
    """

    def __init__(self, status: int, message: str, heading: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.heading = heading


#: Error → its status; the first that fits counts.
_STATUSES: tuple[tuple[type[BoilerdError], int], ...] = (
    (TaskNotFoundError, 404),
    (QueueInUseError, 409),
    (UniqueLockError, 409),
    (QueueNotFoundError, 404),
    (FailureNotFoundError, 404),
    (CronNotFoundError, 404),
    (NotThereError, 404),
    (OperationNotFoundError, 404),
    (OperationStateError, 409),
    (TaskStateError, 409),
    (DuplicateTaskError, 409),
    (TaskIdConflictError, 409),
    (QueueFullError, 409),
    (QueryError, 400),
    (InvalidTaskError, 400),
    (ConfigError, 400),
    (RefusedError, 409),
    (BrokerError, 503),
)


def status_of(error: BoilerdError) -> int:
    """The status of an error that a page let through."""
    if isinstance(error, Refusal):
        return error.status
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)

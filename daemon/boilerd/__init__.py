"""Background tasks for Python services: Asynq's model on RQ's storage.

What stands in ``__all__`` is the public interface; all else may change.
"""

from typing import TYPE_CHECKING

from boilerd.errors import (
    BoilerdError,
    BrokerError,
    BrokerUnavailableError,
    ConfigError,
    DuplicateTaskError,
    HandlerNotFoundError,
    InvalidPayloadError,
    InvalidTaskError,
    QueueFullError,
    QueueNotFoundError,
    RetryLater,
    RevokeTask,
    SkipRetry,
    TaskIdConflictError,
    TaskNotFoundError,
    TaskStateError,
)
from boilerd.mux import Handler, Middleware, ServeMux
from boilerd.retry import retry
from boilerd.task import Task, TaskInfo, TaskState, UniqueUntil

if TYPE_CHECKING:
    from boilerd.client import Client
    from boilerd.inspector import Inspector

__all__ = [
    "BoilerdError",
    "BrokerError",
    "BrokerUnavailableError",
    "Client",
    "ConfigError",
    "DuplicateTaskError",
    "Handler",
    "HandlerNotFoundError",
    "Inspector",
    "InvalidPayloadError",
    "InvalidTaskError",
    "Middleware",
    "QueueFullError",
    "QueueNotFoundError",
    "RetryLater",
    "RevokeTask",
    "ServeMux",
    "SkipRetry",
    "Task",
    "TaskIdConflictError",
    "TaskInfo",
    "TaskNotFoundError",
    "TaskState",
    "TaskStateError",
    "UniqueUntil",
    "retry",
]


def __getattr__(name: str) -> object:
    """Load what talks to Redis at first use: that takes 0.1 s, which a handler module does not need."""
    if name == "Client":
        from boilerd.client import Client  # noqa: PLC0415

        return Client
    if name == "Inspector":
        from boilerd.inspector import Inspector  # noqa: PLC0415

        return Inspector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

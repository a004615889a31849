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
    RetryLater,
    RevokeTask,
    SkipRetry,
    TaskIdConflictError,
    TaskNotFoundError,
)
from boilerd.mux import Handler, Middleware, ServeMux
from boilerd.retry import retry
from boilerd.task import Task, TaskInfo, TaskState, UniqueUntil

if TYPE_CHECKING:
    from boilerd.client import Client

__all__ = [
    "BoilerdError",
    "BrokerError",
    "BrokerUnavailableError",
    "Client",
    "ConfigError",
    "DuplicateTaskError",
    "Handler",
    "HandlerNotFoundError",
    "InvalidPayloadError",
    "InvalidTaskError",
    "Middleware",
    "QueueFullError",
    "RetryLater",
    "RevokeTask",
    "ServeMux",
    "SkipRetry",
    "Task",
    "TaskIdConflictError",
    "TaskInfo",
    "TaskNotFoundError",
    "TaskState",
    "UniqueUntil",
    "retry",
]


def __getattr__(name: str) -> object:
    """Load the client at first use: it brings redis along, 0.1 s that a handler module does not need."""
    if name == "Client":
        from boilerd.client import Client  # noqa: PLC0415

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

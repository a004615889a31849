"""Background tasks for Python services: Asynq's model on RQ's storage.

``__all__`` and `boilerd.testing` are the public interface; all else may change.
"""

import importlib
from typing import TYPE_CHECKING

from boilerd.errors import (
    BoilerdError,
    BrokerError,
    BrokerRefusedError,
    BrokerUnavailableError,
    ConfigError,
    DeadlineExceededError,
    DuplicateTaskError,
    FailureNotFoundError,
    ForbiddenJobError,
    HandlerNotFoundError,
    InvalidPayloadError,
    InvalidTaskError,
    LeaseExpiredError,
    QueueFullError,
    QueueInUseError,
    QueueNotFoundError,
    RetryLater,
    RevokeTask,
    SkipRetry,
    TaskCancelledError,
    TaskFailedError,
    TaskIdConflictError,
    TaskInterrupt,
    TaskNotFoundError,
    TaskStateError,
    TaskTimeoutError,
    UniqueLockError,
    WorkerDiedError,
)
from boilerd.tasks.current import current_task
from boilerd.tasks.drafts import ClientMiddleware, Draft, Push
from boilerd.tasks.life import WorkerContext
from boilerd.tasks.mux import Handler, Middleware, ServeMux
from boilerd.tasks.options import EnqueueOptions, UniqueUntil
from boilerd.tasks.progress import TaskProgress
from boilerd.tasks.retry import FailedAttempt, retry
from boilerd.tasks.task import Task, TaskInfo, TaskState
from boilerd.tasks.typed import CallType, Message, TaskType

if TYPE_CHECKING:
    from boilerd.async_client import AsyncClient
    from boilerd.broker.audit import Actor, AuditEntry
    from boilerd.broker.daemons import CronFacts, DaemonInfo, PoolFacts
    from boilerd.broker.explanation import Explanation, Reason, ReasonKind
    from boilerd.broker.states import Action
    from boilerd.broker.ticks import TickInfo
    from boilerd.broker.views import (
        Attempt,
        CompletedTask,
        CronInfo,
        Day,
        QueueDetail,
        QueueInfo,
        TaskDetail,
        WorkerInfo,
    )  # fmt: skip
    from boilerd.client import Client
    from boilerd.inspector import BulkProgress, Inspector

#: Loaded at first use: the modules that talk to Redis take 0.1 s, and a handler module does not need them.
_LATER = {
    "Action": "broker.states", "AsyncClient": "async_client", "Client": "client", "Inspector": "inspector",
    "BulkProgress": "inspector", "TickInfo": "broker.ticks",
} | dict.fromkeys(
    ("Attempt", "CompletedTask", "CronInfo", "Day", "QueueDetail", "QueueInfo", "TaskDetail", "WorkerInfo"),
    "broker.views",
) | dict.fromkeys(("Explanation", "Reason", "ReasonKind"), "broker.explanation") | dict.fromkeys(
    ("Actor", "AuditEntry"), "broker.audit"
) | dict.fromkeys(
    ("CronFacts", "DaemonInfo", "PoolFacts"), "broker.daemons"
)  # fmt: skip

__all__ = [
    "Action",
    "Actor",
    "AsyncClient",
    "Attempt",
    "AuditEntry",
    "BoilerdError",
    "BrokerError",
    "BrokerRefusedError",
    "BrokerUnavailableError",
    "BulkProgress",
    "CallType",
    "Client",
    "ClientMiddleware",
    "CompletedTask",
    "ConfigError",
    "CronFacts",
    "CronInfo",
    "DaemonInfo",
    "Day",
    "DeadlineExceededError",
    "Draft",
    "DuplicateTaskError",
    "EnqueueOptions",
    "Explanation",
    "FailedAttempt",
    "FailureNotFoundError",
    "ForbiddenJobError",
    "Handler",
    "HandlerNotFoundError",
    "Inspector",
    "InvalidPayloadError",
    "InvalidTaskError",
    "LeaseExpiredError",
    "Message",
    "Middleware",
    "PoolFacts",
    "Push",
    "QueueDetail",
    "QueueFullError",
    "QueueInUseError",
    "QueueInfo",
    "QueueNotFoundError",
    "Reason",
    "ReasonKind",
    "RetryLater",
    "RevokeTask",
    "ServeMux",
    "SkipRetry",
    "Task",
    "TaskCancelledError",
    "TaskDetail",
    "TaskFailedError",
    "TaskIdConflictError",
    "TaskInfo",
    "TaskInterrupt",
    "TaskNotFoundError",
    "TaskProgress",
    "TaskState",
    "TaskStateError",
    "TaskTimeoutError",
    "TaskType",
    "TickInfo",
    "UniqueLockError",
    "UniqueUntil",
    "WorkerContext",
    "WorkerDiedError",
    "WorkerInfo",
    "current_task",
    "retry",
]


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"boilerd.{_LATER[name]}"), name)

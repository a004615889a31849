"""For the tests of applications: enqueue and run tasks without a broker or a worker, by a clock that tests move.

A task is checked as at every enqueue, and its payload goes through JSON as on its way through Redis. What becomes of it
follows the worker's own rules. No limit ends an attempt, and nothing is done twice after a crash: that belongs to the
daemon, which the plugin for pytest starts where a test asks for `boilerd_daemon`.
"""

import math
from collections.abc import Mapping
from contextvars import copy_context
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from boilerd.broker.job_hash import request_id_of
from boilerd.tasks.current import CURRENT
from boilerd.tasks.headers import NO_HEADERS, check_headers
from boilerd.tasks.mux import Handler, ServeMux
from boilerd.tasks.task import Task
from boilerd.testing.drain import lived
from boilerd.testing.expectations import Seen, as_sent, type_name
from boilerd.testing.recording_client import RecordingClient, override
from boilerd.testing.records import Attempt, RecordedTask

if TYPE_CHECKING:
    from boilerd.testing.daemon_process import DaemonProcess

__all__ = ["Attempt", "DaemonProcess", "RecordedTask", "RecordingClient", "Seen", "override", "run"]


class OneAttempt(msgspec.Struct, frozen=True):
    """Answers a task's questions about an attempt that has just begun and that nobody interrupts."""

    task: Task
    state: Mapping[str, Any]

    def remaining_s(self) -> float:
        """Seconds that a worker would give it."""
        ends = [math.inf if self.task.timeout_s is None else self.task.timeout_s]
        ends += [(self.task.deadline - datetime.now(UTC)).total_seconds()] if self.task.deadline else []
        return max(0.0, min(ends))

    def cancellation(self) -> str:
        """Nobody cancels it."""
        return ""

    def write_result(self, result: Any) -> bool:
        """Nobody looks at it."""
        return True

    def progress(self, progress: Any) -> None:
        """Nobody looks at it."""


def run(handler: Handler, task_type: Any, payload: Any = None, **fields: Any) -> Any:
    """Run one attempt in this thread, inside of middleware and lifespans; returns the handler's result.

    Args:
        handler: A mux.
        task_type: Chooses the handler: its name, or what `ServeMux.task` made of a handler.
        payload: Anything that has a JSON form.
        fields: Of the Task, such as ``attempt``; without ``max_retries``, those of the handler's ``@retry``.

    Raises:
        InvalidTaskError: The type or a header is not allowed.
        InvalidPayloadError: The payload has no JSON form, or does not fit the type that the handler declared.
        Exception: The handler raised it, and the mux's ``error_handler`` was told; or that raised it.
    """
    mux = handler if isinstance(handler, ServeMux) else ServeMux()
    task_type = type_name(task_type)
    sent = as_sent(mux, task_type, payload)
    headers = check_headers(fields.pop("headers", NO_HEADERS))
    told = {"id": "test", "request_id": request_id_of(sent, headers), **fields}
    task = Task(type=task_type, payload=sent, headers=headers, **told)
    if "max_retries" not in fields and (policy := mux.policy(task.type)):
        task.complete(policy.max_retries)
    # In a copy, so that what lifespans and handlers set in ContextVars is not set in the test.
    return copy_context().run(_run, handler, mux, task)


def _run(handler: Handler, mux: ServeMux, task: Task) -> Any:
    CURRENT.set(task)
    with lived(mux.life) as state:
        task.attach(OneAttempt(task, state))
        try:
            return handler(task)
        except Exception as error:
            if mux.hooks.error_handler:
                mux.hooks.error_handler(task, error)
            raise


def __getattr__(name: str) -> object:
    """What few tests need is loaded at first use."""
    if name != "DaemonProcess":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from boilerd.testing.daemon_process import DaemonProcess  # noqa: PLC0415 - see above

    return DaemonProcess

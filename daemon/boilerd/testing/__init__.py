"""For the tests of applications: enqueue and run tasks without a broker or a worker, by a clock that tests move.

A task is checked as at every enqueue, and its payload goes through JSON as on its way through Redis. What becomes of it
follows the worker's own rules. No limit ends an attempt, and nothing is done twice after a crash: that belongs to the
daemon, which the plugin for pytest starts where a test asks for `boilerd_daemon`.
"""

from typing import Any

import msgspec

from boilerd.broker.job_hash import request_id_of
from boilerd.tasks.current import CURRENT
from boilerd.tasks.mux import Handler, ServeMux
from boilerd.tasks.payload import encode_payload
from boilerd.tasks.task import Task, check_type
from boilerd.testing.expectations import Seen
from boilerd.testing.recording_client import RecordingClient, override
from boilerd.testing.records import Attempt, RecordedTask

__all__ = ["Attempt", "RecordedTask", "RecordingClient", "Seen", "override", "run"]


def run(handler: Handler, task_type: str, payload: Any = None, **fields: Any) -> Any:
    """Run one attempt in this thread, middleware included; returns the handler's result.

    Args:
        handler: A mux.
        task_type: Chooses the handler.
        payload: Anything that has a JSON form.
        fields: Of the Task, such as ``attempt``; without ``max_retries``, those of the handler's ``@retry``.

    Raises:
        InvalidTaskError: The type is not allowed.
        InvalidPayloadError: The payload has no JSON form, or does not fit the type that the handler declared.
        Exception: The handler raised it, and the mux's ``error_handler`` was told; or that raised it.
    """
    sent = msgspec.json.decode(encode_payload(payload))
    task = Task(
        **{"id": "test", "type": check_type(task_type), "payload": sent, "request_id": request_id_of(sent), **fields}
    )
    mux = handler if isinstance(handler, ServeMux) else ServeMux()
    if "max_retries" not in fields and (policy := mux.policy(task.type)):
        task.complete(policy.max_retries)
    token = CURRENT.set(task)
    try:
        return handler(task)
    except Exception as error:
        if mux.hooks.error_handler:
            mux.hooks.error_handler(task, error)
        raise
    finally:
        CURRENT.reset(token)

"""The tasks that boilerd brings: one that answers, to see that all is well, and to copy from.

A module of your own looks the same: constants for the task types, so that the code that
enqueues and the code that handles cannot disagree; a mux; handlers that take a task.
"""

from boilerd.tasks.mux import ServeMux
from boilerd.tasks.task import Task

WORKER_PING = "worker:ping"

mux = ServeMux()


@mux.handle(WORKER_PING)
def ping(task: Task) -> str:
    """Log the payload's ``message``; any other payload is answered too.

    A handler may run more than once for the same task, so it must be idempotent: this one
    only logs.
    """
    payload = task.payload if isinstance(task.payload, dict) else {}
    message = payload.get("message")
    if not isinstance(message, str):
        message = "pong"
    task.logger.info("task processed successfully", extra={"ping_message": message})
    return message

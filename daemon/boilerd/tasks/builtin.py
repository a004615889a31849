"""The built-in task, worker:ping: it shows that all is well, and is an example to copy.

A module of your own looks the same: constants for the task types, so that the code that
enqueues and the code that handles cannot disagree; a mux; handlers that take a task.
"""

from boilerd.tasks.mux import ServeMux
from boilerd.tasks.task import Task

WORKER_PING = "worker:ping"

mux = ServeMux()


@mux.handle(WORKER_PING)
def ping(task: Task) -> str:
    """Log and return the payload's ``message``, or ``pong`` if it has none.

    A handler may run more than once for the same task, so it must be idempotent: this one
    only logs.
    """
    payload = task.payload if isinstance(task.payload, dict) else {}
    message = payload.get("message")
    if not isinstance(message, str):
        message = "pong"
    task.logger.info("task processed successfully", extra={"ping_message": message})
    return message

"""The task whose handler runs, for code that the handler calls."""

from contextvars import ContextVar

from boilerd.tasks.task import Task

#: None outside of a handler. A thread that the handler starts has it only if it runs in a copy of the context.
CURRENT: ContextVar[Task | None] = ContextVar("boilerd_current_task", default=None)


def current_task() -> Task:
    """The task whose handler runs, as the handler sees it.

    Raises:
        RuntimeError: No handler runs here.
    """
    task = CURRENT.get()
    if task is None:
        raise RuntimeError("current_task() is for code that a handler calls, and no handler runs here")
    return task

"""The function that RQ's record of each task names. Its name stands in Redis: this module never moves."""

from typing import Any, NoReturn

from boilerd.errors import BoilerdError

#: The function that `data` of a job hash names. boilerd's workers compare the name and import nothing.
ENTRY_POINT = "boilerd.entry_point.run"
#: All names that a task of boilerd may be stored under; the second was written before the first release.
ENTRY_POINTS = frozenset({ENTRY_POINT, "boilerd.execution.run"})


def run(task_type: str, payload: Any = None, **stored: Any) -> NoReturn:  # noqa: ARG001 - the call as it is stored
    """Refuse to run: only a plain RQ worker on a queue of boilerd's tasks calls this.

    Raises:
        BoilerdError: Always. Such a worker knows neither the handlers nor our guarantees.
    """
    raise BoilerdError(f"task {task_type!r} runs in boilerd's workers only; stop the plain RQ worker on its queue")

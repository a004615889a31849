"""Threads of the dashboard that work on operations; all that is known of these stands in Redis."""

import atexit
import logging
import threading
import time
import weakref

from boilerd.broker.operation_record import Operation
from boilerd.broker.operation_run import Sees
from boilerd.broker.operations import Operations
from boilerd.errors import BoilerdError, RefusedError

logger = logging.getLogger("boilerd.web")

#: Operations of one process at once; each is a thread that waits for Redis for most of its time.
MOST_AT_ONCE = 8
#: When the process ends, they have so long to write down where they are.
FAREWELL_S = 3.0


class Operators:
    """Starts them, and lets them come to a halt when the process ends."""

    def __init__(self) -> None:
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        # As the last thing: an application that mounts the dashboard may never tell it that it ends.
        atexit.register(_end, weakref.ref(self))

    def check_free(self) -> None:
        """Raise RefusedError if this process has enough to do."""
        with self._lock:
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            if len(self._threads) >= MOST_AT_ONCE:
                raise RefusedError(f"{MOST_AT_ONCE} operations are going on here; wait for one to end, or stop one")

    def start(self, operations: Operations, operation: Operation, runner: str, sees: Sees | None = None) -> None:
        """Work on an operation in a thread; `sees` is what its search looks at."""
        thread = threading.Thread(
            target=self._work, args=(operations, operation, runner, sees), name=f"operation {operation.id}", daemon=True
        )
        with self._lock:
            self._threads.append(thread)
        thread.start()

    def _work(self, operations: Operations, operation: Operation, runner: str, sees: Sees | None) -> None:
        try:
            operations.run(operation, runner, self._ending, sees=sees)
        except BoilerdError as error:
            logger.warning("an operation failed", extra={"operation": operation.id, "error": str(error)})

    def end(self) -> None:
        """Have them stop where they are."""
        self._ending.set()
        until_s = time.monotonic() + FAREWELL_S
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))


def _end(found: "weakref.ref[Operators]") -> None:
    operators = found()
    if operators is not None:
        operators.end()

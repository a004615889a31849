"""Wait for the ends of a client's tasks."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import redis

from boilerd.broker.broker import Broker
from boilerd.enqueuing.stores import TaskStore
from boilerd.tasks.current import CURRENT
from boilerd.tasks.task import OnProgress, Seconds

if TYPE_CHECKING:
    from boilerd.broker.endings import Ending
    from boilerd.broker.tickets import TellProgress
    from boilerd.broker.waiter import Waiters


#: However short a time to wait is, the task is looked at once, unless Redis takes longer than this to answer.
LOOK_S = 1.0
#: What an inbox has behind all progress: the end can be read.
ENDED = object()


@runtime_checkable
class EndsHere(Protocol):
    """A store in which the ends of its tasks can be waited for without a broker."""

    def submit(self, task_id: str, tell: "TellProgress | None", *, has_timeout: bool) -> "Future[Ending]":
        """See `Waiter.submit`."""


class Waits:
    """The waits of a client; what they need is made, and its modules imported, when somebody first waits.

    Args:
        connection: Of the client.
    """

    def __init__(self, connection: redis.Redis) -> None:
        self._connection = connection
        #: By connection, as a test may have the tasks go elsewhere; threads may come at one time.
        self._found: dict[redis.Redis, Waiters] = {}

    def start(
        self, store: TaskStore, task_id: str, tell: "TellProgress", *, has_timeout: bool, allow_in_handler: bool
    ) -> "Future[Ending]":
        """Begin to wait for a task of the store; see `Waiters.submit`.

        Raises:
            RuntimeError: Nothing would come of it.
        """
        check_place(task_id, allow_in_handler=allow_in_handler)
        if isinstance(store, EndsHere):
            return store.submit(task_id, tell, has_timeout=has_timeout)
        connection = store.connection if isinstance(store, Broker) else self._connection
        if connection is None:
            raise RuntimeError(f"task {task_id}: this client has no broker, and nothing runs the task")
        return self.waiters(connection).submit(task_id, tell, has_timeout=has_timeout)

    def waiters(self, connection: redis.Redis) -> "Waiters":
        """What waits on a connection like this one."""
        if found := self._found.get(connection):
            return found
        from boilerd.broker.waiter import Waiters  # noqa: PLC0415 - a sixth of the import of a client

        return self._found.setdefault(connection, Waiters(connection))

    def close(self) -> None:
        """End the waits of other threads."""
        for waiters in self._found.values():
            waiters.close()


def check_place(task_id: str, *, allow_in_handler: bool) -> None:
    """Raise RuntimeError where a handler would wait that was not allowed to."""
    if CURRENT.get() is not None and not allow_in_handler:
        raise RuntimeError(
            f"task {task_id}: a handler that waits holds its worker, and where all of them wait none runs the task;"
            " enqueue what comes next from the other task, or say allow_in_handler=True"
        )


def wait_here(
    start: Callable[..., "Future[Ending]"], task_id: str, timeout: Seconds | None, on_progress: OnProgress | None
) -> Any:
    """Wait in this thread for an end, and return the result; `Client.wait` says what it raises.

    Args:
        start: Begins to wait, given what is to be told of progress.
        task_id: The task's ID.
        timeout: For how long; None: until it ends.
        on_progress: Called here with each progress.
    """
    seconds = in_seconds(timeout)
    begun_s, least_s = time.monotonic(), LOOK_S
    inbox: SimpleQueue[Any] = SimpleQueue()
    future = start(task_id, inbox.put, has_timeout=seconds is not None)
    future.add_done_callback(lambda _: inbox.put(ENDED))
    try:
        while (told := inbox.get(timeout=_left_s(begun_s, seconds, least_s))) is not ENDED:
            if told is None:
                least_s = 0.0
            elif on_progress:
                on_progress(told)
    except Empty:
        raise not_in_time(task_id, seconds) from None
    finally:
        future.cancel()
    return future.result().result()


def _left_s(begun_s: float, seconds: float | None, least_s: float) -> float | None:
    """What is left of the seconds since then, as far as a thread can wait; None: there is no limit."""
    if seconds is None:
        return None
    return min(max(0.0, begun_s + max(seconds, least_s) - time.monotonic()), threading.TIMEOUT_MAX)


def in_seconds(timeout: Seconds | None) -> float | None:
    """A time to wait, in seconds."""
    return timeout.total_seconds() if isinstance(timeout, timedelta) else timeout


def not_in_time(task_id: str, seconds: float | None) -> TimeoutError:
    """The error for somebody who has waited long enough."""
    return TimeoutError(f"task {task_id} has not ended within {seconds:g} s, and goes on")

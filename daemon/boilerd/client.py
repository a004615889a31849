"""Enqueue tasks."""

import functools
import logging
import os
import time
from collections.abc import Iterable
from concurrent.futures import Future
from datetime import timedelta
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, Self, Unpack

import redis

from boilerd.broker.broker import Broker, is_cancelled
from boilerd.broker.connection import connect, connect_to
from boilerd.broker.job_hash import NewTask
from boilerd.errors import BoilerdError, BrokerUnavailableError, InvalidTaskError
from boilerd.settings.definitions import Settings
from boilerd.settings.finding import find_settings
from boilerd.tasks.current import CURRENT
from boilerd.tasks.mux import ServeMux
from boilerd.tasks.options import DEFAULT_OPTIONS, EnqueueOptions, TaskOptions, task_options
from boilerd.tasks.payload import DEFAULT_MAX_PAYLOAD, check_payload, encode_payload
from boilerd.tasks.progress import TaskProgress
from boilerd.tasks.task import DEFAULT_MAX_RETRIES, OnProgress, Seconds, TaskInfo, TaskState, check_type

if TYPE_CHECKING:
    from boilerd.broker.endings import Ending
    from boilerd.broker.tickets import TellProgress
    from boilerd.broker.waiter import Waiters

logger = logging.getLogger("boilerd.client")

#: A client remembers so many types for which its mux has a handler.
_MOST_TYPES = 10_000
#: Hexadecimal digit → the digit with the upper two bits of a UUID's variant.
_VARIANT = {f"{digit:x}": f"{8 | digit & 3:x}" for digit in range(16)}


class TaskStore(Protocol):
    """The methods of a broker that a Client uses."""

    def enqueue(self, tasks: Iterable[NewTask]) -> list[TaskState | BoilerdError]:
        """Store tasks; for each its state, or the error that kept it out."""

    def cancel(self, task_id: str) -> str:
        """Cancel a task; answers as `Broker.cancel`."""


class Client:
    """Enqueues tasks; safe to share between threads, and with the children of a fork, which connect anew.

    Args:
        connection: The client of Redis; it must answer with bytes, which is redis-py's default.
        mux: If given, payloads are checked against the types that handlers declared, and a task type without a handler
            is logged as a warning, once.
        max_payload: Bytes of JSON that a payload may have; a larger one is refused.
        store: Takes the tasks in place of Redis, in tests.

    Raises:
        TypeError: The connection is another client than ``redis.Redis``, or decodes the answers of Redis.

    Attributes:
        connection: The ``redis.Redis`` that is used; the application may use it too.
    """

    def __init__(
        self,
        connection: redis.Redis,
        *,
        mux: ServeMux | None = None,
        max_payload: int = DEFAULT_MAX_PAYLOAD,
        store: TaskStore | None = None,
    ) -> None:
        self.connection = connection
        self._store = store or Broker(connection)
        self._mux = mux
        #: Holds one, once somebody has waited; threads may come at one time.
        self._waits: dict[str, Waiters] = {}
        self._known_types: set[str] = set()
        self._max_payload = max_payload

    @classmethod
    def from_url(cls, url: str, *, mux: ServeMux | None = None, **options: Any) -> Self:
        """A client for the Redis at `url`; connects at the first enqueue.

        Args:
            url: ``redis://``, ``rediss://``, ``unix://`` or ``redis+sentinel://``.
            mux: If given, payloads are checked against the types that handlers declared.
            options: ``password``, ``db``, ``key_prefix``, ``timeout_s`` (without it the URL's, or 5 s), as
                `boilerd.broker.connection.connect` takes them.

        Raises:
            ConfigError: The URL cannot be understood, or has an option that boilerd does not take.
        """
        return cls(connect(url, **options), mux=mux)

    @classmethod
    def from_settings(cls, settings: Settings | None = None, *, mux: ServeMux | None = None) -> Self:
        """A client for the Redis that the settings name; without settings, those of the command line are used."""
        settings = settings or find_settings()
        return cls(connect_to(settings, is_client=True), mux=mux, max_payload=settings.max_payload)

    def enqueue(self, task_type: str, payload: Any = None, **options: Unpack[EnqueueOptions]) -> TaskInfo:
        """Store a task for a worker to run; one round trip.

        Args:
            task_type: The kind of task, such as ``email:deliver``; it selects the handler.
            payload: Any value that has a JSON form.
            options: ``queue``, ``timeout``, ``process_in`` and so on, as `EnqueueOptions` has them.

        Raises:
            TypeError: There is no such option; nothing was sent.
            InvalidTaskError: The type or an option is not allowed; nothing was sent.
            InvalidPayloadError: The payload cannot be written as JSON, or does not fit the type
                that its handler declared; nothing was sent.
            TaskIdConflictError: The given ``task_id`` is taken; nothing was stored.
            DuplicateTaskError: The unique lock is held by another task; nothing was stored.
            QueueFullError: The queue has reached its limit; nothing was stored.
            BrokerUnavailableError: Redis did not answer; if `was_sent`, the task may be stored.
                Enqueuing again with the same ``task_id`` is safe.
            BrokerRefusedError: Redis answered, and refused; nothing was stored.
        """
        task = self._new_task(task_type, payload, task_options(**options) if options else DEFAULT_OPTIONS)
        try:
            (answer,) = self._store.enqueue([task])
        except BrokerUnavailableError as error:
            if not error.was_sent:
                raise
            raise BrokerUnavailableError(
                f"{error}; task {task.id} may have been stored, enqueuing it again with this ID is safe"
            ) from error
        if isinstance(answer, BoilerdError):
            raise answer
        return self._info(task, payload, answer)

    def enqueue_many(
        self, tasks: Iterable[tuple[str, Any]], **options: Unpack[EnqueueOptions]
    ) -> list[TaskInfo | BoilerdError]:
        """Store many tasks with the same options; one round trip for 500, or 8 MiB of payloads.

        Args:
            tasks: Type and payload of each.
            options: As for `enqueue`; a ``task_id`` fits one task only.

        Returns:
            For each task, in the same order, its TaskInfo or the error that kept it out.

        Raises:
            TypeError: There is no such option; nothing was sent.
            InvalidTaskError: A type or option is not allowed, and the error says of which task; nothing was sent.
            InvalidPayloadError: As above, for a payload.
            BrokerUnavailableError: Redis did not answer; none, some or all of the tasks may be stored.
        """
        chosen = task_options(**options)
        pairs = list(tasks)
        new: list[NewTask] = []
        for pair in pairs:
            try:
                task_type, payload = pair
            except (TypeError, ValueError):
                raise InvalidTaskError(f"task [{len(new)}] of many is not (type, payload), a pair") from None
            try:
                new.append(self._new_task(task_type, payload, chosen))
            except InvalidTaskError as error:
                raise type(error)(f"task [{len(new)}] of many: {error}") from error
        answers = self._store.enqueue(new)
        return [
            answer if isinstance(answer, BoilerdError) else self._info(task, payload, answer)
            for task, (_, payload), answer in zip(new, pairs, answers, strict=True)
        ]

    def cancel(self, task_id: str) -> bool:
        """Cancel a task: a waiting one is deleted, a running one is interrupted and archived.

        Returns:
            True if it is cancelled; False if it had ended before.

        Raises:
            TaskNotFoundError: There is no such task; it may have been completed and deleted.
        """
        return is_cancelled(task_id, self._store.cancel(task_id))

    def wait(
        self,
        task_id: str,
        timeout: Seconds | None = None,
        *,
        on_progress: OnProgress | None = None,
        allow_in_handler: bool = False,
    ) -> Any:
        """Wait for a task's end, through all its retries, and return its result.

        All waits of a client share one connection and one thread, beside those that its other calls use. Jobs of plain
        RQ can be waited for as well.

        Args:
            task_id: Its ID; the task needs ``retention``, or nothing is left of it when it has completed.
            timeout: For how long, in seconds or as a timedelta, through all outages; None: until it ends.
            on_progress: Called here with each `TaskProgress` that the handler tells.
            allow_in_handler: True to wait in a handler all the same: there are always workers that run the other task.

        Raises:
            TaskFailedError: It was archived, or cancelled while it ran.
            TaskNotFoundError: There is no such task: it was cancelled or deleted before it ran, or its retention is
                over.
            TimeoutError: It has not ended in this time, and goes on.
            ValueError: It has no ``retention``.
            RuntimeError: A handler runs here; or the client was closed.
            BrokerUnavailableError: There is no timeout, and Redis has not answered for 30 s.
            BrokerRefusedError: Redis refused.
        """
        seconds = in_seconds(timeout)
        end_s = None if seconds is None else time.monotonic() + seconds
        inbox: SimpleQueue[TaskProgress | None] = SimpleQueue()
        future = self.start_wait(task_id, inbox.put, has_timeout=end_s is not None, allow_in_handler=allow_in_handler)
        future.add_done_callback(lambda _: inbox.put(None))
        try:
            while progress := inbox.get(timeout=None if end_s is None else max(0.0, end_s - time.monotonic())):
                if on_progress:
                    on_progress(progress)
        except Empty:
            raise not_in_time(task_id, seconds) from None
        finally:
            future.cancel()
        return future.result().result()

    def start_wait(
        self, task_id: str, tell: "TellProgress", *, has_timeout: bool, allow_in_handler: bool
    ) -> "Future[Ending]":
        """Begin to wait, for `wait` here and of an AsyncClient; see `Waiter.submit`."""
        if CURRENT.get() is not None and not allow_in_handler:
            raise RuntimeError(
                f"task {task_id}: a handler that waits holds its worker, and where all of them wait none runs the task;"
                " enqueue what comes next from the other task, or say allow_in_handler=True"
            )
        if self.connection is None:
            raise RuntimeError(f"task {task_id}: this client has no broker, and nothing runs the task")
        return self._waiters().submit(task_id, tell, has_timeout=has_timeout)

    def _waiters(self) -> "Waiters":
        """What waits for this client; made, and its modules imported, when somebody first does."""
        if found := self._waits.get("waiters"):
            return found
        from boilerd.broker.waiter import Waiters  # noqa: PLC0415 - a sixth of the import of a client

        return self._waits.setdefault("waiters", Waiters(self.connection))

    def _new_task(self, task_type: str, payload: Any, options: TaskOptions) -> NewTask:
        encoded = encode_payload(payload, self._max_payload, sorts_sets=options.unique_s > 0)
        task_type = check_type(task_type)
        model = self._mux.model(task_type) if self._mux else None
        if model is not None:
            check_payload(encoded, model)
        elif self._mux is not None and task_type not in self._known_types:
            self._check_handler(self._mux, task_type)
        return NewTask(options.task_id or _random_id(), task_type, encoded, options)

    def _info(self, task: NewTask, payload: Any, state: TaskState) -> TaskInfo:
        options, max_retries = task.options, task.options.max_retries
        if max_retries is None:
            policy = self._mux.policy(task.type) if self._mux else None
            max_retries = policy.max_retries if policy else DEFAULT_MAX_RETRIES
        info = TaskInfo(
            id=task.id,
            type=task.type,
            queue=options.queue,
            state=state,
            max_retries=max_retries,
            timeout_s=options.timeout_s,
            retention_s=options.retention_s,
            payload=payload,
        )
        info.attach(self)
        return info

    def _check_handler(self, mux: ServeMux, task_type: str) -> None:
        """Warn of a type that the mux does not know; its task would fail, unless other workers know more."""
        if not mux.has_handler(task_type):
            _tell_unhandled(task_type)
        elif len(self._known_types) < _MOST_TYPES:
            self._known_types.add(task_type)

    def close(self) -> None:
        """Close the connections, and end the waits of other threads."""
        for waiters in self._waits.values():
            waiters.close()
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


@functools.lru_cache(1000)  # a process tells it once for each name
def _tell_unhandled(task_type: str) -> None:
    # The name stands in the message: it is the application that formats this line.
    logger.warning("the mux has no handler for task type %r, its tasks fail; check the name", task_type)


def in_seconds(timeout: Seconds | None) -> float | None:
    """A time to wait, in seconds."""
    return timeout.total_seconds() if isinstance(timeout, timedelta) else timeout


def not_in_time(task_id: str, seconds: float | None) -> TimeoutError:
    """The error for somebody who has waited long enough."""
    return TimeoutError(f"task {task_id} has not ended within {seconds:g} s, and goes on")


def _random_id() -> str:
    """A random UUID of version 4 (RFC 9562), in a third of the time of ``uuid.uuid4``.

    Any text would do as an ID; this is the form of the IDs of RQ's own clients, which tools and tables may expect.
    """
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:]}"

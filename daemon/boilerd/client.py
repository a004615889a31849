"""Enqueue tasks."""

import functools
import logging
import os
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, Self, Unpack

import redis

from boilerd.broker.broker import Broker, is_cancelled
from boilerd.broker.connection import connect, connect_to
from boilerd.broker.job_hash import NewTask
from boilerd.errors import BoilerdError, BrokerUnavailableError, InvalidTaskError
from boilerd.settings.definitions import Settings
from boilerd.settings.finding import find_settings
from boilerd.tasks.mux import ServeMux
from boilerd.tasks.options import DEFAULT_OPTIONS, EnqueueOptions, TaskOptions, task_options
from boilerd.tasks.payload import DEFAULT_MAX_PAYLOAD, check_payload, encode_payload
from boilerd.tasks.task import DEFAULT_MAX_RETRIES, TaskInfo, TaskState, check_type

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


class Overrides:
    """Which clients `Client.from_settings` has made, and where a test has their tasks go."""

    def __init__(self) -> None:
        self._made: weakref.WeakSet[Client] = weakref.WeakSet()
        self._stores: list[TaskStore] = []

    def add(self, client: "Client") -> None:
        """Note a new client."""
        self._made.add(client)
        if self._stores:
            _redirect(client, self._stores[-1])

    @contextmanager
    def to(self, store: TaskStore) -> Iterator[None]:
        """Have the tasks of all these clients go to `store`, also of those that are made in the block."""
        before = {client: _redirect(client, store) for client in list(self._made)}
        self._stores.append(store)
        try:
            yield
        finally:
            self._stores.pop()
            for client in list(self._made):
                made_in_block = self._stores[-1] if self._stores else Broker(client.connection)
                _redirect(client, before.get(client, made_in_block))


OVERRIDES = Overrides()


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
        client = cls(connect_to(settings, is_client=True), mux=mux, max_payload=settings.max_payload)
        OVERRIDES.add(client)
        return client

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
        return TaskInfo(
            id=task.id,
            type=task.type,
            queue=options.queue,
            state=state,
            max_retries=max_retries,
            timeout_s=options.timeout_s,
            retention_s=options.retention_s,
            payload=payload,
        )

    def _check_handler(self, mux: ServeMux, task_type: str) -> None:
        """Warn of a type that the mux does not know; its task would fail, unless other workers know more."""
        if not mux.has_handler(task_type):
            _tell_unhandled(task_type)
        elif len(self._known_types) < _MOST_TYPES:
            self._known_types.add(task_type)

    def close(self) -> None:
        """Close the connections."""
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _redirect(client: Client, store: TaskStore) -> TaskStore:
    """Have a client's tasks go to another store; returns the one before."""
    before, client._store = client._store, store  # noqa: SLF001 - nobody else may
    return before


@functools.lru_cache(1000)  # a process tells it once for each name
def _tell_unhandled(task_type: str) -> None:
    # The name stands in the message: it is the application that formats this line.
    logger.warning("the mux has no handler for task type %r, its tasks fail; check the name", task_type)


def _random_id() -> str:
    """A random UUID of version 4 (RFC 9562), in a third of the time of ``uuid.uuid4``.

    Any text would do as an ID; this is the form of the IDs of RQ's own clients, which tools and tables may expect.
    """
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:]}"

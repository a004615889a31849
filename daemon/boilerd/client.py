"""Enqueue tasks."""

import functools
import itertools
import logging
import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, Self, Unpack, cast

import redis
from msgspec import structs

from boilerd.broker.broker import Broker, is_cancelled
from boilerd.broker.connection import connect, connect_to
from boilerd.broker.job_hash import NewTask
from boilerd.errors import BoilerdError, BrokerUnavailableError, InvalidTaskError
from boilerd.settings.definitions import Settings
from boilerd.settings.finding import find_settings
from boilerd.tasks.current import CURRENT
from boilerd.tasks.drafts import (
    Answers,
    ClientMiddleware,
    Draft,
    Push,
    check_client_middleware,
    contents,
    options_of,
    wrap_push,
)
from boilerd.tasks.headers import NO_HEADERS, check_inherited, has_request_id, inherit
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
            is logged as a warning, once; and its client middleware goes around each enqueue.
        max_payload: Bytes of JSON that a payload may have; a larger one is refused.
        inherit_headers: Names of headers that an enqueue in a handler takes over from the task that runs, beside
            ``request_id``, ``traceparent``, ``tracestate`` and ``baggage``.
        store: Takes the tasks in place of Redis, in tests.

    Raises:
        InvalidTaskError: A name in `inherit_headers` can be no header's.
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
        inherit_headers: Sequence[str] = (),
        store: TaskStore | None = None,
    ) -> None:
        self.connection = connection
        self._store = store or Broker(connection)
        self._mux = mux
        self._known_types: set[str] = set()
        self._max_payload = max_payload
        self._inherited = check_inherited(inherit_headers)
        self._middleware: list[ClientMiddleware] = []

    @classmethod
    def from_url(
        cls, url: str, *, mux: ServeMux | None = None, inherit_headers: Sequence[str] = (), **options: Any
    ) -> Self:
        """A client for the Redis at `url`; connects at the first enqueue.

        Args:
            url: ``redis://``, ``rediss://``, ``unix://`` or ``redis+sentinel://``.
            mux: If given, payloads are checked against the types that handlers declared.
            inherit_headers: As `Client` has them; a client `from_settings` has those of the settings.
            options: ``password``, ``db``, ``key_prefix``, ``timeout_s`` (without it the URL's, or 5 s), as
                `boilerd.broker.connection.connect` takes them.

        Raises:
            ConfigError: The URL cannot be understood, or has an option that boilerd does not take.
        """
        return cls(connect(url, **options), mux=mux, inherit_headers=inherit_headers)

    @classmethod
    def from_settings(cls, settings: Settings | None = None, *, mux: ServeMux | None = None) -> Self:
        """A client for the Redis that the settings name; without settings, those of the command line are used."""
        settings = settings or find_settings()
        client = cls(
            connect_to(settings, is_client=True),
            mux=mux,
            max_payload=settings.max_payload,
            inherit_headers=settings.inherit_headers,
        )
        OVERRIDES.add(client)
        return client

    def use(self, *middleware: ClientMiddleware) -> ClientMiddleware:
        """Go around each enqueue, once for a batch; the first one given is outermost, inside that of the mux.

        Usable as a decorator: returns its first argument.

        Raises:
            TypeError: One cannot be called with drafts and what pushes them, or is ``async def``.
        """
        check_client_middleware(middleware)
        self._middleware += middleware
        return middleware[0]

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
        if self._middleware or (self._mux is not None and self._mux.client_middleware):
            (answer,) = self._push_inside([(task_type, payload)], options, self._push_one)
            if isinstance(answer, BoilerdError):
                raise answer
            return answer
        chosen = task_options(**options) if options else DEFAULT_OPTIONS
        if CURRENT.get() is not None:
            chosen = self._inheriting(chosen, payload)
        task = self._new_task(task_type, payload, chosen)
        try:
            (state,) = self._store.enqueue([task])
        except BrokerUnavailableError as error:
            if not error.was_sent:
                raise
            raise _naming(task, error) from error
        if isinstance(state, BoilerdError):
            raise state
        return self._info(task, payload, state)

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
        pairs = [*tasks]
        for number, pair in enumerate(pairs):
            try:
                _, _ = pair
            except (TypeError, ValueError):
                raise InvalidTaskError(f"task [{number}] of many is not (type, payload), a pair") from None
        if self._middleware or (self._mux is not None and self._mux.client_middleware):
            return self._push_inside(pairs, options, self._push_many)
        if CURRENT.get() is not None:
            return self._store_many(pairs, [self._inheriting(chosen, payload) for _, payload in pairs])
        return self._store_many(pairs, itertools.repeat(chosen, len(pairs)))

    def cancel(self, task_id: str) -> bool:
        """Cancel a task: a waiting one is deleted, a running one is interrupted and archived.

        Returns:
            True if it is cancelled; False if it had ended before.

        Raises:
            TaskNotFoundError: There is no such task; it may have been completed and deleted.
        """
        return is_cancelled(task_id, self._store.cancel(task_id))

    def _store_many(self, tasks: Sequence[tuple[str, Any]], options: Iterable[TaskOptions]) -> Answers:
        new: list[NewTask] = []
        try:
            for (task_type, payload), chosen in zip(tasks, options, strict=True):
                new.append(self._new_task(task_type, payload, chosen))
        except InvalidTaskError as error:
            raise type(error)(f"task [{len(new)}] of many: {error}") from error
        return self._answers(new, tasks, self._store.enqueue(new))

    def _answers(
        self, new: list[NewTask], tasks: Sequence[tuple[str, Any]], states: list[TaskState | BoilerdError]
    ) -> Answers:
        return [
            state if isinstance(state, BoilerdError) else self._info(task, payload, state)
            for task, (_, payload), state in zip(new, tasks, states, strict=True)
        ]

    # --- Inside the client middleware

    def _push_inside(self, tasks: Iterable[tuple[str, Any]], options: EnqueueOptions, push: Push) -> Answers:
        outer = self._mux.client_middleware if self._mux is not None else ()
        drafts = [self._draft(task_type, payload, options) for task_type, payload in tasks]
        return wrap_push([*outer, *self._middleware], push)(drafts)

    def _draft(self, task_type: str, payload: Any, options: EnqueueOptions) -> Draft:
        chosen = self._inheriting(task_options(**options), payload)
        own = {name: value for name, value in options.items() if name not in {"headers", "inherit"}}
        return Draft(task_type, payload, cast(EnqueueOptions, own), dict(chosen.headers))

    def _push_one(self, drafts: list[Draft]) -> Answers:
        """Store the draft of an enqueue, and those that its middleware has added."""
        tasks = contents(drafts)
        new = [self._new_task(draft.type, draft.payload, options_of(draft)) for draft in drafts]
        try:
            return self._answers(new, tasks, self._store.enqueue(new))
        except BrokerUnavailableError as error:
            if not error.was_sent:
                raise
            raise _naming(new[0], error) from error

    def _push_many(self, drafts: list[Draft]) -> Answers:
        return self._store_many(contents(drafts), map(options_of, drafts))

    # --- Checked

    def _inheriting(self, options: TaskOptions, payload: Any) -> TaskOptions:
        """The options with the headers that an enqueue takes over from the task whose handler makes it."""
        task = CURRENT.get()
        if task is None or not options.inherit or (task.headers is NO_HEADERS and task.request_id is None):
            return options
        request_id = None if has_request_id(payload) else task.headers.get("request_id") or task.request_id
        headers = inherit(options.headers, task.headers, request_id, self._inherited)
        return structs.replace(options, headers=headers)

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


def _naming(task: NewTask, error: BrokerUnavailableError) -> BrokerUnavailableError:
    """The error with the ID of the task that may be stored."""
    return BrokerUnavailableError(
        f"{error}; task {task.id} may have been stored, enqueuing it again with this ID is safe"
    )


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

"""Enqueue tasks."""

import functools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, Self, Unpack, cast

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
    check_drafts,
    options_of,
    wrap_push,
)
from boilerd.tasks.headers import NO_HEADERS, check_inherited, has_request_id, inherit
from boilerd.tasks.mux import ServeMux
from boilerd.tasks.options import DEFAULT_OPTIONS, EnqueueOptions, TaskOptions, task_options, with_defaults
from boilerd.tasks.payload import DEFAULT_MAX_PAYLOAD, encode_payload
from boilerd.tasks.progress import TaskProgress
from boilerd.tasks.retry import policy_of
from boilerd.tasks.task import DEFAULT_MAX_RETRIES, OnProgress, Seconds, TaskInfo, TaskState, check_type
from boilerd.tasks.typed import Message, R
from boilerd.units import Duration

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
        #: Holds one, once somebody has waited; threads may come at one time.
        self._waits: dict[str, Waiters] = {}
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
            TaskIdConflictError: The given ``task_id`` is taken, or its ``once`` is not over; nothing was stored.
            DuplicateTaskError: The unique lock is held by another task; nothing was stored.
            QueueFullError: The queue has reached its limit; nothing was stored.
            BrokerUnavailableError: Redis did not answer; if `was_sent`, the task may be stored.
                Enqueuing again with the same ``task_id`` and ``once`` is safe.
            BrokerRefusedError: Redis answered, and refused; nothing was stored.
        """
        return self._enqueue(self._message(task_type, payload), options)

    def enqueue_message(self, message: Message[R], **options: Unpack[EnqueueOptions]) -> TaskInfo[R]:
        """Store a task of a message, as of ``deliver.task(…)``, with the options of its type as defaults.

        See `enqueue` for options and errors.
        """
        return self._enqueue(message, options)

    def enqueue_many(
        self, tasks: Iterable[tuple[str, Any] | Message], **options: Unpack[EnqueueOptions]
    ) -> list[TaskInfo | BoilerdError]:
        """Store many tasks with the same options; one round trip for 500, or 8 MiB of payloads.

        Args:
            tasks: Type and payload of each; or messages.
            options: As for `enqueue`; a ``task_id`` fits one task only.

        Returns:
            For each task, in the same order, its TaskInfo or the error that kept it out.

        Raises:
            TypeError: There is no such option; nothing was sent.
            InvalidTaskError: A type or option is not allowed, and the error says of which task; nothing was sent.
            InvalidPayloadError: As above, for a payload.
            BrokerUnavailableError: Redis did not answer; none, some or all of the tasks may be stored.
        """
        messages = [
            each if isinstance(each, Message) else self._one_of_many(place, each) for place, each in enumerate(tasks)
        ]
        if self._has_middleware():
            return self._push_inside(messages, options, self._push_many)
        # Once for all tasks with the same defaults, which are one object.
        defaults = {id(each.options): each.options for each in messages} or {0: None}
        chosen = {key: _with_defaults(each, options) for key, each in defaults.items()}
        return self._store_many(
            messages, (self._inheriting(chosen[id(each.options)], each.payload) for each in messages)
        )

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
            while progress := inbox.get(timeout=None if end_s is None else _left_s(end_s)):
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
        self.check_wait(task_id, allow_in_handler=allow_in_handler)
        in_test: Callable[[str], Future[Ending]] | None = getattr(self._store, "start_wait", None)
        if in_test:  # where the tasks go, maybe of a client that has a connection
            return in_test(task_id)
        if self.connection is None:
            raise RuntimeError(f"task {task_id}: this client has no broker, and nothing runs the task")
        return self._waiters().submit(task_id, tell, has_timeout=has_timeout)

    def check_wait(self, task_id: str, *, allow_in_handler: bool) -> None:
        """Raise RuntimeError where a handler would wait that was not allowed to."""
        if CURRENT.get() is not None and not allow_in_handler:
            raise RuntimeError(
                f"task {task_id}: a handler that waits holds its worker, and where all of them wait none runs the task;"
                " enqueue what comes next from the other task, or say allow_in_handler=True"
            )

    def _waiters(self) -> "Waiters":
        """What waits for this client; made, and its modules imported, when somebody first does."""
        if found := self._waits.get("waiters"):
            return found
        from boilerd.broker.waiter import Waiters  # noqa: PLC0415 - a sixth of the import of a client

        return self._waits.setdefault("waiters", Waiters(self.connection))

    def _enqueue(self, message: Message, options: Mapping[str, Any]) -> TaskInfo:
        if self._has_middleware():
            (answer,) = self._push_inside([message], options, self._push_one)
        else:
            chosen = self._inheriting(_with_defaults(message.options, options), message.payload)
            (answer,) = self._store_first([message], [self._new_task(message, chosen)])
        if isinstance(answer, BoilerdError):
            raise answer
        return answer

    def _store_first(self, messages: Sequence[Message], new: list[NewTask]) -> Answers:
        """Store the task of an enqueue, and those that its middleware has added."""
        try:
            return self._answers(messages, new, self._store.enqueue(new))
        except BrokerUnavailableError as error:
            if not error.was_sent:
                raise
            raise _naming(new[0], error) from error

    def _store_many(self, messages: Sequence[Message], options: Iterable[TaskOptions]) -> Answers:
        new: list[NewTask] = []
        try:
            for message, chosen in zip(messages, options, strict=True):
                new.append(self._new_task(message, chosen))
        except InvalidTaskError as error:
            raise _at_place(len(new), error) from error
        return self._answers(messages, new, self._store.enqueue(new))

    def _answers(
        self, messages: Sequence[Message], new: list[NewTask], states: list[TaskState | BoilerdError]
    ) -> Answers:
        return [
            state if isinstance(state, BoilerdError) else self._info(task, message, state)
            for task, message, state in zip(new, messages, states, strict=True)
        ]

    # --- Inside the client middleware

    def _has_middleware(self) -> bool:
        return bool(self._middleware or (self._mux is not None and self._mux.client_middleware))

    def _push_inside(self, messages: Iterable[Message], options: Mapping[str, Any], push: Push) -> Answers:
        outer = self._mux.client_middleware if self._mux is not None else ()
        drafts = [self._draft(message, options) for message in messages]
        return wrap_push([*outer, *self._middleware], push)(drafts)

    def _draft(self, message: Message, options: Mapping[str, Any]) -> Draft:
        merged = with_defaults(message.options or {}, options)
        chosen = self._inheriting(task_options(**merged), message.payload)
        own = {name: value for name, value in merged.items() if name not in {"headers", "inherit"}}
        return Draft(message.type, message.payload, cast(EnqueueOptions, own), dict(chosen.headers), message)

    def _push_one(self, drafts: list[Draft]) -> Answers:
        messages = self._drafted(drafts)
        new = [self._new_task(message, options_of(draft)) for message, draft in zip(messages, drafts, strict=True)]
        return self._store_first(messages, new)

    def _push_many(self, drafts: list[Draft]) -> Answers:
        return self._store_many(self._drafted(drafts), map(options_of, drafts))

    def _drafted(self, drafts: Sequence[Draft]) -> list[Message]:
        """What the middleware has left of the messages, to be checked."""
        return [
            structs.replace(draft.message, payload=draft.payload)
            if draft.message is not None and draft.type == draft.message.type
            else self._message(draft.type, draft.payload)
            for draft in check_drafts(drafts)
        ]

    # --- Checked

    def _inheriting(self, options: TaskOptions, payload: Any) -> TaskOptions:
        """The options with the headers that an enqueue takes over from the task whose handler makes it."""
        task = CURRENT.get()
        if task is None or not options.inherit or (task.headers is NO_HEADERS and task.request_id is None):
            return options
        request_id = None if has_request_id(payload) else task.headers.get("request_id") or task.request_id
        headers = inherit(options.headers, task.headers, request_id, self._inherited)
        return structs.replace(options, headers=headers)

    def _message(self, task_type: object, payload: Any) -> Message:
        """What to enqueue, with what the mux says of its type; raises InvalidTaskError for what is no type."""
        task_type = check_type(task_type)
        if self._mux is None:
            return Message(task_type, payload)
        declared = self._mux.payload_type(task_type)
        if declared is None and task_type not in self._known_types:
            self._check_handler(self._mux, task_type)
        return Message(task_type, payload, declared, self._mux.enqueue_options(task_type))

    def _one_of_many(self, place: int, pair: Any) -> Message:
        try:
            task_type, payload = pair
        except (TypeError, ValueError):
            raise InvalidTaskError(f"task [{place}] of many is not (type, payload), a pair") from None
        try:
            return self._message(task_type, payload)
        except InvalidTaskError as error:
            raise _at_place(place, error) from error

    def _new_task(self, message: Message, options: TaskOptions) -> NewTask:
        declared = message.declared
        to_plain = declared.to_plain if declared else None
        encoded = encode_payload(message.payload, self._max_payload, sorts_sets=options.unique_s > 0, to_plain=to_plain)
        if declared is not None:
            declared.check(encoded)
        return NewTask(options.task_id or _random_id(), message.type, encoded, options)

    def _info(self, task: NewTask, message: Message, state: TaskState) -> TaskInfo:
        options, max_retries = task.options, task.options.max_retries
        if max_retries is None:
            policy = self._mux.policy(task.type) if self._mux else policy_of(message.function)
            max_retries = policy.max_retries if policy else DEFAULT_MAX_RETRIES
        info = TaskInfo(
            id=task.id,
            type=task.type,
            queue=options.queue,
            state=state,
            max_retries=max_retries,
            timeout_s=options.timeout_s,
            retention_s=options.retention_s,
            payload=message.payload,
        )
        info.attach(self)
        if message.function:
            info.attach_decoder(message.decode_result)
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


def _redirect(client: Client, store: TaskStore) -> TaskStore:
    """Have a client's tasks go to another store; returns the one before."""
    before, client._store = client._store, store  # noqa: SLF001 - nobody else may
    return before


def _naming(task: NewTask, error: BrokerUnavailableError) -> BrokerUnavailableError:
    """The error with the ID of the task that may be stored."""
    return BrokerUnavailableError(f"{error}; task {task.id} may have been stored, {_again(task)}")


def _with_defaults(defaults: Mapping[str, Any] | None, given: Mapping[str, Any]) -> TaskOptions:
    """The options that are given, with the defaults of a type; raises InvalidTaskError, TypeError."""
    if defaults:
        return task_options(**with_defaults(defaults, given))
    return task_options(**given) if given else DEFAULT_OPTIONS


def _at_place(place: int, error: InvalidTaskError) -> InvalidTaskError:
    return type(error)(f"task [{place}] of many: {error}")


@functools.lru_cache(1000)  # a process tells it once for each name
def _tell_unhandled(task_type: str) -> None:
    # The name stands in the message: it is the application that formats this line.
    logger.warning("the mux has no handler for task type %r, its tasks fail; check the name", task_type)


def _left_s(end_s: float) -> float:
    """Seconds until then, as far as a thread can wait."""
    return min(max(0.0, end_s - time.monotonic()), threading.TIMEOUT_MAX)


def in_seconds(timeout: Seconds | None) -> float | None:
    """A time to wait, in seconds."""
    return timeout.total_seconds() if isinstance(timeout, timedelta) else timeout


def not_in_time(task_id: str, seconds: float | None) -> TimeoutError:
    """The error for somebody who has waited long enough."""
    return TimeoutError(f"task {task_id} has not ended within {seconds:g} s, and goes on")


def _again(task: NewTask) -> str:
    """When it is safe to enqueue a task again that may have been stored."""
    if task.options.once_s:
        return f"enqueuing it again with this ID and once is safe for {Duration(task.options.once_s)}"
    return (
        "enqueuing it again with this ID is safe until it has ended; give task_id and once to have it safe after that"
    )


def _random_id() -> str:
    """A random UUID of version 4 (RFC 9562), in a third of the time of ``uuid.uuid4``.

    Any text would do as an ID; this is the form of the IDs of RQ's own clients, which tools and tables may expect.
    """
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:]}"

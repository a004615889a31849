"""Enqueue tasks.

How a task is made, what middleware does around it and how one waits for its end is in `enqueuing`.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self, Unpack

import redis

from boilerd.broker.broker import Broker, is_cancelled
from boilerd.broker.connection import connect, connect_to
from boilerd.broker.job_hash import NewTask
from boilerd.enqueuing.composer import Composer, Order
from boilerd.enqueuing.drafting import Drafting
from boilerd.enqueuing.stores import OVERRIDES, TaskStore
from boilerd.enqueuing.waiting import Waits, wait_here
from boilerd.errors import BoilerdError, BrokerUnavailableError
from boilerd.settings.definitions import Settings
from boilerd.settings.finding import find_settings
from boilerd.tasks.drafts import Answers, ClientMiddleware
from boilerd.tasks.mux import ServeMux
from boilerd.tasks.options import EnqueueOptions
from boilerd.tasks.payload import DEFAULT_MAX_PAYLOAD
from boilerd.tasks.task import OnProgress, Seconds, TaskInfo
from boilerd.tasks.typed import Message, R
from boilerd.units import Duration

if TYPE_CHECKING:
    from boilerd.broker.endings import Ending
    from boilerd.broker.tickets import TellProgress


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
        self._composer = Composer(mux, max_payload, inherit_headers)
        self._middleware = Drafting(self._composer)
        self._waits = Waits(connection)

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
        return self._middleware.use(middleware)

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
        return self._enqueue(self._composer.message(task_type, payload), options)

    def enqueue_message(self, message: Message[R], **options: Unpack[EnqueueOptions]) -> TaskInfo[R]:
        """Store a task of a message, as of ``deliver.task(…)``, with the options of its type as defaults.

        See `enqueue` for options and errors.
        """
        if not isinstance(message, Message):
            raise TypeError(
                f"enqueue_message takes a message, which .task(…) makes, and no {type(message).__qualname__}"
            )
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
        messages = self._composer.messages(tasks)
        if self._middleware and messages:
            return self._middleware.push(messages, options, self._store_many)
        return self._store_many(self._composer.orders(messages, options))

    def cancel(self, task_id: str) -> bool:
        """Cancel a task: a waiting one is deleted, a running one is interrupted and archived.

        Returns:
            True if it is cancelled; False if it had ended before.

        Raises:
            TaskNotFoundError: There is no such task; it may have been completed and deleted.
        """
        from boilerd.broker.audit import Actor  # noqa: PLC0415 - no enqueue needs it

        return is_cancelled(task_id, self._store.cancel(task_id, Actor()))

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
            timeout: For how long, in seconds or as a timedelta, through all outages; None: until it ends. With 0 the
                task is looked at once.
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
        start = functools.partial(self.start_wait, allow_in_handler=allow_in_handler)
        return wait_here(start, task_id, timeout, on_progress)

    def start_wait(
        self, task_id: str, tell: "TellProgress", *, has_timeout: bool, allow_in_handler: bool
    ) -> "Future[Ending]":
        """Begin to wait, for `wait` here and of an AsyncClient; see `Waiters.submit`."""
        return self._waits.start(self._store, task_id, tell, has_timeout=has_timeout, allow_in_handler=allow_in_handler)

    def close(self) -> None:
        """Close the connections, and end the waits of other threads."""
        self._waits.close()
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _enqueue(self, message: Message, options: Mapping[str, Any]) -> TaskInfo:
        if self._middleware:
            (answer,) = self._middleware.push([message], options, self._store_first)
        else:
            (answer,) = self._store_first([self._composer.order(message, options)])
        if isinstance(answer, BoilerdError):
            raise answer
        return answer

    def _store_first(self, orders: Iterable[Order]) -> Answers:
        """Store the task of an enqueue, and those that its middleware has added."""
        messages, new = self._composer.tasks(orders, names_place=False)
        try:
            return self._stored(messages, new)
        except BrokerUnavailableError as error:
            if not error.was_sent:
                raise
            raise _naming(new[0], error) from error

    def _store_many(self, orders: Iterable[Order]) -> Answers:
        return self._stored(*self._composer.tasks(orders, names_place=True))

    def _stored(self, messages: Sequence[Message], new: list[NewTask]) -> Answers:
        answers: Answers = []
        for task, message, state in zip(new, messages, self._store.enqueue(new), strict=True):
            if isinstance(state, BoilerdError):
                answers.append(state)
                continue
            info = self._composer.info(task, message, state)
            if info.retention_s:  # without it nobody can wait, and a dict for each is felt
                info.attach(self)
                if message.function:
                    info.attach_decoder(message.decode_result)
            answers.append(info)
        return answers


def _naming(task: NewTask, error: BrokerUnavailableError) -> BrokerUnavailableError:
    """The error with the ID of the task that may be stored."""
    return BrokerUnavailableError(f"{error}; task {task.id} may have been stored, {_again(task)}")


def _again(task: NewTask) -> str:
    """When it is safe to enqueue a task again that may have been stored."""
    if task.options.once_s:
        return f"enqueuing it again with this ID and once is safe for {Duration(task.options.once_s)}"
    return (
        "enqueuing it again with this ID is safe until it has ended; give task_id and once to have it safe after that"
    )

"""Make tasks of what an application enqueues: with what the mux says of the type, options, headers, payload as JSON."""

import functools
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import structs

from boilerd.broker.job_hash import NewTask
from boilerd.errors import InvalidTaskError
from boilerd.tasks.current import CURRENT
from boilerd.tasks.drafts import ClientMiddleware
from boilerd.tasks.headers import NO_HEADERS, check_inherited, has_request_id, inherit
from boilerd.tasks.mux import ServeMux
from boilerd.tasks.options import DEFAULT_OPTIONS, TaskOptions, task_options, with_defaults
from boilerd.tasks.payload import encode_payload
from boilerd.tasks.retry import policy_of
from boilerd.tasks.task import DEFAULT_MAX_RETRIES, TaskInfo, TaskState, check_type
from boilerd.tasks.typed import Message

logger = logging.getLogger("boilerd.client")

#: A task before it is made: what to enqueue, and how.
Order = tuple[Message, TaskOptions]

#: A client remembers so many types for which its mux has a handler.
_MOST_TYPES = 10_000
#: Hexadecimal digit → the digit with the upper two bits of a UUID's variant.
_VARIANT = {f"{digit:x}": f"{8 | digit & 3:x}" for digit in range(16)}


class Composer:
    """From type and payload to a message, from message and options to a task.

    Args:
        mux: Knows the types; None: any type goes, with any payload.
        max_payload: Bytes of JSON that a payload may have.
        inherit_headers: Names of headers that are taken over from the task that runs, beside those that always are.

    Raises:
        InvalidTaskError: A name can be no header's.
        TypeError: `inherit_headers` is one text.
    """

    def __init__(self, mux: ServeMux | None, max_payload: int, inherit_headers: Sequence[str]) -> None:
        self._mux = mux
        self._max_payload = max_payload
        self._inherited = check_inherited(inherit_headers)
        self._known_types: set[str] = set()

    @property
    def middleware(self) -> Sequence[ClientMiddleware]:
        """That of the mux; what is registered later comes into it."""
        return self._mux.client_middleware if self._mux is not None else ()

    def message(self, task_type: object, payload: Any) -> Message:
        """What to enqueue, with what the mux says of its type; raises InvalidTaskError for what is no type."""
        task_type = check_type(task_type)
        if self._mux is None:
            return Message(task_type, payload)
        declared = self._mux.payload_type(task_type)
        if declared is None and task_type not in self._known_types:
            self._check_handler(self._mux, task_type)
        return Message(task_type, payload, declared, self._mux.enqueue_options(task_type))

    def messages(self, tasks: Iterable[tuple[str, Any] | Message]) -> list[Message]:
        """What to enqueue of many; raises InvalidTaskError with the place of what is wrong."""
        return [each if isinstance(each, Message) else self._of_pair(place, each) for place, each in enumerate(tasks)]

    def order(self, message: Message, given: Mapping[str, Any]) -> Order:
        """The message with the options of its task: those given, the defaults of its type, headers that it inherits.

        Raises:
            InvalidTaskError: One has a value that is not allowed.
            TypeError: There is no such option.
        """
        return message, self.inheriting(_with_defaults(message.options, given), message.payload)

    def orders(self, messages: Sequence[Message], given: Mapping[str, Any]) -> Iterator[Order]:
        """As `order`, for each; the options are checked before the first one is asked for."""
        # Once for all tasks with the same defaults, which are one object.
        defaults = {id(each.options): each.options for each in messages} or {0: None}
        chosen = {key: _with_defaults(each, given) for key, each in defaults.items()}
        if CURRENT.get() is None:
            return ((each, chosen[id(each.options)]) for each in messages)
        return ((each, self.inheriting(chosen[id(each.options)], each.payload)) for each in messages)

    def inheriting(self, options: TaskOptions, payload: Any) -> TaskOptions:
        """The options with the headers that an enqueue takes over from the task whose handler makes it."""
        task = CURRENT.get()
        if task is None or not options.inherit or (task.headers is NO_HEADERS and task.request_id is None):
            return options
        request_id = None if has_request_id(payload) else task.headers.get("request_id") or task.request_id
        headers = inherit(options.headers, task.headers, request_id, self._inherited)
        return structs.replace(options, headers=headers)

    def tasks(self, orders: Iterable[Order], *, names_place: bool) -> tuple[list[Message], list[NewTask]]:
        """Messages and tasks of orders; raises InvalidTaskError, with the place of what is wrong if `names_place`."""
        messages: list[Message] = []
        new: list[NewTask] = []
        try:
            for message, options in orders:
                new.append(self._task(message, options))
                messages.append(message)
        except InvalidTaskError as error:
            if names_place:
                raise _at_place(len(new), error) from error
            raise
        return messages, new

    def info(self, task: NewTask, message: Message, state: TaskState) -> TaskInfo:
        """What the caller gets of a task that was stored."""
        options, max_retries = task.options, task.options.max_retries
        if max_retries is None:
            policy = self._mux.policy(task.type) if self._mux is not None else None
            if policy is None and message.function is not None:
                policy = policy_of(message.function)
            max_retries = policy.max_retries if policy else DEFAULT_MAX_RETRIES
        return TaskInfo(
            id=task.id,
            type=task.type,
            queue=options.queue,
            state=state,
            max_retries=max_retries,
            timeout_s=options.timeout_s,
            retention_s=options.retention_s,
            payload=message.payload,
        )

    def _task(self, message: Message, options: TaskOptions) -> NewTask:
        """The task of an order.

        Raises:
            InvalidPayloadError: The payload has no JSON form, is too large, or does not fit.
        """
        declared = message.declared
        to_plain = declared.to_plain if declared else None
        encoded = encode_payload(message.payload, self._max_payload, sorts_sets=options.unique_s > 0, to_plain=to_plain)
        if declared is not None:
            declared.check(encoded)
        return NewTask(options.task_id or _random_id(), message.type, encoded, options)

    def _of_pair(self, place: int, pair: Any) -> Message:
        try:
            task_type, payload = pair
        except (TypeError, ValueError):
            raise InvalidTaskError(f"task [{place}] of many is not (type, payload), a pair") from None
        try:
            return self.message(task_type, payload)
        except InvalidTaskError as error:
            raise _at_place(place, error) from error

    def _check_handler(self, mux: ServeMux, task_type: str) -> None:
        """Warn of a type that the mux does not know; its task would fail, unless other workers know more."""
        if not mux.has_handler(task_type):
            _tell_unhandled(task_type)
        elif len(self._known_types) < _MOST_TYPES:
            self._known_types.add(task_type)


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


def _random_id() -> str:
    """A random UUID of version 4 (RFC 9562), in a third of the time of ``uuid.uuid4``.

    Any text would do as an ID; this is the form of the IDs of RQ's own clients, which tools and tables may expect.
    """
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:]}"

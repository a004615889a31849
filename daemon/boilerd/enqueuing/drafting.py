"""Enqueue inside of client middleware: of messages come drafts, and of what the middleware pushes messages again."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from msgspec import structs

from boilerd.enqueuing.composer import Composer, Order
from boilerd.tasks.drafts import (
    BESIDE_OPTIONS,
    Answers,
    ClientMiddleware,
    Draft,
    check_client_middleware,
    check_drafts,
    options_of,
    wrap_push,
)
from boilerd.tasks.options import EnqueueOptions, task_options, with_defaults
from boilerd.tasks.typed import Message

#: Stores a task for each order.
Store = Callable[[Iterable[Order]], Answers]

#: What is no value of an option.
_NOTHING = object()


class Drafting:
    """The client middleware of a client: that of its mux, and inside of it the client's own.

    Args:
        composer: Of the client.
    """

    def __init__(self, composer: Composer) -> None:
        self._composer = composer
        self._outer = composer.middleware
        self._own: list[ClientMiddleware] = []

    def __bool__(self) -> bool:
        """True if there is any."""
        return bool(self._own or self._outer)

    def use(self, middleware: Sequence[ClientMiddleware]) -> ClientMiddleware:
        """Add to it; returns the first one. Raises ValueError, TypeError for what is no client middleware."""
        check_client_middleware(middleware)
        self._own += middleware
        return middleware[0]

    def push(self, messages: Sequence[Message], given: Mapping[str, Any], store: Store) -> Answers:
        """Have the middleware go around `store`."""
        push = wrap_push(
            [*self._outer, *self._own],
            lambda drafts: store(self._order(draft, given) for draft in check_drafts(drafts)),
        )
        return push([self._draft(message, given) for message in messages])

    def _draft(self, message: Message, given: Mapping[str, Any]) -> Draft:
        merged = with_defaults(message.options or {}, given)
        chosen = self._composer.inheriting(task_options(**merged), message.payload)
        own = {name: value for name, value in merged.items() if name not in BESIDE_OPTIONS}
        return Draft(message.type, message.payload, cast(EnqueueOptions, own), dict(chosen.headers), message)

    def _order(self, draft: Draft, given: Mapping[str, Any]) -> Order:
        """What the middleware has left of a draft, checked."""
        message, left = draft.message, options_of(draft)
        if message is not None and draft.type == message.type:
            return structs.replace(message, payload=draft.payload), task_options(**left, headers=draft.headers)
        # Of another type, or the middleware's own: it has the defaults of its type, as in any enqueue.
        former = {} if message is None or not message.options else message.options
        chosen = {
            name: value for name, value in left.items() if name in given or value is not former.get(name, _NOTHING)
        }
        if message is not None:  # it has inherited already, and what the middleware took away stays away
            chosen |= {"headers": draft.headers, "inherit": False}
        elif draft.headers:
            chosen["headers"] = draft.headers
        return self._composer.order(self._composer.message(draft.type, draft.payload), chosen)

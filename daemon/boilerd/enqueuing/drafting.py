"""Enqueue inside of client middleware: of messages come drafts, and of what the middleware pushes messages again."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from msgspec import structs

from boilerd.enqueuing.composer import Composer
from boilerd.tasks.drafts import (
    Answers,
    ClientMiddleware,
    Draft,
    check_client_middleware,
    check_drafts,
    options_of,
    wrap_push,
)
from boilerd.tasks.options import EnqueueOptions, TaskOptions, task_options, with_defaults
from boilerd.tasks.typed import Message

#: Stores messages with the options of each.
Store = Callable[[Sequence[Message], Iterable[TaskOptions]], Answers]


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
            [*self._outer, *self._own], lambda drafts: store(self._drafted(drafts), map(options_of, drafts))
        )
        return push([self._draft(message, given) for message in messages])

    def _draft(self, message: Message, given: Mapping[str, Any]) -> Draft:
        merged = with_defaults(message.options or {}, given)
        chosen = self._composer.inheriting(task_options(**merged), message.payload)
        own = {name: value for name, value in merged.items() if name not in {"headers", "inherit"}}
        return Draft(message.type, message.payload, cast(EnqueueOptions, own), dict(chosen.headers), message)

    def _drafted(self, drafts: Sequence[Draft]) -> list[Message]:
        """What the middleware has left of the messages, to be checked."""
        return [
            structs.replace(draft.message, payload=draft.payload)
            if draft.message is not None and draft.type == draft.message.type
            else self._composer.message(draft.type, draft.payload)
            for draft in check_drafts(drafts)
        ]

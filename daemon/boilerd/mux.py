"""Task type → handler, and the middleware around every handler."""

from collections.abc import Callable
from typing import Any

from boilerd.errors import HandlerNotFoundError
from boilerd.task import Task, check_type

#: Runs one attempt; what it returns is the task's result, an exception makes the attempt fail.
Handler = Callable[[Task], Any]
#: Takes the next handler and returns one that wraps it.
Middleware = Callable[[Handler], Handler]


class ServeMux:
    """Finds the handler of a task by its type, as Asynq's ServeMux does.

    An exact match wins, then the longest pattern that the type starts with. Any text is such
    a prefix: ``email`` also catches ``emailer:x``, ``email:`` does not. A mux is itself a
    handler, so one mux can be registered in another.
    """

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self._middleware: list[Middleware] = []
        self._not_found: Handler = _raise_not_found
        self._chains: dict[str, Handler] = {}

    def handle(self, pattern: str, handler: Handler | None = None) -> Callable[[Handler], Handler]:
        """Register a handler; as a decorator, or with the handler as second argument.

        Raises:
            ValueError: The pattern is taken, or is no task type nor the beginning of one.
            TypeError: The handler cannot be called.
        """
        check_type(pattern)

        def register(handler: Handler) -> Handler:
            if not callable(handler):
                raise TypeError(f"handler for {pattern!r}: {handler!r} cannot be called")
            if pattern in self._handlers:
                raise ValueError(f"pattern {pattern!r} has a handler already")
            self._handlers[pattern] = handler
            self._chains.clear()
            return handler

        if handler is not None:
            register(handler)
        return register

    def use(self, *middleware: Middleware) -> Middleware:
        """Wrap every handler, the not-found handler included; the first one given is outermost.

        Usable as a decorator: returns its first argument.
        """
        if not middleware:
            raise ValueError("use() takes at least one middleware")
        self._middleware += middleware
        self._chains.clear()
        return middleware[0]

    def not_found(self, handler: Handler) -> Handler:
        """Set what runs when no pattern matches; usable as a decorator."""
        self._not_found = handler
        self._chains.clear()
        return handler

    def patterns(self) -> list[str]:
        """The registered patterns, sorted."""
        return sorted(self._handlers)

    def match(self, task_type: str) -> Handler | None:
        """The handler registered for `task_type`, without middleware, or None."""
        if exact := self._handlers.get(task_type):
            return exact
        prefixes = [pattern for pattern in self._handlers if task_type.startswith(pattern)]
        return self._handlers[max(prefixes, key=len)] if prefixes else None

    def __call__(self, task: Task) -> Any:
        """Run the task's handler inside the middleware.

        Raises:
            HandlerNotFoundError: No pattern matches and `not_found` was not set.
        """
        chain = self._chains.get(task.type)
        if chain is None:
            chain = self._wrap(self.match(task.type) or self._not_found)
            # Types without a handler come from outside and could be any number.
            if len(self._chains) < 10_000:
                self._chains[task.type] = chain
        return chain(task)

    def _wrap(self, handler: Handler) -> Handler:
        for middleware in reversed(self._middleware):
            handler = middleware(handler)
        return handler


def _raise_not_found(task: Task) -> None:
    raise HandlerNotFoundError(task.type)

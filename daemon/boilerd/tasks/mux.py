"""Task type → handler, and the middleware around every handler."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

from msgspec import structs

from boilerd.errors import HandlerNotFoundError, shown
from boilerd.tasks.callables import check_handler, check_plain, is_plain, name_of, without_parentheses
from boilerd.tasks.coroutines import NOT_RUN, discard, synchronous
from boilerd.tasks.cron import CronEntry
from boilerd.tasks.current import CURRENT
from boilerd.tasks.drafts import ClientMiddleware, check_client_middleware
from boilerd.tasks.life import Living
from boilerd.tasks.payload import check_model, decode_payload
from boilerd.tasks.retry import Hooks, RetryPolicy, policy_of
from boilerd.tasks.task import Task, check_type

#: Runs one attempt: it returns the task's result, or raises, and the attempt has failed.
Handler = Callable[[Task], Any]
#: A handler as an application writes it; it may be ``async def``.
AnyHandler = TypeVar("AnyHandler", bound=Callable[[Task], Any])
#: Takes the next handler and returns one that wraps it.
Middleware = Callable[[Handler], Handler]
RetryDelay = Callable[[int, BaseException, Task], float]
ErrorHandler = Callable[[Task, BaseException], object]


class ServeMux(Living):
    """Finds the handler of a task by its type, as Asynq's ServeMux does.

    An exact match wins, then the longest pattern that the type starts with. Any text is such
    a prefix: ``email`` also catches ``emailer:x``, ``email:`` does not. A mux is itself a
    handler, so one mux can be registered in another.
    """

    def __init__(self) -> None:
        super().__init__()
        self._handlers: dict[str, Handler] = {}
        self._models: dict[str, Any] = {}
        self._hooks = Hooks()
        self._crons: list[CronEntry] = []
        self._middleware: list[Middleware] = []
        self._client_middleware: list[ClientMiddleware] = []
        self._not_found: Handler = _raise_not_found
        self._chains: dict[str, Handler] = {}

    def handle(
        self, pattern: str, handler: Handler | None = None, *, payload: Any = None
    ) -> Callable[[AnyHandler], AnyHandler]:
        """Register a handler; as a decorator, or with the handler as second argument.

        Args:
            pattern: Task type, or the beginning of some.
            handler: May be ``async def``.
            payload: The type that the payload must have: a dataclass, TypedDict, msgspec.Struct,
                or a union of tagged Structs for several versions. The handler gets it decoded;
                a payload that does not fit archives the task with the path of the wrong field.

        Raises:
            ValueError: The pattern is taken, or is no task type nor the beginning of one.
            TypeError: The handler cannot be called with a task, or is a generator function; no payload could have that
                type; or the decorator stands without its parentheses.
        """
        if callable(pattern):
            raise without_parentheses("mux.handle", '"email:deliver"', pattern)
        check_type(pattern)
        if payload is not None:
            check_model(payload)

        def register(handler: AnyHandler) -> AnyHandler:
            check_handler(f"handler for {pattern!r}", handler)
            if pattern in self._handlers:
                raise ValueError(f"pattern {pattern!r} has a handler already")
            self._handlers[pattern] = handler
            if isinstance(handler, ServeMux):
                self._include(handler)
            if payload is not None:
                self._models[pattern] = payload
            self._chains.clear()
            return handler

        if handler is not None:
            register(handler)
        return register

    def cron(
        self,
        spec: str,
        task_type: str,
        payload: Any = None,
        *,
        name: str = "",
        timezone: str = "UTC",
        catch_up: bool = False,
        **options: Any,
    ) -> None:
        """Enqueue a task whenever the cron line says so, once per tick on however many hosts.

        Args:
            spec: Five fields, six (seconds first), ``@every 30s``, ``@daily`` and the like.
            task_type: The type of the task.
            payload: Anything that has a JSON form.
            name: Identifies the entry; made from the task type if it is left out.
            timezone: An IANA name, such as Europe/Berlin.
            catch_up: If True, the last of the ticks that were missed runs late, else all of them are skipped. A tick is
                missed when no daemon notices it within 10 s.
            options: Options of the enqueue, but for ``task_id``, ``process_at``, ``deadline`` and ``inherit``.

        Raises:
            ConfigError: The line, the time zone or an option is not allowed.
        """
        entry = CronEntry(
            name=name, spec=spec, task_type=task_type, payload=payload, options=options,
            timezone=timezone, catch_up=catch_up,
        )  # fmt: skip
        self._crons.append(entry)

    def use(self, *middleware: Middleware) -> Middleware:
        """Wrap every handler, the not-found handler included; the first one given is outermost.

        Usable as a decorator: returns its first argument.

        Raises:
            TypeError: One cannot be called, or is ``async def``.
        """
        if not middleware:
            raise ValueError("use() takes at least one middleware")
        for each in middleware:
            check_plain("middleware", each, "next_handler")
        self._middleware += middleware
        self._chains.clear()
        return middleware[0]

    def use_client(self, *middleware: ClientMiddleware) -> ClientMiddleware:
        """Go around the enqueues of clients that are given this mux, and those of its daemon's periodic tasks.

        The first one given is outermost. Usable as a decorator: returns its first argument. What is registered in a
        mux inside of this one counts for clients of that alone.

        Raises:
            TypeError: One cannot be called with drafts and what pushes them, or is ``async def``.
        """
        check_client_middleware(middleware)
        self._client_middleware += middleware
        return middleware[0]

    def not_found(self, handler: Handler) -> Handler:
        """Set the handler of tasks that no pattern matches; may be ``async def``; usable as a decorator.

        Raises:
            TypeError: It cannot be called with a task, or is a generator function.
        """
        check_handler("not_found", handler)
        self._not_found = handler
        if isinstance(handler, ServeMux):
            self._include(handler)
        self._chains.clear()
        return handler

    def is_failure(self, hook: Callable[[BaseException], bool]) -> Callable[[BaseException], bool]:
        """Set the hook that returns False for errors whose retries are not to be counted; a plain function."""
        check_plain("is_failure", hook, "error")
        self._hooks = replace(self._hooks, is_failure=hook)
        return hook

    def retry_delay(self, hook: RetryDelay) -> RetryDelay:
        """Set the hook that returns the seconds until a retry, from retries so far, error, task; a plain function."""
        check_plain("retry_delay", hook, "retried", "error", "task")
        self._hooks = replace(self._hooks, retry_delay=hook)
        return hook

    def error_handler(self, hook: ErrorHandler) -> ErrorHandler:
        """Set the hook that gets every error, before anything is decided about the task; a plain function."""
        check_plain("error_handler", hook, "task", "error")
        self._hooks = replace(self._hooks, error_handler=hook)
        return hook

    @property
    def hooks(self) -> Hooks:
        """The application's hooks."""
        return self._hooks

    @property
    def client_middleware(self) -> Sequence[ClientMiddleware]:
        """What `use_client` was given."""
        return self._client_middleware

    @property
    def crons(self) -> list[CronEntry]:
        """The periodic tasks of this mux and of those registered in it."""
        inner = {id(handler): handler for handler in self._handlers.values() if isinstance(handler, ServeMux)}
        return [*self._crons, *(entry for mux in inner.values() for entry in mux.crons)]

    def policy(self, task_type: str) -> RetryPolicy | None:
        """The retry policy that the type's handler has of its own, or None."""
        handler = self.match(task_type)
        return handler.policy(task_type) if isinstance(handler, ServeMux) else policy_of(handler)

    def model(self, task_type: str) -> Any:
        """The type of payload that the type's handler declared, or None."""
        pattern = self._pattern(task_type)
        if pattern is None:
            return None
        inner = self._handlers[pattern]
        return inner.model(task_type) if isinstance(inner, ServeMux) else self._models.get(pattern)

    def patterns(self) -> list[str]:
        """The registered patterns, sorted."""
        return sorted(self._handlers)

    def match(self, task_type: str) -> Handler | None:
        """The handler registered for `task_type`, as it was registered, or None."""
        pattern = self._pattern(task_type)
        return None if pattern is None else self._handlers[pattern]

    def has_handler(self, task_type: str) -> bool:
        """True if tasks of the type run: by a handler registered for it, or by that of `not_found`."""
        handler = self.match(task_type)
        if handler is None:
            return self._not_found is not _raise_not_found
        return not isinstance(handler, ServeMux) or handler.has_handler(task_type)

    def __call__(self, task: Task) -> Any:
        """Run the task's handler inside the middleware.

        Raises:
            HandlerNotFoundError: No pattern matches and `not_found` was not set.
            TypeError: A middleware returned what cannot be called, or a coroutine instead of a result.
        """
        chain = self._chains.get(task.type)
        if chain is None:
            chain = self._wrap(self._innermost(task.type))
            # Types without a handler come from outside and could be any number.
            if len(self._chains) < 10_000:
                self._chains[task.type] = chain
        result = chain(task)
        if result is not None and NOT_RUN[type(result)]:
            raise _not_plain(", ".join(map(name_of, self._middleware)), result)
        return result

    def _pattern(self, task_type: str) -> str | None:
        if task_type in self._handlers:
            return task_type
        return max((p for p in self._handlers if task_type.startswith(p)), key=len, default=None)

    def _innermost(self, task_type: str) -> Handler:
        """The handler, made synchronous, and given a decoded payload if it declared a type."""
        pattern = self._pattern(task_type)
        if pattern is None:
            return synchronous(self._not_found)
        found = self._handlers[pattern]
        handler = found if isinstance(found, ServeMux) else synchronous(found)
        model = self._models.get(pattern)
        if model is None:
            return handler

        def run_decoded(task: Task) -> Any:
            decoded = structs.replace(task, payload=decode_payload(task.payload, model))
            CURRENT.set(decoded)
            return handler(decoded)

        return run_decoded

    def _wrap(self, handler: Handler) -> Handler:
        for middleware in reversed(self._middleware):
            handler = _wrapped(middleware, handler)
        return handler


def _wrapped(middleware: Middleware, handler: Handler) -> Handler:
    """The handler inside the middleware; raises TypeError if the middleware did not return a plain function."""
    outer: Any = middleware(handler)
    if NOT_RUN[type(outer)]:
        raise _not_plain(name_of(middleware), outer)
    if not callable(outer):
        raise TypeError(
            f"middleware {name_of(middleware)} returned {shown(outer)}; it must return the handler that it made"
        )
    if not is_plain(outer):
        raise TypeError(
            f"middleware {name_of(middleware)} returned {name_of(outer)}, which is no plain function; use def"
        )
    return cast(Handler, outer)


def _not_plain(middleware: str, result: Any) -> TypeError:
    return TypeError(f"middleware {middleware} returned {discard(result)}; middleware must be plain functions")


def _raise_not_found(task: Task) -> None:
    raise HandlerNotFoundError(task.type)

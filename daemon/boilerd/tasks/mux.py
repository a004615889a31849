"""Task type → handler, and the middleware around every handler."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast, overload

from msgspec import structs

from boilerd.errors import HandlerNotFoundError
from boilerd.tasks.bridge import in_greenlet
from boilerd.tasks.callables import (
    check_handler,
    check_plain,
    is_async,
    is_async_generator,
    name_of,
    without_parentheses,
)
from boilerd.tasks.coroutines import NOT_RUN, awaited, synchronous
from boilerd.tasks.cron import CronEntry
from boilerd.tasks.current import CURRENT
from boilerd.tasks.drafts import ClientMiddleware, check_client_middleware
from boilerd.tasks.life import Living
from boilerd.tasks.middleware import (
    AnyMiddleware,
    Async,
    GeneratorMiddleware,
    check_middleware,
    first_on_loop,
    is_nested,
    not_plain,
    wrap,
    wrap_async,
)
from boilerd.tasks.options import EnqueueOptions
from boilerd.tasks.retry import FailedAttempt, Hooks, RetryPolicy, policy_of
from boilerd.tasks.task import Task, check_type
from boilerd.tasks.typed import CallType, Message, TaskType

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from boilerd.tasks.payload_type import OnMisfit, PayloadType, Upgrade
    from boilerd.tasks.typed import Function, InferredTask, P, TaskOf

#: Runs one attempt: it returns the task's result, or raises, and the attempt has failed.
Handler = Callable[[Task], Any]
#: A handler as an application writes it; it may be ``async def``.
AnyHandler = TypeVar("AnyHandler", bound=Callable[[Task], Any])
#: Takes the next handler and returns one that wraps it.
Middleware = Callable[[Handler], Handler]
RetryDelay = Callable[[int, BaseException, Task], float]
ErrorHandler = Callable[[Task, BaseException], object]
Fingerprint = Callable[[Task, BaseException], str | None]
OnFailure = Callable[[FailedAttempt], object]


class ServeMux(Living):
    """Finds the handler of a task by its type, as Asynq's ServeMux does.

    An exact match wins, then the longest pattern that the type starts with. Any text is such
    a prefix: ``email`` also catches ``emailer:x``, ``email:`` does not. A mux is itself a
    handler, so one mux can be registered in another.
    """

    def __init_subclass__(cls) -> None:
        """Refuse a class whose muxes would give back what has not run."""
        if is_async(cls.__call__):
            raise TypeError(
                f"{cls.__qualname__}.__call__ is async def, and a mux is called as a plain function; use def"
            )

    def __init__(self) -> None:
        super().__init__()
        self._handlers: dict[str, Handler] = {}
        self._options: dict[str, Mapping[str, Any]] = {}
        self._payload_types: dict[str, PayloadType] = {}
        self._hooks = Hooks()
        self._crons: list[CronEntry] = []
        self._middleware: list[Middleware | GeneratorMiddleware] = []
        self._client_middleware: list[ClientMiddleware] = []
        self._not_found: Handler = _raise_not_found
        self._chains: dict[str, Handler] = {}
        self._async_chains: dict[str, Async] = {}

    def handle(
        self,
        pattern: str,
        handler: Handler | None = None,
        *,
        payload: Any = None,
        upgrade: "Upgrade | None" = None,
        on_misfit: "OnMisfit | None" = None,
    ) -> Callable[[AnyHandler], AnyHandler]:
        """Register a handler; as a decorator, or with the handler as second argument.

        Args:
            pattern: Task type, or the beginning of some.
            handler: May be ``async def``.
            payload: The type that the payload must have: a dataclass, TypedDict, msgspec.Struct, class of attrs or
                model of pydantic, or a union of such for several versions. The handler gets it decoded; a payload
                that does not fit fails the attempt with the path of the wrong field.
            upgrade: Makes the form of today of a payload of old: it gets the values of JSON where these do not fit,
                and returns others.
            on_misfit: ``retry``, as without it: a task whose payload does not fit is tried again while it is younger
                than 10 minutes, because other workers may have other code, then archived. ``archive``: at once.

        Raises:
            ValueError: The pattern is taken, or is no task type nor the beginning of one.
            TypeError: The handler cannot be called with a task, or is a generator function; no payload could have that
                type; there is `upgrade` or `on_misfit` and no type; or the decorator stands without its parentheses.
        """
        if callable(pattern):
            raise without_parentheses("mux.handle", '"email:deliver"', pattern)
        check_type(pattern)
        declared = _payload_type(pattern, payload, upgrade, on_misfit)

        def register(handler: AnyHandler) -> AnyHandler:
            check_handler(f"handler for {pattern!r}", handler)
            if pattern in self._handlers:
                raise ValueError(f"pattern {pattern!r} has a handler already")
            self._handlers[pattern] = handler
            if isinstance(handler, ServeMux):
                self._include(handler)
            if declared is not None:
                self._payload_types[pattern] = declared
            self._forget_chains()
            return handler

        if handler is not None:
            register(handler)
        return register

    @overload
    def task(
        self,
        task_type: str,
        /,
        *,
        payload: None = None,
        upgrade: "Upgrade | None" = None,
        on_misfit: "OnMisfit | None" = None,
        **options: Unpack[EnqueueOptions],
    ) -> "InferredTask": ...
    @overload
    def task(
        self,
        task_type: str,
        /,
        *,
        payload: "TypeForm[P]",
        upgrade: "Upgrade | None" = None,
        on_misfit: "OnMisfit | None" = None,
        **options: Unpack[EnqueueOptions],
    ) -> "TaskOf[P]": ...
    def task(
        self,
        task_type: str,
        /,
        *,
        payload: Any = None,
        upgrade: "Upgrade | None" = None,
        on_misfit: "OnMisfit | None" = None,
        **options: Unpack[EnqueueOptions],
    ) -> Any:
        """Register a handler, and make it a `TaskType`, which enqueues what the handler takes.

        Args:
            task_type: The type, or the beginning of some, as for `handle`.
            payload: The type of the payload; without it that of the annotation, as in ``task: Task[Email]``.
            upgrade: As for `handle`.
            on_misfit: As for `handle`.
            options: Defaults of the enqueues through the object, and of clients that know this mux.

        Raises:
            ValueError: As for `handle`; or an option is not allowed, or no default: ``task_id``, ``once``,
                ``process_at`` and ``deadline``.
            TypeError: As for `handle`; or what the annotation names is unknown when the function is registered.
        """
        from boilerd.tasks.declaring import task_decorator  # noqa: PLC0415 - for applications with typed tasks

        register = functools.partial(self._declare, upgrade=upgrade, on_misfit=on_misfit)
        return task_decorator(register, task_type, payload, options)

    def function(self, task_type: str, /, **options: Unpack[EnqueueOptions]) -> "Function":
        """Register a function with declared parameters, and make it a `CallType`, which enqueues calls of it.

        The payload is an object of JSON that has the arguments by name. Unknown ones are ignored, and those that are
        left out have their defaults, so that a parameter with a default may be added while old workers run.

        Args:
            task_type: The type, or the beginning of some, as for `handle`.
            options: As for `task`.

        Raises:
            ValueError: As for `task`.
            TypeError: As for `task`; or a parameter has no annotation, is positional only or stands for any number; or
                a default does not fit.
        """
        from boilerd.tasks.declaring import function_decorator  # noqa: PLC0415 - as above

        return cast("Function", function_decorator(self._declare, task_type, options))

    def cron(
        self,
        spec: str,
        task_type: str | Message,
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
            task_type: The type of the task; or a message, as of ``deliver.task(…)``, with the payload and the options
                of its type.
            payload: Anything that has a JSON form.
            name: Identifies the entry; made from the task type if it is left out.
            timezone: An IANA name, such as Europe/Berlin.
            catch_up: If True, the last of the ticks that were missed runs late, else all of them are skipped. A tick is
                missed when no daemon notices it within 10 s.
            options: Options of the enqueue, but for ``task_id``, ``once``, ``process_at``, ``deadline`` and
                ``inherit``.

        Raises:
            ConfigError: The line, the time zone or an option is not allowed; or a message's payload does not fit.
        """
        if isinstance(task_type, Message):
            from boilerd.tasks.declaring import periodic  # noqa: PLC0415 - as above

            task_type, payload, options = periodic(spec, task_type, options)
        entry = CronEntry(
            name=name, spec=spec, task_type=task_type, payload=payload, options=options,
            timezone=timezone, catch_up=catch_up,
        )  # fmt: skip
        self._crons.append(entry)

    @overload
    def use(self, middleware: AnyMiddleware, /) -> AnyMiddleware: ...
    @overload
    def use(self, middleware: AnyMiddleware, /, *more: Middleware | GeneratorMiddleware) -> AnyMiddleware: ...
    def use(self, *middleware: Any) -> Any:
        """Wrap every handler, the not-found handler included; the first one given is outermost.

        Usable as a decorator: returns its first argument.

        Args:
            middleware: A generator function that takes the task and has one ``yield``: the handler runs there, its
                result is what the ``yield`` gives, and its error is raised there. What the function returns after that,
                unless it is None, takes the place of the result; if it returns before, the handler does not run. It may
                yield a task for the handler in place of this one. It may be ``async def``, and then returns nothing.
                Or a plain function that takes the next handler and returns one that wraps it.
            more: Further ones, each inside of the one before.

        Raises:
            TypeError: One cannot be called, or is ``async def`` without a ``yield``.
        """
        if not middleware:
            raise ValueError("use() takes at least one middleware")
        for each in middleware:
            check_middleware(each)
        self._middleware += middleware
        self._forget_chains()
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
        self._forget_chains()
        return handler

    def is_failure(self, hook: Callable[[BaseException], bool]) -> Callable[[BaseException], bool]:
        """Set the hook that returns False for errors whose retries are not to be counted; a plain function."""
        check_plain("is_failure", hook, "error")
        self._hooks = structs.replace(self._hooks, is_failure=hook)
        return hook

    def retry_delay(self, hook: RetryDelay) -> RetryDelay:
        """Set the hook that returns the seconds until a retry, from retries so far, error, task; a plain function."""
        check_plain("retry_delay", hook, "retried", "error", "task")
        self._hooks = structs.replace(self._hooks, retry_delay=hook)
        return hook

    def error_handler(self, hook: ErrorHandler) -> ErrorHandler:
        """Set the hook that gets every error, before anything is decided about the task; a plain function."""
        check_plain("error_handler", hook, "task", "error")
        self._hooks = structs.replace(self._hooks, error_handler=hook)
        return hook

    def fingerprint(self, hook: Fingerprint) -> Fingerprint:
        """Set the hook that returns a text for failures that are one group, else None; a plain function."""
        check_plain("fingerprint", hook, "task", "error")
        self._hooks = structs.replace(self._hooks, fingerprint=hook)
        return hook

    def on_failure(self, hook: OnFailure) -> OnFailure:
        """Have the hook told of each failed attempt when it is decided what becomes of the task; a plain function.

        Several are called in the order of their registration, and have 5 s together. It is not written yet what was
        decided, and Redis refuses that where the lease was lost.
        """
        check_plain("on_failure", hook, "failed")
        former = self._hooks.on_failure
        both = hook if former is None else functools.partial(_tell_both, former, hook)
        self._hooks = structs.replace(self._hooks, on_failure=both)
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

    def payload_type(self, task_type: str) -> "PayloadType | None":
        """The type of payload that the type's handler declared, or None."""
        pattern = self._pattern(task_type)
        if pattern is None:
            return None
        inner = self._handlers[pattern]
        return inner.payload_type(task_type) if isinstance(inner, ServeMux) else self._payload_types.get(pattern)

    def payload_types(self) -> "dict[str, PayloadType]":
        """Pattern → the type of payload that its handler declared, sorted, also of the muxes registered in this one."""
        found = dict(self._payload_types)
        for outer, handler in self._handlers.items():
            if isinstance(handler, ServeMux):
                found |= {name: kind for name, kind in handler.payload_types().items() if self._pattern(name) == outer}
        return dict(sorted(found.items()))

    def schema(self) -> dict[str, dict[str, Any]]:
        """Pattern → the JSON Schema of the payloads that its handler declared, also of the muxes registered in this."""
        return {pattern: declared.schema() for pattern, declared in self.payload_types().items()}

    def enqueue_options(self, task_type: str) -> Mapping[str, Any] | None:
        """The options that enqueues of the type have by default, as its handler declared them; None without any."""
        pattern = self._pattern(task_type)
        if pattern is None:
            return None
        inner = self._handlers[pattern]
        return inner.enqueue_options(task_type) if isinstance(inner, ServeMux) else self._options.get(pattern)

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
            chain = self._chain(task.type)
            # Types without a handler come from outside and could be any number.
            if len(self._chains) < 10_000:
                chain = self._chains.setdefault(task.type, chain)  # another thread may have made it meanwhile
        result = chain(task)
        if result is not None and NOT_RUN[type(result)]:
            raise self._not_run(result)
        return result

    def is_async(self, task_type: str) -> bool:
        """True if the handler that the type has is ``async def``; one that returns something to await is plain."""
        if type(self).__call__ is not ServeMux.__call__:
            return False  # a subclass has a plain one of its own around everything
        handler = self.match(task_type) or self._not_found
        return handler.is_async(task_type) if isinstance(handler, ServeMux) else _is_async(handler)

    async def arun(self, task: Task) -> Any:
        """Run the task's handler, which must be ``async def``, on the running loop; else as a call does."""
        chain = self._async_chains.get(task.type)
        if chain is None:
            chain = self._async_chain(task.type)
            if len(self._async_chains) < 10_000:  # as above
                self._async_chains[task.type] = chain
        result = await chain(task)
        if result is not None and NOT_RUN[type(result)]:
            raise self._not_run(result)
        return result

    @property
    def has_async_middleware(self) -> bool:
        """True if some of its middleware awaits, around handlers of both kinds."""
        return any(map(is_async_generator, self._middleware))

    def plain_around_async(self) -> tuple[str, str] | None:
        """The names of a plain middleware and of an ``async def`` handler inside of it; None: there are no two such."""
        nested = next(filter(is_nested, self._middleware), None)
        handler = next(self._async_handlers(), None) if nested else None
        if handler is not None:
            return name_of(nested), handler
        found = (mux.plain_around_async() for mux in self._muxes())
        return next(filter(None, found), None)

    def _async_handlers(self) -> Iterator[str]:
        for handler in [*self._handlers.values(), self._not_found]:
            if isinstance(handler, ServeMux):
                yield from handler._async_handlers()  # noqa: SLF001 - of this class
            elif _is_async(handler):
                yield name_of(handler)

    def _muxes(self) -> "list[ServeMux]":
        """Those that are registered in this one."""
        inner = {id(mux): mux for mux in [*self._handlers.values(), self._not_found] if isinstance(mux, ServeMux)}
        return [*inner.values()]

    def _forget_chains(self) -> None:
        self._chains.clear()
        self._async_chains.clear()

    def _not_run(self, result: Any) -> TypeError:
        return not_plain(", ".join(map(name_of, self._middleware)), result)

    def _declare(
        self, task_type: str, handler: Handler, declared: Any, defaults: Mapping[str, Any], **rules: Any
    ) -> "PayloadType | None":
        """Register a handler with the options of its type; returns the payload's type as it is kept."""
        self.handle(task_type, handler, payload=declared, **rules)
        self._options[task_type] = defaults
        return self._payload_types.get(task_type)

    def _pattern(self, task_type: str) -> str | None:
        if task_type in self._handlers:
            return task_type
        return max((p for p in self._handlers if task_type.startswith(p)), key=len, default=None)

    def _chain(self, task_type: str) -> Handler:
        middleware = self._middleware
        on_loop = first_on_loop(middleware) if self.is_async(task_type) else len(middleware)
        if on_loop == len(middleware):
            handler = self._innermost(task_type)
        else:
            handler = synchronous(self._around(middleware[on_loop:], task_type))
        for each in reversed(middleware[:on_loop]):
            handler = wrap(each, handler)
        return handler

    def _async_chain(self, task_type: str) -> Async:
        if any(map(is_nested, self._middleware)):
            return functools.partial(in_greenlet, self)
        return self._around(self._middleware, task_type)

    def _around(self, middleware: Sequence[Any], task_type: str) -> Async:
        """The handler, which is ``async def``, inside of these."""
        handler = self._async_innermost(task_type)
        for each in reversed(middleware):
            handler = wrap_async(each, handler)
        return handler

    def _innermost(self, task_type: str) -> Handler:
        """The handler, made synchronous, and given a decoded payload if it declared a type."""
        pattern = self._pattern(task_type)
        if pattern is None:
            return synchronous(self._not_found)
        found = self._handlers[pattern]
        handler = found if isinstance(found, ServeMux) else synchronous(found)
        declared = self._payload_types.get(pattern)
        if declared is None:
            return handler
        decode = declared.decode

        def run_decoded(task: Task) -> Any:
            decoded = structs.replace(task, payload=decode(task.payload))
            CURRENT.set(decoded)
            return handler(decoded)

        return run_decoded

    def _async_innermost(self, task_type: str) -> Async:
        """The handler, which is ``async def``, given a decoded payload if it declared a type."""
        pattern = self._pattern(task_type)
        found = self._not_found if pattern is None else self._handlers[pattern]
        handler = found.arun if isinstance(found, ServeMux) else awaited(found)
        declared = self._payload_types.get(pattern or "")
        if declared is None:
            return handler
        decode = declared.decode

        async def run_decoded(task: Task) -> Any:
            decoded = structs.replace(task, payload=decode(task.payload))
            CURRENT.set(decoded)
            return await handler(decoded)

        return run_decoded


def _payload_type(
    pattern: str, payload: Any, upgrade: "Upgrade | None", on_misfit: "OnMisfit | None"
) -> "PayloadType | None":
    if payload is not None:
        from boilerd.tasks.payload_type import PayloadType  # noqa: PLC0415 - for applications with declared types

        return PayloadType(payload, upgrade=upgrade, on_misfit=on_misfit or "retry")
    if upgrade is not None or on_misfit is not None:
        raise TypeError(f"handler for {pattern!r}: upgrade= and on_misfit= are for payload=, which is missing")
    return None


def _tell_both(first: OnFailure, second: OnFailure, failed: FailedAttempt) -> None:
    """Call both, though the first one raises."""
    with ExitStack() as stack:
        stack.callback(second, failed)
        first(failed)


def _is_async(handler: Handler) -> bool:
    # Python knows it of these from 3.12 on.
    return is_async(handler.__wrapped__ if isinstance(handler, TaskType | CallType) else handler)


def _raise_not_found(task: Task) -> None:
    raise HandlerNotFoundError(task.type)

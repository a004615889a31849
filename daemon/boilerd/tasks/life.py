"""The code of an application around its tasks: in the daemon before it forks, and in the life of each worker."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, TypeVar

import msgspec

from boilerd.errors import shown
from boilerd.tasks.callables import check_call, check_plain, is_generator, manager_decorator, name_of
from boilerd.tasks.queues import DEFAULT_POOL


class WorkerContext(msgspec.Struct, frozen=True):
    """A worker, as lifespans and hooks see it.

    Attributes:
        name: As `boilerd worker ls` shows it; the worker that replaces it has the same.
        number: Its number in this daemon, from 0: that of ``worker:0`` in `supervisorctl status`.
        queues: The names of the queues that it serves.
        pool: The name of its pool.
        slots: How many tasks it runs at once.
    """

    name: str
    number: int
    queues: tuple[str, ...] = ()
    pool: str = DEFAULT_POOL
    slots: int = 1


#: What is yielded comes to `task.state`.
State = Mapping[str, Any]
#: Makes the context manager in which a worker lives.
Lifespan = Callable[
    [WorkerContext], AbstractContextManager[State | None, Any] | AbstractAsyncContextManager[State | None, Any]
]
#: May be ``async def``.
WorkerHook = Callable[[WorkerContext], Any]
DaemonHook = Callable[[], object]
AnyLifespan = TypeVar("AnyLifespan", bound=Lifespan)
AnyWorkerHook = TypeVar("AnyWorkerHook", bound=WorkerHook)
AnyDaemonHook = TypeVar("AnyDaemonHook", bound=DaemonHook)

LIFESPAN, START, STOP = "lifespan", "on_worker_start", "on_worker_stop"
DAEMON_START, BEFORE_FORK, DRAIN = "on_daemon_start", "before_fork", "on_drain"


class Part(msgspec.Struct, frozen=True):
    """A part of a worker's life: a lifespan, or what runs at its start or its end alone.

    Attributes:
        kind: ``lifespan``, ``on_worker_start`` or ``on_worker_stop``.
        call: What was registered.
    """

    kind: str
    call: Callable[..., Any]

    def __str__(self) -> str:
        """For messages."""
        return f"{self.kind} {name_of(self.call)}"


class Life(msgspec.Struct, frozen=True):
    """All that an application has registered, each in the order of registration.

    Attributes:
        parts: Entered when a worker starts, and left in reverse order when it ends.
        daemon_starts: Called in the daemon before its first fork.
        before_forks: Called in the daemon before each fork.
        drains: Called in a worker when it begins to drain.
    """

    parts: tuple[Part, ...] = ()
    daemon_starts: tuple[DaemonHook, ...] = ()
    before_forks: tuple[DaemonHook, ...] = ()
    drains: tuple[WorkerHook, ...] = ()


#: Of an application that has registered nothing.
NO_LIFE = Life()


class Living:
    """The part of a mux that takes what belongs to no task; those of muxes inside of it count once, at their place."""

    def __init__(self) -> None:
        self._life: list[Part | Living] = []

    def lifespan(self, lifespan: AnyLifespan) -> AnyLifespan:
        """Have each worker live inside of the context manager that `lifespan` makes; usable as a decorator.

        It is entered after the fork and before the worker claims its first task, and left when the worker ends. What it
        yields, a mapping or None, comes to `task.state`.

        Raises:
            TypeError: It cannot be called with a WorkerContext, or makes no context manager.
        """
        _check_lifespan(lifespan)
        self._add(LIFESPAN, lifespan)
        return lifespan

    def on_worker_start(self, hook: AnyWorkerHook) -> AnyWorkerHook:
        """Call `hook` when a worker starts: a lifespan that only enters; it may be ``async def``.

        What it returns, a mapping or None, comes to `task.state`.
        """
        _check_worker_hook(START, hook)
        self._add(START, hook)
        return hook

    def on_worker_stop(self, hook: AnyWorkerHook) -> AnyWorkerHook:
        """Call `hook` when a worker ends: a lifespan that only leaves; it may be ``async def``."""
        _check_worker_hook(STOP, hook)
        self._add(STOP, hook)
        return hook

    def on_drain(self, hook: AnyWorkerHook) -> AnyWorkerHook:
        """Call `hook`, a plain function, when a worker begins to drain, while its task may still run.

        It interrupts the task, as a signal handler does: it should set a flag, and take no lock that the task may hold.
        """
        check_plain(DRAIN, hook, "worker")
        self._add(DRAIN, hook)
        return hook

    def on_daemon_start(self, hook: AnyDaemonHook) -> AnyDaemonHook:
        """Call `hook`, a plain function, in the daemon before it forks, also after a reload and in its check."""
        check_plain(DAEMON_START, hook)
        self._add(DAEMON_START, hook)
        return hook

    def before_fork(self, hook: AnyDaemonHook) -> AnyDaemonHook:
        """Call `hook`, a plain function, in the daemon before each fork, as to close connections; it must be quick."""
        check_plain(BEFORE_FORK, hook)
        self._add(BEFORE_FORK, hook)
        return hook

    @property
    def life(self) -> Life:
        """What this mux and those registered in it have registered."""
        found: list[Part] = []
        for part in self._parts(set()):
            if not any(part.kind == known.kind and part.call is known.call for known in found):
                found.append(part)

        def of(kind: str) -> tuple[Any, ...]:
            return tuple(part.call for part in found if part.kind == kind)

        parts = tuple(part for part in found if part.kind in {LIFESPAN, START, STOP})
        return Life(parts, of(DAEMON_START), of(BEFORE_FORK), of(DRAIN))

    def _add(self, kind: str, call: Callable[..., Any]) -> None:
        self._life.append(Part(kind, call))

    def _include(self, inner: "Living") -> None:
        """Let what another mux has registered, and will register, have its place here."""
        self._life.append(inner)

    def _parts(self, seen: set[int]) -> Iterator[Part]:
        if id(self) not in seen:
            seen.add(id(self))
            for entry in self._life:
                yield from (entry,) if isinstance(entry, Part) else entry._parts(seen)  # noqa: SLF001 - of this class


def _check_lifespan(lifespan: Any) -> None:
    if not isinstance(lifespan, type) and (hasattr(lifespan, "__enter__") or hasattr(lifespan, "__aenter__")):
        raise TypeError(
            f"{LIFESPAN}: {shown(lifespan)} is a context manager already; give the function that makes one, without ()"
        )
    decorator = manager_decorator(lifespan)
    function = lifespan.__wrapped__ if decorator else lifespan
    check_call(LIFESPAN, function, "worker")
    has_yield, name = is_generator(function), name_of(function)
    if not has_yield and inspect.iscoroutinefunction(function):
        raise TypeError(
            f"{LIFESPAN}: {name} is async def without a yield, and makes no context manager; give it a yield and"
            " @contextlib.asynccontextmanager, or register it with on_worker_start"
        )
    needed = "asynccontextmanager" if inspect.isasyncgenfunction(function) else "contextmanager"
    if has_yield and decorator != needed:
        raise TypeError(f"{LIFESPAN}: {name} has a yield; put @contextlib.{needed} above it")


def _check_worker_hook(role: str, hook: Any) -> None:
    check_call(role, hook, "worker")
    if is_generator(hook):
        raise TypeError(f"{role}: {name_of(hook)} has a yield; register it with lifespan, as a context manager")

"""Run ``async def`` handlers in a worker that is otherwise synchronous.

A handler counts as one if it returns something to await, however it is written: a decorator may hide the
``async def``, and a library's call may return an object that starts only when it is awaited.
"""

import atexit
import functools
import inspect
import logging
import sys
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import Context, ContextVar, copy_context
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any

from boilerd.errors import BootError
from boilerd.tasks.callables import name_of

if TYPE_CHECKING:
    # Where it is used it is imported then: it takes a third of the import of boilerd, and 7 MB.
    import asyncio

logger = logging.getLogger("boilerd.task")

#: What a function returns that `contextlib` has decorated; it runs when somebody enters it.
_MANAGERS: tuple[type, ...] = (type(contextmanager(iter)(())), type(asynccontextmanager(iter)(())))  # type: ignore[arg-type]
_CODE = (GeneratorType, AsyncGeneratorType, *_MANAGERS)


class _Kinds(dict[type, bool]):
    """Type → True if an object of it is code that has not run, so that a function that returned it did nothing yet.

    A dictionary, for it is asked twice for each task, and this takes 30 ns.
    """

    def __missing__(self, kind: type) -> bool:
        is_not_run = issubclass(kind, _CODE) or hasattr(kind, "__await__")
        if len(self) < 1000:  # an application may make any number of types
            self[kind] = is_not_run
        return is_not_run


NOT_RUN = _Kinds()

#: Awaits what a handler returned on another thread's loop, while this one waits; None: on the process's own loop.
ELSEWHERE: ContextVar[Callable[[Awaitable[Any]], Any] | None] = ContextVar("boilerd_elsewhere", default=None)


class _Loop:
    """The process's event loop, made at the first use and kept.

    A handler's clients that belong to a loop, such as connection pools, live as long as the worker.
    """

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None
        self._main: asyncio.Task[Any] | None = None
        self._interrupt: BaseException | None = None
        #: The same until the task has got it: it may have come when the task had just ended, or got where it waits.
        self._untold: BaseException | None = None
        self._until: asyncio.Future[Any] | None = None
        self._told: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self._staying: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self._factory: Callable[[], asyncio.AbstractEventLoop] | None = None

    def use(self, kind: str) -> None:
        """Choose what the loop is made by: ``asyncio``, ``uvloop``, or ``auto``: uvloop where it is installed.

        Call it in the process whose loop it is, before anything needs the loop: one that was made before a fork stays
        with the parent, for what wakes it would be common to both. Without it, it is asyncio's.

        Raises:
            BootError: uvloop is wanted, and not installed.
        """
        self._runner = None
        if kind == "asyncio":
            return
        try:
            import uvloop  # noqa: PLC0415 - an application may do without
        except ImportError as error:
            if kind == "auto":
                return
            raise BootError("uvloop is not installed; install boilerd[uvloop], or set loop = auto") from error
        self._factory = uvloop.new_event_loop

    def run(self, awaitable: Awaitable[Any], context: Context | None = None) -> Any:
        """Await what a handler returned to its end or an interrupt; raises RuntimeError inside of another loop.

        Args:
            awaitable: What is awaited.
            context: The one in which it runs, if it is a coroutine; None: a copy of this one.
        """
        if elsewhere := ELSEWHERE.get():
            return elsewhere(
                _Inside(awaitable, context) if context and isinstance(awaitable, CoroutineType) else awaitable
            )
        if _is_in_loop():
            raise RuntimeError(
                f"{discard(awaitable)} of an async def handler cannot run inside of a running event loop; in a test"
                " that is async def itself, call it as `await asyncio.to_thread(run, mux, …)`, or drain with"
                " `await client.adrain()`"
            )
        import asyncio  # noqa: PLC0415 - as above

        loop = self.get_loop()
        self._interrupt = self._untold = None
        coroutine = awaitable if isinstance(awaitable, CoroutineType) else _awaited(awaitable)
        try:
            return self._finish(loop.create_task(coroutine, context=context))
        finally:
            if left := asyncio.all_tasks(loop):
                self._see_to(loop, left)

    def stay(self, coroutine: Coroutine[Any, Any, Any], context: Context) -> "asyncio.Task[Any]":
        """Make a task that goes on while others run, and of which nobody is warned."""
        task = self.get_loop().create_task(coroutine, context=context)
        self._keep({task})
        return task

    def keep_all(self) -> None:
        """Have the tasks stay that there are now; call it where no handler has run yet."""
        import asyncio  # noqa: PLC0415 - as above

        self._keep(asyncio.all_tasks(self.get_loop()))

    def _keep(self, tasks: "set[asyncio.Task[Any]]") -> None:
        self._told.update(tasks)
        self._staying.update(tasks)

    def left(self) -> "set[asyncio.Task[Any]]":
        """The loop's tasks, but for those that were made to stay; call it where no other runs."""
        import asyncio  # noqa: PLC0415 - as above

        return {task for task in asyncio.all_tasks(self.get_loop()) if task not in self._staying}

    def future(self) -> "asyncio.Future[Any]":
        """Make a future of this loop."""
        return self.get_loop().create_future()

    def finish(self, task: "asyncio.Task[Any]", until: "asyncio.Future[Any] | None" = None) -> Any:
        """Run the loop until the task has ended, is interrupted, or `until` is done; its result, if it has ended."""
        self._interrupt = self._untold = None
        return self._finish(task, until)

    def _finish(self, task: "asyncio.Task[Any]", until: "asyncio.Future[Any] | None" = None) -> Any:
        """Run the loop until this task has ended, or is interrupted."""
        import asyncio  # noqa: PLC0415 - as above

        self._main, self._until = task, until
        try:
            task.get_loop().run_until_complete(until or task)
            result = task.result() if task.done() else None
        except asyncio.CancelledError as error:
            if self._interrupt is None:
                raise
            raise self._interrupt from error
        finally:
            self._main = None
            self._raise_untold()
        return result

    def _raise_untold(self) -> None:
        """Raise an interrupt that the task did not get: what this thread runs next must not go on without it."""
        error, self._untold = self._untold, None
        if error is not None:
            raise error

    def get_loop(self) -> "asyncio.AbstractEventLoop":
        """Get the loop."""
        if self._runner is None:
            import asyncio  # noqa: PLC0415 - as above

            self._runner = asyncio.Runner(loop_factory=self._factory)
            atexit.register(_close, self._runner)
        return self._runner.get_loop()

    def _see_to(self, loop: "asyncio.AbstractEventLoop", left: "set[asyncio.Task[Any]]") -> None:
        """Let the loop end async generators that the handler left early, and warn of other tasks; once of each."""
        new = {task for task in left if task not in self._told}
        self._told.update(new)
        closing = {task for task in new if type(task.get_coro()).__name__ == "async_generator_athrow"}
        try:
            if closing and not _is_cut():
                self._finish(loop.create_task(_ended(closing)))
        finally:
            for task in closing:  # one that did not end in time
                task.cancel()
            self._tell_left(new - closing)

    def _tell_left(self, left: "set[asyncio.Task[Any]]") -> None:
        """Warn of tasks that do not go on when the handler has returned."""
        if left:
            names = sorted(f"{task.get_name()}: {getattr(task.get_coro(), '__qualname__', '?')}" for task in left)
            logger.warning("asyncio tasks are left behind, and stand still between handlers", extra={"tasks": names})

    def interrupt(self, error: BaseException) -> bool:
        """Have the running handler end with `error`; False: the caller must raise it as well.

        Raised in a signal handler, an exception ends whatever code runs at that moment: the
        handler's own, which is what we want; another task's, which would keep it; or the
        loop's. So unless it is the handler's own, the handler's task is cancelled, and its
        cancellation becomes `error`.
        """
        if self._main is None:
            return False
        import asyncio  # noqa: PLC0415 - as above

        running = asyncio.current_task(self._main.get_loop())
        if running is not self._main:
            self._interrupt = self._untold = error
            self._main.get_loop().call_soon_threadsafe(self._cancel, self._main, error)
        # A task that computes and never waits would keep the loop from noticing.
        return running is None

    def _cancel(self, task: "asyncio.Task[Any]", error: BaseException) -> None:
        """On the loop: have the task get the interrupt, unless it has ended or got where it waits."""
        is_there = self._until is not None and self._until.done()
        if self._untold is error and not is_there and task.cancel():
            self._untold = None


class _Inside:
    """Awaits a coroutine in the asyncio task that awaits this, but in another context."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], context: Context) -> None:
        self._coroutine = coroutine
        self._context = context

    def __await__(self) -> Generator[Any, Any, Any]:
        resume: Callable[[Any], Any] = self._coroutine.send
        value: Any = None
        while True:
            try:
                awaits = self._context.run(resume, value)
            except StopIteration as ended:
                return ended.value
            finally:
                value = None  # an error would hold this frame, and this frame the error
            try:
                resume, value = self._coroutine.send, (yield awaits)
            except BaseException as error:  # noqa: BLE001 - it is raised in the coroutine
                resume, value = self._coroutine.throw, error

    def close(self) -> None:
        """Discard the coroutine."""
        self._coroutine.close()


class OnLoop:
    """An async context manager as a plain one: one task of the process's loop enters it, waits, and leaves it.

    Task groups and their like demand that it is one task. What the manager sets in ContextVars is set where it was
    entered as well.

    Args:
        manager: The async one.
        name: For messages.

    Attributes:
        manager: The async one.
    """

    def __init__(self, manager: AbstractAsyncContextManager[Any, Any], name: str) -> None:
        self.manager = manager
        self._name = name
        self._value: Any = None
        self._error: BaseException | None = None

    def __enter__(self) -> Any:
        """Enter it; raises RuntimeError inside of another loop."""
        if _is_in_loop():
            raise RuntimeError(
                f"{self._name} is async, and cannot be entered inside of a running event loop; in a test that is"
                " async def itself, drain with `await client.adrain()`, or do it in `await asyncio.to_thread(…)`"
            )
        context = copy_context()
        entered, self._leave = _loop.future(), _loop.future()
        self._task = _loop.stay(self._live(entered), context)
        self._task.add_done_callback(lambda _: None if entered.done() else entered.set_result(None))
        _loop.finish(self._task, entered)
        _loop.keep_all()  # those that it has started are its own, and end as it leaves
        adopt(context)
        return self._value

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> bool:
        """Leave it, with an error that was raised inside."""
        self._error = error
        if self._leave.done():
            pass  # the manager has ended the task meanwhile, as a TaskGroup does
        elif error is None:
            self._leave.set_result(None)
        else:
            self._leave.set_exception(error)
        return bool(_loop.finish(self._task))

    async def _live(self, entered: "asyncio.Future[None]") -> bool:
        """Whether the manager kept an error to itself."""
        try:
            async with self.manager as self._value:
                entered.set_result(None)
                await self._leave
        except BaseException as error:
            if error is not self._error:
                raise
            return False
        return self._error is not None


def adopt(context: Context) -> None:
    """Set here what was set in another context."""
    here = copy_context()
    for variable, value in context.items():
        if variable not in here or here[variable] is not value:
            variable.set(value)


def _close(runner: "asyncio.Runner") -> None:
    """Cancel the tasks that are left, end async generators, and close the loop."""
    try:
        runner.close()
    except RuntimeError as error:
        # It would wait for the loop's executor in a thread, which Python 3.12 and later do not start at the end of a
        # program that is no worker's; they have waited for executors by then.
        if "interpreter shutdown" not in str(error):
            raise


def _is_cut() -> bool:
    """True while an interrupt ends the handler: nothing may take more of its time."""
    error = sys.exception()
    return error is not None and not isinstance(error, Exception)


def _is_in_loop() -> bool:
    import asyncio  # noqa: PLC0415 - as above

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


_loop = _Loop()
interrupt = _loop.interrupt
#: Awaits from plain code: on the process's loop, or elsewhere.
await_plain = _loop.run
#: The process's loop, made at the first call.
kept_loop = _loop.get_loop
use_loop = _loop.use
left_tasks = _loop.left


def synchronous(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the handler in a function that awaits what it returns, if that is something to await.

    The function raises TypeError if the result is code that nobody would run, such as a generator.
    """

    @functools.wraps(handler)
    def run_to_end(task: Any) -> Any:
        result = handler(task)
        if result is not None and NOT_RUN[type(result)]:
            if inspect.isawaitable(result):
                result = _loop.run(result)
            if NOT_RUN[type(result)]:
                raise _nothing_runs(handler, result)
        return result

    return run_to_end


def awaited(handler: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """The same for an ``async def`` handler on a running loop."""

    async def run_to_end(task: Any) -> Any:
        result = await handler(task)
        if result is not None and NOT_RUN[type(result)]:
            raise _nothing_runs(handler, result)
        return result

    return run_to_end


def _nothing_runs(handler: Callable[..., Any], result: Any) -> TypeError:
    return TypeError(f"handler {name_of(handler)} returned {discard(result)}; nothing of that would run")


def discard(not_run: Any) -> str:
    """Close code that was not run, so that Python does not warn of it; returns a name for its kind."""
    if isinstance(not_run, CoroutineType | GeneratorType | _Inside):  # an async generator's close() is a coroutine
        not_run.close()
    if isinstance(not_run, _MANAGERS):
        return "a context manager that nobody entered"
    kinds = {CoroutineType: "a coroutine", GeneratorType: "a generator", AsyncGeneratorType: "an async generator"}
    return kinds.get(type(not_run)) or f"{type(not_run).__qualname__}, which must be awaited"


async def _ended(tasks: "set[asyncio.Task[Any]]") -> None:
    import asyncio  # noqa: PLC0415 - as above

    await asyncio.wait(tasks)  # the loop tells what they raise


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable

"""Enqueue tasks from asyncio."""

import asyncio
import contextvars
import functools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Self, TypeVar, Unpack

from boilerd.client import Client
from boilerd.enqueuing.waiting import ENDED, LOOK_S, in_seconds, not_in_time
from boilerd.errors import BoilerdError, BrokerUnavailableError
from boilerd.settings.definitions import Settings
from boilerd.tasks.drafts import ClientMiddleware
from boilerd.tasks.mux import ServeMux
from boilerd.tasks.options import EnqueueOptions
from boilerd.tasks.task import OnProgress, Seconds, TaskInfo
from boilerd.tasks.typed import Message, R

#: Calls that may wait for Redis at one time; further ones wait for their turn, in the order in which they came.
THREADS = 8
#: How much longer than its timeout a call may take that a thread has begun: its own error says more than ours.
GRACE_S = 0.25

T = TypeVar("T")


class AsyncClient:
    """A Client whose calls are awaited; the loop goes on while Redis is slow or does not answer.

    The calls of a Client run in a few threads, so connections, checks and errors are those of the Client.
    Its timeout counts from the call, with the wait for a thread.
    A coroutine that is cancelled stops waiting; the task that it enqueued may be stored.
    It may be used before a fork and after it, in the parent and in the child.

    Args:
        client: Does the work; closed with this one.
        threads: How many calls may wait for Redis at one time.
    """

    def __init__(self, client: Client, *, threads: int = THREADS) -> None:
        self._client = client
        self._count = threads
        self._timeout_s = _timeout_s(client)
        self._start_threads()

    @classmethod
    def from_url(cls, url: str, *, mux: ServeMux | None = None, **options: Any) -> Self:
        """A client for the Redis at `url`, as `Client.from_url` makes it; raises ConfigError."""
        return cls(Client.from_url(url, mux=mux, **options))

    @classmethod
    def from_settings(cls, settings: Settings | None = None, *, mux: ServeMux | None = None) -> Self:
        """A client for the Redis that the settings name, as `Client.from_settings` makes it."""
        return cls(Client.from_settings(settings, mux=mux))

    def use(self, *middleware: ClientMiddleware) -> ClientMiddleware:
        """Go around each enqueue, as `Client.use`: in a thread, in a copy of the caller's context."""
        return self._client.use(*middleware)

    async def enqueue(self, task_type: str, payload: Any = None, **options: Unpack[EnqueueOptions]) -> TaskInfo:
        """Store a task for a worker to run; see `Client.enqueue` for options and errors."""
        info = await self._call(functools.partial(self._client.enqueue, task_type, payload, **options))
        info.attach(self, is_async=True)
        return info

    async def enqueue_message(self, message: Message[R], **options: Unpack[EnqueueOptions]) -> TaskInfo[R]:
        """Store a task of a message; see `Client.enqueue_message`."""
        info = await self._call(functools.partial(self._client.enqueue_message, message, **options))
        info.attach(self, is_async=True)
        return info

    async def enqueue_many(
        self, tasks: Iterable[tuple[str, Any] | Message], **options: Unpack[EnqueueOptions]
    ) -> list[TaskInfo | BoilerdError]:
        """Store many tasks with the same options; see `Client.enqueue_many`."""
        many = functools.partial(self._client.enqueue_many, list(tasks), **options)
        answers = await self._call(many, is_long=True)
        for answer in answers:
            if isinstance(answer, TaskInfo):
                answer.attach(self, is_async=True)
        return answers

    async def cancel(self, task_id: str) -> bool:
        """Cancel a task; see `Client.cancel`."""
        return await self._call(functools.partial(self._client.cancel, task_id))

    async def wait(
        self,
        task_id: str,
        timeout: Seconds | None = None,  # noqa: ASYNC109 - it says what goes on; asyncio.timeout works as well
        *,
        on_progress: OnProgress | None = None,
        allow_in_handler: bool = False,
    ) -> Any:
        """Wait for a task's end, and return its result; see `Client.wait` for arguments and errors.

        It takes none of the threads of the other calls: any number of tasks can be waited for at one time.
        """
        loop, inbox = asyncio.get_running_loop(), asyncio.Queue[Any]()

        def put(told: Any) -> None:
            with suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(inbox.put_nowait, told)

        seconds, begun_s = in_seconds(timeout), loop.time()
        future = self._client.start_wait(
            task_id, put, has_timeout=seconds is not None, allow_in_handler=allow_in_handler
        )
        future.add_done_callback(lambda _: put(ENDED))
        limit = asyncio.timeout(None if seconds is None else max(seconds, LOOK_S))
        try:
            async with limit:
                while (told := await inbox.get()) is not ENDED:
                    if told is None and seconds is not None:
                        limit.reschedule(begun_s + seconds)
                    elif told and on_progress:
                        on_progress(told)
        except TimeoutError:
            if not limit.expired():
                raise
            raise not_in_time(task_id, seconds) from None
        finally:
            future.cancel()
        return future.result().result()

    async def aclose(self) -> None:
        """Wait for the calls that are under way, and close the connections."""
        self._follow_fork()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._threads.shutdown)
        await loop.run_in_executor(None, self._client.close)  # which waits for the thread of the waits

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def _call(self, function: Callable[[], T], *, is_long: bool = False) -> T:
        """The function's answer, from a thread; `is_long` if it has many round trips, of which each has the timeout."""
        self._follow_fork()
        # In the caller's context: that says which task enqueues, and is what client middleware looks at.
        call = self._threads.submit(contextvars.copy_context().run, function)
        try:
            async with asyncio.timeout(self._timeout_s):
                # If it is cancelled, by the timeout or with the caller, so is a call that no thread has begun.
                return await asyncio.wrap_future(call)
        except TimeoutError:
            if call.cancel():
                raise self._no_thread() from None
        return await self._late(call, None if is_long else GRACE_S)

    async def _late(self, call: Future[T], grace_s: float | None) -> T:
        """The answer of a call that a thread has begun."""
        try:
            async with asyncio.timeout(grace_s):
                return await asyncio.wrap_future(call)
        except TimeoutError:
            raise BrokerUnavailableError(
                f"no answer within {self._timeout_s:g} s, of Redis or client middleware; what was asked may have been"
                " done, enqueuing a task again is safe with the same task_id and once"
            ) from None

    def _no_thread(self) -> BrokerUnavailableError:
        return BrokerUnavailableError(
            f"no thread was free within {self._timeout_s:g} s, for {self._count} calls are under way;"
            " nothing was sent, try again, or send many tasks with enqueue_many",
            was_sent=False,
        )

    def _follow_fork(self) -> None:
        """Start threads anew in a child: those of its parent did not come with it."""
        if self._pid != os.getpid():
            self._start_threads()

    def _start_threads(self) -> None:
        self._pid = os.getpid()
        self._threads = ThreadPoolExecutor(self._count, thread_name_prefix="boilerd-client")


def _timeout_s(client: Client) -> float | None:
    """How long Redis may take for one answer; None: for ever, or there is no Redis."""
    pool = getattr(client.connection, "connection_pool", None)
    timeout_s: float | None = pool.connection_kwargs.get("socket_timeout") if pool else None
    return timeout_s

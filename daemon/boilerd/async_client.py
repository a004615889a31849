"""Enqueue tasks from asyncio."""

import asyncio
import functools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, TypeVar, Unpack

from boilerd.client import Client
from boilerd.errors import BoilerdError
from boilerd.settings.definitions import Settings
from boilerd.tasks.mux import ServeMux
from boilerd.tasks.options import EnqueueOptions
from boilerd.tasks.task import TaskInfo

#: Calls that may wait for Redis at one time; further ones wait for their turn, in the order in which they came.
THREADS = 8

T = TypeVar("T")


class AsyncClient:
    """A Client whose calls are awaited; the loop goes on while Redis is slow or does not answer.

    The calls of a Client run in a few threads, so connections, checks and errors are those of the Client.
    A coroutine that is cancelled stops waiting; the task that it enqueued may be stored.

    Args:
        client: Does the work; closed with this one.
        threads: How many calls may wait for Redis at one time.
    """

    def __init__(self, client: Client, *, threads: int = THREADS) -> None:
        self._client = client
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="boilerd-client")

    @classmethod
    def from_url(cls, url: str, *, mux: ServeMux | None = None, **options: Any) -> Self:
        """A client for the Redis at `url`, as `Client.from_url` makes it; raises ConfigError."""
        return cls(Client.from_url(url, mux=mux, **options))

    @classmethod
    def from_settings(cls, settings: Settings | None = None, *, mux: ServeMux | None = None) -> Self:
        """A client for the Redis that the settings name, as `Client.from_settings` makes it."""
        return cls(Client.from_settings(settings, mux=mux))

    async def enqueue(self, task_type: str, payload: Any = None, **options: Unpack[EnqueueOptions]) -> TaskInfo:
        """Store a task for a worker to run; see `Client.enqueue` for options and errors."""
        return await self._call(self._client.enqueue, task_type, payload, **options)

    async def enqueue_many(
        self, tasks: Iterable[tuple[str, Any]], **options: Unpack[EnqueueOptions]
    ) -> list[TaskInfo | BoilerdError]:
        """Store many tasks with the same options; see `Client.enqueue_many`."""
        return await self._call(self._client.enqueue_many, list(tasks), **options)

    async def cancel(self, task_id: str) -> bool:
        """Cancel a task; see `Client.cancel`."""
        return await self._call(self._client.cancel, task_id)

    async def aclose(self) -> None:
        """Wait for the calls that are under way, and close the connections."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._threads.shutdown)
        self._client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def _call(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        call = functools.partial(function, *args, **options)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

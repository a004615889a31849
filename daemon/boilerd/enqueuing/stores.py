"""Where the tasks of clients go: to Redis, or where a test has them go."""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import redis

from boilerd.broker.broker import Broker
from boilerd.broker.job_hash import NewTask
from boilerd.errors import BoilerdError
from boilerd.tasks.task import TaskState

if TYPE_CHECKING:
    from boilerd.broker.audit import Actor


class TaskStore(Protocol):
    """The methods of a broker that a Client uses."""

    def enqueue(self, tasks: Iterable[NewTask]) -> list[TaskState | BoilerdError]:
        """Store tasks; for each its state, or the error that kept it out."""

    def cancel(self, task_id: str, by: "Actor | None" = None) -> str:
        """Cancel a task; answers as `Broker.cancel`, which says who it is by."""


class Stores(Protocol):
    """A Client, as far as its tasks are concerned."""

    connection: redis.Redis
    _store: TaskStore


class Overrides:
    """Which clients `Client.from_settings` has made, and where a test has their tasks go."""

    def __init__(self) -> None:
        self._made: weakref.WeakSet[Stores] = weakref.WeakSet()
        self._stores: list[TaskStore] = []

    def add(self, client: Stores) -> None:
        """Note a new client."""
        self._made.add(client)
        if self._stores:
            _redirect(client, self._stores[-1])

    @contextmanager
    def to(self, store: TaskStore) -> Iterator[None]:
        """Have the tasks of all these clients go to `store`, also of those that are made in the block."""
        before = {client: _redirect(client, store) for client in list(self._made)}
        self._stores.append(store)
        try:
            yield
        finally:
            self._stores.pop()
            for client in list(self._made):
                made_in_block = self._stores[-1] if self._stores else Broker(client.connection)
                _redirect(client, before.get(client, made_in_block))


OVERRIDES = Overrides()


def _redirect(client: Stores, store: TaskStore) -> TaskStore:
    """Have a client's tasks go to another store; returns the one before."""
    before, client._store = client._store, store  # noqa: SLF001 - nobody else may
    return before
